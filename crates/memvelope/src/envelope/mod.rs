//! The envelope: the capacity equation, one named term a line, each with its origin.
//!
//! capacity for KV = total - withheld - weights - activations - graphs - context - recorder
//! - libraries - opening balance of others - runtime reserve - safety reserve
//!
//! Beside what a term takes off the capacity stands what it uses *now*: the
//! [`Term::in_use_bytes`] of all terms, [`TermName::Unaccounted`] included, add up to total - free
//! exactly. The ledger knows requested bytes; what the driver rounds them up by is not told apart,
//! it is part of the context where that is derived, else of `unaccounted`, and the note says how
//! much it can be at most. While `unaccounted` is positive it is taken off the capacity too: those
//! bytes are not there to be handed out.

mod balanced;
mod basis;
mod equation;
mod follower;
mod measure;
mod plan;
mod plan_cost;
mod plan_generic;
mod plan_stored;
mod plan_text;
mod planes;
mod polled;
mod slabs;
mod sum;
mod table;
mod term;
#[cfg(test)]
mod tests;

pub use crate::snapshot::{Origin, TermName};
pub use equation::{Declared, Envelope};
pub use follower::{FollowSettings, Follower, Reading, Step, Why};
pub use measure::{Deviation, Measured};
pub use plan::{Bound, Budget, GroupPlan, Plan, Sequences, UTILIZATION_DEFAULT, WorstCase};
pub use plan_cost::{Cost, Kept};
pub use plan_stored::Stored;
pub use slabs::KvSlabs;
pub use term::Term;
