//! The session's report: everything that is known, as one JSON document.

use super::state::Inner;
use super::{Mode, Session};
use crate::snapshot::Snapshot;
use serde_json::{Value, json};

impl Session {
    /// The report: mode and state, clock, what is known, what was lost and what it cost. Does not
    /// flush. Times are nanoseconds on the recorder's clock, sizes bytes.
    #[must_use]
    pub fn report(&self) -> Value {
        match self.client() {
            Some(client) => client.report(),
            None => self.report_of(&self.snapshot()),
        }
    }

    /// The same around a snapshot that was taken already.
    #[must_use]
    pub fn report_of(&self, snapshot: &Snapshot) -> Value {
        if let Some(inner) = self.own() {
            return inner.report_of(snapshot);
        }
        json!({
            "simulated": snapshot.simulated,
            "pid": std::process::id(),
            "state": self.state(),
            "mode": self.mode(),
            "clock": null,
            "is_findable": crate::source::peers::is_findable(),
            "self": self.self_cost(),
            "load_reports": self.load_reports(),
            "snapshot": snapshot,
        })
    }

    /// Whether this session asks another copy of memvelope in this process, which is the one that
    /// records; where that was loaded from.
    #[must_use]
    pub fn owner_path(&self) -> Option<&str> {
        self.client().map(|client| client.owner_path())
    }
}

impl Inner {
    /// See [`Session::report_of`].
    pub(super) fn report_of(&self, snapshot: &Snapshot) -> Value {
        let reports = if self.is_awake() { self.links().reports } else { Vec::new() };
        json!({
            "simulated": snapshot.simulated,
            "pid": std::process::id(),
            "state": self.recorder_state(),
            "mode": self.mode(),
            "clock": self.clock_origin(),
            "is_findable": crate::source::peers::is_findable(),
            "self": self.self_cost(),
            "load_reports": reports,
            "snapshot": snapshot,
        })
    }
}

impl Mode {
    /// Why not everything is recorded; empty where CUPTI records.
    #[must_use]
    pub fn why(&self) -> &str {
        match self {
            Self::Cupti(_) => "",
            Self::Polling(why) | Self::Blind(why) => why,
        }
    }
}
