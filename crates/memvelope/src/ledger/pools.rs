//! Stream-ordered pools: what they reserved, as the driver told, and what was allocated from them.

use super::PoolTotals;
use crate::event::{DeviceIndex, Tag};
use crate::units::{Bytes, Nanos};

/// Pools that are kept apart; more than any program makes at one time.
pub(super) const POOLS_MAX: usize = 256;

/// One pool. A row stays where it is while anything refers to it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pool {
    pub(super) device: u8,
    pub(super) is_taken: bool,
    /// Made by the program, as its call told; the others are the devices' own.
    is_made: bool,
    /// The handle may be given out again: only what is still allocated keeps the row.
    is_destroyed: bool,
    /// The call that destroys it has not returned.
    is_ending: bool,
    pub(super) handle: u64,
    /// What the driver said last, and when.
    reserved: Option<u64>,
    used: Option<u64>,
    told: Nanos,
    /// What was asked for and is live.
    live_bytes: u64,
    live_count: u64,
    /// Entries that refer to it: those that are live, and those whose free may yet fail.
    pub(super) entries: u32,
    by_tag: [u64; Tag::COUNT],
    was_named: bool,
    /// What of it is in the device's totals.
    pub(super) counted: u64,
}

impl Pool {
    /// Physical bytes: as told, but never less than what is allocated from it. So peaks do not
    /// depend on when the driver was asked. What a destroyed one held goes with its last allocation
    /// (the description of `cuMemPoolDestroy`).
    pub(super) fn physical_bytes(&self) -> u64 {
        if self.is_destroyed && self.live_count == 0 {
            return 0;
        }
        self.reserved.unwrap_or(0).max(self.live_bytes)
    }

    pub(super) fn add(&mut self, tag: Tag, bytes: u64) {
        self.live_bytes = self.live_bytes.saturating_add(bytes);
        self.live_count += 1;
        let by_tag = &mut self.by_tag[tag as usize];
        *by_tag = by_tag.saturating_add(bytes);
    }

    /// False if more went than was there.
    pub(super) fn remove(&mut self, tag: Tag, bytes: u64) -> bool {
        let by_tag = &mut self.by_tag[tag as usize];
        let sound = self.live_bytes >= bytes && self.live_count > 0 && *by_tag >= bytes;
        *by_tag = by_tag.saturating_sub(bytes);
        self.live_bytes = self.live_bytes.saturating_sub(bytes);
        self.live_count = self.live_count.saturating_sub(1);
        sound
    }

    fn totals(&self) -> PoolTotals {
        PoolTotals {
            pool: self.handle,
            reserved_bytes: self.reserved.map(Bytes),
            used_bytes: self.used.map(Bytes),
            by_tag: self.by_tag.map(Bytes),
            live_count: self.live_count,
            is_destroyed: self.is_destroyed,
        }
    }
}

/// Pools that ended lately and are remembered: more than usually end while the driver is asked once.
pub(super) const ENDED_MAX: usize = 1024;

/// All pools, allocated once.
#[derive(Debug)]
pub(super) struct Pools {
    rows: Vec<Pool>,
    /// Those that ended lately, and when; the oldest is overwritten.
    ended: [(u64, Nanos); ENDED_MAX],
    next_ended: usize,
    /// When the last one ended of those that are remembered no more.
    forgotten: Option<Nanos>,
    /// What was told and not booked, because such a one may have been told of.
    pub(super) untold: u64,
}

impl Pools {
    pub(super) fn new() -> Self {
        let rows = Vec::with_capacity(POOLS_MAX);
        let ended = [(0, Nanos::ZERO); ENDED_MAX];
        Self { rows, ended, next_ended: 0, forgotten: None, untold: 0 }
    }

    pub(super) fn host_bytes(&self) -> u64 {
        (self.rows.capacity() * std::mem::size_of::<Pool>()) as u64
    }

    pub(super) fn get_mut(&mut self, row: usize) -> Option<&mut Pool> {
        self.rows.get_mut(row).filter(|pool| pool.is_taken)
    }

    pub(super) fn get(&self, row: usize) -> Option<&Pool> {
        self.rows.get(row).filter(|pool| pool.is_taken)
    }

    fn find(&self, keep: impl Fn(&Pool) -> bool) -> Option<usize> {
        self.rows.iter().position(|pool| pool.is_taken && !pool.is_destroyed && keep(pool))
    }

    fn open(&mut self, pool: Pool) -> Option<usize> {
        let pool = Pool { is_taken: true, ..pool };
        if let Some(row) = self.rows.iter().position(|pool| !pool.is_taken) {
            *self.rows.get_mut(row)? = pool;
            return Some(row);
        }
        if self.rows.len() >= POOLS_MAX {
            return None;
        }
        self.rows.push(pool);
        Some(self.rows.len() - 1)
    }

    /// The row that an allocation belongs to. Without a handle it is the device's own pool: by its
    /// handle if that was told, else row 0 of the device until it is.
    pub(super) fn of_allocation(&mut self, device: u8, handle: u64) -> Option<usize> {
        let known = match handle {
            0 => self
                .find(|pool| pool.device == device && !pool.is_made && pool.handle != 0)
                .or_else(|| self.find(|pool| pool.device == device && pool.handle == 0)),
            _ => self.row_of(handle),
        };
        let row = known.or_else(|| self.open(Pool { device, handle, ..Pool::default() }))?;
        if let Some(pool) = self.get_mut(row) {
            pool.was_named |= handle != 0;
        }
        Some(row)
    }

    /// A pool that the driver was asked for. The device's row without a handle gets this one where
    /// it is new: pools that the program makes are told when they are made.
    fn of_told(&mut self, device: u8, handle: u64) -> Option<usize> {
        if let Some(row) = self.row_of(handle) {
            return Some(row);
        }
        let row = self.find(|pool| pool.device == device && pool.handle == 0)?;
        if let Some(pool) = self.get_mut(row) {
            pool.handle = handle;
        }
        Some(row)
    }

    /// The program made a pool.
    pub(super) fn make(&mut self, device: u8, handle: u64) -> Option<usize> {
        self.open(Pool { device, handle, is_made: true, ..Pool::default() })
    }

    pub(super) fn row_of(&self, handle: u64) -> Option<usize> {
        self.find(|pool| handle != 0 && pool.handle == handle)
    }

    /// Its reserve is asked for no more; what is allocated from it stays, and keeps the reserve.
    pub(super) fn destroy(&mut self, row: usize) {
        if let Some(pool) = self.get_mut(row) {
            (pool.is_destroyed, pool.is_ending, pool.used) = (true, true, None);
        }
    }

    /// Whether it came to that. The row, if the pool is there after all.
    pub(super) fn destroy_returned(&mut self, handle: u64, succeeded: bool) -> Option<usize> {
        let is_it = |pool: &Pool| pool.is_taken && pool.is_ending && pool.handle == handle;
        let row = self.rows.iter().position(is_it)?;
        // Where it was told of meanwhile, it has another row by now.
        let is_back = !succeeded && self.row_of(handle).is_none();
        let pool = self.rows.get_mut(row)?;
        pool.is_ending = false;
        pool.is_destroyed &= !is_back;
        is_back.then_some(row)
    }

    /// Remembers that a pool ended: what the driver told of it before is booked after it.
    pub(super) fn note_end(&mut self, handle: u64, time: Nanos) {
        if let Some(place) = self.ended.get_mut(self.next_ended) {
            let (former, when) = std::mem::replace(place, (handle, time));
            if former != 0 {
                self.forgotten = self.forgotten.max(Some(when));
            }
        }
        self.next_ended = (self.next_ended + 1) % ENDED_MAX;
    }

    fn has_ended_since(&self, handle: u64, told: Nanos) -> bool {
        self.ended.iter().any(|(ended, time)| *ended == handle && *time >= told)
    }

    /// Gives the row of a destroyed pool back once nothing is left of it.
    pub(super) fn close_if_empty(&mut self, row: usize) {
        if let Some(pool) = self.get_mut(row)
            && pool.is_destroyed
            && pool.entries == 0
            && pool.counted == 0
        {
            *pool = Pool::default();
        }
    }

    /// One past the highest row.
    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// What the driver told of a pool, and what was found in it that was there before we saw it.
    /// `Err`: no room; `None`: the pool has ended meanwhile.
    pub(super) fn tell(
        &mut self,
        device: u8,
        handle: u64,
        told: (Bytes, Bytes),
        time: Nanos,
    ) -> Result<Option<(usize, Bytes)>, ()> {
        if self.has_ended_since(handle, time) {
            return Ok(None);
        }
        if self.forgotten.is_some_and(|forgotten| time <= forgotten) {
            self.untold = self.untold.saturating_add(1);
            return Ok(None);
        }
        let known = self.of_told(device, handle);
        let row = known.or_else(|| self.open(Pool { device, handle, ..Pool::default() }));
        let row = row.ok_or(())?;
        let pool = self.get_mut(row).ok_or(())?;
        let is_first = pool.reserved.is_none() && !pool.is_made;
        let found = if is_first { told.0.0.saturating_sub(pool.live_bytes) } else { 0 };
        (pool.reserved, pool.used, pool.told) = (Some(told.0.0), Some(told.1.0), time);
        Ok(Some((row, Bytes(found))))
    }

    /// A record that says how large a pool was later than the driver was asked.
    pub(super) fn raise(&mut self, row: usize, reserved: Bytes, time: Nanos) {
        if let Some(pool) = self.get_mut(row)
            && time > pool.told
            && pool.reserved.is_some_and(|known| known < reserved.0)
        {
            (pool.reserved, pool.told) = (Some(reserved.0), time);
        }
    }

    /// Pools of a device, by handle.
    pub(super) fn totals(&self, device: DeviceIndex) -> Vec<PoolTotals> {
        let of_device = |pool: &&Pool| {
            // One that was destroyed has its handle no more.
            pool.is_taken && u32::from(pool.device) == device.0
        };
        let mut totals: Vec<_> = self.rows.iter().filter(of_device).map(Pool::totals).collect();
        totals.sort_unstable_by_key(|pool| pool.pool);
        totals
    }

    /// Pools that were named in an allocation and whose reserve nobody told.
    pub(super) fn unasked(&self) -> u64 {
        let is_unasked = |pool: &&Pool| pool.is_taken && pool.was_named && pool.reserved.is_none();
        self.rows.iter().filter(is_unasked).filter(|pool| !pool.is_destroyed).count() as u64
    }
}
