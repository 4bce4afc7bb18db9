//! The queue of a gate: who waits, in which order, until when. It decides nothing and calls nobody:
//! whoever settles a ticket gets its waker, and wakes when no lock is held.
//!
//! Order is by arrival, each step of priority counting as [`PRIORITY_STEP`] of earlier arrival. So
//! starvation is bounded: a request is overtaken only by those of higher priority that come within
//! so many steps of it. Whoever asks for more than the budget shrank to keeps its place, and is
//! passed by those who can be served meanwhile.

use super::answer::Rejection;
use super::books::Ask;
use crate::units::Nanos;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::Waker;

/// How much earlier one step of priority lets a request have come. Ten steps let it overtake all
/// that waited less than ten seconds, about as long as anybody waits for a first token.
pub const PRIORITY_STEP: Nanos = Nanos(Nanos::SECOND);

/// What a step counts in the order where nobody tells the time, so that a gate without a clock
/// starves nobody either: about a step of a large model.
const UNTIMED_STEP: Nanos = Nanos(25 * Nanos::MILLI);

/// What became of a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It has a lease, in this slot of the books.
    Admitted(u32),
    /// It will have none.
    Rejected(Rejection),
}

/// Place in the order: time of arrival less priority, then the order of coming.
type Key = (i128, u64, u32);

/// Wakes all of them, when no lock is held; also if one of them, which is foreign, panics: the
/// others would wait for ever for what they have. That panic then goes on, unless one is on its
/// way.
pub(crate) fn wake(wakers: Vec<Waker>) {
    let mut panicked = None;
    for waker in wakers {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
            panicked = Some(panic);
        }
    }
    if let Some(panic) = panicked
        && !std::thread::panicking()
    {
        resume_unwind(panic);
    }
}

#[derive(Debug)]
struct Waiting {
    ask: Ask,
    key: Key,
    came: Nanos,
    deadline: Option<Nanos>,
    settled: Option<Settled>,
    waker: Option<Waker>,
}

/// Who waits.
#[derive(Debug)]
pub(crate) struct Queue {
    max: usize,
    tickets: Vec<Option<Waiting>>,
    spare: Vec<u32>,
    /// Those not settled, by pool; and those of them with a deadline.
    order: Vec<BTreeSet<Key>>,
    /// Those of the not settled who keep their place in the order, but hold up nobody.
    parked: Vec<BTreeSet<Key>>,
    deadlines: BTreeSet<(Nanos, u32)>,
    serial: u64,
    /// Steps that no time was told with.
    untimed_steps: u64,
}

impl Queue {
    pub(crate) fn new(max: u32, pools: usize) -> Self {
        Self {
            max: max as usize,
            tickets: Vec::new(),
            spare: Vec::new(),
            order: vec![BTreeSet::new(); pools],
            parked: vec![BTreeSet::new(); pools],
            deadlines: BTreeSet::new(),
            serial: 0,
            untimed_steps: 0,
        }
    }

    /// How many wait for a pool, parked ones included.
    pub(crate) fn waiting_of(&self, pool: usize) -> usize {
        self.order[pool].len() + self.parked[pool].len()
    }

    /// A step passed, and nobody said when.
    pub(crate) fn step(&mut self) {
        self.untimed_steps = self.untimed_steps.saturating_add(1);
    }

    /// How many wait for a pool and come before a newcomer.
    #[inline]
    pub(crate) fn len_of(&self, pool: usize) -> usize {
        self.order[pool].len()
    }

    /// Whether nobody waits for any pool.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.order.iter().chain(&self.parked).all(BTreeSet::is_empty)
    }

    /// The budget shrank below what this one alone asks for: nothing but a larger one helps it, and
    /// until then it does not stand in the way of others.
    pub(crate) fn park(&mut self, number: u32) {
        let Some(Some(waiting)) = self.tickets.get(number as usize) else { return };
        let (pool, key) = (usize::from(waiting.ask.pool), waiting.key);
        if self.order[pool].remove(&key) {
            self.parked[pool].insert(key);
        }
    }

    /// The budget changed: whoever was parked is back in its place.
    pub(crate) fn unpark(&mut self) {
        for (order, parked) in self.order.iter_mut().zip(&mut self.parked) {
            order.append(parked);
        }
    }

    /// Tickets that nobody took yet, settled or not.
    fn len(&self) -> usize {
        self.tickets.len() - self.spare.len()
    }

    /// A request waits. The number of its ticket; `None`: the queue is full.
    pub(crate) fn push(
        &mut self,
        ask: Ask,
        now: Nanos,
        priority: u8,
        deadline: Option<Nanos>,
    ) -> Option<u32> {
        if self.len() >= self.max {
            return None;
        }
        let number = self.spare.pop().unwrap_or(self.tickets.len() as u32);
        self.serial = self.serial.wrapping_add(1);
        let lead = i128::from(priority) * i128::from(PRIORITY_STEP.0);
        let untimed = i128::from(self.untimed_steps) * i128::from(UNTIMED_STEP.0);
        let key = (i128::from(now.0) + untimed - lead, self.serial, number);
        let waiting = Waiting { ask, key, came: now, deadline, settled: None, waker: None };
        match self.tickets.get_mut(number as usize) {
            Some(place) => *place = Some(waiting),
            None => self.tickets.push(Some(waiting)),
        }
        self.order[usize::from(ask.pool)].insert(key);
        self.deadlines.extend(deadline.map(|deadline| (deadline, number)));
        Some(number)
    }

    /// Who is next in a pool.
    pub(crate) fn head(&self, pool: usize) -> Option<(u32, Ask)> {
        let (_, _, number) = *self.order[pool].first()?;
        let waiting = self.tickets[number as usize].as_ref()?;
        Some((number, waiting.ask))
    }

    /// Somebody whose deadline is past.
    pub(crate) fn expired(&self, now: Nanos) -> Option<u32> {
        self.deadlines.first().filter(|(deadline, _)| *deadline <= now).map(|(_, number)| *number)
    }

    /// Takes a ticket out of the order, with what became of it. Whom to wake.
    pub(crate) fn settle(&mut self, number: u32, outcome: Settled) -> Option<Waker> {
        let waiting = self.tickets.get_mut(number as usize)?.as_mut()?;
        let pool = usize::from(waiting.ask.pool);
        if !self.order[pool].remove(&waiting.key) {
            self.parked[pool].remove(&waiting.key);
        }
        if let Some(deadline) = waiting.deadline.take() {
            self.deadlines.remove(&(deadline, number));
        }
        waiting.settled = Some(outcome);
        waiting.waker.take()
    }

    /// What became of a ticket, which then ceases to be. Else `waker` is woken when something does;
    /// in its place the caller gets whoever was to be woken before, and drops it when no lock is
    /// held: it may own a task, and the task leases and tickets of this gate.
    pub(crate) fn take(&mut self, number: u32, waker: &mut Option<Waker>) -> Option<Settled> {
        let place = self.tickets.get_mut(number as usize)?;
        let waiting = place.as_mut()?;
        if let Some(settled) = waiting.settled {
            *place = None; // Who was to be woken left it when it was settled.
            self.spare.push(number);
            return Some(settled);
        }
        if waker.is_some() {
            std::mem::swap(&mut waiting.waker, waker);
        }
        None
    }

    /// When a ticket was drawn.
    pub(crate) fn came(&self, number: u32) -> Option<Nanos> {
        Some(self.tickets.get(number as usize)?.as_ref()?.came)
    }

    /// The pool that a ticket waits for.
    pub(crate) fn pool_of(&self, number: u32) -> Option<u16> {
        Some(self.tickets.get(number as usize)?.as_ref()?.ask.pool)
    }

    /// The request of a ticket, settled or not.
    pub(crate) fn ask_of(&self, number: u32) -> Option<Ask> {
        Some(self.tickets.get(number as usize)?.as_ref()?.ask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(pool: u16) -> Ask {
        Ask { pool, class: 0, prompt_tokens: 1, max_tokens: 2, held: 1, claim: 1, prefix: None }
    }

    #[test]
    fn priority_counts_as_earlier_arrival_and_no_more() {
        let mut queue = Queue::new(10, 1);
        let second = |n: u64| Nanos(n * Nanos::SECOND);
        let patient = queue.push(ask(0), second(0), 0, None).unwrap();
        let urgent = queue.push(ask(0), second(3), 5, None).unwrap();
        let late = queue.push(ask(0), second(6), 5, None).unwrap();
        let mut order = Vec::new();
        while let Some((number, _)) = queue.head(0) {
            assert_eq!(queue.settle(number, Settled::Admitted(number)).map(drop), None);
            order.push(number);
        }
        assert_eq!(order, [urgent, patient, late]);
        assert_eq!(queue.take(late, &mut None), Some(Settled::Admitted(late)));
        assert_eq!(queue.take(late, &mut None), None, "a ticket is taken once");
    }

    #[test]
    fn whoever_was_to_be_woken_comes_back_to_be_dropped_outside() {
        let mut queue = Queue::new(1, 1);
        let number = queue.push(ask(0), Nanos(0), 0, None).unwrap();
        let mut waker = Some(Waker::noop().clone());
        assert_eq!(queue.take(number, &mut waker), None);
        assert!(waker.is_none(), "nobody was before");
        waker = Some(Waker::noop().clone());
        assert_eq!(queue.take(number, &mut waker), None);
        assert!(waker.is_some(), "the one before");
        assert_eq!(queue.take(number, &mut None), None);
        assert!(queue.settle(number, Settled::Admitted(0)).is_some(), "a look removes nobody");
    }

    #[test]
    fn steps_count_where_nobody_tells_the_time() {
        let mut queue = Queue::new(100, 1);
        let patient = queue.push(ask(0), Nanos(0), 0, None).unwrap();
        let mut overtaken = 0;
        for _ in 0..60 {
            queue.step();
            let urgent = queue.push(ask(0), Nanos(0), 1, None).unwrap();
            if queue.head(0).map(|(number, _)| number) != Some(patient) {
                overtaken += 1;
                queue.settle(queue.head(0).unwrap().0, Settled::Admitted(0));
                queue.take(urgent, &mut None);
            }
        }
        assert_eq!(overtaken, 39, "a second of steps of 25 ms, less the one at its end");
    }

    #[test]
    fn it_is_bounded_and_deadlines_are_found() {
        let mut queue = Queue::new(2, 2);
        let first = queue.push(ask(0), Nanos(0), 0, Some(Nanos(50))).unwrap();
        let second = queue.push(ask(1), Nanos(0), 0, Some(Nanos(20))).unwrap();
        assert_eq!(queue.push(ask(0), Nanos(0), 0, None), None);
        assert_eq!(queue.expired(Nanos(19)), None);
        assert_eq!(queue.expired(Nanos(20)), Some(second));
        queue.settle(second, Settled::Admitted(0));
        assert_eq!(queue.expired(Nanos(49)), None);
        assert_eq!((queue.len_of(0), queue.len_of(1)), (1, 0));
        queue.take(second, &mut None).unwrap();
        assert_eq!(queue.push(ask(0), Nanos(9), 0, None), Some(second), "its number is free");
        assert_eq!(queue.head(0).map(|(number, _)| number), Some(first));
    }
}
