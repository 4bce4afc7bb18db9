//! What each event does to the table and the totals.

use super::Findings;
use super::history::History;
use super::table::{Entry, Slot, Space, Table};
use super::totals::Devices;
use crate::event::{Allocation, Body, DeviceIndex, Event, FreeKind};
use crate::units::{Bytes, Nanos};

/// Free calls that are under way at one time. One a thread is the rule; past this many, the return
/// of the oldest was lost.
const PENDING_MAX: usize = 256;

/// Pools whose reserve is kept. The poller asks one a device.
const POOLS_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Books {
    table: Table,
    devices: Devices,
    findings: Findings,
    history: History,
    /// Frees that were entered and have not returned: token and slot, oldest first.
    pending: Vec<(u64, Slot)>,
    /// Device, pool, reserve.
    pools: Vec<(DeviceIndex, u64, u64)>,
    /// Pools that were named in an allocation, whether or not their reserve is known.
    named_pools: Vec<u64>,
}

impl Books {
    pub(super) fn new(allocations_max: usize, history_points: usize) -> Self {
        Self {
            table: Table::new(allocations_max),
            devices: Devices::new(),
            findings: Findings::default(),
            history: History::new(history_points),
            pending: Vec::with_capacity(PENDING_MAX),
            pools: Vec::with_capacity(POOLS_MAX),
            named_pools: Vec::with_capacity(POOLS_MAX),
        }
    }

    pub(super) fn devices(&self) -> &Devices {
        &self.devices
    }

    pub(super) fn findings(&self) -> Findings {
        let is_asked = |pool: &&u64| self.pools.iter().any(|(_, known, _)| known == *pool);
        let unasked = self.named_pools.iter().filter(|pool| !is_asked(pool)).count();
        Findings { unasked_pools: unasked as u64, ..self.findings }
    }

    /// Remembers a pool by its name in an allocation; those past the limit go unnoticed.
    fn name_pool(&mut self, pool: u64) {
        let is_new = pool != 0 && !self.named_pools.contains(&pool);
        if is_new && self.named_pools.len() < POOLS_MAX {
            self.named_pools.push(pool);
        }
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    pub(super) fn host_bytes(&self) -> u64 {
        self.table.host_bytes() + self.history.host_bytes()
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
            Body::ContextDestroyed { device, context } => {
                self.retire_context(time, device, context);
            }
            Body::MemoryRecord(record) if record.is_free => self.findings.recorded_frees += 1,
            Body::MemoryRecord(_) => self.findings.recorded_allocations += 1,
            Body::Pool { device, pool, reserved, .. } => {
                self.set_pool(time, device, pool, reserved.0);
            }
            Body::Retained { .. }
            | Body::Exported { .. }
            | Body::ExportClosed { .. }
            | Body::Bound { .. }
            | Body::Unbound { .. }
            | Body::PoolCreated { .. }
            | Body::PoolDestroyed { .. }
            | Body::ContextGrew(_)
            | Body::GraphMemory { .. }
            | Body::Kernel(_)
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

    fn allocate(&mut self, time: Nanos, allocation: &Allocation) {
        let space = if allocation.kind.is_handle() { Space::Handle } else { Space::Address };
        self.name_pool(allocation.pool);
        if let Some(former) = self.table.close_at(space, allocation.address) {
            self.findings.replaced += 1;
            self.settle(time, former);
        }
        if !self.devices.add_allocated(allocation) {
            return self.refuse(allocation.bytes);
        }
        let mut entry = Entry::new(space, allocation.address, allocation.bytes.0);
        entry.device = allocation.device.0;
        entry.context = allocation.context;
        entry.kind = allocation.kind;
        entry.tag = allocation.tag;
        match self.table.insert(entry) {
            Some(slot) => self.settle(time, slot),
            None => self.refuse(allocation.bytes),
        }
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
        let Some(slot) = self.table.close_at(space, address) else {
            self.findings.untracked_frees += 1;
            return;
        };
        if self.pending.len() >= PENDING_MAX {
            let (_, oldest) = self.pending.remove(0);
            self.findings.presumed_frees += 1;
            self.end_pending(time, oldest);
        }
        if let Some(entry) = self.table.get_mut(slot) {
            entry.is_pending = true;
        }
        self.pending.push((token, slot));
        self.settle(time, slot);
    }

    fn return_free(&mut self, time: Nanos, token: u64, succeeded: bool) {
        // From the back: the free that was entered last mostly returns first.
        let Some(at) = self.pending.iter().rposition(|(known, _)| *known == token) else { return };
        let (_, slot) = self.pending.remove(at);
        if !succeeded {
            self.put_back(slot);
        }
        self.end_pending(time, slot);
    }

    fn put_back(&mut self, slot: Slot) {
        let Some(entry) = self.table.get(slot) else { return };
        if self.table.find(entry.space, entry.address).is_some() {
            // Someone was given the address meanwhile, so it was free after all.
            self.findings.replaced += 1;
        } else {
            self.table.reopen(slot);
            self.findings.restored += 1;
        }
    }

    fn end_pending(&mut self, time: Nanos, slot: Slot) {
        if let Some(entry) = self.table.get_mut(slot) {
            entry.is_pending = false;
        }
        self.settle(time, slot);
    }

    fn map(&mut self, time: Nanos, handle: u64, address: u64, bytes: Bytes) {
        if let Some(former) = self.table.find(Space::Mapping, address) {
            self.findings.replaced += 1;
            self.end_mapping(time, former);
        }
        let Some(parent) = self.table.find(Space::Handle, handle) else {
            self.findings.untracked_mappings += 1;
            return;
        };
        let mut mapping = Entry::new(Space::Mapping, address, bytes.0);
        mapping.link = parent;
        if self.table.insert(mapping).is_none() {
            return self.refuse(bytes);
        }
        if let Some(parent) = self.table.get_mut(parent) {
            parent.link = parent.link.saturating_add(1);
        }
    }

    fn unmap(&mut self, time: Nanos, address: u64, bytes: Bytes) {
        let end = address.saturating_add(bytes.0);
        let mut cursor = address;
        // What the driver demands: whole mappings, one after another.
        while cursor < end {
            let Some(slot) = self.table.find(Space::Mapping, cursor) else { break };
            let Some(length) = self.table.get(slot).map(|mapping| mapping.bytes) else { break };
            if length == 0 || length > end - cursor {
                break;
            }
            self.end_mapping(time, slot);
            cursor += length;
        }
        if cursor < end {
            self.unmap_parts(time, cursor, end);
        }
    }

    /// Cuts `begin..end` out of every mapping, wherever it starts. Walks the whole table.
    fn unmap_parts(&mut self, time: Nanos, begin: u64, end: u64) {
        for slot in 0..self.table.slots() {
            let Some(mapping) = self.table.get(slot).copied() else { continue };
            let (from, to) = (mapping.address, mapping.address.saturating_add(mapping.bytes));
            if mapping.space != Space::Mapping || to <= begin || from >= end {
                continue;
            }
            if from < begin {
                if let Some(left) = self.table.get_mut(slot) {
                    left.bytes = begin - from;
                }
                if to > end {
                    self.split_off(&mapping, end, to);
                }
            } else if to > end {
                self.table.close(slot);
                if let Some(right) = self.table.get_mut(slot) {
                    right.address = end;
                    right.bytes = to - end;
                }
                self.table.reopen(slot);
            } else {
                self.end_mapping(time, slot);
            }
        }
    }

    /// Enters the right-hand rest of a mapping whose middle was unmapped.
    fn split_off(&mut self, mapping: &Entry, from: u64, to: u64) {
        let mut rest = Entry::new(Space::Mapping, from, to - from);
        rest.link = mapping.link;
        if self.table.insert(rest).is_none() {
            return self.refuse(Bytes(to - from));
        }
        if let Some(parent) = self.table.get_mut(mapping.link) {
            parent.link = parent.link.saturating_add(1);
        }
    }

    fn end_mapping(&mut self, time: Nanos, slot: Slot) {
        let Some(parent) = self.table.get(slot).map(|mapping| mapping.link) else { return };
        self.table.close(slot);
        self.table.release(slot);
        if let Some(parent) = self.table.get_mut(parent) {
            parent.link = parent.link.saturating_sub(1);
        }
        self.settle(time, parent);
    }

    /// Everything allocated in a context goes with it. VMM allocations belong to the device and
    /// stay; entries whose context is unknown cannot be told apart and stay too.
    fn retire_context(&mut self, time: Nanos, device: DeviceIndex, context: u32) {
        if context == 0 {
            return;
        }
        for slot in 0..self.table.slots() {
            let Some(entry) = self.table.get_mut(slot) else { continue };
            if entry.space != Space::Address || entry.context != context || entry.device != device.0
            {
                continue;
            }
            if entry.is_pending {
                // A free that was under way has nothing left to put back.
                entry.is_pending = false;
                self.pending.retain(|(_, pending)| *pending != slot);
            }
            self.table.close(slot);
            self.settle(time, slot);
        }
    }

    /// Everything live is forgotten, as if it had never been seen: nobody watched for a while, and
    /// what is still there comes in with the opening balance. What was counted stays counted.
    pub(super) fn forget_live(&mut self, time: Nanos) {
        self.pending.clear();
        for slot in 0..self.table.slots() {
            let Some(entry) = self.table.get_mut(slot) else { continue };
            (entry.is_pending, entry.link) = (false, 0);
            self.table.close(slot);
            self.settle(time, slot);
        }
    }

    fn set_pool(&mut self, time: Nanos, device: DeviceIndex, pool: u64, reserved: u64) {
        let has_room = self.pools.len() < POOLS_MAX && self.devices.get(device.0).is_some();
        let known =
            self.pools.iter_mut().find(|(owner, known, _)| *owner == device && *known == pool);
        let from = match known {
            Some((_, _, bytes)) => std::mem::replace(bytes, reserved),
            None if has_room => {
                self.pools.push((device, pool, reserved));
                0
            }
            None => return self.refuse(Bytes(reserved)),
        };
        if !self.devices.change_pool_reserve(device, from, reserved) {
            self.findings.underflows += 1;
        }
        if from != reserved {
            self.note_history(time, device.0);
        }
    }

    /// Brings the totals in line with an entry, and gives its slot back when nothing needs it.
    fn settle(&mut self, time: Nanos, slot: Slot) {
        let Some(entry) = self.table.get_mut(slot) else { return };
        let is_live = entry.is_live();
        let changed = entry.is_counted != is_live;
        entry.is_counted = is_live;
        let entry = *entry;
        if changed && is_live {
            self.devices.add_live(&entry);
        } else if changed && !self.devices.remove_live(&entry) {
            self.findings.underflows += 1;
        }
        if changed && entry.kind.counts_as_vram() {
            self.note_history(time, entry.device);
        }
        if !is_live && !entry.is_pending {
            self.table.release(slot);
        }
    }

    fn note_history(&mut self, time: Nanos, device: u32) {
        let Some(totals) = self.devices.get(device) else { return };
        let kv = totals.by_tag[crate::event::Tag::KvCache as usize].live_bytes;
        self.history.push(time, DeviceIndex(device), totals.vram.live_bytes, kv);
    }

    fn refuse(&mut self, bytes: Bytes) {
        self.findings.refused += 1;
        self.findings.refused_bytes = self.findings.refused_bytes.saturating_add(bytes);
    }
}
