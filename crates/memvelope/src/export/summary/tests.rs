//! The file as both sides see it, also when one of them dies or is of another version.

use super::*;
use std::sync::atomic::AtomicBool;

fn own() -> Process {
    Process::current()
}

fn made() -> (tempfile::TempDir, std::path::PathBuf, Summary) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("summary");
    let summary = Summary::create(&path, 77).unwrap();
    (place, path, summary)
}

#[test]
fn what_one_side_tells_the_other_reads() {
    let (_place, path, parent) = made();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), FILE_BYTES as u64);
    let child = Summary::open(&path).unwrap();
    assert_eq!((child.trace_bytes_max(), child.is_closed()), (77, false));
    let slot = child.claim(&own()).unwrap();
    let seen: Vec<_> = parent.taken().collect();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].process(), seen[0].sequence(), seen[0].read()), (own(), 1, None));
    assert!(seen[0].is_in_our_namespace() && seen[0].parent_pid() > 0);
    assert!(!seen[0].command().is_empty());
    for text in ["{}", "", "a report that is longer than the one before it"] {
        assert!(slot.report(text.as_bytes()));
        assert_eq!(seen[0].read().unwrap(), text.as_bytes());
    }
    let vitals = Vitals {
        is_recording: true,
        live_bytes: vec![(0, 5), (63, u64::MAX)],
        kernels: 9,
        ..Vitals::default()
    };
    slot.tell(&vitals);
    assert_eq!(seen[0].vitals(), vitals);
    assert!(slot.report(&vec![b'x'; Slot::REPORT_BYTES_MAX]));
    assert!(!slot.report(&vec![b'x'; Slot::REPORT_BYTES_MAX + 1]));
    assert_eq!(seen[0].read().unwrap().len(), Slot::REPORT_BYTES_MAX);
    parent.close();
    assert!(child.is_closed());
}

#[test]
fn slots_are_given_free_and_those_without_one_are_counted() {
    let (_place, _path, summary) = made();
    let slots: Vec<_> = (0..SLOTS).map(|_| summary.claim(&own()).unwrap()).collect();
    assert!(summary.claim(&own()).is_none() && summary.claim(&own()).is_none());
    assert_eq!((summary.turned_away(), summary.taken().count()), (2, SLOTS));
    let first = slots[0].clone();
    first.tell(&Vitals { kernels: 3, ..Vitals::default() });
    assert!(first.is_ours() && first.report(b"old"));
    slots[0].clone().release();
    assert!(!first.is_ours());
    let next = summary.claim(&own()).unwrap();
    assert_eq!((next.read(), next.vitals()), (None, Vitals::default()));
    assert!(!first.is_ours() && next.is_ours());
    // One that was turned away and comes again takes what has become free meanwhile.
    assert!(summary.claim_again(&own()).is_none());
    next.release();
    let late = summary.claim_again(&own()).unwrap();
    assert_eq!((late.sequence(), summary.turned_away()), (SLOTS as u64 + 2, 1));
}

/// A writer that never pauses and a reader that never waits: no mixture of two reports is read.
#[test]
fn a_torn_half_is_never_read() {
    let (_place, path, parent) = made();
    let slot = Summary::open(&path).unwrap().claim(&own()).unwrap();
    let is_over = AtomicBool::new(false);
    let read = std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..4000usize {
                let text = vec![b'a' + (round % 26) as u8; 1 + round * 29 % 60_000];
                assert!(slot.report(&text));
            }
            is_over.store(true, Ordering::Release);
        });
        let seen = parent.taken().next().unwrap();
        let mut read = 0;
        while !is_over.load(Ordering::Acquire) {
            if let Some(text) = seen.read() {
                assert!(text.iter().all(|byte| *byte == text[0]));
                read += 1;
            }
        }
        read
    });
    assert!(read > 0);
}

/// Killed in the middle of an update: the half before it stands.
#[test]
fn an_update_that_was_cut_short_leaves_the_one_before() {
    let (_place, path, parent) = made();
    let slot = Summary::open(&path).unwrap().claim(&own()).unwrap();
    assert!(slot.report(b"first") && slot.report(b"second"));
    let words = parent.slot(0);
    // Everything that an update of the other half would write, but for the last word.
    for word in &words[512 + 16_128 / 2..] {
        word.store(0x5858_5858_5858_5858, Ordering::Relaxed);
    }
    let seen = parent.taken().next().unwrap();
    assert_eq!(seen.read().unwrap(), b"second");
    // The half itself spoilt: nothing rather than something wrong.
    for word in &words[512..] {
        word.store(0x5858_5858_5858_5858, Ordering::Relaxed);
    }
    assert_eq!(seen.read(), None);
}

#[test]
fn another_version_is_said_and_not_misread() {
    let (place, path, summary) = made();
    summary.words[header::VERSION].store(2, Ordering::Relaxed);
    let text = format!("{:?}", Summary::open(&path).unwrap_err());
    assert!(text.contains("layout version is 2, expected 1"), "{text}");
    let short = place.path().join("short");
    std::fs::write(&short, [0; 100]).unwrap();
    let text = format!("{:?}", Summary::open(&short).unwrap_err());
    assert!(text.contains("it has 100 bytes"), "{text}");
    assert!(Summary::open(&place.path().join("none")).is_err());
    assert!(Summary::create(&path, 0).is_err(), "somebody else's file is not taken over");
    assert!(path.exists());
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let path = std::path::Path::new("/nonexistent/summary");
    assert!(matches!(Summary::create(path, 0), Err(Error::WriteFile { .. })));
}

/// A session's own file is found by its descriptor, is of one slot, and is read as a copy.
#[test]
fn a_published_file_is_found_and_copied() {
    let published = Published::create().unwrap();
    let slot = published.summary().claim(&own()).unwrap();
    assert!(published.summary().claim(&own()).is_none(), "it has one slot");
    assert!(slot.report(b"{}") && published.is_findable());
    let name = format!("/memfd:{PUBLISHED_NAME}");
    let found = || {
        std::fs::read_dir("/proc/self/fd").unwrap().flatten().map(|e| e.path()).filter(|path| {
            let to = std::fs::read_link(path).unwrap_or_default();
            to.to_string_lossy().starts_with(&name)
        })
    };
    let read = |path: std::path::PathBuf| {
        let file = std::fs::File::open(path).unwrap();
        assert!(file.set_len(0).is_err(), "its size is sealed");
        Summary::copied(&file).unwrap()
    };
    // Other tests of this process may have theirs.
    let seen: Vec<_> = found().map(read).filter(|s| s.turned_away() == 1).collect();
    assert_eq!(seen.len(), 1);
    let taken = seen[0].taken().next().unwrap();
    assert_eq!((taken.process(), taken.read().unwrap()), (own(), b"{}".to_vec()));
    assert!(slot.report(b"{\"later\":1}"));
    assert_eq!(taken.read().unwrap(), b"{}", "a copy stays as it is");
    let (_place, path, parent) = made();
    let child = Summary::open(&path).unwrap().claim(&own()).unwrap();
    assert!(child.report(b"7"));
    let copy = Summary::copied(&std::fs::File::open(&path).unwrap()).unwrap();
    assert_eq!(copy.taken().next().unwrap().read(), parent.taken().next().unwrap().read());
    std::fs::write(&path, [0; 5000]).unwrap();
    let error = Summary::copied(&std::fs::File::open(&path).unwrap()).unwrap_err().to_string();
    assert!(error.contains("it has 5000 bytes"), "{error}");
}
