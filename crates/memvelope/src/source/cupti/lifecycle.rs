//! The recorder's life: a pure table of states and events, and the atomic that holds the state.
//!
//! ```text
//!            Subscribed            Enabled              Stopped            Drained
//!   off ───────────────► attached ───────► recording ───────► draining ───────► detached
//!    │ Busy                 │ Lost, Paused      │ Lost, Paused    │ Subscribed      │
//!    └──────► yielded ◄─────┴───────────────────┘     attached ◄──┴─────────────────┘
//!             yielded ──Subscribed──► attached        anything ──Failed──► failed (final)
//! ```

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

/// Where the recorder is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum State {
    /// CUPTI was not touched, or could not be had.
    #[default]
    Off,
    /// libcupti is open, its version known, its subscription taken, our buffers are there.
    Attached,
    /// Activity kinds and callbacks are on.
    Recording,
    /// They are off; CUPTI still holds buffers of ours.
    Draining,
    /// Everything is back.
    Detached,
    /// Another tool has CUPTI, or was to have it ([`crate::runtime::Session::pause`]).
    Yielded,
    /// Something went wrong that this process cannot recover from: CUPTI is called no more.
    Failed,
}

impl State {
    /// Every state, in the order of its discriminants.
    pub const ALL: [Self; 7] = [
        Self::Off,
        Self::Attached,
        Self::Recording,
        Self::Draining,
        Self::Detached,
        Self::Yielded,
        Self::Failed,
    ];

    /// As shown and serialised.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Attached => "attached",
            Self::Recording => "recording",
            Self::Draining => "draining",
            Self::Detached => "detached",
            Self::Yielded => "yielded",
            Self::Failed => "failed",
        }
    }
}

/// What happens to a recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The subscription is ours and everything is ready.
    Subscribed,
    /// Somebody else holds the subscription.
    Busy,
    /// Kinds and callbacks are on.
    Enabled,
    /// The subscription was taken from us.
    Lost,
    /// CUPTI is to be left to others for a while.
    Paused,
    /// Kinds and callbacks are off.
    Stopped,
    /// CUPTI holds no buffer of ours any more.
    Drained,
    /// It cannot go on in this process.
    Failed,
}

impl Step {
    #[cfg(test)]
    pub(super) const ALL: [Self; 8] = [
        Self::Subscribed,
        Self::Busy,
        Self::Enabled,
        Self::Lost,
        Self::Paused,
        Self::Stopped,
        Self::Drained,
        Self::Failed,
    ];
}

/// Where `step` leads from `state`; `None` where it cannot happen.
pub(super) const fn next(state: State, step: Step) -> Option<State> {
    use State::{Attached, Detached, Draining, Failed, Off, Recording, Yielded};
    Some(match (state, step) {
        (Off | Draining | Detached | Yielded, Step::Subscribed) => Attached,
        (Off | Draining | Detached | Yielded, Step::Busy) => Yielded,
        (Attached, Step::Enabled) => Recording,
        (Attached | Recording, Step::Lost | Step::Paused) | (Yielded, Step::Paused) => Yielded,
        // An attachment that came to nothing ends like any other.
        (Attached | Recording | Yielded, Step::Stopped) => Draining,
        (Draining, Step::Drained) => Detached,
        (Off | Attached | Recording | Draining | Detached | Yielded, Step::Failed) => Failed,
        _ => return None,
    })
}

/// The state of the one recorder, and why it is what it is.
#[derive(Debug)]
pub(super) struct Life {
    state: AtomicU8,
    why: Mutex<String>,
}

impl Life {
    pub(super) const fn new() -> Self {
        Self { state: AtomicU8::new(State::Off as u8), why: Mutex::new(String::new()) }
    }

    pub(super) fn state(&self) -> State {
        let at = usize::from(self.state.load(Ordering::Acquire));
        // Only discriminants are stored.
        State::ALL.get(at).copied().unwrap_or(State::Failed)
    }

    /// Takes a step; false if it cannot be taken from here, and then nothing changes.
    pub(super) fn step(&self, step: Step) -> bool {
        let moved = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |at| {
            let state = State::ALL.get(usize::from(at)).copied().unwrap_or(State::Failed);
            next(state, step).map(|state| state as u8)
        });
        moved.is_ok()
    }

    /// The same, and says why. The reason stands before the state does, so that whoever sees the
    /// state finds it.
    pub(super) fn step_because(&self, step: Step, why: impl Into<String>) -> bool {
        let former = std::mem::replace(&mut *self.lock(), why.into());
        let is_taken = self.step(step);
        if !is_taken {
            *self.lock() = former;
        }
        is_taken
    }

    /// Why it yielded or failed; empty where there is nothing to explain.
    pub(super) fn why(&self) -> String {
        match self.state() {
            State::Yielded | State::Failed => self.lock().clone(),
            _ => String::new(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, String> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every cell of the table, by the initials of the states: `-` cannot happen.
    #[test]
    fn every_state_takes_exactly_these_steps() {
        let initial = |state: State| match state {
            State::Off => 'o',
            State::Attached => 'a',
            State::Recording => 'r',
            State::Draining => 'd',
            State::Detached => 'D',
            State::Yielded => 'y',
            State::Failed => 'f',
        };
        // Subscribed Busy Enabled Lost Paused Stopped Drained Failed
        let expect = [
            (State::Off, "ay-----f"),
            (State::Attached, "--ryyd-f"),
            (State::Recording, "---yyd-f"),
            (State::Draining, "ay----Df"),
            (State::Detached, "ay-----f"),
            (State::Yielded, "ay--yd-f"),
            (State::Failed, "--------"),
        ];
        for (state, row) in expect {
            let found: String =
                Step::ALL.into_iter().map(|step| next(state, step).map_or('-', initial)).collect();
            assert_eq!(found, row, "from {}", state.label());
        }
    }

    #[test]
    fn a_refused_step_changes_nothing() {
        let life = Life::new();
        assert!(!life.step_because(Step::Enabled, "never") && life.why().is_empty());
        assert_eq!(life.state(), State::Off);
        assert!(life.step_because(Step::Busy, "nsys has it"));
        assert!(!life.step_because(Step::Lost, "no"), "there is nothing to lose");
        assert_eq!((life.state(), life.why().as_str()), (State::Yielded, "nsys has it"));
        assert!(life.step(Step::Subscribed) && life.step(Step::Enabled));
        assert_eq!((life.state(), life.why()), (State::Recording, String::new()));
        assert!(life.step_because(Step::Failed, "hung"));
        assert!(Step::ALL.into_iter().all(|step| !life.step(step)), "final");
        assert_eq!(life.why(), "hung");
    }

    #[test]
    fn states_are_stored_as_their_place_in_the_list() {
        for (at, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, at);
            let text = serde_json::to_string(&state).unwrap();
            assert_eq!(text, format!("\"{}\"", state.label()));
        }
    }
}
