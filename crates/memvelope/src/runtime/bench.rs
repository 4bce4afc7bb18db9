//! The door of `benches/record.rs` to what the drain thread does with events. Behind the feature
//! `bench-internals`; nothing here is stable.

use super::drain::Intake;
use super::state::Inner;
use super::{Role, Session, session};
use crate::event::{Event, Names, Sink};

pub use crate::source::attribution::bench as attribution;
pub use crate::source::cupti::bench::{Callbacks, Decoding};

/// Where driver callbacks send their events.
#[must_use]
pub fn sink() -> &'static dyn Sink {
    session::sink()
}

/// A session whose recorder is this copy's: the table of names, and what the drain thread does.
#[derive(Clone, Copy, Debug)]
pub struct Drain<'a>(&'a Inner);

impl<'a> Drain<'a> {
    /// `None` where another copy records.
    #[must_use]
    pub fn of(session: &'a Session) -> Option<Self> {
        match &session.role {
            Role::Own(inner) => Some(Self(inner)),
            Role::Client(_) => None,
        }
    }

    /// The session's names.
    #[must_use]
    pub fn names(self) -> &'static Names {
        self.0.names
    }

    /// Takes all that `decode` says into timeline, trace and ledger.
    pub fn run<T>(self, decode: impl FnOnce(&mut dyn FnMut(&Event)) -> T) -> T {
        let mut intake = Intake::new(self.0);
        let outcome = decode(&mut |event| intake.take(event));
        intake.finish();
        outcome
    }
}
