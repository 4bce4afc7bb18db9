//! Builds, tests and packs memvelope.

fn main() {}
