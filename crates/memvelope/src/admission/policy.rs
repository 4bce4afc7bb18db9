//! The joint between gate and policy: what a policy must answer, and what it must guarantee.

use crate::units::Blocks;

/// Decides over the blocks of one pool. Every method is thread-safe and never waits for another
/// thread while it admits, draws or releases.
///
/// The contract, under any interleaving: no `admit` or `draw` makes the sum of held blocks exceed
/// the capacity in force at that instant, `held <= claim` for every lease, and each `admit` that
/// returned `Ok` is followed by exactly one `release` with the final `held` of that lease.
pub(crate) trait Policy {
    /// Takes in a lease that holds `first` blocks now and may come to hold `claim`.
    fn admit(&self, first: Blocks, claim: Blocks) -> Result<(), Shortage>;
    /// A lease draws `blocks` more from its claim.
    fn draw(&self, blocks: u32);
    /// A lease ends: what it held and claimed is free again.
    fn release(&'static self, held: u32, claim: u32);
    /// Sets the capacity. Linearises with `admit`: a grant that returns after this did sees it.
    fn set_capacity(&self, capacity: Blocks);
    /// One consistent reading.
    fn reading(&self) -> Reading;
}

/// A refusal, with the state that it was decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    /// Capacity in force.
    pub(crate) capacity: u64,
    /// Sum of claims.
    pub(crate) claimed: u64,
}

/// State and history of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) capacity: u64,
    pub(crate) claimed: u64,
    pub(crate) claimed_peak: u64,
    pub(crate) held: u64,
    pub(crate) held_peak: u64,
    pub(crate) leases: u64,
    pub(crate) admitted: u64,
    /// Claims of all leases that ended so far, in blocks.
    pub(crate) released: u64,
}
