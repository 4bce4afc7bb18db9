//! Memory for CUPTI's activity buffers: allocated once, handed out and taken back without a lock,
//! never freed (CUPTI may hold a buffer for as long as the process lives).
//!
//! CUPTI asks for a buffer on a thread of the host program, in the middle of a CUDA call, and hands
//! it back on a thread of its own or inside a flush. Both ends are bit operations and a bounded
//! ring here; zeroing happens on the drain thread, before a buffer may be handed out again.

#![expect(unsafe_code, reason = "memory shared with CUPTI by pointer")]

use std::alloc::{Layout, alloc_zeroed};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// CUPTI wants 8; a page keeps buffers apart.
const ALIGNMENT: usize = 4096;

/// Buffers whose contents are thrown away: handed out when the arena is empty and this CUPTI
/// crashes on "no buffer" (before 12.9). The last one is shared by whoever comes after that; what
/// two threads write over each other there is never read.
const DISCARD_COUNT: usize = 8;
/// Small, so that throwing records away stays cheap: 64 KiB are some 300 kernels.
const DISCARD_BYTES: usize = 64 << 10;

/// Equal slots of one allocation and two bits a slot: free, or with CUPTI. Neither: with us.
#[derive(Debug)]
struct Slots {
    base: *mut u8,
    slot_bytes: usize,
    count: usize,
    free: Box<[AtomicU64]>,
    /// Set: CUPTI holds the slot.
    out: Box<[AtomicU64]>,
}

// SAFETY: `base` is only computed with; who holds a slot's bit cleared owns its memory alone.
unsafe impl Send for Slots {}
// SAFETY: as above; the bits are atomic.
unsafe impl Sync for Slots {}

impl Slots {
    /// `None` if the memory cannot be had.
    fn new(slot_bytes: usize, count: usize) -> Option<Self> {
        let slot_bytes = slot_bytes.checked_next_multiple_of(ALIGNMENT)?;
        let layout = Layout::from_size_align(slot_bytes.checked_mul(count)?, ALIGNMENT).ok()?;
        if layout.size() == 0 {
            return None;
        }
        // SAFETY: the layout's size is not zero. Zeroed pages come untouched from the system, so
        // slots that are never used cost no memory.
        let base = unsafe { alloc_zeroed(layout) };
        if base.is_null() {
            return None;
        }
        let words = count.div_ceil(64);
        let bits = |word: usize| match count - word * 64 {
            64.. => u64::MAX,
            rest => (1 << rest) - 1,
        };
        let free = (0..words).map(|word| AtomicU64::new(bits(word))).collect();
        let out = (0..words).map(|_| AtomicU64::new(0)).collect();
        Some(Self { base, slot_bytes, count, free, out })
    }

    fn take(&self) -> Option<usize> {
        for (index, word) in self.free.iter().enumerate() {
            let mut bits = word.load(Ordering::Relaxed);
            while bits != 0 {
                let lowest = bits & bits.wrapping_neg();
                // Acquire: the zeroing by the one who released it is visible to us.
                bits = word.fetch_and(!lowest, Ordering::Acquire);
                if bits & lowest != 0 {
                    if let Some(out) = self.out.get(index) {
                        out.fetch_or(lowest, Ordering::Relaxed);
                    }
                    return Some(index * 64 + lowest.trailing_zeros() as usize);
                }
            }
        }
        None
    }

    fn release(&self, slot: usize) {
        if let Some(word) = self.free.get(slot / 64) {
            word.fetch_or(1 << (slot % 64), Ordering::Release);
        }
    }

    /// Takes a slot from CUPTI; false if CUPTI does not hold it. A buffer that is handed back twice
    /// may be somebody else's by then, and zeroing it would pull it from under their feet.
    fn take_back(&self, slot: usize) -> bool {
        let bit = 1 << (slot % 64);
        // AcqRel: what CUPTI wrote is visible to whoever takes the slot next.
        self.out.get(slot / 64).is_some_and(|out| out.fetch_and(!bit, Ordering::AcqRel) & bit != 0)
    }

    fn pointer(&self, slot: usize) -> *mut u8 {
        self.base.wrapping_add(slot * self.slot_bytes)
    }

    /// The slot that begins at `pointer`; `None` for any other address.
    fn slot_of(&self, pointer: *mut u8) -> Option<usize> {
        let offset = (pointer as usize).checked_sub(self.base as usize)?;
        let slot = offset / self.slot_bytes;
        (slot < self.count && offset.is_multiple_of(self.slot_bytes)).then_some(slot)
    }

    /// Zeroes a slot and lets it be handed out again.
    ///
    /// # Safety
    /// The caller holds the slot (it was taken and CUPTI handed it back).
    unsafe fn recycle(&self, slot: usize) {
        // All of it, not only the valid part: of a forced flush it is not documented that nothing
        // stands behind the valid bytes, and CUPTI relies on zeroes there.
        // SAFETY: the slot lies within the allocation, and the caller owns it.
        unsafe { self.pointer(slot).write_bytes(0, self.slot_bytes) };
        self.release(slot);
    }
}

/// A buffer as CUPTI is given it: address and size. Null and 0 mean "drop the record".
pub(super) type Grant = (*mut u8, usize);

/// All memory that CUPTI ever gets from us.
#[derive(Debug)]
pub(super) struct Arena {
    slots: Slots,
    discard: Slots,
    completed: Ring,
    pub(super) requested: AtomicU64,
    pub(super) returned: AtomicU64,
    pub(super) exhausted: AtomicU64,
    pub(super) queue_full: AtomicU64,
    /// Buffers that came back and are none of ours, or were not out.
    pub(super) foreign: AtomicU64,
}

/// A buffer that came back with records in it; recycled when dropped.
#[derive(Debug)]
pub(super) struct Completed<'a> {
    arena: &'a Arena,
    slot: usize,
    valid_bytes: usize,
    /// The how many-th it is, modulo 2^64.
    position: usize,
}

impl Arena {
    /// `count` buffers of `bytes` each. `None` if the memory cannot be had.
    pub(super) fn new(bytes: usize, count: usize) -> Option<Self> {
        Some(Self {
            slots: Slots::new(bytes, count)?,
            discard: Slots::new(DISCARD_BYTES, DISCARD_COUNT)?,
            // Every slot can be in the ring at most once, so a ring of all slots is never full.
            completed: Ring::new(count),
            requested: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            exhausted: AtomicU64::new(0),
            queue_full: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
        })
    }

    /// Bytes of address space taken; the untouched part is not resident.
    pub(super) fn bytes(&self) -> u64 {
        let of = |slots: &Slots| (slots.slot_bytes * slots.count) as u64;
        of(&self.slots) + of(&self.discard)
    }

    /// Buffers that CUPTI holds, those to throw away apart.
    pub(super) fn outstanding(&self) -> u64 {
        self.slots.out.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum()
    }

    /// Size of one buffer.
    pub(super) fn buffer_bytes(&self) -> usize {
        self.slots.slot_bytes
    }

    /// A zeroed buffer. When none is left: nothing if this CUPTI bears that, else one whose
    /// contents are thrown away.
    pub(super) fn request(&self, null_tolerated: bool) -> Grant {
        self.requested.fetch_add(1, Ordering::Relaxed);
        if let Some(slot) = self.slots.take() {
            return (self.slots.pointer(slot), self.slots.slot_bytes);
        }
        self.exhausted.fetch_add(1, Ordering::Relaxed);
        self.nothing(null_tolerated)
    }

    /// The answer that makes CUPTI drop what it has.
    pub(super) fn nothing(&self, null_tolerated: bool) -> Grant {
        if null_tolerated { (std::ptr::null_mut(), 0) } else { self.discard_buffer() }
    }

    /// A buffer whose contents are thrown away.
    pub(super) fn discard_buffer(&self) -> Grant {
        // The last slot's bit is cleared at most once and never set again: it is the shared one.
        let slot = self.discard.take().unwrap_or(DISCARD_COUNT - 1);
        (self.discard.pointer(slot), self.discard.slot_bytes)
    }

    /// Takes a buffer back from CUPTI.
    pub(super) fn complete(&self, pointer: *mut u8, valid_bytes: usize) {
        if let Some(slot) = self.discard.slot_of(pointer) {
            if slot != DISCARD_COUNT - 1 && self.discard.take_back(slot) {
                // SAFETY: CUPTI handed it back, so it is ours; only the last one is shared.
                unsafe { self.discard.recycle(slot) };
            }
            return;
        }
        let Some(slot) = self.slots.slot_of(pointer).filter(|slot| self.slots.take_back(*slot))
        else {
            self.foreign.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.returned.fetch_add(1, Ordering::Relaxed);
        let valid_bytes = valid_bytes.min(self.slots.slot_bytes);
        if !self.completed.push(slot, valid_bytes) {
            self.queue_full.fetch_add(1, Ordering::Relaxed);
            // SAFETY: CUPTI handed it back, and nobody else learned of it.
            unsafe { self.slots.recycle(slot) };
        }
    }

    /// The next buffer that came back.
    pub(super) fn next_completed(&self) -> Option<Completed<'_>> {
        let (position, slot, valid_bytes) = self.completed.pop()?;
        Some(Completed { arena: self, slot, valid_bytes, position })
    }

    /// The position of the buffer that comes back next.
    pub(super) fn next_position(&self) -> usize {
        self.completed.tail.load(Ordering::Acquire)
    }
}

impl Completed<'_> {
    /// The bytes that CUPTI filled.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the slot is ours until we drop; it was zeroed from the start, so every byte is
        // initialised, and `valid_bytes` does not exceed the slot.
        unsafe { std::slice::from_raw_parts(self.pointer(), self.valid_bytes) }
    }

    /// Whether it came back before the one at `position`.
    pub(super) fn is_before(&self, position: usize) -> bool {
        (self.position.wrapping_sub(position) as isize) < 0
    }

    /// The same as CUPTI knows it.
    pub(super) fn pointer(&self) -> *mut u8 {
        self.arena.slots.pointer(self.slot)
    }
}

impl Drop for Completed<'_> {
    fn drop(&mut self) {
        // SAFETY: we took the slot out of the ring, so it is ours alone; no slice outlives us.
        unsafe { self.arena.slots.recycle(self.slot) };
    }
}

/// A bounded queue (Vyukov's): each cell carries the turn at which it may be written or read next.
/// Producers are many; the consumer is one at a time, else a slow one could make it look full.
#[derive(Debug)]
struct Ring {
    cells: Box<[Cell]>,
    head: AtomicUsize,
    tail: AtomicUsize,
}

#[derive(Debug)]
struct Cell {
    turn: AtomicUsize,
    slot: AtomicU32,
    valid_bytes: AtomicUsize,
}

impl Ring {
    fn new(capacity: usize) -> Self {
        let count = capacity.next_power_of_two().max(2);
        let cell = |turn| Cell {
            turn: AtomicUsize::new(turn),
            slot: AtomicU32::new(0),
            valid_bytes: AtomicUsize::new(0),
        };
        let cells = (0..count).map(cell).collect();
        Self { cells, head: AtomicUsize::new(0), tail: AtomicUsize::new(0) }
    }

    fn cell(&self, position: usize) -> Option<&Cell> {
        self.cells.get(position & (self.cells.len() - 1))
    }

    fn push(&self, slot: usize, valid_bytes: usize) -> bool {
        let mut position = self.tail.load(Ordering::Relaxed);
        loop {
            let Some(cell) = self.cell(position) else { return false };
            let turn = cell.turn.load(Ordering::Acquire);
            if turn == position {
                match self.advance(&self.tail, position) {
                    Ok(()) => {
                        cell.slot.store(slot as u32, Ordering::Relaxed);
                        cell.valid_bytes.store(valid_bytes, Ordering::Relaxed);
                        cell.turn.store(position.wrapping_add(1), Ordering::Release);
                        return true;
                    }
                    Err(now) => position = now,
                }
            } else if (turn.wrapping_sub(position) as isize) < 0 {
                return false;
            } else {
                position = self.tail.load(Ordering::Relaxed);
            }
        }
    }

    fn pop(&self) -> Option<(usize, usize, usize)> {
        let mut position = self.head.load(Ordering::Relaxed);
        loop {
            let cell = self.cell(position)?;
            let turn = cell.turn.load(Ordering::Acquire);
            let ready = position.wrapping_add(1);
            if turn == ready {
                match self.advance(&self.head, position) {
                    Ok(()) => {
                        let slot = cell.slot.load(Ordering::Relaxed) as usize;
                        let valid_bytes = cell.valid_bytes.load(Ordering::Relaxed);
                        cell.turn.store(position.wrapping_add(self.cells.len()), Ordering::Release);
                        return Some((position, slot, valid_bytes));
                    }
                    Err(now) => position = now,
                }
            } else if (turn.wrapping_sub(ready) as isize) < 0 {
                return None;
            } else {
                position = self.head.load(Ordering::Relaxed);
            }
        }
    }

    fn advance(&self, end: &AtomicUsize, position: usize) -> Result<(), usize> {
        let next = position.wrapping_add(1);
        end.compare_exchange_weak(position, next, Ordering::Relaxed, Ordering::Relaxed).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_distinct_and_bounded() {
        let arena = Arena::new(5000, 70).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..70 {
            let (pointer, bytes) = arena.request(true);
            assert!(!pointer.is_null() && (pointer as usize).is_multiple_of(8) && bytes >= 5000);
            assert!(seen.insert(pointer));
        }
        assert_eq!(arena.request(true), (std::ptr::null_mut(), 0));
        assert_eq!(arena.exhausted.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn an_old_cupti_gets_a_buffer_to_throw_away() {
        let arena = Arena::new(4096, 1).unwrap();
        let first = arena.request(false).0;
        let discards: Vec<_> = (0..DISCARD_COUNT + 2).map(|_| arena.request(false).0).collect();
        assert!(discards.iter().all(|pointer| !pointer.is_null() && *pointer != first));
        discards.iter().for_each(|pointer| arena.complete(*pointer, 4096));
        assert!(arena.next_completed().is_none(), "what was thrown away is never decoded");
        // The shared one stays out for good; the others can be handed out again, zeroed.
        assert!(arena.discard.take().is_some());
        assert_eq!(arena.foreign.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_buffer_comes_back_zeroed_and_a_foreign_one_is_counted() {
        let arena = Arena::new(4096, 1).unwrap();
        let (pointer, bytes) = arena.request(true);
        // SAFETY: the arena just handed these bytes to us.
        unsafe { pointer.write_bytes(7, bytes) };
        arena.complete(pointer, 16);
        arena.complete(pointer.wrapping_add(8), 16);
        arena.complete(std::ptr::null_mut(), 0);
        assert_eq!(arena.foreign.load(Ordering::Relaxed), 2);
        let completed = arena.next_completed().unwrap();
        assert_eq!(completed.bytes(), [7; 16]);
        assert!(arena.next_completed().is_none());
        drop(completed);
        let (again, _) = arena.request(true);
        assert_eq!(again, pointer);
        // SAFETY: as above.
        assert!(unsafe { std::slice::from_raw_parts(again, bytes) }.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_came_back_before_a_moment_is_known() {
        let arena = Arena::new(4096, 2).unwrap();
        let [first, second] = [0, 1].map(|_| arena.request(true).0);
        arena.complete(first, 16);
        let moment = arena.next_position();
        arena.complete(second, 16);
        assert!(arena.next_completed().is_some_and(|buffer| buffer.is_before(moment)));
        assert!(arena.next_completed().is_some_and(|buffer| !buffer.is_before(moment)));
        arena.complete(arena.request(true).0, 16);
        let third = arena.next_completed().unwrap();
        assert!(!third.is_before(moment) && third.is_before(usize::MAX / 2));
    }

    #[test]
    fn a_buffer_that_comes_back_twice_is_taken_once() {
        let arena = Arena::new(4096, 1).unwrap();
        let (pointer, bytes) = arena.request(true);
        assert_eq!(arena.outstanding(), 1);
        arena.complete(pointer, bytes);
        arena.complete(pointer, bytes);
        assert_eq!((arena.outstanding(), arena.foreign.load(Ordering::Relaxed)), (0, 1));
        drop(arena.next_completed());
        // Were it in the queue again, its next holder would have it zeroed and decoded meanwhile.
        assert_eq!(arena.request(true), (pointer, bytes));
        assert!(arena.next_completed().is_none());
        assert_eq!(arena.request(true).0, std::ptr::null_mut());
        assert_eq!(arena.outstanding(), 1, "a request that got nothing holds nothing");
    }

    #[test]
    fn threads_never_share_a_buffer() {
        let arena = Arena::new(4096, 8).unwrap();
        let drained = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 1..=4u8 {
                let arena = &arena;
                scope.spawn(move || {
                    for _ in 0..2000 {
                        let (pointer, bytes) = arena.request(true);
                        if pointer.is_null() {
                            std::thread::yield_now();
                            continue;
                        }
                        // SAFETY: the arena handed these bytes to this thread alone.
                        let buffer = unsafe { std::slice::from_raw_parts_mut(pointer, bytes) };
                        assert!(buffer.iter().all(|byte| *byte == 0));
                        buffer.fill(thread);
                        arena.complete(pointer, bytes);
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..20_000 {
                    if let Some(completed) = arena.next_completed() {
                        let first = completed.bytes()[0];
                        assert!(first != 0 && completed.bytes().iter().all(|b| *b == first));
                        drained.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        });
        while arena.next_completed().is_some() {
            drained.fetch_add(1, Ordering::Relaxed);
        }
        assert_eq!(drained.load(Ordering::Relaxed), arena.returned.load(Ordering::Relaxed));
        assert_eq!(arena.queue_full.load(Ordering::Relaxed), 0);
        assert_eq!((0..8).filter(|_| !arena.request(true).0.is_null()).count(), 8);
    }
}
