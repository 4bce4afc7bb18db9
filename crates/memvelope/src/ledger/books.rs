//! What each event does to the table and the totals.

use super::Findings;
use super::history::History;
use super::pools::{POOLS_MAX, Pools};
use super::table::{Entry, NOWHERE, Slot, Space, Table};
use super::totals::{DEVICES_MAX, Devices};
use super::vmm::Holds;
use crate::event::{AllocKind, Allocation, Body, DeviceIndex, Event, FreeKind, MemoryRecord, Tag};
use crate::units::{Bytes, Nanos};
use std::collections::VecDeque;

/// Free calls that are under way at one time. One a thread is the rule; past this many, the return
/// of the oldest was lost.
const PENDING_MAX: usize = u8::MAX as usize;

/// Addresses of graphs' allocations that were freed from outside: as many as are remembered.
const GRAPH_FREED_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Books {
    pub(super) table: Table,
    pub(super) devices: Devices,
    pub(super) findings: Findings,
    history: History,
    /// Frees that were entered and have not returned: token and slot ([`NOWHERE`]: of what was
    /// never seen), oldest first.
    pending: Vec<(u64, Slot)>,
    /// What graphs allocated and the program freed: there again, and freed again, with each launch.
    graph_freed: VecDeque<u64>,
    pools: Pools,
    /// What beside references and mappings keeps VMM allocations.
    pub(super) holds: Holds,
}

impl Books {
    pub(super) fn new(allocations_max: usize, history_points: usize) -> Self {
        Self {
            table: Table::new(allocations_max),
            devices: Devices::new(),
            findings: Findings::default(),
            history: History::new(history_points),
            pending: Vec::with_capacity(PENDING_MAX),
            graph_freed: VecDeque::with_capacity(GRAPH_FREED_MAX),
            pools: Pools::new(),
            holds: Holds::new(),
        }
    }

    pub(super) fn totals(&self) -> Vec<super::DeviceTotals> {
        self.devices.seen(&self.pools)
    }

    pub(super) fn findings(&self) -> Findings {
        Findings {
            unasked_pools: self.pools.unasked(),
            late_pools: self.pools.untold,
            ..self.findings
        }
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    pub(super) fn pool_handle(&self, entry: &Entry) -> u64 {
        let row = usize::from(entry.pool).checked_sub(1);
        row.and_then(|row| self.pools.get(row)).map_or(0, |pool| pool.handle)
    }

    pub(super) fn host_bytes(&self) -> u64 {
        self.table.host_bytes()
            + self.history.host_bytes()
            + self.devices.host_bytes()
            + self.pools.host_bytes()
            + self.holds.host_bytes()
            + (self.graph_freed.capacity() * size_of::<u64>()) as u64
    }

    pub(super) fn accept(&mut self, event: &Event) {
        let time = event.time;
        match event.body {
            Body::Allocated(allocation) => self.allocate(time, &allocation),
            Body::AllocationFailed(failure) => {
                if !self.devices.add_failed(&failure) {
                    self.refuse(Bytes::ZERO);
                }
            }
            Body::FreeEntered { address, kind, token } => {
                self.enter_free(time, address, kind, token);
            }
            Body::FreeReturned { token, succeeded } => self.return_free(time, token, succeeded),
            Body::Mapped { handle, address, bytes } => self.map(time, handle, address, bytes),
            Body::Unmapped { address, bytes } => self.unmap(time, address, bytes),
            Body::Retained { handle, address } => self.retain(time, handle, address),
            Body::Exported { handle, descriptor } => self.export(time, handle, descriptor),
            Body::ExportClosed { descriptor } => self.close_export(time, descriptor),
            Body::Imported { handle, descriptor } => self.import(time, handle, descriptor),
            Body::Bound { multicast, handle, address, device, offset, bytes } => {
                let part = (device, offset, bytes.0);
                self.bind(multicast, (handle, address), part);
            }
            Body::Unbound { multicast, device, offset, bytes } => {
                self.unbind(time, multicast, (device, offset, bytes.0));
            }
            Body::ContextDestroyed { device, context } => {
                self.retire_context(time, device, context);
            }
            Body::MemoryRecord(record) => self.note_record(time, &record),
            Body::Pool { device, pool, reserved, used } => {
                self.tell_pool(time, device, pool, (reserved, used));
            }
            Body::PoolCreated { device, pool } => self.make_pool(time, device, pool),
            Body::PoolDestroyed { pool } => {
                self.pools.note_end(pool, time);
                self.destroy_pool(time, pool);
            }
            Body::PoolDestroyReturned { pool, succeeded } => {
                if let Some(row) = self.pools.destroy_returned(pool, succeeded) {
                    self.recount_pool(time, row);
                }
            }
            Body::ContextGrew(growth) => {
                if !self.devices.add_growth(&growth) {
                    self.refuse(Bytes::ZERO);
                }
            }
            Body::GraphMemory { device, reserved, used } => {
                self.tell_graph_memory(time, device, reserved, used);
            }
            // Not of memory, or not of this plane.
            Body::Kernel(_)
            | Body::PoolRecord(_)
            | Body::GraphLaunch(_)
            | Body::ApiCall(_)
            | Body::Overhead(_)
            | Body::DriverCall(_)
            | Body::Copy(_)
            | Body::Memset(_)
            | Body::Sync(_)
            | Body::Span(_)
            | Body::DeviceMemory { .. }
            | Body::DeviceUse { .. }
            | Body::HostMemory { .. }
            | Body::Dropped { .. } => {}
        }
    }

    fn allocate(&mut self, time: Nanos, told: &Allocation) {
        let space = if told.kind.is_handle() { Space::Handle } else { Space::Address };
        if self.is_opened_again(space, told) {
            return;
        }
        if let Some(former) = self.table.close_at(space, told.address) {
            self.findings.replaced += 1;
            self.settle(time, former);
        }
        let mut told = *told;
        let row = self.pool_of(&mut told);
        if !self.devices.add_allocated(&told) {
            return self.refuse(told.bytes);
        }
        let bytes = self.devices.room(told.device.0, told.kind, told.bytes.0);
        let excess = told.bytes.0 - bytes;
        self.findings.refused_bytes = self.findings.refused_bytes.saturating_add(Bytes(excess));
        let mut entry = Entry::new(space, told.address, bytes);
        // Devices past the limit were refused above.
        entry.device = told.device.0 as u8;
        entry.context = told.context;
        entry.kind = told.kind;
        entry.tag = told.tag;
        entry.library = told.library;
        entry.pool = row.and_then(|row| u16::try_from(row + 1).ok()).unwrap_or(0);
        match self.table.insert(entry) {
            Some(slot) => {
                if let Some(pool) = row.and_then(|row| self.pools.get_mut(row)) {
                    pool.entries += 1;
                }
                self.settle(time, slot);
            }
            None => self.refuse(told.bytes),
        }
    }

    /// Opening what is open already gives the same address (or handle) and takes one more close.
    fn is_opened_again(&mut self, space: Space, told: &Allocation) -> bool {
        use AllocKind::{ImportedAddress, ImportedHandle};
        if !matches!(told.kind, ImportedAddress | ImportedHandle) {
            return false;
        }
        let Some(slot) = self.table.find(space, told.address) else { return false };
        let Some(entry) = self.table.get_mut(slot) else { return false };
        // An import of what this process exported may be known by the same handle.
        let is_same = entry.kind == told.kind || told.kind == ImportedHandle;
        if is_same {
            entry.references = entry.references.saturating_add(1);
            self.devices.add_allocated(told);
        }
        is_same
    }

    /// The row of the pool that an allocation is from. It belongs to the pool's device, whatever
    /// the current one is.
    fn pool_of(&mut self, told: &mut Allocation) -> Option<usize> {
        if told.kind != AllocKind::PoolUsed || told.device.0 as usize >= DEVICES_MAX {
            return None;
        }
        let Some(row) = self.pools.of_allocation(told.device.0 as u8, told.pool) else {
            // Its bytes are then in no total, and it is told.
            self.refuse(told.bytes);
            return None;
        };
        if let Some(pool) = self.pools.get(row) {
            told.device = DeviceIndex(pool.device.into());
        }
        Some(row)
    }

    fn enter_free(&mut self, time: Nanos, address: u64, kind: FreeKind, token: u64) {
        if address == 0 {
            return; // Freeing null is allowed, and frees nothing.
        }
        let space = match kind {
            FreeKind::Vmm => Space::Handle,
            // One space: cuMemFree takes what cuMemAllocAsync gave and cuMemFreeAsync the reverse.
            FreeKind::Device
            | FreeKind::PinnedHost
            | FreeKind::PoolUsed
            | FreeKind::Registered
            | FreeKind::ImportedAddress => Space::Address,
        };
        let Some(slot) = self.table.take_reference(space, address) else {
            let is_known = match space {
                Space::Handle => self.holds.release_unknown(address),
                _ => self.graph_freed.contains(&address),
            };
            if !is_known {
                // Whether there was something to free, its return tells.
                self.await_return(time, token, NOWHERE);
            }
            return;
        };
        let mut kind = None;
        if let Some(entry) = self.table.get_mut(slot) {
            entry.pending = entry.pending.saturating_add(1);
            kind = Some(entry.kind);
        }
        if kind == Some(AllocKind::GraphNode) {
            if self.graph_freed.len() >= GRAPH_FREED_MAX {
                self.graph_freed.pop_front();
            }
            self.graph_freed.push_back(address);
        }
        self.await_return(time, token, slot);
        self.settle(time, slot);
    }

    fn await_return(&mut self, time: Nanos, token: u64, slot: Slot) {
        if self.pending.len() >= PENDING_MAX {
            let (_, oldest) = self.pending.remove(0);
            self.findings.presumed_frees += 1;
            self.end_pending(time, oldest);
        }
        self.pending.push((token, slot));
    }

    fn return_free(&mut self, time: Nanos, token: u64, succeeded: bool) {
        // From the back: the free that was entered last mostly returns first.
        let Some(at) = self.pending.iter().rposition(|(known, _)| *known == token) else { return };
        let (_, slot) = self.pending.remove(at);
        if slot == NOWHERE {
            self.findings.untracked_frees += u64::from(succeeded);
            return;
        }
        if !succeeded {
            self.put_back(slot);
        }
        self.end_pending(time, slot);
    }

    fn put_back(&mut self, slot: Slot) {
        let Some(entry) = self.table.get(slot).copied() else { return };
        if !entry.is_open() && self.table.find(entry.space, entry.address).is_some() {
            // Someone was given the address meanwhile, so it was free after all.
            self.findings.replaced += 1;
            return;
        }
        self.table.reopen(slot);
        self.findings.restored += 1;
        if let Some(entry) = self.table.get_mut(slot) {
            entry.references = entry.references.saturating_add(1);
        }
    }

    fn end_pending(&mut self, time: Nanos, slot: Slot) {
        if let Some(entry) = self.table.get_mut(slot) {
            entry.pending = entry.pending.saturating_sub(1);
        }
        self.settle(time, slot);
    }

    /// Everything allocated in a context goes with it. VMM allocations belong to the device and
    /// stay; entries whose context is unknown cannot be told apart and stay too. One walk over the
    /// slots that were ever in use at one time, in a call that frees all that memory.
    fn retire_context(&mut self, time: Nanos, device: DeviceIndex, context: u32) {
        if context == 0 {
            return;
        }
        for slot in 0..self.table.slots() {
            let Some(entry) = self.table.get_mut(slot) else { continue };
            let is_there = entry.context == context && u32::from(entry.device) == device.0;
            if entry.space != Space::Address || !is_there {
                continue;
            }
            if entry.pending > 0 {
                // A free that was under way has nothing left to put back.
                entry.pending = 0;
                self.pending.retain(|(_, pending)| *pending != slot);
            }
            self.table.close(slot);
            self.settle(time, slot);
        }
    }

    /// Everything live is forgotten, as if it had never been seen: nobody watched for a while, and
    /// what is still there comes in with the opening balance. What was counted stays counted.
    pub(super) fn forget_live(&mut self, time: Nanos) {
        self.devices.forget_growth();
        self.pending.clear();
        self.holds.clear();
        self.forget_mappings();
        for slot in 0..self.table.slots() {
            let Some(entry) = self.table.get_mut(slot) else { continue };
            (entry.pending, entry.link, entry.exports, entry.references) = (0, 0, 0, 0);
            self.table.close(slot);
            self.settle(time, slot);
        }
        // Which of them there still are is told, or found when they are next allocated from.
        for row in 0..self.pools.rows() {
            self.pools.destroy(row);
            self.recount_pool(time, row);
        }
        self.devices.forget_graphs();
    }

    /// Takes the pages of a device as they are; what is live is rounded anew.
    pub(super) fn set_pages(&mut self, device: u32, page: u64, small: u64) {
        self.devices.set_pages(device, page, small);
        for slot in 0..self.table.slots() {
            let Some(entry) = self.table.get(slot).copied() else { continue };
            let is_there = entry.is_counted() && u32::from(entry.device) == device;
            if let Some(pages) = self.devices.pages_mut(device)
                && is_there
                && entry.kind.counts_as_vram()
            {
                pages.add(entry.bytes);
            }
        }
    }

    fn note_record(&mut self, time: Nanos, record: &MemoryRecord) {
        if record.is_free {
            self.findings.recorded_frees += 1;
        } else {
            self.findings.recorded_allocations += 1;
        }
        let told = record.pool_bytes.zip(self.pools.row_of(record.pool));
        if let Some((reserved, row)) = told {
            self.pools.raise(row, reserved, time);
            self.recount_pool(time, row);
        }
    }

    fn tell_pool(&mut self, time: Nanos, device: DeviceIndex, pool: u64, told: (Bytes, Bytes)) {
        let index = u8::try_from(device.0).ok().filter(|index| usize::from(*index) < DEVICES_MAX);
        match index.map(|index| self.pools.tell(index, pool, told, time)) {
            Some(Ok(Some((row, found)))) => {
                let owner =
                    self.pools.get(row).map_or(device, |pool| DeviceIndex(pool.device.into()));
                self.devices.add_found(owner.0, found);
                self.recount_pool(time, row);
            }
            Some(Ok(None)) => {}
            Some(Err(())) | None => self.refuse(told.0),
        }
    }

    fn make_pool(&mut self, time: Nanos, device: DeviceIndex, pool: u64) {
        // A handle that is known was destroyed unseen.
        self.destroy_pool(time, pool);
        let index = u8::try_from(device.0).ok().filter(|index| usize::from(*index) < DEVICES_MAX);
        if index.and_then(|index| self.pools.make(index, pool)).is_none() {
            self.refuse(Bytes::ZERO);
        }
    }

    fn destroy_pool(&mut self, time: Nanos, pool: u64) {
        let Some(row) = self.pools.row_of(pool) else { return };
        self.pools.destroy(row);
        self.recount_pool(time, row);
    }

    /// Brings the device's totals in line with what one of its pools holds.
    fn recount_pool(&mut self, time: Nanos, row: usize) {
        let Some(pool) = self.pools.get_mut(row) else { return };
        let (device, from) = (u32::from(pool.device), pool.counted);
        let vram = self.devices.get(device).map_or(0, |totals| totals.vram.live_bytes.0);
        let to = pool.physical_bytes().min(u64::MAX - vram.saturating_sub(from));
        pool.counted = to;
        // Also where nothing changed: from now on the device is one that was mentioned.
        if !self.devices.change_pool_reserve(device, from, to) {
            self.findings.underflows += 1;
        }
        if from != to {
            self.note_history(time, device);
        }
        self.pools.close_if_empty(row);
    }

    fn tell_graph_memory(
        &mut self,
        time: Nanos,
        device: DeviceIndex,
        reserved: Bytes,
        used: Bytes,
    ) {
        let before = self.devices.get(device.0).map(|totals| totals.vram.live_bytes);
        let Some(before) = before else { return self.refuse(reserved) };
        if !self.devices.set_graph_memory(device.0, reserved, used) {
            self.findings.underflows += 1;
        }
        if self.devices.get(device.0).is_some_and(|totals| totals.vram.live_bytes != before) {
            self.note_history(time, device.0);
        }
    }

    /// Brings the totals in line with an entry, and gives its slot back when nothing needs it.
    pub(super) fn settle(&mut self, time: Nanos, slot: Slot) {
        let Some(entry) = self.table.get_mut(slot) else { return };
        let (is_live, as_export) = (entry.is_live(), entry.is_export_only());
        let (was_live, was_export) = (entry.is_counted(), entry.is_counted_as_export());
        entry.set_counted(is_live, as_export);
        // Field by field: a copy of the whole would wait for the bytes that were just written.
        let (kind, device, pool, pending) = (entry.kind, entry.device, entry.pool, entry.pending);
        let (tag, bytes) = (entry.tag, entry.bytes);
        let mut sound = true;
        if is_live && !was_live {
            self.devices.add_live(entry);
        } else if was_live && !is_live {
            sound = self.devices.remove_live(entry);
            if entry.was_exported() {
                self.devices.add_passed_on(entry);
            }
        }
        if as_export != was_export {
            sound &= self.devices.change_exported(entry, as_export);
        }
        if is_live != was_live {
            sound &= self.settle_pool(time, pool, (tag, bytes), is_live);
            if kind.counts_as_vram() {
                self.note_history(time, device.into());
            }
        }
        if !sound {
            self.findings.underflows += 1;
        }
        if !is_live && pending == 0 {
            self.table.release(slot);
            self.leave_pool(pool);
            if binds(kind) {
                self.end_bindings_of(time, slot);
            }
        }
    }

    fn settle_pool(
        &mut self,
        time: Nanos,
        pool: u16,
        (tag, bytes): (Tag, u64),
        is_added: bool,
    ) -> bool {
        let Some(row) = usize::from(pool).checked_sub(1) else { return true };
        let Some(pool) = self.pools.get_mut(row) else { return true };
        let mut sound = true;
        if is_added {
            pool.add(tag, bytes);
        } else {
            sound = pool.remove(tag, bytes);
        }
        self.recount_pool(time, row);
        sound
    }

    /// An entry that was released refers to its pool no more.
    fn leave_pool(&mut self, pool: u16) {
        let Some(row) = usize::from(pool).checked_sub(1) else { return };
        if let Some(pool) = self.pools.get_mut(row) {
            pool.entries = pool.entries.saturating_sub(1);
        }
        self.pools.close_if_empty(row);
    }

    fn note_history(&mut self, time: Nanos, device: u32) {
        let Some(totals) = self.devices.get(device) else { return };
        let kv = totals.by_tag[crate::event::Tag::KvCache as usize].live_bytes;
        self.history.push(time, DeviceIndex(device), totals.vram.live_bytes, kv);
    }

    pub(super) fn refuse(&mut self, bytes: Bytes) {
        self.findings.refused += 1;
        self.findings.refused_bytes = self.findings.refused_bytes.saturating_add(bytes);
    }
}

/// Whether it may keep other memory: a multicast object, made here or imported, what is bound to it,
/// and any import what this process exported.
pub(super) fn binds(kind: AllocKind) -> bool {
    matches!(kind, AllocKind::Multicast | AllocKind::ImportedHandle)
}

const _: () = assert!(POOLS_MAX < u16::MAX as usize && DEVICES_MAX <= u8::MAX as usize + 1);
