//! A session of a copy that is not the first in the process: it does nothing itself and asks the
//! first ([`crate::source::peers`]).

use super::epoch::Reader;
use super::{Mode, Role, SelfCost, Session, TraceStats};
use crate::error::{Error, Result};
use crate::event::{DeviceIndex, TraceContext};
use crate::fork;
use crate::framework::Framework;
use crate::snapshot::{Epoch, Fit, Snapshot, Via};
use crate::source::cupti::State;
use crate::source::peers::{self, Owner, Refusal, code, document, question};
use crate::units::Bytes;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long a copy that starts at the same time as we do may take to attach.
const START_MAX: Duration = Duration::from_secs(5);

/// Why there is no client.
#[derive(Debug)]
pub(super) enum NoClient {
    /// The owner is too old to have clients, or does not come up; its path.
    Unable(String),
    /// The owner's session ended meanwhile: the process is free again.
    Gone,
}

/// The client's end.
#[derive(Debug)]
pub(super) struct Client {
    owner: Owner,
    /// The last text of each document: what remains once this client has ended.
    last: Mutex<BTreeMap<u32, Vec<u8>>>,
    is_detached: AtomicBool,
    /// The owner was asked to prepare for scopes.
    has_prepared: AtomicBool,
}

/// Names of libraries that are ours have this in them.
const OUR_NAME: &str = "memvelope";

/// How often a process with an injection library looks whether that one records. A look goes through
/// the loaded objects, which takes some 100 us with a hundred of them.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Nobody has asked yet.
const UNASKED: u8 = 0;
/// No library of ours is injected into this process.
const ALONE: u8 = 1;
/// One is, or will be, and was not seen to record yet.
const LOOKING: u8 = 2;
/// It is known.
const JOINED: u8 = 3;

/// What is known of the copy that was injected into this process.
static INJECTED: AtomicU8 = AtomicU8::new(UNASKED);

/// When to look next; `None`: now.
static NEXT_LOOK: Mutex<Option<Instant>> = Mutex::new(None);

/// The client of a copy that was injected.
static INJECTED_CLIENT: OnceLock<Arc<Client>> = OnceLock::new();

/// The session of a copy that was injected into this process, while this copy has none of its own.
pub(super) fn joined() -> Option<Session> {
    let mut known = INJECTED.load(Ordering::Acquire);
    if known == UNASKED {
        let library = std::env::var_os("CUDA_INJECTION64_PATH").unwrap_or_default();
        known = if library.to_string_lossy().contains(OUR_NAME) { LOOKING } else { ALONE };
        INJECTED.store(known, Ordering::Release);
    }
    if known == ALONE || fork::in_child() {
        return None;
    }
    if known == LOOKING {
        look();
    }
    INJECTED_CLIENT.get().map(|client| Session { role: Role::Client(Arc::clone(client)) })
}

/// Makes this copy's tags known to one that was injected into this process, if there is one and it is
/// not known yet. Else takes next to no time.
pub fn meet_recorder() {
    if matches!(INJECTED.load(Ordering::Acquire), UNASKED | LOOKING) {
        drop(joined());
    }
}

fn look() {
    {
        // Whoever holds it is looking.
        let Ok(mut next) = NEXT_LOOK.try_lock() else { return };
        let now = Instant::now();
        if next.is_some_and(|next| now < next) {
            return;
        }
        *next = now.checked_add(LOOK_PERIOD);
    }
    // The driver loads the library in `cuInit`, and its session begins a moment after that.
    let Some(owner) = peers::running().filter(|owner| owner.is_able() && owner.now() != 0) else {
        return;
    };
    fork::watch();
    owner.greet();
    INJECTED_CLIENT.get_or_init(|| Arc::new(Client::of(owner)));
    INJECTED.store(JOINED, Ordering::Release);
}

impl Client {
    /// Becomes the client of `owner`, which may be starting at this moment.
    pub(super) fn attach(owner: Owner) -> Result<Arc<Self>, NoClient> {
        fork::watch();
        let deadline = Instant::now() + START_MAX;
        while owner.is_able() && owner.read(document::STATE).is_err() {
            if !owner.has_process() {
                return Err(NoClient::Gone);
            }
            if Instant::now() >= deadline {
                return Err(NoClient::Unable(owner.path));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if !owner.is_able() {
            return Err(NoClient::Unable(owner.path));
        }
        owner.greet();
        Ok(Arc::new(Self::of(owner)))
    }

    fn of(owner: Owner) -> Self {
        Self {
            owner,
            last: Mutex::default(),
            is_detached: AtomicBool::new(false),
            has_prepared: AtomicBool::new(false),
        }
    }

    /// Where the copy that records was loaded from.
    pub(super) fn owner_path(&self) -> &str {
        &self.owner.path
    }

    fn is_live(&self) -> bool {
        !self.is_detached.load(Ordering::Acquire) && !fork::in_child()
    }

    fn read<T: DeserializeOwned>(&self, which: u32) -> Result<T, String> {
        let refused = |refusal: Refusal| match refusal.0 {
            code::FORKED => super::state::FORKED.into(),
            code::NO_SESSION => format!("the session of {} has ended", self.owner.path),
            code => format!("{} answers {code}", self.owner.path),
        };
        if fork::in_child() {
            return Err(super::state::FORKED.into());
        }
        let text = if self.is_detached.load(Ordering::Acquire) {
            self.last().get(&which).cloned().ok_or("this session has ended")?
        } else {
            let text = self.owner.read(which).map_err(refused)?;
            self.last().insert(which, text.clone());
            text
        };
        serde_json::from_slice(&text).map_err(|error| {
            format!(
                "{} is of another version: its answer is not understood ({error})",
                self.owner.path
            )
        })
    }

    fn last(&self) -> MutexGuard<'_, BTreeMap<u32, Vec<u8>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let why = match self.read::<Snapshot>(document::SNAPSHOT) {
            Ok(mut snapshot) => {
                // Counted in this copy, where headers are read.
                snapshot.unseen.extend(super::scope::unread_sentence());
                return snapshot;
            }
            Err(why) => why,
        };
        // What was known before the owner's session ended; in a forked child, whose locks may be
        // held by threads that are not there, nothing.
        let last =
            if fork::in_child() { None } else { self.last().get(&document::SNAPSHOT).cloned() };
        let last = last.and_then(|text| serde_json::from_slice::<Snapshot>(&text).ok());
        let since = if last.is_some() { " since" } else { "" };
        let mut snapshot = last.unwrap_or_default();
        snapshot.unseen.push(format!("everything{since}: {why}"));
        snapshot
    }

    pub(super) fn mode(&self) -> Mode {
        self.read(document::MODE).unwrap_or_else(Mode::Blind)
    }

    pub(super) fn state(&self) -> State {
        self.read(document::STATE).unwrap_or_default()
    }

    pub(super) fn self_cost(&self) -> SelfCost {
        self.read(document::SELF_COST).unwrap_or_default()
    }

    pub(super) fn report(&self) -> serde_json::Value {
        self.read(document::REPORT).unwrap_or_else(|why| serde_json::json!({ "unseen": [why] }))
    }

    pub(super) fn flush(&self, timeout: Duration) -> Result<()> {
        let waited_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        if !self.is_live() {
            return Ok(());
        }
        match self.owner.flush(timeout) {
            Err(Refusal(code::TIMED_OUT)) => Err(Error::FlushTimeout { waited_ms }),
            // Without a session there is nothing to wait for.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(super) fn sample(&self) {
        if self.is_live() {
            self.owner.sample();
        }
    }

    pub(super) fn read_epoch(
        &self,
        device: DeviceIndex,
        read: Option<&mut Reader<'_>>,
    ) -> Option<Epoch> {
        if !self.is_live() {
            return None;
        }
        let is_read = match read {
            None => self.owner.read_epoch(device.0, None),
            Some(read) => {
                let mut as_text = || serde_json::to_vec(&read()?).ok();
                self.owner.read_epoch(device.0, Some(&mut as_text))
            }
        };
        if !is_read {
            // It may be too old for that; what it can do is to look.
            self.owner.sample();
            return None;
        }
        let epochs: Vec<(DeviceIndex, Epoch)> = self.read(document::EPOCHS).ok()?;
        epochs.into_iter().find(|(known, _)| *known == device).map(|(_, epoch)| epoch)
    }

    pub(super) fn accept_framework(&self, framework: &Framework) {
        if self.is_live()
            && let Ok(text) = serde_json::to_vec(framework)
        {
            self.owner.accept_framework(&text);
        }
    }

    pub(super) fn would_fit(&self, device: DeviceIndex, bytes: Bytes, via: Via) -> Fit {
        let unknown = |missing: String| Fit::Unknown { missing };
        if !self.is_live() {
            return unknown("this session has ended".into());
        }
        let Ok(text) = serde_json::to_vec(&(device, bytes, via)) else {
            return unknown("the question could not be written".into());
        };
        match self.owner.answer(question::WOULD_FIT, &text) {
            Ok(answer) => serde_json::from_slice(&answer).unwrap_or_else(|error| {
                unknown(format!("{} is of another version ({error})", self.owner.path))
            }),
            Err(Refusal(code)) => unknown(format!("{} answers {code}", self.owner.path)),
        }
    }

    pub(super) fn note_request(&self, device: DeviceIndex, bytes: Bytes) {
        if self.is_live() {
            self.owner.note_request(device.0, bytes.0);
        }
    }

    /// The recorder's clock; `None` where there is none.
    pub(super) fn now(&self) -> Option<u64> {
        Some(self.owner.now()).filter(|now| self.is_live() && *now != 0)
    }

    /// Whether the owner was not yet asked to prepare for scopes.
    pub(super) fn is_scope_pending(&self) -> bool {
        self.is_live() && !self.has_prepared.load(Ordering::Acquire)
    }

    pub(super) fn scope_prepare(&self) {
        if self.is_scope_pending() {
            self.owner.scope_prepare();
            self.has_prepared.store(true, Ordering::Release);
        }
    }

    /// Opens a scope; `None` where there is none to be had.
    pub(super) fn scope_open(&self, name: &str, trace: Option<TraceContext>) -> Option<u64> {
        let scope = if self.is_live() { self.owner.scope_open(name, trace) } else { 0 };
        (scope != 0).then_some(scope)
    }

    pub(super) fn scope_enter(&self, scope: u64, task: u64) -> bool {
        self.is_live() && self.owner.scope_enter(scope, task)
    }

    /// Also once this client is detached: the thread is still inside.
    pub(super) fn scope_leave(&self, scope: u64, task: u64) {
        if !fork::in_child() {
            self.owner.scope_leave(scope, task);
        }
    }

    /// As [`Self::scope_leave`].
    pub(super) fn scope_suspend(&self, scope: u64, task: u64) {
        if !fork::in_child() {
            self.owner.scope_suspend(scope, task);
        }
    }

    pub(super) fn scope_end(&self, scope: u64, start: u64) {
        if self.is_live() {
            self.owner.scope_end(scope, start);
        }
    }

    pub(super) fn write_trace(&self, path: &Path, bytes_max: u64) -> Result<TraceStats> {
        let refused = |why: String| Error::WriteFile {
            path: path.to_owned(),
            source: std::io::Error::other(why),
        };
        if !self.is_live() {
            return Err(refused("the session has ended".into()));
        }
        // The owner may have another current directory in mind only if it changed: a process has
        // one, but let the path be unmistakable.
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        match self.owner.write_trace(&whole, bytes_max) {
            Ok([events, events_seen, events_left_out, window_stride, bytes]) => {
                Ok(TraceStats { events, events_seen, events_left_out, window_stride, bytes })
            }
            Err(Refusal(code)) => {
                Err(refused(format!("{} could not write it ({code})", self.owner.path)))
            }
        }
    }

    pub(super) fn pause(&self, why: &str) -> Result<()> {
        if !self.is_live() {
            return Ok(());
        }
        match self.owner.pause(why) {
            Err(Refusal(code::TIMED_OUT)) => Err(Error::FlushTimeout { waited_ms: 0 }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(super) fn resume(&self) -> bool {
        self.is_live() && self.owner.resume()
    }

    /// Ends this client, not the owner's session. What was recorded until now stays readable.
    pub(super) fn detach(&self, timeout: Duration) -> Result<Snapshot> {
        let flushed = self.flush(timeout);
        let snapshot = self.snapshot();
        if self.is_live() {
            // Read for the last time, so that they are kept.
            let _ = (self.mode(), self.state(), self.self_cost(), self.report());
        }
        self.is_detached.store(true, Ordering::Release);
        flushed.map(|()| snapshot)
    }
}
