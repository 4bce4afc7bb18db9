//! The part without a lock, in every order that the memory model allows.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p memvelope --lib loom_` (or `cargo xtask lane loom`). What
//! is stepped through is the code itself: its atomics and the lock of its queue are loom's in this
//! build. Locks that guard a value which is set whole (the curve of an account, its owner, the
//! spare accounts) are left as they are; nothing is done under them.

use super::super::books::Ask;
use super::super::guaranteed::Guaranteed;
use super::super::lockfree::LockFree;
use super::super::queue::Settled;
use super::super::{Policy, Reason};
use super::config;
use crate::units::Blocks;
use loom::thread;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

// Loom backtracks to the last access of an atomic alone. A thread that loads before it swaps would
// hide the load of another one; so it is the others that read, and the model's own thread that
// writes.

/// How often a thread may be preempted in one run. Bugs of this kind need one or two; more than
/// three takes hours.
const PREEMPTIONS: usize = 3;

fn check(run: impl Fn() + Sync + Send + 'static) {
    // One model at a time: spare accounts are common to the process.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS);
    model.check(move || {
        Guaranteed::forget_spares();
        run();
    });
}

fn open(capacity: u64) -> &'static Guaranteed {
    Guaranteed::open(Blocks(capacity), super::curve(16))
}

fn admit(account: &Guaranteed, first: u64, claim: u64) -> bool {
    account.admit(Blocks(first), Blocks(claim)).is_ok()
}

#[test]
fn loom_two_never_get_what_is_there_for_one() {
    check(|| {
        let account = open(5);
        let other = thread::spawn(move || admit(account, 1, 3));
        let own = admit(account, 2, 4);
        let reading = account.reading();
        assert!(reading.held <= reading.claimed && reading.claimed <= 5, "{reading:?}");
        let other = other.join().unwrap();
        assert!(own ^ other, "one of them, and never none");
        let reading = account.reading();
        let expected = if own { (2, 4) } else { (1, 3) };
        assert_eq!((reading.held, reading.claimed, reading.leases), (expected.0, expected.1, 1));
        assert_eq!((reading.admitted, reading.claimed_peak), (1, expected.1));
    });
}

#[test]
fn loom_three_share_what_comes_back() {
    check(|| {
        let account = open(2);
        assert!(admit(account, 1, 2));
        let others = [1, 2].map(|claim| {
            thread::spawn(move || {
                let is_in = admit(account, 1, claim);
                assert!(!is_in || account.draw(claim as u32 - 1), "within its claim");
                if is_in {
                    account.release(claim as u32, claim as u32);
                }
                is_in
            })
        });
        account.release(1, 2);
        let admitted = others.map(|other| u64::from(other.join().unwrap())).iter().sum::<u64>();
        let reading = account.reading();
        assert_eq!((reading.held, reading.claimed, reading.leases), (0, 0, 0));
        assert_eq!(reading.admitted, 1 + admitted);
        assert!(reading.claimed_peak <= 2 && reading.held_peak <= 2, "{reading:?}");
    });
}

#[test]
fn loom_what_is_granted_after_a_shrink_fits_it() {
    check(|| {
        let account = open(4);
        let other = thread::spawn(move || admit(account, 1, 4));
        account.set_capacity(Blocks(2));
        assert!(!admit(account, 1, 3), "what begins after the change sees it");
        let is_in = other.join().unwrap();
        let reading = account.reading();
        assert_eq!((reading.capacity, reading.claimed), (2, if is_in { 4 } else { 0 }));
        // Overcommitted, growth takes what is free and no more.
        assert!(!is_in || (account.draw(1) && !account.draw(1)));
    });
}

#[test]
fn loom_an_account_is_retired_exactly_once() {
    check(|| {
        let account = open(4);
        assert!(admit(account, 1, 2) && admit(account, 1, 2));
        let others = [(); 2].map(|()| thread::spawn(move || account.release(1, 2)));
        account.close();
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(account.spares(), 1);
    });
}

fn ask(claim: u64) -> Ask {
    let (held, prompt_tokens, max_tokens) = (1, 16, 16 * claim);
    Ask { pool: 0, class: 0, prompt_tokens, max_tokens, held, claim, prefix: None }
}

fn gate(capacity: u64) -> Arc<LockFree> {
    LockFree::new(&config(Policy::Guaranteed, capacity))
}

fn poll(gate: &LockFree, ticket: u32) -> Option<Settled> {
    gate.poll(ticket, Waker::noop()).map(|(_, settled)| settled)
}

#[test]
fn loom_a_release_never_misses_who_waits() {
    check(|| {
        let gate = gate(2);
        let account = gate.first.account;
        assert!(admit(account, 1, 2));
        let other = thread::spawn(move || account.release(1, 2));
        let ticket = gate.enqueue(&ask(2), 0, None).unwrap();
        other.join().unwrap();
        assert_eq!(poll(&gate, ticket), Some(Settled::Admitted(0)), "it sleeps for ever");
        account.release(1, 2);
    });
}

#[test]
fn loom_neither_a_release_nor_a_cancelled_head_is_missed() {
    check(|| {
        let gate = gate(2);
        let account = gate.first.account;
        assert!(admit(account, 1, 1));
        let head = gate.enqueue(&ask(2), 0, None).unwrap();
        let cancelling = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || match gate.cancel(head, Reason::Cancelled) {
                Some((_, Settled::Admitted(_))) => gate.first.account.release(1, 2),
                settled => assert!(settled.is_none()),
            })
        };
        let releasing = thread::spawn(move || account.release(1, 1));
        let ticket = gate.enqueue(&ask(1), 0, None).unwrap();
        cancelling.join().unwrap();
        releasing.join().unwrap();
        assert_eq!(poll(&gate, ticket), Some(Settled::Admitted(0)), "it sleeps for ever");
        account.release(1, 1);
        let usage = gate.usage(0);
        assert_eq!((usage.leases, usage.claimed_blocks, usage.waiting), (0, Blocks(0), 0));
    });
}

#[test]
fn loom_nobody_passes_the_queue_and_a_larger_budget_is_seen() {
    check(|| {
        let gate = gate(1);
        let account = gate.first.account;
        assert!(admit(account, 1, 1));
        assert!(gate.set_capacity(Blocks(2), 1) && gate.set_capacity(Blocks(1), 2));
        let ticket = gate.enqueue(&ask(1), 0, None).unwrap();
        // While somebody waits he is the first; once he was let in, nothing is left.
        let other = thread::spawn(move || assert!(!admit(account, 1, 1)));
        assert!(gate.set_capacity(Blocks(2), 3));
        other.join().unwrap();
        assert_eq!(poll(&gate, ticket), Some(Settled::Admitted(0)));
        assert_eq!(gate.usage(0).rejected[Reason::TooLong as usize], 0);
        account.release(1, 1);
        account.release(1, 1);
    });
}
