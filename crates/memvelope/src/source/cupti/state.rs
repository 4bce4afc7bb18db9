//! What CUPTI's threads and the host's threads reach without a lock: callbacks are registered once
//! a process and outlive every recorder, so all they touch is process-wide.

#![expect(unsafe_code, reason = "a sink is reached through an atomic pointer")]

use super::buffers::Arena;
use super::contexts::Contexts;
use super::growth::Meters;
use super::lazy::Lazy;
use super::pools::Pools;
use super::under_way::UnderWay;
use crate::event::{Event, Sink};
use crate::source::driver::Driver;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{LazyLock, OnceLock};

/// The one instance.
pub(super) static STATE: State = State::new();

/// Process-wide state of recording.
#[derive(Debug)]
pub(super) struct State {
    /// Null while nothing is recorded.
    sink: AtomicPtr<&'static dyn Sink>,
    driver: AtomicPtr<Driver>,
    arena: OnceLock<Arena>,
    /// This CUPTI bears "no buffer" as an answer.
    pub(super) null_tolerated: AtomicBool,
    /// The subscription was taken from us: CUPTI gets no buffers of ours.
    pub(super) is_withholding: AtomicBool,
    /// An unwind was caught: recording stays off, because what it left behind is unknown.
    pub(super) broken: AtomicBool,
    pub(super) contexts: Contexts,
    pub(super) growth: Meters,
    pub(super) under_way: LazyLock<UnderWay>,
    /// Made when they are first needed, by whoever attaches.
    pools: OnceLock<Pools>,
    pub(super) lazy: Lazy,
    pub(super) caught_panics: AtomicU64,
    /// Allocations whose device nobody could name.
    pub(super) unknown_device: AtomicU64,
    /// Scopes that CUPTI was not told of.
    pub(super) scopes_untold: AtomicU64,
    token: AtomicU64,
    /// Scopes were opened: buffers are looked through for them.
    has_scopes: AtomicBool,
}

impl State {
    const fn new() -> Self {
        Self {
            sink: AtomicPtr::new(std::ptr::null_mut()),
            driver: AtomicPtr::new(std::ptr::null_mut()),
            arena: OnceLock::new(),
            null_tolerated: AtomicBool::new(false),
            is_withholding: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            contexts: Contexts::new(),
            growth: Meters::new(),
            under_way: LazyLock::new(UnderWay::new),
            pools: OnceLock::new(),
            lazy: Lazy::new(),
            caught_panics: AtomicU64::new(0),
            unknown_device: AtomicU64::new(0),
            scopes_untold: AtomicU64::new(0),
            token: AtomicU64::new(1),
            has_scopes: AtomicBool::new(false),
        }
    }

    /// From now on callbacks go to `sink`.
    pub(super) fn connect(&self, sink: &'static dyn Sink, driver: &'static Driver) {
        self.contexts.clear();
        self.growth.reset();
        self.under_way.reset();
        self.is_withholding.store(false, Ordering::Release);
        self.driver.store(std::ptr::from_ref(driver).cast_mut(), Ordering::Release);
        self.sink.store(std::ptr::from_ref(remembered(sink)).cast_mut(), Ordering::Release);
    }

    /// From now on callbacks go nowhere.
    pub(super) fn disconnect(&self) {
        // First: while callbacks go somewhere, the end of a pool is seen.
        self.pools().unwatch();
        self.sink.store(std::ptr::null_mut(), Ordering::Release);
    }

    /// Where callbacks go; `None` while nothing is recorded, and in a forked child.
    pub(super) fn sink(&self) -> Option<&'static dyn Sink> {
        if self.broken.load(Ordering::Relaxed) || crate::fork::in_child() {
            return None;
        }
        let pointer = self.sink.load(Ordering::Acquire);
        // SAFETY: only `connect` stores here, and only references to leaked slots.
        unsafe { pointer.cast_const().as_ref() }.copied()
    }

    /// The driver of the current recorder.
    pub(super) fn driver(&self) -> Option<&'static Driver> {
        // SAFETY: only `connect` stores here, and only a `&'static Driver`.
        unsafe { self.driver.load(Ordering::Acquire).cast_const().as_ref() }
    }

    /// The program's own pools.
    pub(super) fn pools(&self) -> &Pools {
        self.pools.get_or_init(Pools::new)
    }

    /// The buffers, once they exist.
    pub(super) fn arena(&self) -> Option<&Arena> {
        self.arena.get()
    }

    /// The buffers. The first call decides their size for good, because CUPTI may hold some of
    /// them for as long as the process lives.
    pub(super) fn arena_of(&self, bytes: usize, count: usize) -> Option<&Arena> {
        if self.arena.get().is_none() {
            let arena = Arena::new(bytes, count)?;
            // Should another thread have been faster, ours was never handed out; its address
            // space is lost, once.
            let _ = self.arena.set(arena);
        }
        self.arena.get()
    }

    /// Whether a scope was ever opened while recording.
    pub(super) fn has_scopes(&self) -> bool {
        self.has_scopes.load(Ordering::Relaxed)
    }

    /// From now on there are scopes.
    pub(super) fn expect_scopes(&self) {
        self.has_scopes.store(true, Ordering::Relaxed);
    }

    /// A number unique in the process.
    pub(super) fn next_token(&self) -> u64 {
        self.token.fetch_add(1, Ordering::Relaxed)
    }

    /// Hands an event to the sink.
    pub(super) fn emit(&self, event: &Event) {
        if let Some(sink) = self.sink() {
            sink.accept(event);
        }
    }

    /// Runs the body of a C callback. Unwinds stop here: one is always a bug of ours, and switches
    /// recording off for good.
    pub(super) fn guarded(&self, body: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            self.caught_panics.fetch_add(1, Ordering::Relaxed);
            self.broken.store(true, Ordering::Release);
        }
    }
}

/// A fat reference does not fit into an atomic, so it gets a leaked slot; one a distinct sink.
fn remembered(sink: &'static dyn Sink) -> &'static &'static dyn Sink {
    static KNOWN: std::sync::Mutex<Vec<&'static &'static dyn Sink>> =
        std::sync::Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(slot) = known.iter().find(|slot| std::ptr::eq::<dyn Sink>(***slot, sink)) {
        return slot;
    }
    let slot: &'static &'static dyn Sink = Box::leak(Box::new(sink));
    known.push(slot);
    slot
}

thread_local! {
    // const-initialised, without a destructor: usable in a callback at any time of a thread's life.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// This thread is inside one of our callbacks. A driver call that we make there must not come back
/// to us, and nothing may be flushed.
pub(super) struct Inside(());

impl Inside {
    /// `None` if it already is.
    pub(super) fn enter() -> Option<Self> {
        let was = INSIDE.with(|inside| inside.replace(true));
        // Not `then_some`: that would make the value, and drop it, in either case.
        if was { None } else { Some(Self(())) }
    }

    /// Whether it is.
    pub(super) fn is_inside() -> bool {
        INSIDE.with(Cell::get)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.with(|inside| inside.set(false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_is_not_entered_twice() {
        let outer = Inside::enter();
        assert!(outer.is_some() && Inside::is_inside());
        assert!(Inside::enter().is_none());
        assert!(Inside::is_inside(), "a refused entry does not end the outer one");
        drop(outer);
        assert!(!Inside::is_inside() && Inside::enter().is_some());
    }

    #[test]
    fn an_unwind_stops_guarded_and_ends_recording() {
        #[derive(Debug)]
        struct Deaf;
        impl Sink for Deaf {
            fn accept(&self, _event: &Event) {}
        }
        let state = State::new();
        state.sink.store(std::ptr::from_ref(remembered(&Deaf)).cast_mut(), Ordering::Release);
        assert!(state.sink().is_some());
        state.guarded(|| panic!("a bug of ours"));
        assert_eq!(state.caught_panics.load(Ordering::Relaxed), 1);
        assert!(state.sink().is_none());
    }
}
