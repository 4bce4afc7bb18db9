//! Virtual memory management: what keeps physical bytes once their handle is released.
//!
//! An allocation is live until its references (the one it was made with, and each that was
//! retained), its mappings, its bindings to multicast objects, its exported descriptors and what this
//! process imported of those are all gone.

use super::books::{Books, binds};
use super::mappings;
use super::table::{NOWHERE, Slot, Space};
use super::totals::DEVICES_MAX;
use crate::event::{AllocKind, DeviceIndex};
use crate::units::{Bytes, Nanos};

/// Open exports. A process sends each allocation once or to a few others.
const EXPORTS_MAX: usize = 4096;

/// Bindings to multicast objects, one a device and buffer of a collective library, and imports of what
/// this process exported itself.
const BINDINGS_MAX: usize = 1024;

/// Handles from before we came that the program asked for again and has not released.
const UNKNOWN_MAX: usize = 256;

/// What beside references and mappings keeps VMM allocations. Bounded and allocated once.
#[derive(Debug)]
pub(super) struct Holds {
    /// Descriptor, and what it keeps.
    exports: Vec<(i32, Slot)>,
    bindings: Vec<Binding>,
    /// Handles that the ledger does not know, with the references that it saw taken.
    unknown: Vec<(u64, u32)>,
}

/// What keeps memory until it is gone itself.
#[derive(Clone, Copy, Debug)]
struct Binding {
    /// A multicast object, or an import.
    object: Slot,
    memory: Slot,
    /// Device, offset, bytes; of an import [`WHOLE`].
    part: Part,
}

/// No call unbinds it: it has no bytes in any object.
const WHOLE: Part = (DeviceIndex(u32::MAX), 0, 0);

/// Device, offset and bytes in a multicast object.
pub(super) type Part = (DeviceIndex, u64, u64);

impl Holds {
    pub(super) fn new() -> Self {
        Self {
            exports: Vec::with_capacity(EXPORTS_MAX),
            bindings: Vec::with_capacity(BINDINGS_MAX),
            unknown: Vec::with_capacity(UNKNOWN_MAX),
        }
    }

    pub(super) fn clear(&mut self) {
        self.exports.clear();
        self.bindings.clear();
        self.unknown.clear();
    }

    pub(super) fn host_bytes(&self) -> u64 {
        let exports = self.exports.capacity() * size_of::<(i32, Slot)>();
        let bindings = self.bindings.capacity() * size_of::<Binding>();
        (exports + bindings + self.unknown.capacity() * size_of::<(u64, u32)>()) as u64
    }

    fn retain_unknown(&mut self, handle: u64) {
        if let Some((_, count)) = self.unknown.iter_mut().find(|(known, _)| *known == handle) {
            *count = count.saturating_add(1);
        } else if self.unknown.len() < UNKNOWN_MAX {
            self.unknown.push((handle, 1));
        }
    }

    /// Whether a reference to an unknown handle was seen taken, and is now given back.
    pub(super) fn release_unknown(&mut self, handle: u64) -> bool {
        let Some(at) = self.unknown.iter().position(|(known, _)| *known == handle) else {
            return false;
        };
        if let Some((_, count)) = self.unknown.get_mut(at) {
            *count -= 1;
            if *count == 0 {
                self.unknown.swap_remove(at);
            }
        }
        true
    }
}

impl Books {
    pub(super) fn map(&mut self, time: Nanos, handle: u64, address: u64, bytes: Bytes) {
        let Some(end) = address.checked_add(bytes.0).filter(|end| *end > address) else { return };
        while let Some(former) = mappings::first_in(&self.table, address, end) {
            self.findings.replaced += 1;
            self.end_mapping(time, former);
        }
        let Some(parent) = self.table.find(Space::Handle, handle) else {
            self.findings.untracked_mappings += 1;
            return;
        };
        if mappings::insert(&mut self.table, address, bytes.0, parent).is_none() {
            return self.refuse(bytes);
        }
        self.hold(parent);
        self.widen_import(parent, bytes.0);
    }

    fn hold(&mut self, slot: Slot) {
        if let Some(entry) = self.table.get_mut(slot) {
            entry.link = entry.link.saturating_add(1);
        }
    }

    /// How large an import is nobody tells: as large as the largest view of it.
    fn widen_import(&mut self, slot: Slot, bytes: u64) {
        let Some(entry) = self.table.get(slot).copied() else { return };
        if entry.kind != AllocKind::ImportedHandle || entry.bytes >= bytes || !entry.is_counted() {
            return;
        }
        if !self.devices.remove_live(&entry) {
            self.findings.underflows += 1;
        }
        let bytes = self.devices.room(entry.device.into(), entry.kind, bytes);
        let Some(entry) = self.table.get_mut(slot) else { return };
        entry.bytes = bytes;
        let entry = *entry;
        self.devices.add_live(&entry);
    }

    /// Cuts a range out of every mapping that has a part of it, wherever that one starts: drivers
    /// unmap whole mappings, one or several.
    pub(super) fn unmap(&mut self, time: Nanos, address: u64, bytes: Bytes) {
        let end = address.saturating_add(bytes.0);
        while let Some(slot) = mappings::first_in(&self.table, address, end) {
            let Some(mapping) = self.table.get(slot).copied() else { return };
            let (from, to) = (mapping.address, mapping.address.saturating_add(mapping.bytes));
            // What stays on either side is held before the whole is given back.
            let rests = [(from, address), (end, to)];
            let mut kept = [None; 2];
            for (rest, keep) in rests.into_iter().zip(&mut kept) {
                if rest.0 < rest.1 {
                    self.hold(mapping.link);
                    *keep = Some(rest);
                }
            }
            self.end_mapping(time, slot);
            for (from, to) in kept.into_iter().flatten() {
                if mappings::insert(&mut self.table, from, to - from, mapping.link).is_none() {
                    self.refuse(Bytes(to - from));
                    self.let_go(time, mapping.link);
                }
            }
        }
    }

    fn end_mapping(&mut self, time: Nanos, slot: Slot) {
        let Some(parent) = self.table.get(slot).map(|mapping| mapping.link) else { return };
        mappings::remove(&mut self.table, slot);
        self.let_go(time, parent);
    }

    fn let_go(&mut self, time: Nanos, slot: Slot) {
        if let Some(entry) = self.table.get_mut(slot) {
            entry.link = entry.link.saturating_sub(1);
        }
        self.settle(time, slot);
    }

    pub(super) fn forget_mappings(&mut self) {
        for slot in 0..self.table.slots() {
            if self.table.get(slot).is_some_and(|entry| entry.space == Space::Mapping) {
                self.table.release(slot);
            }
        }
        (self.table.root, self.table.mappings) = (NOWHERE, 0);
    }

    /// One more reference, asked for by an address inside a mapping. The handle may have been
    /// released before: it is then open again.
    pub(super) fn retain(&mut self, time: Nanos, handle: u64, address: u64) {
        let mapped = mappings::holding(&self.table, address)
            .and_then(|slot| self.table.get(slot))
            .map(|mapping| mapping.link);
        let Some(slot) = mapped.or_else(|| self.table.find(Space::Handle, handle)) else {
            return self.holds.retain_unknown(handle);
        };
        let Some(entry) = self.table.get_mut(slot) else { return };
        if entry.is_open() {
            if entry.address == handle {
                entry.references = entry.references.saturating_add(1);
            } else {
                // The mapping was of a handle that has this number no more: not ours to tell.
                self.holds.retain_unknown(handle);
            }
            return;
        }
        if let Some(former) = self.table.close_at(Space::Handle, handle) {
            self.findings.replaced += 1;
            self.settle(time, former);
        }
        if let Some(entry) = self.table.get_mut(slot) {
            (entry.address, entry.references) = (handle, 1);
        }
        self.table.reopen(slot);
        self.settle(time, slot);
    }

    pub(super) fn export(&mut self, time: Nanos, handle: u64, descriptor: i32) {
        // The number is new, so what had it before is closed.
        self.close_export(time, descriptor);
        let Some(slot) = self.table.find(Space::Handle, handle) else { return };
        if self.holds.exports.len() >= EXPORTS_MAX {
            return self.refuse(Bytes::ZERO);
        }
        let Some(entry) = self.table.get_mut(slot).filter(|entry| entry.exports < u16::MAX) else {
            return self.refuse(Bytes::ZERO);
        };
        entry.exports += 1;
        entry.note_export();
        self.holds.exports.push((descriptor, slot));
    }

    pub(super) fn close_export(&mut self, time: Nanos, descriptor: i32) {
        let known = self.holds.exports.iter().position(|(known, _)| *known == descriptor);
        let Some(at) = known else { return };
        let (_, slot) = self.holds.exports.swap_remove(at);
        if let Some(entry) = self.table.get_mut(slot) {
            entry.exports = entry.exports.saturating_sub(1);
        }
        self.settle(time, slot);
    }

    /// What this process exported came back to it under another handle.
    pub(super) fn import(&mut self, time: Nanos, handle: u64, descriptor: i32) {
        let exported = self.holds.exports.iter().find(|(known, _)| *known == descriptor);
        let Some((_, memory)) = exported.copied() else { return };
        let Some(object) = self.table.find(Space::Handle, handle) else { return };
        let Some(entry) = self.table.get(object) else { return };
        // One that was there before keeps its bytes already; nor can two keep each other.
        let is_new = entry.references == 1 && entry.link == 0;
        if entry.kind != AllocKind::ImportedHandle || !is_new || object == memory {
            return;
        }
        if self.holds.bindings.len() >= BINDINGS_MAX {
            return self.refuse(Bytes::ZERO);
        }
        self.holds.bindings.push(Binding { object, memory, part: WHOLE });
        self.hold(memory);
        // It may be that the descriptor alone kept it.
        self.settle(time, memory);
    }

    /// Binds memory, by its handle or by an address that it is mapped at.
    pub(super) fn bind(&mut self, multicast: u64, memory: (u64, u64), part: Part) {
        let (handle, address) = memory;
        let object = self.table.find(Space::Handle, multicast);
        let object = object.filter(|slot| self.table.get(*slot).is_some_and(|it| binds(it.kind)));
        let memory = match handle {
            0 => mappings::holding(&self.table, address)
                .and_then(|slot| self.table.get(slot))
                .map(|mapping| mapping.link),
            _ => self.table.find(Space::Handle, handle),
        };
        let Some((object, memory)) = object.zip(memory) else {
            self.findings.untracked_mappings += 1;
            return;
        };
        if self.holds.bindings.len() >= BINDINGS_MAX {
            return self.refuse(Bytes::ZERO);
        }
        // The first versions of the call do not name the device: it is the memory's.
        let owner = self.table.get(memory).map_or(0, |entry| u32::from(entry.device));
        let is_known = (part.0.0 as usize) < DEVICES_MAX;
        let part = (if is_known { part.0 } else { DeviceIndex(owner) }, part.1, part.2);
        self.holds.bindings.push(Binding { object, memory, part });
        self.hold(memory);
    }

    pub(super) fn unbind(&mut self, time: Nanos, multicast: u64, part: Part) {
        let (device, offset, bytes) = part;
        let Some(object) = self.table.find(Space::Handle, multicast) else { return };
        self.end_bindings(time, |binding| {
            let (owner, from, length) = binding.part;
            let overlaps =
                from < offset.saturating_add(bytes) && offset < from.saturating_add(length);
            binding.object == object && owner == device && overlaps
        });
    }

    /// A multicast object or an import is gone, and it keeps nothing any more.
    pub(super) fn end_bindings_of(&mut self, time: Nanos, object: Slot) {
        self.end_bindings(time, |binding| binding.object == object);
    }

    fn end_bindings(&mut self, time: Nanos, ends: impl Fn(&Binding) -> bool) {
        let mut at = 0;
        while let Some(binding) = self.holds.bindings.get(at).copied() {
            if ends(&binding) {
                self.holds.bindings.swap_remove(at);
                self.let_go(time, binding.memory);
            } else {
                at += 1;
            }
        }
    }
}
