//! A gate in a forked child: it hands out nothing, waits for nobody and takes no lock, while
//! threads of the parent were in the middle of anything.

#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![expect(unsafe_code, reason = "fork is foreign")]

use memvelope::admission::{
    Gate, GateConfig, Growth, Lease, Policy, PoolConfig, Reason, Request, Usage,
};
use memvelope::units::{Blocks, CostCurve, Nanos, Tokens};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::Waker;
use std::time::{Duration, Instant};

const FORKS: usize = 60;
/// A child that has not ended by then hangs in a lock.
const SOON: Duration = Duration::from_secs(20);

fn gate(policy: Policy, floor_percent: u8) -> Gate {
    let curve = CostCurve::new(16, 0).unwrap();
    let pools = ["a", "b"].map(|name| PoolConfig { name: name.into(), share: 1, floor_percent });
    let config = GateConfig::new(Blocks(200), curve, Tokens(10_000));
    Gate::new(GateConfig { policy, pools: pools.into(), ..config }).unwrap()
}

fn request() -> Request<'static> {
    Request::new(Tokens(20), Some(Tokens(40))).of_class("chat").with_prefix(1, Tokens(16))
}

/// What a thread of the parent does all the time: every lock there is.
fn hammer(gate: &Gate, is_over: &AtomicBool, seed: u64) {
    let mut now = 0;
    while !is_over.load(SeqCst) {
        now += 1;
        let mut lease = gate.try_admit(&request()).ok();
        let ticket = gate.enqueue(&request(), 0, Some(Nanos(now + 3)));
        gate.tick(Nanos(now));
        if let Some(lease) = &mut lease {
            let _ = lease.grow(Tokens(20));
        }
        let _ = (gate.usage(), gate.victims(), gate.explain(&request()));
        let _ = gate.set_capacity(Blocks(100 + (now + seed) % 100), now);
        // New gates take and give back accounts that are common to all gates.
        let other = self::gate(Policy::Guaranteed, 100);
        drop((ticket, lease, other));
    }
}

/// The child's side: what is wrong, by number; 0 if nothing is.
fn child(gate: Gate, mut lease: Lease, mut ticket: memvelope::admission::Ticket) -> i32 {
    let refused = |answer: Option<Reason>| answer == Some(Reason::Forked);
    let reason = |gate: &Gate| gate.try_admit(&request()).err().map(|rejection| rejection.reason);
    let checks = [
        refused(reason(&gate)),
        refused(gate.enqueue(&request(), 0, None).err().map(|rejection| rejection.reason)),
        refused(gate.explain(&request()).reason),
        lease.grow(Tokens(30)) == Ok(Growth::Wait),
        !lease.explain(Tokens(30)).is_granted,
        !gate.set_capacity(Blocks(1), u64::MAX),
        gate.usage() == Usage::default() && gate.pool_usage("a") == Some(Usage::default()),
        gate.victims().is_empty() && lease.serial().is_none(),
        matches!(ticket.try_take(Waker::noop()), Some(Err(r)) if r.reason == Reason::Forked),
    ];
    lease.prefill(Tokens(5));
    gate.tick(Nanos(1));
    gate.step();
    let copy = gate.clone();
    drop((ticket, gate));
    let _ = lease.preempt();
    drop(copy);
    // What the child makes is its own.
    for policy in [Policy::Guaranteed, Policy::Banker] {
        let own = self::gate(policy, 100);
        let mut lease = own.try_admit(&request()).unwrap();
        if lease.grow(Tokens(20)) != Ok(Growth::Granted(Blocks(1)))
            || own.usage().held_blocks != Blocks(3)
        {
            return 100;
        }
        drop(lease);
        if own.usage().held_blocks != Blocks::ZERO {
            return 101;
        }
    }
    checks.iter().position(|is_right| !is_right).map_or(0, |number| number as i32 + 1)
}

fn fork(run: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child uses gates, memory and no other lock, and ends by _exit; glibc makes its
    // allocator usable in a forked child.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        // SAFETY: ends the child at once, without running anything of the parent's.
        unsafe { libc::_exit(outcome.unwrap_or(102)) };
    }
    assert!(pid > 0, "fork");
    pid
}

/// The exit code of a child, which is ended if it hangs.
fn wait_for(pid: i32) -> i32 {
    let begin = Instant::now();
    let mut status = 0;
    loop {
        // SAFETY: asks for a child that this function alone waits for.
        let ended = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
        match ended {
            0 if begin.elapsed() < SOON => std::thread::sleep(Duration::from_millis(1)),
            0 => {
                // SAFETY: ends a child of ours that was not waited for yet.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                panic!("the child hangs");
            }
            _ => break,
        }
    }
    assert!(libc::WIFEXITED(status), "the child died of a signal");
    libc::WEXITSTATUS(status)
}

fn check(policy: Policy, floor_percent: u8) {
    let gate = gate(policy, floor_percent);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let (gate, is_over) = (&gate, &is_over);
            scope.spawn(move || hammer(gate, is_over, seed));
        }
        let mut codes = Vec::new();
        for _ in 0..FORKS {
            let own = self::gate(policy, floor_percent);
            let all = Request::new(Tokens(100), Some(Tokens(1500)));
            let lease = own.try_admit(&all).unwrap();
            let ticket = own.enqueue(&all, 0, None).unwrap();
            codes.push(wait_for(fork(|| child(own, lease, ticket))));
            // The same of a gate that threads are using.
            let mut lease = None;
            while lease.is_none() {
                lease = gate.try_admit(&request()).ok();
            }
            let ticket = loop {
                if let Ok(ticket) = gate.enqueue(&request(), 0, None) {
                    break ticket;
                }
            };
            let mine = (gate.clone(), lease.unwrap(), ticket);
            codes.push(wait_for(fork(|| child(mine.0, mine.1, mine.2))));
        }
        is_over.store(true, SeqCst);
        assert!(codes.iter().all(|code| *code == 0), "{codes:?}");
    });
    let usage = gate.usage();
    assert_eq!((usage.leases, usage.held_blocks), (0, Blocks::ZERO), "{usage:?}");
}

#[test]
fn a_child_of_a_gate_without_books() {
    check(Policy::Guaranteed, 100);
}

#[test]
fn a_child_of_a_gate_that_lends() {
    check(Policy::Guaranteed, 50);
}

#[test]
fn a_child_of_a_banker() {
    check(Policy::Banker, 100);
}
