//! Whose work a kernel is: scopes on the simulated driver, record by record.
//!
//! The session polls only, so that the records are this test's to drain: each launch has a grid of
//! its own, by which its record is found again.

#![expect(unsafe_code, reason = "a host program calls the driver's C functions, and forks")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "sim/mod.rs"]
#[allow(dead_code, reason = "shared; each test file uses a part of it")]
mod sim;

use memvelope::config::{Config, Record};
use memvelope::event::{Body, Event, Names, ScopeId, Sink};
use memvelope::runtime::{ScopeName, Session};
use memvelope::source::cupti::Recorder;
use memvelope::source::driver::Driver;
use sim::{PTX, cu, in_child};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Deaf;

impl Sink for Deaf {
    fn accept(&self, _event: &Event) {}
}

struct Bench {
    session: Session,
    recorder: &'static Recorder,
    function: u64,
    context: u64,
}

/// Grids by scope.
type Found = BTreeMap<u32, ScopeId>;

impl Bench {
    fn new() -> Self {
        let session = Session::start(&config(|config| config.record = Record::Poll)).unwrap();
        let mut context = 0;
        assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
        assert_eq!(cu::cuCtxSetCurrent(context), 0);
        let (mut module, mut function) = (0, 0);
        assert_eq!(cu::cuModuleLoadData(&mut module, PTX.as_ptr()), 0);
        assert_eq!(cu::cuModuleGetFunction(&mut function, module, c"idle".as_ptr()), 0);
        Self { session, recorder: record(&Config::default()), function, context }
    }

    /// One launch that can be told from others by its grid.
    fn launch(&self, grid: u32) {
        self.launch_on(0, grid);
    }

    fn launch_on(&self, stream: u64, grid: u32) {
        let null = std::ptr::null_mut();
        let code = cu::cuLaunchKernel(self.function, grid, 1, 1, 64, 1, 1, 0, stream, null, null);
        assert_eq!(code, 0);
    }

    fn events(&self) -> Vec<Event> {
        assert_eq!(cu::cuCtxSynchronize(), 0);
        let mut events = Vec::new();
        for _ in 0..4 {
            self.recorder.flush(true).unwrap();
            self.recorder.drain(&mut |event| events.push(*event));
        }
        events
    }

    /// The scopes of the kernels, by their grids.
    fn found(&self) -> Found {
        self.events().iter().filter_map(kernel).collect()
    }

    fn check(&self, expected: &[(u32, ScopeId)]) {
        assert_eq!(self.found(), expected.iter().copied().collect());
    }

    /// The name's id, as scopes carry it.
    fn name(&self, name: &str) -> u32 {
        self.session.open_scope(&ScopeName::new(name), None).unwrap().id().name().0
    }
}

/// A kernel's grid and scope.
fn kernel(event: &Event) -> Option<(u32, ScopeId)> {
    match event.body {
        Body::Kernel(kernel) => Some((kernel.grid[0], kernel.scope)),
        _ => None,
    }
}

fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    change(&mut config);
    config
}

fn record(config: &Config) -> &'static Recorder {
    static NAMES: std::sync::OnceLock<Names> = std::sync::OnceLock::new();
    let (driver, _) = Driver::load(&Config::default());
    let names = NAMES.get_or_init(|| Names::new(64, 256));
    Recorder::start(config, driver.unwrap(), &Deaf, names).0.unwrap()
}

const NONE: ScopeId = ScopeId::NONE;

#[test]
fn work_belongs_to_the_innermost_scope() {
    in_child("work_belongs_to_the_innermost_scope", "", || {
        let bench = Bench::new();
        bench.launch(1);
        let outer = bench.session.scope("outer", None);
        bench.launch(2);
        let inner = bench.session.scope("inner", None);
        bench.launch(3);
        let (a, b) = (outer.id(), inner.id());
        drop(inner);
        bench.launch(4);
        // Guards may drop in any order.
        let later = bench.session.scope("later", None);
        drop(outer);
        bench.launch(5);
        let c = later.id();
        drop(later);
        bench.launch(6);
        let mut memory = 0;
        assert_eq!(cu::cuMemAlloc_v2(&mut memory, 4096), 0);
        let copies = bench.session.scope("copies", None);
        assert_eq!(cu::cuMemcpyHtoD_v2(memory, [1; 64].as_ptr(), 64), 0);
        assert_eq!(cu::cuMemsetD8_v2(memory, 1, 64), 0);
        let events = bench.events();
        let mut kernels: Vec<_> = events.iter().filter_map(kernel).collect();
        kernels.sort_unstable(); // the drain thread may take a buffer in between
        assert_eq!(kernels, [(1, NONE), (2, a), (3, b), (4, a), (5, c), (6, NONE)]);
        assert!([a, b, c].iter().all(|id| id.is_some()) && a != b && b != c);
        let others = events.iter().filter_map(|event| match event.body {
            Body::Copy(copy) => Some(copy.scope),
            Body::Memset(memset) => Some(memset.scope),
            _ => None,
        });
        assert_eq!(others.collect::<Vec<_>>(), [copies.id(); 2]);
        assert_eq!(bench.recorder.coverage().missing, Vec::<String>::new());
    });
}

#[test]
fn threads_have_scopes_of_their_own() {
    in_child("threads_have_scopes_of_their_own", "", || {
        let bench = &Bench::new();
        let turn = &AtomicU32::new(0);
        // In turns, so that each launch falls between two of the other thread's changes.
        let work = |me: u32| {
            assert_eq!(cu::cuCtxSetCurrent(bench.context), 0);
            let mut expected = Vec::new();
            let wait = |step: u32| {
                while turn.load(Ordering::Acquire) != step * 2 + me {
                    std::hint::spin_loop();
                }
            };
            for round in 0..50 {
                let grid = |k: u32| 1 + me + 2 * (round * 3 + k);
                wait(round * 3);
                let scope = bench.session.scope(["even", "odd"][me as usize], None);
                bench.launch(grid(0));
                turn.fetch_add(1, Ordering::AcqRel);
                wait(round * 3 + 1);
                bench.launch(grid(1));
                expected.extend([(grid(0), scope.id()), (grid(1), scope.id()), (grid(2), NONE)]);
                turn.fetch_add(1, Ordering::AcqRel);
                wait(round * 3 + 2);
                drop(scope);
                bench.launch(grid(2));
                turn.fetch_add(1, Ordering::AcqRel);
            }
            expected
        };
        let expected = std::thread::scope(|scope| {
            let other = scope.spawn(|| work(1));
            let mut expected = work(0);
            expected.extend(other.join().unwrap());
            expected
        });
        assert_eq!(expected.len(), 300);
        bench.check(&expected);
    });
}

/// Pending once at each await.
#[derive(Default)]
struct Pause(bool);

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        let was = std::mem::replace(&mut self.0, true);
        if was { Poll::Ready(()) } else { Poll::Pending }
    }
}

fn step<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn interleaved_futures_count_what_each_launches() {
    in_child("interleaved_futures_count_what_each_launches", "", || {
        let bench = &Bench::new();
        let body = |base: u32| async move {
            bench.launch(base);
            Pause::default().await;
            let inner = bench.session.scope("inside", None);
            bench.launch(base + 1);
            Pause::default().await;
            bench.launch(base + 2);
            drop(inner);
            bench.launch(base + 3);
            base
        };
        let mut a = pin!(bench.session.instrument("a", None, body(10)));
        let mut b = pin!(bench.session.instrument("b", None, body(20)));
        for _ in 0..2 {
            assert!(step(a.as_mut()).is_pending() && step(b.as_mut()).is_pending());
            bench.launch(99);
        }
        assert_eq!(step(a.as_mut()), Poll::Ready(10));
        assert_eq!(step(b.as_mut()), Poll::Ready(20));
        assert!(step(a.as_mut()).is_pending(), "done: nothing more to say");
        let found = bench.found();
        let names = |first: u32| [0, 1, 2, 3].map(|grid| found[&(first + grid)].name().0);
        let [a, b, inside] = ["a", "b", "inside"].map(|name| bench.name(name));
        assert_eq!(names(10), [a, inside, inside, a]);
        assert_eq!((names(20), found[&99]), ([b, inside, inside, b], NONE));
        assert_eq!(found[&10], found[&13], "one scope from first poll to end");
        assert!(found[&12] != found[&22], "each its own inside");
    });
}

/// Launches when it is dropped, as a guard of device memory may.
struct LastLaunch<'a>(&'a Bench, u32);

impl Drop for LastLaunch<'_> {
    fn drop(&mut self) {
        self.0.launch(self.1);
    }
}

#[test]
fn futures_that_move_panic_or_are_given_up() {
    in_child("futures_that_move_panic_or_are_given_up", "", || {
        let bench = &Bench::new();
        std::panic::set_hook(Box::new(|_| {}));
        let mut moving = Box::pin(bench.session.instrument("moving", None, async {
            bench.launch(1);
            Pause::default().await;
            bench.launch(2);
        }));
        assert!(step(moving.as_mut()).is_pending());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(cu::cuCtxSetCurrent(bench.context), 0);
                assert!(step(moving.as_mut()).is_ready());
                bench.launch(3);
            });
        });
        let mut given_up = Box::pin(bench.session.instrument("given up", None, async {
            let _last = LastLaunch(bench, 4);
            Pause::default().await;
        }));
        assert!(step(given_up.as_mut()).is_pending());
        drop(given_up);
        let mut panicking = Box::pin(bench.session.instrument("panicking", None, async {
            let _last = LastLaunch(bench, 5);
            panic!("on purpose");
        }));
        let panicked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| step(panicking.as_mut())));
        assert!(panicked.is_err());
        bench.launch(6);
        let with_guard = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _scope = bench.session.scope("panicking", None);
            panic!("on purpose");
        }));
        assert!(with_guard.is_err());
        bench.launch(7);
        drop(bench.session.instrument("never polled", None, async {}));
        let found = bench.found();
        let name = |grid: u32| found[&grid].name().0;
        assert_eq!([1, 2, 4, 5].map(name), {
            let [moving, given_up, panicking] =
                ["moving", "given up", "panicking"].map(|name| bench.name(name));
            [moving, moving, given_up, panicking]
        });
        assert_eq!([3, 6, 7].map(|grid| found[&grid]), [NONE; 3]);
    });
}

#[test]
fn too_deep_counts_with_the_one_around() {
    in_child("too_deep_counts_with_the_one_around", "", || {
        let bench = Bench::new();
        let mut guards: Vec<_> = (0..70).map(|_| bench.session.scope("deep", None)).collect();
        bench.launch(1);
        let ids: Vec<_> = guards.iter().map(|guard| guard.id()).collect();
        guards.truncate(64);
        bench.launch(2);
        guards.truncate(63);
        bench.launch(3);
        drop(guards);
        bench.launch(4);
        bench.check(&[(1, ids[63]), (2, ids[63]), (3, ids[62]), (4, NONE)]);
        assert_eq!(bench.recorder.counters().scopes_untold, 6);
    });
}

#[test]
#[expect(clippy::mem_forget, reason = "what is tested")]
fn a_leaked_guard_stays_open_on_its_thread_alone() {
    in_child("a_leaked_guard_stays_open_on_its_thread_alone", "", || {
        let bench = &Bench::new();
        let leaked = bench.session.scope("leaked", None);
        let id = leaked.id();
        std::mem::forget(leaked);
        bench.launch(1);
        let inner = bench.session.scope("inner", None);
        bench.launch(2);
        let inner_id = inner.id();
        drop(inner);
        bench.launch(3);
        let on_thread = |grid: u32, leak: bool| {
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    assert_eq!(cu::cuCtxSetCurrent(bench.context), 0);
                    if leak {
                        std::mem::forget(bench.session.scope("leaked", None));
                    }
                    bench.launch(grid);
                });
            });
        };
        // A thread ends with an open scope, and the next one is not in it.
        on_thread(4, true);
        on_thread(5, false);
        let found = bench.found();
        assert_eq!([1, 2, 3].map(|grid| found[&grid]), [id, inner_id, id]);
        assert!(found[&4].is_some() && found[&4] != id && found[&5] == NONE);
    });
}

#[test]
fn scopes_ended_on_another_thread_are_left() {
    in_child("scopes_ended_on_another_thread_are_left", "", || {
        let bench = &Bench::new();
        let name = ScopeName::new("moved");
        let open = bench.session.open_scope(&name, None).unwrap();
        let id = open.id();
        assert!(open.enter(0));
        bench.launch(1);
        std::thread::scope(|scope| {
            scope.spawn(move || open.leave(0));
        });
        // The thread learns of it with its next scope.
        drop(bench.session.scope("next", None));
        bench.launch(2);
        bench.check(&[(1, id), (2, NONE)]);
    });
}

/// Tasks that keep scopes open while others run on the thread: those of the task that entered or
/// left one last are in force, within the thread's own.
#[test]
fn scopes_of_tasks_do_not_nest_in_each_other() {
    in_child("scopes_of_tasks_do_not_nest_in_each_other", "", || {
        let bench = Bench::new();
        let around = bench.session.scope("around", None);
        let [a, b] =
            ["a", "b"].map(|name| bench.session.open_scope(&ScopeName::new(name), None).unwrap());
        assert!(a.enter(1));
        bench.launch(1);
        assert!(b.enter(2));
        bench.launch(2);
        b.leave(2);
        bench.launch(3);
        assert!(b.enter(1));
        bench.launch(4);
        b.leave(1);
        bench.launch(5);
        a.leave(1);
        bench.launch(6);
        let (a, b, around) = (a.id(), b.id(), around.id());
        bench.check(&[(1, a), (2, b), (3, around), (4, b), (5, a), (6, around)]);
    });
}

#[test]
fn scopes_older_than_the_attachment_and_younger_than_its_end() {
    in_child("scopes_older_than_the_attachment_and_younger_than_its_end", "", || {
        let mut bench = Bench::new();
        let first = bench.session.scope("over the end", None);
        bench.launch(1);
        bench.check(&[(1, first.id())]);
        bench.recorder.stop().unwrap();
        bench.launch(2);
        let second = bench.session.scope("before the attachment", None);
        drop(first);
        bench.recorder = record(&Config::default());
        // Not told yet; what CUPTI still has of the first is not taken for it.
        bench.launch(3);
        let third = bench.session.scope("after the attachment", None);
        bench.launch(4);
        let third_id = third.id();
        drop(third);
        bench.launch(5);
        let second_id = second.id();
        drop(second);
        bench.launch(6);
        bench.check(&[(3, NONE), (4, third_id), (5, second_id), (6, NONE)]);
        // While another tool has CUPTI, too.
        let fourth = bench.session.scope("over a pause", None);
        bench.recorder.pause("a test").unwrap();
        drop(fourth);
        assert!(bench.recorder.resume(&mut || {}));
        bench.launch(7);
        assert_eq!(bench.found()[&7], NONE);
    });
}

#[test]
fn a_graph_carries_its_scope_to_every_node() {
    in_child("a_graph_carries_its_scope_to_every_node", "", || {
        let bench = Bench::new();
        let (mut stream, mut graph, mut executable) = (0, 0, 0);
        assert_eq!(cu::cuStreamCreate(&mut stream, 1), 0);
        let capturing = bench.session.scope("capture", None);
        assert_eq!(cu::cuStreamBeginCapture_v2(stream, 0), 0);
        (1..4).for_each(|grid| bench.launch_on(stream, grid));
        assert_eq!(cu::cuStreamEndCapture(stream, &mut graph), 0);
        drop(capturing);
        assert_eq!(cu::cuGraphInstantiateWithFlags(&mut executable, graph, 0), 0);
        let replaying = bench.session.scope("replay", None);
        assert_eq!(cu::cuGraphLaunch(executable, stream), 0);
        let id = replaying.id();
        drop(replaying);
        bench.check(&[(1, id), (2, id), (3, id)]);
        assert_eq!(cu::cuGraphLaunch(executable, stream), 0);
        bench.check(&[(1, NONE), (2, NONE), (3, NONE)]);
    });
}

#[test]
fn out_of_order_buffers_tell_the_same() {
    let order = |late: u32, reorder: bool| {
        let faults =
            format!("[cupti_faults]\nlate_buffers = {late}\nreorder_buffers = {reorder}\n");
        (faults, &[][..])
    };
    let cases = [order(0, true), order(1, true), order(2, false)];
    sim::in_children("out_of_order_buffers_tell_the_same", &cases, || {
        let bench = Bench::new();
        let mut expected = Vec::new();
        for round in 0..500 {
            let (a, b) = (1 + 2 * round, 2 + 2 * round);
            let scope = bench.session.scope("step", None);
            bench.launch(a);
            expected.extend([(a, scope.id()), (b, NONE)]);
            drop(scope);
            bench.launch(b);
        }
        bench.check(&expected);
    });
}

#[test]
fn without_correlation_nothing_is_told_and_why() {
    let test = "without_correlation_nothing_is_told_and_why";
    in_child(test, "cupti = \"12.4\"\n", || {
        let mut bench = Bench::new();
        let _scope = bench.session.scope("early", None);
        bench.launch(1);
        bench.check(&[(1, NONE)]);
        let missing = bench.recorder.coverage().missing;
        assert!(missing.iter().any(|why| why.contains("12.5")), "{missing:?}");
        bench.recorder.stop().unwrap();
        bench.recorder = record(&config(|config| config.correlation = false));
        let _scope = bench.session.scope("unwanted", None);
        bench.launch(2);
        assert_eq!(bench.found()[&2], NONE);
        assert!(!bench.session.is_scope_pending());
    });
}

#[test]
fn scopes_of_many_threads_while_cupti_comes_and_goes() {
    in_child("scopes_of_many_threads_while_cupti_comes_and_goes", "", || {
        let bench = &Bench::new();
        let work = |me: u32| {
            assert_eq!(cu::cuCtxSetCurrent(bench.context), 0);
            let (mut state, mut open) = (u64::from(me), Vec::new());
            let mut number = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state >> 33
            };
            for _ in 0..3_000 {
                match number() % 8 {
                    0..3 if open.len() < 80 => {
                        let task = number() % 3;
                        let name = ScopeName::new(["a", "b", "c"][task as usize]);
                        let scope = bench.session.open_scope(&name, None).unwrap();
                        if scope.enter(task) {
                            open.push((task, scope));
                        }
                    }
                    3..6 if !open.is_empty() => {
                        let at = number() as usize % open.len();
                        let (task, scope) = open.swap_remove(at);
                        scope.suspend(task);
                        if number() % 2 == 0 && scope.enter(task) {
                            open.push((task, scope));
                        }
                    }
                    _ => bench.launch(1 + me),
                }
            }
            open.iter().for_each(|(task, scope)| scope.leave(*task));
            drop(bench.session.scope("last", None));
            (0..10).for_each(|_| bench.launch(100 + me));
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|me| scope.spawn(move || work(me))).collect();
            while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                bench.recorder.pause("a test").unwrap();
                assert!(bench.recorder.resume(&mut || {}));
                bench.recorder.drain(&mut |_| {});
            }
        });
        bench.launch(200);
        let found = bench.found();
        assert_eq!(found[&200], NONE);
        assert!(found.range(100..).all(|(_, scope)| *scope == NONE), "{found:?}");
    });
}

unsafe extern "C" {
    safe fn fork() -> i32;
    safe fn _exit(code: i32) -> !;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
}

#[test]
fn a_forked_child_leaves_its_parents_scopes_alone() {
    in_child("a_forked_child_leaves_its_parents_scopes_alone", "", || {
        let bench = Bench::new();
        let scope = bench.session.scope("parent", None);
        let id = scope.id();
        let pid = fork();
        if pid == 0 {
            let child = bench.session.scope("child", None);
            let is_inert = child.id() == NONE && Session::recording().is_none();
            drop(child);
            drop(scope);
            _exit(i32::from(!is_inert));
        }
        let mut status = -1;
        // SAFETY: waits for the child just forked.
        assert_eq!(unsafe { waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(status, 0);
        bench.launch(1);
        drop(scope);
        bench.launch(2);
        bench.check(&[(1, id), (2, NONE)]);
    });
}

#[test]
fn a_session_that_stops_leaves_open_scopes_harmless() {
    in_child("a_session_that_stops_leaves_open_scopes_harmless", "", || {
        let bench = Bench::new();
        let scope = bench.session.scope("open", None);
        let mut future = Box::pin(bench.session.instrument("open too", None, Pause::default()));
        assert!(step(future.as_mut()).is_pending());
        assert!(Session::recording().is_some());
        bench.session.stop(SOON).unwrap();
        assert!(Session::recording().is_none());
        assert!(step(future.as_mut()).is_ready());
        drop(scope);
        assert_eq!(bench.session.scope("late", None).id(), NONE);
        bench.launch(1);
        bench.check(&[(1, NONE)]);
    });
}
