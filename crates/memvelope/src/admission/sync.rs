//! The atomics of the lock-free core: those of the standard library, or in a build for the model
//! checker (`RUSTFLAGS="--cfg loom"`) those that it steps through.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64};
