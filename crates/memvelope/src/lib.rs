//! `memvelope` keeps an inference process inside the memory of its GPU.
//!
//! Data flows one way:
//!
//! ```text
//! source -> event -> ledger, timeline -> snapshot -> envelope -> admission -> host engine
//!                                                       ^
//!                                  model (HF config -> bytes per token)
//! ```
//!
//! * A [`source`] turns a foreign API into [`event`]s and owns all `unsafe` of that API.
//! * [`ledger`] and [`timeline`] are the only mutable state; time arrives on events.
//! * A [`snapshot`] is an immutable view of one epoch of both.
//! * [`envelope`] is the capacity equation, one named term a line, each with its origin.
//! * [`admission`] decides whether a sequence still fits. It is told its capacity and asks nobody.
//! * [`runtime`] is the only place where things happen by themselves: one session a process.
//! * [`export`] writes what was seen.
//!
//! A gate on a declared budget needs no driver at all:
//!
//! ```
//! use memvelope::admission::{Gate, GateConfig, Request};
//! use memvelope::units::{Blocks, CostCurve, Tokens};
//!
//! let curve = CostCurve::new(16, 0).expect("16 tokens a block");
//! let gate = Gate::new(GateConfig::new(Blocks(1000), curve, Tokens(8192)))?;
//! let mut lease = gate.try_admit(&Request::new(Tokens(700), Some(Tokens(300))))?;
//! assert!(lease.grow(Tokens(1))?.is_granted()); // a lease alone never waits
//! drop(lease); // releases its blocks, once
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod admission;
pub mod config;
mod curve;
pub mod engine;
pub mod envelope;
pub mod error;
pub mod event;
pub mod export;
pub(crate) mod fork;
pub mod framework;
pub mod ledger;
pub mod model;
pub mod runtime;
pub mod snapshot;
pub mod source;
pub mod timeline;
pub mod units;

pub use error::{Error, Result};
