//! The atomics of the lock-free core, and the lock of its queue: those of the standard library, or
//! in the model checker's build those that it steps through (see `tests/loom.rs`).

#[cfg(all(test, loom))]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64},
};
#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64},
};
