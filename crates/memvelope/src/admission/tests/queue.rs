//! The queue: order, deadlines, who is woken, and tickets that are given back at any moment.

use super::*;
use crate::units::Nanos;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Wakes a parked thread.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread, which sleeps meanwhile.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let (mut future, mut context) = (pin!(future), Context::from_waker(&waker));
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park_timeout(Duration::from_secs(20)),
        }
    }
}

/// Counts its calls.
#[derive(Default)]
struct Bell(AtomicU64);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A full gate of 100 blocks, and what fills it.
fn full(policy: Policy) -> (Gate, Lease) {
    let gate = gate(policy, 100);
    let all = admit(&gate, 1599, 1).unwrap();
    (gate, all)
}

fn enqueue(gate: &Gate, prompt: u64) -> Ticket {
    gate.enqueue(&request(prompt, 1), 0, None).unwrap()
}

fn take(ticket: &mut Ticket) -> Option<Result<Lease, Rejection>> {
    ticket.try_take(Waker::noop())
}

#[test]
fn a_released_lease_wakes_the_next() {
    for policy in POLICIES {
        let (gate, all) = full(policy);
        let ticket = enqueue(&gate, 10);
        let lease = std::thread::scope(|scope| {
            let waiting = scope.spawn(move || block_on(ticket).unwrap());
            std::thread::sleep(Duration::from_millis(5));
            drop(all);
            waiting.join().unwrap()
        });
        assert_eq!(gate.usage().leases, 1);
        drop(lease);
        assert_idle(&gate);
    }
}

#[test]
fn what_fits_is_admitted_at_once_and_bells_ring_once() {
    for policy in POLICIES {
        let (gate, all) = full(policy);
        let (early, late) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        let mut ticket = enqueue(&gate, 10);
        assert!(ticket.try_take(&Waker::from(Arc::clone(&early))).is_none());
        // Whoever polled last is woken, and nobody else.
        assert!(ticket.try_take(&Waker::from(Arc::clone(&late))).is_none());
        assert_eq!(Arc::strong_count(&early), 1);
        drop(all);
        assert_eq!((early.0.load(SeqCst), late.0.load(SeqCst)), (0, 1));
        assert!(take(&mut ticket).unwrap().is_ok());
        assert!(take(&mut ticket).is_none(), "an outcome is taken once");
        let mut at_once = enqueue(&gate, 10);
        assert!(take(&mut at_once).unwrap().is_ok());
        assert_idle(&gate);
    }
}

#[test]
fn order_is_strict_and_nobody_passes() {
    for policy in POLICIES {
        let gate = gate(policy, 100);
        let half = admit(&gate, 800, 1).unwrap();
        // The first needs more than is free; the second would fit.
        let mut tickets = [enqueue(&gate, 1000), enqueue(&gate, 10)];
        assert!(tickets.iter_mut().all(|ticket| take(ticket).is_none()));
        assert_eq!(admit(&gate, 10, 1).unwrap_err().reason, Reason::Queued);
        assert_eq!(gate.explain(&request(10, 1)).admitted_if, [Change::QueueAhead(2)]);
        assert_eq!(gate.usage().waiting, 2);
        // Where the first gives up, the next comes at once.
        let [first, mut second] = tickets;
        drop(first);
        let lease = take(&mut second).unwrap().unwrap();
        assert!(admit(&gate, 10, 1).is_ok(), "nobody waits any more");
        drop((half, lease));
        assert_idle(&gate);
    }
}

#[test]
fn one_pool_does_not_wait_for_another() {
    for policy in POLICIES {
        let pools = pools(&[("a", 1, 100), ("b", 1, 100)]);
        let gate = Gate::new(GateConfig { pools, ..config(policy, 100) }).unwrap();
        let _all = admit(&gate, 799, 1).unwrap();
        let mut waiting = enqueue(&gate, 10);
        let mut other = gate.enqueue(&request(10, 1).in_pool("b"), 0, None).unwrap();
        assert!(take(&mut waiting).is_none());
        assert!(take(&mut other).unwrap().is_ok());
        assert!(gate.try_admit(&request(10, 1).in_pool("b")).is_ok());
    }
}

#[test]
fn the_number_of_leases_is_common_to_all_pools() {
    for policy in [Policy::Banker, POLICIES[2]] {
        let pools = pools(&[("a", 1, 100), ("b", 1, 100)]);
        let gate = Gate::new(GateConfig { pools, leases_max: 1, ..config(policy, 100) }).unwrap();
        let only = admit(&gate, 10, 1).unwrap();
        let mut waiting = gate.enqueue(&request(10, 1).in_pool("b"), 0, None).unwrap();
        assert!(take(&mut waiting).is_none());
        drop(only);
        assert!(take(&mut waiting).is_some(), "the lease of pool a made room in pool b");
    }
}

#[test]
fn tickets_are_given_back_at_any_moment() {
    for policy in POLICIES {
        for dropped in 0..5 {
            let (gate, all) = full(policy);
            let mut tickets: Vec<_> = (0..5).map(|_| Some(enqueue(&gate, 300))).collect();
            tickets[dropped] = None;
            assert_eq!(gate.usage().waiting, 4);
            drop(all);
            // All four fit, and were let in before anybody took them: one is dropped so.
            assert_eq!((gate.usage().leases, gate.usage().waiting), (4, 0));
            tickets[(dropped + 1) % 5] = None;
            assert_eq!((gate.usage().leases, gate.usage().claimed_blocks), (3, Blocks(57)));
            let taken: Vec<_> = tickets.iter_mut().flatten().filter_map(take).collect();
            assert_eq!(taken.len(), 3);
            assert!(taken.iter().all(Result::is_ok));
            drop(taken);
            assert_idle(&gate);
            assert_eq!(rejected(&gate, Reason::Cancelled), 1);
        }
    }
}

#[test]
fn tickets_and_gates_are_dropped_in_any_order() {
    for policy in POLICIES {
        let (gate, all) = full(policy);
        let mut ticket = enqueue(&gate, 10);
        let forgotten = enqueue(&gate, 10);
        let copy = gate.clone();
        drop(gate);
        drop(copy);
        assert!(take(&mut ticket).is_none());
        drop(forgotten);
        drop(all);
        let lease = take(&mut ticket).unwrap().unwrap();
        drop(ticket);
        assert_eq!(lease.claim(), Blocks(1));
        drop(lease);
        // A ticket that was let in and outlives everything else.
        let (gate, all) = full(policy);
        let ticket = enqueue(&gate, 10);
        drop((gate, all));
        drop(ticket);
    }
}

#[test]
fn a_waker_may_own_what_the_gate_is_asked_about() {
    /// Dropped, it gives back a ticket and a lease of the same gate.
    #[expect(dead_code, reason = "they are dropped")]
    struct Owner(Ticket, Lease);
    impl Wake for Owner {
        fn wake(self: Arc<Self>) {}
    }
    for policy in POLICIES {
        let gate = gate(policy, 100);
        let all = admit(&gate, 1500, 1).unwrap();
        let small = admit(&gate, 16, 16).unwrap();
        let mut ticket = enqueue(&gate, 1600 - 17);
        let owned = enqueue(&gate, 10);
        let waker = Waker::from(Arc::new(Owner(owned, small)));
        assert!(ticket.try_take(&waker).is_none());
        drop(waker);
        // The only one who knows the owner is the queue; it must let go of it without the lock.
        assert!(take(&mut ticket).is_none());
        assert_eq!((gate.usage().waiting, gate.usage().leases), (1, 1));
        drop(all);
        assert!(take(&mut ticket).unwrap().is_ok());
        assert_idle(&gate);
    }
}

#[test]
fn priority_is_earlier_arrival_and_starvation_is_bounded() {
    for policy in POLICIES {
        let gate = gate(policy, 1);
        let mut running = Some(admit(&gate, 10, 1).unwrap());
        let mut patient = enqueue(&gate, 10);
        let mut urgent = std::collections::VecDeque::new();
        let mut served_at = None;
        for step in 1..200 {
            gate.tick(Nanos(step * Nanos::SECOND / 10));
            urgent.push_back(gate.enqueue(&request(10, 1), 5, None).unwrap());
            drop(running.take());
            if let Some(lease) = take(&mut patient) {
                assert!(lease.is_ok());
                served_at = Some(step);
                break;
            }
            let mut next = urgent.pop_front().unwrap();
            running = take(&mut next).unwrap().ok();
            assert!(running.is_some());
        }
        // Five steps of priority let others pass who came within five seconds.
        assert_eq!(served_at, Some(50), "{policy:?}");
    }
}

#[test]
fn deadlines_expire_wherever_they_stand() {
    for policy in POLICIES {
        let (gate, all) = full(policy);
        gate.tick(Nanos(100));
        let at = |deadline| gate.enqueue(&request(10, 1), 0, deadline).unwrap();
        let mut past = at(Some(Nanos(100)));
        assert_eq!(take(&mut past).unwrap().unwrap_err().reason, Reason::Expired);
        let mut tickets = [at(None), at(Some(Nanos(120))), at(Some(Nanos(110))), at(None)];
        gate.tick(Nanos(115));
        let settled = tickets.each_mut().map(|ticket| take(ticket).is_some());
        assert_eq!(settled, [false, false, true, false]);
        // Time does not run backwards.
        gate.tick(Nanos(0));
        drop(all);
        let settled = tickets.each_mut().map(|ticket| take(ticket).is_some_and(|t| t.is_ok()));
        assert_eq!(settled, [true, true, false, true]);
        assert_eq!(rejected(&gate, Reason::Expired), 2);
        assert_idle(&gate);
    }
}

#[test]
fn a_larger_budget_and_a_smaller_one_settle_who_waits() {
    for policy in POLICIES {
        let (gate, all) = full(policy);
        let mut waiting = enqueue(&gate, 16 * 51 - 1);
        assert!(gate.set_capacity(Blocks(150), 1));
        assert!(take(&mut waiting).is_none(), "51 blocks are not there yet");
        assert!(gate.set_capacity(Blocks(151), 2));
        let lease = take(&mut waiting).unwrap().unwrap();
        drop((all, lease));
        // It was queued while its claim fitted the best budget so far, and waits for its return.
        assert!(gate.set_capacity(Blocks(10), 3));
        let mut waiting = enqueue(&gate, 800);
        assert!(take(&mut waiting).is_none());
        assert!(gate.set_capacity(Blocks(51), 4));
        assert!(take(&mut waiting).unwrap().is_ok());
        // What could never fit is told so at once, by how much.
        let refused = gate.enqueue(&request(16 * 152, 1), 0, None).unwrap_err();
        assert_eq!(refused.reason, Reason::TooLong);
        assert!(refused.short_by_tokens.0 >= 1 && refused.short_by_tokens.0 < 100, "{refused}");
        assert_idle(&gate);
    }
}

#[test]
fn a_hundred_thousand_wait() {
    const WAITING: usize = 100_000;
    for policy in POLICIES {
        let config = GateConfig { queue_max: WAITING as u32, ..config(policy, 100) };
        let gate = Gate::new(config).unwrap();
        let all = admit(&gate, 1599, 1).unwrap();
        let deadline = |n: usize| n.is_multiple_of(3).then_some(Nanos(n as u64));
        let mut tickets: Vec<_> = (0..WAITING)
            .map(|n| Some(gate.enqueue(&request(10, 1), (n % 4) as u8, deadline(n)).unwrap()))
            .collect();
        let refused = gate.enqueue(&request(10, 1), 0, None).unwrap_err();
        assert_eq!(refused.reason, Reason::QueueFull);
        // Head, middle and end are given back, a third expires, the rest is served.
        let mut random = Random(7);
        for place in tickets.iter_mut().step_by(10) {
            if random.below(2) == 0 {
                *place = None;
            }
        }
        gate.tick(Nanos(WAITING as u64));
        drop(all);
        let (mut served, mut expired) = (0, 0);
        while tickets.iter().any(Option::is_some) {
            for place in &mut tickets {
                match place.as_mut().and_then(take) {
                    Some(Ok(_)) => served += 1,
                    Some(Err(refused)) => {
                        assert_eq!(refused.reason, Reason::Expired);
                        expired += 1;
                    }
                    None => continue,
                }
                *place = None;
            }
        }
        let cancelled = rejected(&gate, Reason::Cancelled);
        assert_eq!(served + expired + cancelled, WAITING as u64);
        assert!(served > 50_000 && expired > 20_000 && cancelled > 3_000);
        assert_idle(&gate);
    }
}
