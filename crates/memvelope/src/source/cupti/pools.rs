//! The program's own pools: which there are, and a handshake, so that none is asked while it is
//! being destroyed.
//!
//! **The handshake.** Whoever asks a pool is counted in its slot, on the condition that it lives. When
//! `cuMemPoolDestroy` is entered, the slot is marked first, so that nobody new is let in, and then
//! those who are inside are waited for; only then does the program's call go on. The wait cannot
//! deadlock: the waiting thread holds no lock, ours or the driver's (its call has not begun), and who
//! is inside waits for nothing but the driver's answer to one question about one attribute. It is
//! bounded all the same ([`WAIT_MAX`]): a driver that does not answer must not keep the program from
//! ending.
//!
//! A pool is known from its making, or from the first allocation that is seen to be taken from it.
//!
//! A reset of the device (`cuDevicePrimaryCtxReset`) ends everything that the program has there, and to
//! use any of it afterwards is undefined (CUDA Runtime API, `cudaDeviceReset`). Pools are not named in
//! that list; they are taken for gone, since a handle that is none must not be asked. Should the driver
//! keep one, its next allocation makes it known again.

#![expect(unsafe_code, reason = "arguments of C calls, read through CUPTI's pointers")]

use super::call::Call;
use super::state::STATE;
use crate::event::{Body, DeviceIndex};
use crate::source::driver::{Asked, Driver};
use cupti_sys::{cbid, params};
use std::time::{Duration, Instant};

#[cfg(all(test, loom))]
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(all(test, loom)))]
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// Pools that are known at a time, as many as the ledger tells apart; programs have one or two.
const POOLS: usize = 256;

/// How long the end of a pool waits for a question.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// The slot is being written.
const TAKEN: u32 = 1 << 28;
/// The pool is there.
const ALIVE: u32 = 1 << 29;
/// It is about to be destroyed, or was.
const ENDING: u32 = 1 << 30;
/// Those who are asking.
const ASKERS: u32 = (1 << 16) - 1;

/// `CU_MEM_LOCATION_TYPE_DEVICE`.
const LOCATION_DEVICE: u32 = 1;
/// Where the type and the ordinal of the place lie in `CUmemPoolProps`.
const PROPS_LOCATION_TYPE: usize = 8;
const PROPS_LOCATION_ID: usize = 12;

/// What is watched for the handshake.
pub(super) const WATCHED: &[u32] = &[
    cbid::MEM_POOL_CREATE,
    cbid::MEM_POOL_DESTROY,
    cbid::DEVICE_PRIMARY_CTX_RESET,
    cbid::DEVICE_PRIMARY_CTX_RESET_V2,
];

/// The pools.
#[derive(Debug)]
pub(super) struct Pools {
    /// Callbacks tell of the end of pools.
    is_watching: AtomicBool,
    slots: [Slot; POOLS],
}

#[derive(Debug)]
struct Slot {
    handle: AtomicU64,
    device: AtomicU32,
    word: AtomicU32,
}

impl Pools {
    /// (Not const: the model checker's atomics are none.)
    pub(super) fn new() -> Self {
        let slots = std::array::from_fn(|_| Slot::new());
        Self { is_watching: AtomicBool::new(false), slots }
    }

    /// From now on the end of pools is told; nothing is known yet.
    pub(super) fn watch(&self) {
        self.slots.iter().for_each(Slot::free);
        self.is_watching.store(true, Ordering::SeqCst);
    }

    /// From now on it is not: nobody asks any more when this returns.
    pub(super) fn unwatch(&self) {
        self.is_watching.store(false, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let deadline = deadline();
        self.slots.iter().for_each(|slot| slot.wait(deadline));
    }

    /// A pool was made: whatever had its handle before is gone.
    fn made(&self, handle: u64, device: DeviceIndex) {
        match self.of(handle).next() {
            Some(slot) => slot.revive(device),
            None => self.learn(handle, device),
        }
    }

    /// Where a pool that is known is.
    pub(super) fn device_of(&self, handle: u64) -> Option<DeviceIndex> {
        self.of(handle).next().map(|slot| DeviceIndex(slot.device.load(Ordering::Acquire)))
    }

    /// A pool is there, since something was just allocated from it. One that is about to end stays so.
    pub(super) fn named(&self, handle: u64, device: DeviceIndex) {
        if self.of(handle).next().is_none() {
            self.learn(handle, device);
        }
    }

    fn learn(&self, handle: u64, device: DeviceIndex) {
        if handle != 0 {
            // Without room it is not asked, and the ledger says so of it.
            let _ = self.slots.iter().any(|slot| slot.take(handle, device));
        }
    }

    /// Whether the pool is known.
    pub(super) fn knows(&self, handle: u64) -> bool {
        self.of(handle).next().is_some()
    }

    /// Whether any pool of the device is known.
    pub(super) fn knows_one_on(&self, device: DeviceIndex) -> bool {
        let is_there = |slot: &Slot| slot.device.load(Ordering::Acquire) == device.0;
        self.slots.iter().any(|slot| slot.handle().is_some() && is_there(slot))
    }

    /// Nobody new is let in to these, and who is inside is waited for.
    fn end<'a>(slots: impl Iterator<Item = &'a Slot>) {
        let deadline = deadline();
        slots.for_each(|slot| {
            slot.mark_ending();
            slot.wait(deadline);
        });
    }

    fn ending(&self, handle: u64) {
        Self::end(self.of(handle));
    }

    fn ended(&self, handle: u64, is_gone: bool) {
        self.of(handle).for_each(|slot| slot.ended(is_gone));
    }

    fn on(&self, device: DeviceIndex) -> impl Iterator<Item = &Slot> {
        let is_there = move |slot: &&Slot| slot.device.load(Ordering::Acquire) == device.0;
        self.slots.iter().filter(|slot| slot.handle().is_some()).filter(is_there)
    }

    fn of(&self, handle: u64) -> impl Iterator<Item = &Slot> {
        let is_it = move |slot: &&Slot| handle != 0 && slot.handle() == Some(handle);
        self.slots.iter().filter(is_it)
    }
}

fn deadline() -> Option<Instant> {
    Instant::now().checked_add(WAIT_MAX)
}

/// Lets others go on while waiting for them.
fn pause(round: u32) {
    #[cfg(all(test, loom))]
    {
        let _ = round;
        loom::thread::yield_now();
    }
    #[cfg(not(all(test, loom)))]
    match round {
        0..64 => std::hint::spin_loop(),
        _ => std::thread::sleep(Duration::from_micros(20)),
    }
}

impl Slot {
    fn new() -> Self {
        Self { handle: AtomicU64::new(0), device: AtomicU32::new(0), word: AtomicU32::new(0) }
    }

    /// The handle, unless the slot is free or being written.
    fn handle(&self) -> Option<u64> {
        let is_written = self.word.load(Ordering::Acquire) & ALIVE != 0;
        is_written.then(|| self.handle.load(Ordering::Acquire))
    }

    /// Takes a free slot.
    fn take(&self, handle: u64, device: DeviceIndex) -> bool {
        let taken = self.word.compare_exchange(0, TAKEN, Ordering::AcqRel, Ordering::Relaxed);
        if taken.is_ok() {
            self.handle.store(handle, Ordering::Release);
            self.device.store(device.0, Ordering::Release);
            self.word.store(ALIVE, Ordering::Release);
        }
        taken.is_ok()
    }

    fn revive(&self, device: DeviceIndex) {
        self.device.store(device.0, Ordering::Release);
        self.unmark();
    }

    /// Nobody new is let in.
    fn mark_ending(&self) {
        self.word.fetch_or(ENDING, Ordering::AcqRel);
    }

    fn is_ending(&self) -> bool {
        self.word.load(Ordering::Acquire) & ENDING != 0
    }

    fn unmark(&self) {
        self.word.fetch_and(!ENDING, Ordering::AcqRel);
    }

    /// Waits for those who are asking.
    fn wait(&self, deadline: Option<Instant>) {
        let mut round = 0_u32;
        while self.word.load(Ordering::Acquire) & ASKERS != 0 {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return;
            }
            pause(round);
            round = round.saturating_add(1);
        }
    }

    /// The call that was to end it has returned.
    fn ended(&self, is_gone: bool) {
        if is_gone {
            self.give_back();
        } else {
            self.unmark();
        }
    }

    /// The pool is gone. Should somebody still be asking, the slot waits for a pool with this handle.
    fn give_back(&self) {
        let word = self.word.load(Ordering::Acquire);
        if word & ASKERS == 0 && word & ENDING != 0 {
            self.free();
        }
    }

    /// Nobody asks, and nobody new is let in.
    fn free(&self) {
        self.handle.store(0, Ordering::Release);
        self.word.store(0, Ordering::Release);
    }

    /// Counts this thread among those who ask; false where the pool is not, or not for long.
    fn enter(&self, handle: u64) -> bool {
        let is_alive = |word: u32| {
            (word & ALIVE != 0 && word & ENDING == 0 && word & ASKERS < ASKERS).then(|| word + 1)
        };
        let entered = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, is_alive);
        if entered.is_err() {
            return false;
        }
        // While somebody is inside, the slot keeps its handle; before, it may have got another one.
        if self.handle.load(Ordering::Acquire) == handle {
            return true;
        }
        self.leave();
        false
    }

    fn leave(&self) {
        self.word.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Asked for Pools {
    fn while_alive(&self, pool: u64, ask: &mut dyn FnMut()) {
        for slot in self.of(pool) {
            if slot.enter(pool) {
                // Either we see that nobody watches any more, or who says so sees us.
                fence(Ordering::SeqCst);
                if self.is_watching.load(Ordering::SeqCst) {
                    ask();
                }
                return slot.leave();
            }
        }
    }

    fn own_pools(&self, device: DeviceIndex) -> Vec<u64> {
        if !self.is_watching.load(Ordering::SeqCst) {
            return Vec::new();
        }
        let on_device = |slot: &&Slot| slot.device.load(Ordering::Acquire) == device.0;
        let mut pools: Vec<u64> =
            self.slots.iter().filter(on_device).filter_map(Slot::handle).collect();
        pools.sort_unstable();
        pools.dedup();
        pools
    }
}

/// A call that makes or ends a pool, at one of its two sites.
///
/// # Safety
/// `call` describes the current callback, in the driver-API domain.
pub(super) unsafe fn on_call(call: &Call) {
    if call.arguments.is_null() {
        return;
    }
    // SAFETY: each id's parameter block has the shape that `params` says, and results are read where
    // the call has succeeded.
    unsafe {
        match call.id {
            cbid::MEM_POOL_DESTROY => {
                let pool = call.arguments.read(params::mem_pool_destroy::POOL);
                if call.at_exit {
                    STATE.pools().ended(pool, call.succeeded());
                } else {
                    STATE.pools().ending(pool);
                }
            }
            cbid::DEVICE_PRIMARY_CTX_RESET | cbid::DEVICE_PRIMARY_CTX_RESET_V2 => {
                use params::device_primary_ctx_reset::DEVICE;
                resetting(call, DeviceIndex(call.arguments.read(DEVICE)));
            }
            cbid::MEM_POOL_CREATE if call.at_exit && call.succeeded() => {
                let pool = call.arguments.read_through(params::mem_pool_create::POOL);
                let device = device_of(call);
                if let (Some(pool), Some(device)) = (pool, device) {
                    STATE.pools().made(pool, device);
                }
            }
            _ => {}
        }
    }
}

/// A device is reset: its pools are asked no more, and the program's own are gone.
fn resetting(call: &Call, device: DeviceIndex) {
    if !call.at_exit {
        // Without a primary context there is nothing to reset, whatever other contexts there are.
        let is_active = |driver: &Driver| driver.is_active(device).unwrap_or(true);
        if STATE.driver().is_none_or(is_active) {
            Pools::end(STATE.pools().on(device));
        }
        return;
    }
    if call.succeeded() {
        // The device keeps the one that it has from the start.
        let default = STATE.driver().map_or(0, |driver| driver.default_pool_handle(device));
        let ending = STATE.pools().on(device).filter(|slot| slot.is_ending());
        for pool in ending.filter_map(Slot::handle) {
            if pool != default {
                call.emit_now(Body::PoolDestroyed { pool });
                call.emit_now(Body::PoolDestroyReturned { pool, succeeded: true });
            }
        }
    }
    STATE.pools().on(device).for_each(|slot| slot.ended(call.succeeded()));
}

/// Where a pool is made; `None` in host memory.
///
/// # Safety
/// `call` is one of `cuMemPoolCreate`.
unsafe fn device_of(call: &Call) -> Option<DeviceIndex> {
    // SAFETY: a pointer to the properties lies there, which the call has read by now.
    let properties = unsafe { call.arguments.at(params::mem_pool_create::PROPS) }?;
    // SAFETY: as above.
    let (kind, ordinal): (u32, u32) =
        unsafe { (properties.read(PROPS_LOCATION_TYPE), properties.read(PROPS_LOCATION_ID)) };
    (kind == LOCATION_DEVICE).then_some(DeviceIndex(ordinal))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn asked(pools: &Pools, pool: u64) -> bool {
        let mut is_asked = false;
        pools.while_alive(pool, &mut || is_asked = true);
        is_asked
    }

    #[test]
    fn pools_are_asked_while_they_live() {
        let pools = Pools::new();
        pools.made(0x10, DeviceIndex(0));
        assert!(!asked(&pools, 0x10), "nobody watches");
        pools.watch();
        assert!(!asked(&pools, 0x10), "what was known before is not");
        pools.made(0x10, DeviceIndex(0));
        pools.named(0x20, DeviceIndex(1));
        pools.named(0x20, DeviceIndex(1));
        pools.named(0, DeviceIndex(1));
        assert!(asked(&pools, 0x10) && asked(&pools, 0x20) && !asked(&pools, 0x30));
        assert_eq!(pools.own_pools(DeviceIndex(1)), [0x20]);
        pools.ending(0x20);
        assert!(!asked(&pools, 0x20));
        pools.named(0x20, DeviceIndex(1));
        assert!(!asked(&pools, 0x20), "it is about to end, whoever names it");
        pools.ended(0x20, false);
        assert!(asked(&pools, 0x20), "it was not destroyed after all");
        pools.ending(0x20);
        pools.ended(0x20, true);
        assert!(pools.own_pools(DeviceIndex(1)).is_empty());
        pools.made(0x20, DeviceIndex(0));
        assert_eq!(pools.own_pools(DeviceIndex(0)), [0x10, 0x20]);
        pools.unwatch();
        assert!(!asked(&pools, 0x10) && pools.own_pools(DeviceIndex(0)).is_empty());
    }

    #[test]
    fn the_table_is_bounded_and_its_slots_are_used_again() {
        let pools = Pools::new();
        pools.watch();
        for pool in 1..=1000 {
            pools.made(pool, DeviceIndex(0));
        }
        assert_eq!(pools.own_pools(DeviceIndex(0)).len(), POOLS);
        for pool in 1..=1000 {
            pools.ending(pool);
            pools.ended(pool, true);
        }
        pools.made(5000, DeviceIndex(0));
        assert_eq!(pools.own_pools(DeviceIndex(0)), [5000]);
    }

    /// A question that does not end holds the program up for a bounded time, and the slot is not
    /// given to another pool meanwhile.
    #[test]
    fn the_end_of_a_pool_waits_for_a_question_but_not_for_ever() {
        let pools = Pools::new();
        pools.watch();
        pools.made(0x10, DeviceIndex(0));
        let (begin, is_asking) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let asker = scope.spawn(|| {
                pools.while_alive(0x10, &mut || {
                    begin.send(()).unwrap();
                    std::thread::sleep(Duration::from_millis(300));
                });
            });
            is_asking.recv().unwrap();
            let before = Instant::now();
            pools.ending(0x10);
            let waited = before.elapsed();
            assert!(waited >= WAIT_MAX && waited < Duration::from_millis(250), "{waited:?}");
            pools.ended(0x10, true);
            assert!(!asked(&pools, 0x10));
            pools.made(0x10, DeviceIndex(0));
            assert!(asked(&pools, 0x10));
            asker.join().unwrap();
        });
        assert!(asked(&pools, 0x10));
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p memvelope --lib loom_` (or `cargo xtask lane loom`).
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// A slot, and whether the pool behind its handle is there, as the driver knows.
    struct World {
        slot: Slot,
        /// Of pool 1 and of pool 2.
        is_there: [AtomicBool; 2],
    }

    impl World {
        fn new() -> Arc<Self> {
            let slot = Slot::new();
            Arc::new(Self { slot, is_there: [AtomicBool::new(true), AtomicBool::new(true)] })
        }

        fn ask(&self, handle: u64) {
            if self.slot.handle() == Some(handle) && self.slot.enter(handle) {
                let is_there = &self.is_there[handle as usize - 1];
                assert!(is_there.load(Ordering::Acquire), "asked when it was gone");
                self.slot.leave();
            }
        }

        fn destroy(&self, handle: u64) {
            self.slot.mark_ending();
            self.slot.wait(None);
            self.is_there[handle as usize - 1].store(false, Ordering::Release);
            self.slot.give_back();
        }
    }

    /// How often a thread may be preempted in one run; see the gate's models.
    const PREEMPTIONS: usize = 2;

    fn check(run: impl Fn() + Sync + Send + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(PREEMPTIONS);
        model.check(run);
    }

    #[test]
    fn loom_no_pool_is_asked_when_it_is_gone() {
        check(|| {
            let world = World::new();
            assert!(world.slot.take(1, DeviceIndex(0)));
            let asker = {
                let world = Arc::clone(&world);
                thread::spawn(move || world.ask(1))
            };
            world.destroy(1);
            asker.join().unwrap();
        });
    }

    /// The slot goes to another pool at once, which is then asked and destroyed, too.
    #[test]
    fn loom_a_slot_that_another_pool_got_is_not_taken_for_the_first() {
        check(|| {
            let world = World::new();
            assert!(world.slot.take(1, DeviceIndex(0)));
            let askers: Vec<_> = [1, 2]
                .map(|handle| {
                    let world = Arc::clone(&world);
                    thread::spawn(move || world.ask(handle))
                })
                .into();
            world.destroy(1);
            if world.slot.take(2, DeviceIndex(0)) {
                world.destroy(2);
            }
            askers.into_iter().for_each(|asker| asker.join().unwrap());
        });
    }
}
