//! Answers against an allocator that is tried, and against examples by hand.

mod by_hand;
mod hostile;
mod toy;
mod tries;

use super::*;
use crate::framework::{Demand, Framework, Settings, Space};

const MIB: u64 = Bytes::MIB;
const PAGE: Bytes = Bytes(2 * MIB);

fn mib(mib: u64) -> Bytes {
    Bytes(mib * MIB)
}
