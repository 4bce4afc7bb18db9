//! Helpers shared by the outsider tests.

/// The README's Rust example works when pasted: it is a doc test of this module.
#[doc = include_str!("../README.md")]
pub mod readme {}
