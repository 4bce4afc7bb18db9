//! The memvelope command.

fn main() {}
