//! The session's report: everything that is known, as one JSON document.

use super::{Mode, Session};
use serde_json::{Value, json};

impl Session {
    /// The report: mode and state, clock, what is known, what was lost and what it cost. Does not
    /// flush. Times are nanoseconds on the recorder's clock, sizes bytes.
    #[must_use]
    pub fn report(&self) -> Value {
        let Some(inner) = self.own() else {
            return self.client().map(|client| client.report()).unwrap_or_default();
        };
        let snapshot = self.snapshot();
        json!({
            "simulated": snapshot.simulated,
            "pid": std::process::id(),
            "state": self.state(),
            "mode": self.mode(),
            "clock": inner.clock_origin(),
            "is_findable": crate::source::peers::is_findable(),
            "self_cost": self.self_cost(),
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
