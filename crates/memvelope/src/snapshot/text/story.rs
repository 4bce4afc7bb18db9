//! A server as people see it: the texts as a whole, from planes through balance and answers.

use crate::event::{GrowthCause, LibraryId, Tag};
use crate::framework::{Framework, Segment, Settings, SizeClass, Space};
use crate::ledger::{Findings, GrowthTotals, LibraryTotals, PoolTotals, Rounding};
use crate::snapshot::{
    Balance, DevicePlane, Epoch, Matched, Reconcile, Via, fit_text, reconcile, would_fit,
};
use crate::units::Bytes;

const MIB: u64 = Bytes::MIB;

fn mib(mib: u64) -> Bytes {
    Bytes(mib * MIB)
}

/// A server: weights and KV cache in torch, NCCL beside it, a pool, a co-tenant, 24 MiB hidden.
fn epoch() -> Epoch {
    let mut epoch = Epoch {
        total_bytes: mib(24_000),
        free_bytes: mib(1500),
        others_bytes: Some(mib(1024)),
        ..Epoch::default()
    };
    let totals = &mut epoch.totals;
    totals.by_tag[0].live_bytes = mib(18_600);
    let library = |library, untagged| LibraryTotals {
        library: LibraryId(library),
        untagged_bytes: mib(untagged),
        ..LibraryTotals::default()
    };
    totals.libraries = vec![library(3, 18_000), library(4, 540), library(2, 60)];
    totals.rounding = Rounding { bytes: mib(6), error_bytes: mib(2) };
    let growth =
        |mib: u64| GrowthTotals { bytes: (mib * MIB) as i64, count: 1, ..Default::default() };
    totals.growth[GrowthCause::Context as usize] = growth(420);
    totals.growth[GrowthCause::LazyModule as usize] =
        GrowthTotals { error_bytes: mib(4), ..growth(82) };
    totals.pools = vec![PoolTotals {
        reserved_bytes: Some(mib(64)),
        used_bytes: Some(mib(32)),
        by_tag: {
            let mut by_tag = [Bytes::ZERO; Tag::COUNT];
            by_tag[0] = mib(32);
            by_tag
        },
        ..PoolTotals::default()
    }];
    let mut framework = Framework {
        requested_bytes: mib(14_900),
        allocated_bytes: mib(15_000),
        active_bytes: mib(15_200),
        reserved_bytes: mib(18_000),
        releasable_bytes: mib(600),
        segments: vec![Segment { bytes: mib(18_000), ..Segment::default() }],
        settings: Settings { expandable_segments: Some(false), ..Settings::default() },
        spaces: vec![
            Space {
                class: SizeClass::Large,
                reserved_bytes: mib(17_000),
                active_bytes: mib(14_800),
                largest_free_bytes: mib(512),
                releasable_bytes: mib(100),
                free_blocks: 40,
                ..Space::default()
            },
            Space {
                stream: 0x7f00_1200,
                class: SizeClass::Large,
                reserved_bytes: mib(1000),
                active_bytes: mib(400),
                largest_free_bytes: mib(500),
                releasable_bytes: mib(500),
                free_blocks: 3,
                ..Space::default()
            },
        ],
        ..Framework::default()
    };
    framework.by_tag[Tag::Weights as usize] = mib(8_192);
    framework.by_tag[Tag::KvCache as usize] = mib(6_144);
    let mut matched = Matched { count: 900, library: LibraryId(3), ..Matched::default() };
    matched.by_tag[0] = mib(18_000);
    (epoch.framework, epoch.matched) = (Some(framework), vec![matched]);
    let used = 18_600 + 6 + 420 + 82 + 64 + 1024 + 24;
    epoch.free_bytes = mib(24_000 - used);
    epoch
}

fn balance(epoch: &Epoch, untracked_frees: u64) -> Balance {
    let plane = DevicePlane {
        opening_own_bytes: Some(Bytes::ZERO),
        others_bytes: epoch.others_bytes,
        recorder_bytes: Some(mib(9)),
        recorder_bytes_max: Some(mib(800)),
        ..DevicePlane::default()
    };
    reconcile(&Reconcile {
        epoch,
        plane: &plane,
        findings: &Findings { untracked_frees, ..Findings::default() },
        called_allocations: None,
        allocations_unseen: false,
        library_name: &|id| ["", "", "(program)", "libtorch", "libnccl"][usize::from(id.0)].into(),
        earlier: &[],
        fragmentation: None,
    })
}

fn check(text: &str, expected: &str) {
    let expected = expected.trim_end_matches('\n');
    assert!(text.trim_end() == expected, "is:\n{text}\nexpected:\n{expected}\n");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

#[test]
fn a_balance() {
    check(&balance(&epoch(), 3).text(100), include_str!("balance.txt"));
}

#[test]
fn answers() {
    let ask = |bytes, via| fit_text(&would_fit(&epoch(), mib(bytes), via, mib(2)), 100);
    let all = [
        ask(512, Via::Framework),
        ask(3000, Via::Framework),
        ask(4300, Via::Framework),
        ask(5000, Via::Framework),
        ask(6000, Via::Driver),
        ask(6000, Via::Pool(7)),
    ];
    check(&all.join("\n"), include_str!("answers.txt"));
}
