//! Tickets: a place in the queue of a gate, and a future of the lease that comes of it.

use super::answer::{Reason, Rejection};
use super::books::Ask;
use super::gate::Inner;
use super::lease::Lease;
use super::queue::Settled;
use crate::units::Tokens;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use std::task::{Context, Poll, Waker};

/// A place in the queue. It is a future, for any executor, and can be polled by hand. Dropping it
/// gives the place up; a lease that it already had is released.
#[derive(Debug)]
#[must_use = "a ticket that is dropped has given up its place"]
pub struct Ticket {
    inner: Arc<Inner>,
    /// `None` once its outcome was taken.
    number: Option<u32>,
}

impl Ticket {
    pub(super) const fn new(inner: Arc<Inner>, number: u32) -> Self {
        Self { inner, number: Some(number) }
    }

    /// What became of it, if anything has. `waker` is woken when something does, and may be called
    /// on whichever thread gives blocks back. `None` for ever once the outcome was taken. In a
    /// forked child [`Reason::Forked`]: the place is the parent's.
    pub fn try_take(&mut self, waker: &Waker) -> Option<Result<Lease, Rejection>> {
        let number = self.number?;
        if self.inner.is_forked() {
            self.number = None;
            return Some(Err(Rejection::never(Reason::Forked, Tokens::ZERO)));
        }
        let (ask, settled) = self.inner.poll_ticket(number, waker)?;
        self.number = None;
        Some(self.outcome(&ask, settled))
    }

    /// Its time is up on the caller's own clock, as if a deadline had passed: the place is given
    /// up.
    ///
    /// # Errors
    /// [`Reason::Expired`], unless something became of it before: then that is the answer, and a
    /// lease is still good.
    pub fn expire(mut self) -> Result<Lease, Rejection> {
        let settled =
            self.number.take().and_then(|number| self.inner.cancel_ticket(number, Reason::Expired));
        match settled {
            Some((ask, settled)) => self.outcome(&ask, settled),
            None => Err(Rejection::never(Reason::Expired, Tokens::ZERO)),
        }
    }

    fn outcome(&self, ask: &Ask, settled: Settled) -> Result<Lease, Rejection> {
        match settled {
            Settled::Admitted(slot) => Ok(self.inner.lease(ask, slot)),
            Settled::Rejected(rejection) => Err(rejection),
        }
    }
}

impl Future for Ticket {
    type Output = Result<Lease, Rejection>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.try_take(context.waker()).map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(number) = self.number.take() else { return };
        if let Some((ask, settled)) = self.inner.cancel_ticket(number, Reason::Cancelled) {
            // It was let in, and nobody will use it.
            drop(self.outcome(&ask, settled));
        }
    }
}
