//! Admission: does this sequence still fit? The hot path of somebody else's server.
//!
//! The gate is told its capacity and a cost curve; it reads no clock and asks nobody.
//!
//! [`Gate`] checks a [`Request`] and counts it in blocks. Who keeps account then decides:
//!
//! * `lockfree`: policy `Guaranteed`, and no pool lends. One word for each pool, one
//!   compare-and-swap for an admission, no list of leases.
//! * `books`: everything else. One lock over accounts, leases, prefixes, estimate and queue. A
//!   policy (`policy::Rule`) says how much capacity an account requires; from that follows who may
//!   come in, who may grow, what can be lent. `needs` answers it for `Banker` along one path of a
//!   tree.
//!
//! On top of `Banker`, `outlook` stops admissions where the predicted peak would not fit:
//! `survival` has the lengths of past outputs, `forecast` what is expected of the running ones. It
//! makes waits rare; it is never what keeps the budget.
//!
//! [`Lease`] is what the caller keeps, [`Ticket`] a place in the queue.

mod account;
mod answer;
mod books;
mod desk;
mod explain;
mod forecast;
mod gate;
mod guaranteed;
mod histogram;
mod lease;
mod lockfree;
mod needs;
mod outlook;
mod pace;
mod policy;
mod pool;
mod prefixes;
mod queue;
mod rate;
mod request;
mod roster;
mod settings;
mod survival;
mod sync;
#[cfg(test)]
mod tests;
mod ticket;
mod victims;

pub use answer::{Growth, PastMaximum, Reason, Rejection, Usage};
pub use explain::{Change, Explanation, GrowthExplanation};
pub use gate::Gate;
pub use histogram::{Histogram, Outcomes};
pub use lease::Lease;
pub use queue::PRIORITY_STEP;
pub use request::{Prefix, Request};
pub use settings::{
    Estimate, GateConfig, LEASES_MAX_DEFAULT, Policy, PoolConfig, QUEUE_MAX_DEFAULT,
};
pub use ticket::Ticket;
pub use victims::Victim;
