//! The sessions of other processes: which there are, and what one says.
//!
//! `/proc` is the table. A session that nobody started for us keeps its report in a file without a
//! path, which is one of the process's descriptors; a process under `memvelope run` has the summary
//! file of that run mapped. Nothing is asked of the process itself: it may hang.

use memvelope::export::summary::{PUBLISHED_NAME, Slot, Summary, monotonic_ns};
use serde_json::Value;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a file is copied anew whose report was being replaced at that moment.
const TRIES: u32 = 8;
/// Between two of them: a report is written within some milliseconds.
const TRY_DISTANCE: Duration = Duration::from_millis(5);

/// How the private directories of `memvelope run` are called, and the file in them.
const RUN_FOLDER: &str = "/memvelope-run-";
const RUN_FILE: &str = "/summary";

/// A session, as it told last.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// The process, by its number here.
    pub(super) pid: u32,
    /// Its report.
    pub(super) document: Value,
    /// How long ago it told that.
    pub(super) age: Duration,
}

/// Why there is nothing to show of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Nothing {
    /// There is no such process.
    Gone,
    /// It has ended and waits for its parent to notice.
    Ended,
    /// It is somebody else's, or has forbidden to be looked at: the user's number, and whether that
    /// is ours.
    Denied { uid: u32, is_ours: bool },
    /// Memvelope is not in it.
    NotInside,
    /// It is loaded (from there), but tells nothing.
    Silent { library: String },
    /// It was forked from the process that the session belongs to.
    Forked { from: u32 },
    /// Its session has not told anything yet.
    NotYet,
    /// Something else has the name, or it is of another version.
    Unreadable { why: String },
}

impl std::fmt::Display for Nothing {
    /// One sentence, then what to do.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone => f.write_str(
                "there is no such process here\nhint: numbers are those of this pid namespace; of \
                 a process in a container, ask from inside of it, or by its number out here",
            ),
            Self::Ended => f.write_str("it has ended, and waits for its parent to notice"),
            Self::Denied { is_ours: true, .. } => f.write_str(
                "it does not let itself be looked at (it has changed its user, or is not \
                 dumpable)\nhint: ask as root; in a container, root needs CAP_SYS_PTRACE for that",
            ),
            Self::Denied { uid, .. } => write!(
                f,
                "it belongs to the user with the number {uid}, and only that one and root may look \
                 at it\nhint: sudo memvelope snapshot --pid ...; in a container, root needs \
                 CAP_SYS_PTRACE for that"
            ),
            Self::NotInside => f.write_str(
                "memvelope is not inside of it\nhint: start it by `memvelope run`, with \
                 CUDA_INJECTION64_PATH set to libmemvelope_inject.so, or start a session in it \
                 (memvelope.Session.start() in Python, Session::start in Rust)",
            ),
            Self::Silent { library } => write!(
                f,
                "it has loaded {library}, but tells nothing: no session was started, CUDA was not \
                 initialised yet, MEMVELOPE_PUBLISH or MEMVELOPE_RECORD is off, the program \
                 closed our descriptor, or it is an older version\nhint: start a session in it, \
                 with MEMVELOPE_PUBLISH=auto"
            ),
            Self::Forked { from } => write!(
                f,
                "it was forked from process {from}, whose session it cannot use\nhint: memvelope \
                 snapshot --pid {from}; and CUDA does not survive fork: use spawn"
            ),
            Self::NotYet => f.write_str("its session has told nothing yet\nhint: ask again"),
            Self::Unreadable { why } => write!(
                f,
                "what it tells cannot be read: {why}\nhint: use the command of the version that is \
                 inside of it (pip show memvelope)"
            ),
        }
    }
}

/// What the session of a process says.
pub(super) fn look(pid: u32) -> Result<Found, Nothing> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let state = State::of(&folder).ok_or(Nothing::Gone)?;
    let pid = state.group;
    let folder = PathBuf::from(format!("/proc/{pid}"));
    if state.is_over {
        return Err(Nothing::Ended);
    }
    let descriptors = std::fs::read_dir(folder.join("fd")).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Nothing::Gone,
        _ => denied(&folder),
    })?;
    let name = format!("/memfd:{PUBLISHED_NAME}");
    let is_ours = |path: &PathBuf| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with(&name))
    };
    // One that was closed by the program has a successor, with a higher number or not: the latest
    // report counts.
    let own: Vec<_> = descriptors.flatten().map(|entry| entry.path()).filter(is_ours).collect();
    let found = own.iter().map(|path| read(pid, path, &state));
    let found = found.min_by_key(|found| match found {
        Ok(found) => (false, found.age),
        Err(_) => (true, Duration::ZERO),
    });
    match found {
        Some(found) => found,
        None => look_at_run(pid, &folder, &state),
    }
}

/// A process under `memvelope run`, or one that tells nothing.
fn look_at_run(pid: u32, folder: &Path, state: &State) -> Result<Found, Nothing> {
    let maps = std::fs::read_to_string(folder.join("maps")).map_err(|_| denied(folder))?;
    // The path is the sixth field of a line, and may have blanks in it.
    let mut paths: Vec<_> =
        maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..])).collect();
    paths.dedup();
    let is_summary = |path: &&str| path.contains(RUN_FOLDER) && path.ends_with(RUN_FILE);
    if let Some(path) = paths.iter().copied().find(is_summary) {
        // As the process sees it: it may live in another mount namespace.
        return read(pid, &folder.join("root").join(path.trim_start_matches('/')), state);
    }
    let file = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let is_library = |path: &&str| {
        file(path).starts_with("libmemvelope") && !file(path).starts_with("libmemvelope_sim")
            || path.contains("/memvelope/_native")
    };
    match paths.into_iter().find(is_library) {
        Some(path) => Err(Nothing::Silent { library: path.to_owned() }),
        None => Err(Nothing::NotInside),
    }
}

fn denied(folder: &Path) -> Nothing {
    let uid_of = |path: &Path| path.metadata().map(|data| data.uid());
    match (uid_of(folder), uid_of(Path::new("/proc/self"))) {
        (Ok(uid), own) => Nothing::Denied { uid, is_ours: own.is_ok_and(|own| own == uid) },
        (Err(_), _) => Nothing::Gone,
    }
}

/// The report of the process in a summary file.
fn read(pid: u32, path: &Path, state: &State) -> Result<Found, Nothing> {
    let unreadable = |error: std::io::Error| Nothing::Unreadable { why: error.to_string() };
    for _ in 0..TRIES {
        let file = File::open(path).map_err(unreadable)?;
        let summary = Summary::copied(&file).map_err(unreadable)?;
        let slots: Vec<Slot> = summary.taken().filter(|slot| slot.sequence() > 0).collect();
        // One process may have taken several, when it became another program: the last one counts.
        let own = slots.iter().filter(|slot| slot.process().pid == state.own_pid);
        let Some(slot) = own.max_by_key(|slot| slot.sequence()) else {
            let mut others = slots.iter().map(|slot| slot.process().pid);
            let parent = others.find(|other| slots.len() == 1 || *other == state.parent);
            return Err(parent.map_or(Nothing::NotYet, |from| Nothing::Forked { from }));
        };
        let json = slot.read();
        let document = json.and_then(|json| serde_json::from_slice::<Value>(&json).ok());
        if let Some(document) = document {
            let age = monotonic_ns().saturating_sub(slot.updated_ns());
            return Ok(Found { pid, document, age: Duration::from_nanos(age) });
        }
        std::thread::sleep(TRY_DISTANCE);
    }
    Err(Nothing::NotYet)
}

/// Every session that may be looked at.
pub(super) fn all() -> Vec<Found> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found: Vec<Found> = pids.filter_map(|pid| look(pid).ok()).collect();
    found.sort_by_key(|found| found.pid);
    found
}

/// What `/proc/PID/status` says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    /// The process that a thread's number belongs to.
    group: u32,
    /// Its number in its own pid namespace.
    own_pid: u32,
    parent: u32,
    is_over: bool,
}

impl State {
    fn of(folder: &Path) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(folder.join("status")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line[name.len()..].trim())
        };
        let group = field("Tgid:")?.parse().ok()?;
        let own = field("NStgid:").and_then(|all| all.split_whitespace().last()?.parse().ok());
        let parent = field("PPid:").and_then(|text| text.parse().ok()).unwrap_or(0);
        let threads: u64 = field("Threads:").and_then(|text| text.parse().ok()).unwrap_or(1);
        // The state is the first thread's: it may leave while others go on.
        let is_over = field("State:")
            .is_some_and(|state| state.starts_with('X') || state.starts_with('Z') && threads <= 1);
        Some(Self { group, own_pid: own.unwrap_or(group), parent, is_over })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memvelope::export::summary::{Process, Published};

    #[test]
    fn status_tells_threads_namespaces_and_ends() {
        let text = |state: &str, threads: u64| {
            format!(
                "Name:\tx\nState:\t{state}\nTgid:\t70\nPid:\t71\nPPid:\t3\nNStgid:\t70\t4\nNSpid:\t71\t5\n\
                 Threads:\t{threads}\n"
            )
        };
        let state = |is_over| Some(State { group: 70, own_pid: 4, parent: 3, is_over });
        assert_eq!(State::parse(&text("S (sleeping)", 3)), state(false));
        assert_eq!(State::parse(&text("Z (zombie)", 1)), state(true));
        assert_eq!(State::parse(&text("Z (zombie)", 2)), state(false));
        assert_eq!(State::parse("Name:\tx\n"), None);
    }

    #[test]
    fn every_case_says_what_to_do() {
        for (nothing, parts) in [
            (Nothing::Gone, ["no such process", "container"]),
            (Nothing::Denied { uid: 7, is_ours: false }, ["number 7", "sudo"]),
            (Nothing::Denied { uid: 7, is_ours: true }, ["not dumpable", "root"]),
            (Nothing::NotInside, ["not inside", "memvelope run"]),
            (Nothing::Silent { library: "/a".into() }, ["/a", "MEMVELOPE_PUBLISH"]),
            (Nothing::Forked { from: 5 }, ["forked from process 5", "--pid 5"]),
            (Nothing::Unreadable { why: "layout".into() }, ["layout", "version"]),
        ] {
            let text = nothing.to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }

    /// This process itself: first without memvelope's file, then with one.
    #[test]
    fn a_session_is_found_by_its_descriptor() {
        let own = std::process::id();
        assert_eq!(look(own).unwrap_err(), Nothing::NotInside);
        let published = Published::create().unwrap();
        assert_eq!(look(own).unwrap_err(), Nothing::NotYet);
        let slot = published.summary().claim(&Process::current()).unwrap();
        assert!(slot.report(b"{\"pid\": 9}"));
        let found = look(own).unwrap();
        assert_eq!((found.pid, &found.document["pid"]), (own, &serde_json::json!(9)));
        assert!(all().iter().any(|found| found.pid == own));
        // A thread's number means its process.
        let (told, hears) = std::sync::mpsc::channel();
        let (end, waits) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let link = std::fs::read_link("/proc/thread-self").unwrap();
            told.send(link.file_name().unwrap().to_str().unwrap().parse().unwrap()).unwrap();
            let _ = waits.recv();
        });
        let number = hears.recv().unwrap();
        assert_ne!(number, own);
        assert_eq!(look(number).unwrap().pid, own);
        drop(end);
        thread.join().unwrap();
        assert_eq!(look(4_194_303).unwrap_err(), Nothing::Gone);
    }
}
