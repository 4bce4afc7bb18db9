//! The envelope: the capacity equation, one named term a line, each with its origin.
//!
//! capacity for KV = total - withheld - weights - activations - graphs - context - recorder
//! - libraries - rounding - awaiting-stream - cached - opening balance - other processes
//! - runtime reserve - safety reserve
//!
//! Beside what a term takes off the capacity stands what it uses *now*: the
//! [`Term::in_use_bytes`] of all terms, [`TermName::Unaccounted`] included, add up to total - free
//! exactly. They are the lines of the snapshot's [`crate::snapshot::Balance`], with their origins.
//! The KV cache's own bytes are in use, but not taken: the capacity is what it holds and what it may
//! still get. While `unaccounted` is positive it is taken off the capacity too: those bytes are not
//! there to be handed out. Negative, it hands out nothing.
//!
//! What is taken is more than what is in use where more is still to come (weights that are not
//! loaded, activations below their peak), and less where somebody gives it back (what an allocator
//! caches and can release) or it is declared to be another term's ([`Declared::is_loaded`],
//! [`Declared::kv_untagged`]). Nothing is taken twice: what graphs, libraries and modules came to
//! use is no longer in the runtime reserve, and what others use lies in the share of the device
//! that an engine was not given. See [`Envelope::measured`].
//!
//! [`Envelope::measure`] puts a plan beside a device and says how far off it was; a [`Follower`]
//! makes a gate's capacity of what is measured again and again.

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
