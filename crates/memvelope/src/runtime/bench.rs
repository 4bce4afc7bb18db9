//! The door of `benches/record.rs` to what the drain thread does with events. Behind the feature
//! `bench-internals`; nothing here is stable.

use super::drain::Intake;
use super::{Session, session};
use crate::event::{Event, Names, Sink};

pub use crate::source::cupti::bench::{Callbacks, Decoding};

/// Where driver callbacks send their events.
#[must_use]
pub fn sink() -> &'static dyn Sink {
    session::sink()
}

/// The session's names.
#[must_use]
pub fn names(session: &Session) -> &'static Names {
    session.inner.names
}

/// Takes all that `decode` says into timeline, trace and ledger, as the drain thread does.
pub fn drain<T>(session: &Session, decode: impl FnOnce(&mut dyn FnMut(&Event)) -> T) -> T {
    let mut intake = Intake::new(&session.inner);
    let outcome = decode(&mut |event| intake.take(event));
    intake.finish();
    outcome
}
