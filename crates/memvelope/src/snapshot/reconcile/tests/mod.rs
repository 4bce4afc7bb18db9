//! Reconciliation against worlds whose truth is known, hostile numbers, and cases by hand.

mod cases;
mod hostile;
mod world;

use super::*;
use crate::event::{AllocKind, GrowthCause, Tag};
use crate::framework::{Framework, Segment};
use crate::ledger::{DeviceTotals, GrowthTotals, LibraryTotals, PoolTotals};
use crate::snapshot::Matched;
use crate::snapshot::{FindingKind, Line};

const MIB: u64 = Bytes::MIB;
const GIB: u64 = Bytes::GIB;

/// Everything that a balance is made of, to be changed by a test.
#[derive(Clone, Debug, Default)]
struct Input {
    epoch: Epoch,
    plane: DevicePlane,
    findings: Findings,
    called_allocations: Option<u64>,
    allocations_unseen: bool,
    earlier: Vec<(Nanos, i64)>,
    fragmentation: Option<Fragmentation>,
}

impl Input {
    fn reconcile(&self) -> Balance {
        let balance = reconcile(&Reconcile {
            epoch: &self.epoch,
            plane: &self.plane,
            findings: &self.findings,
            called_allocations: self.called_allocations,
            allocations_unseen: self.allocations_unseen,
            library_name: &|library| format!("lib{}", library.0),
            earlier: &self.earlier,
            fragmentation: self.fragmentation.as_ref(),
        });
        assert_sound(&balance);
        balance
    }
}

/// What holds of every balance.
fn assert_sound(balance: &Balance) {
    let sum: i128 = balance.lines.iter().map(|line| i128::from(line.bytes)).sum();
    assert_eq!(sum, i128::from(balance.used_bytes.0), "the lines add up: {balance:#?}");
    let places: Vec<_> = balance
        .lines
        .iter()
        .map(|line| TermName::ALL.iter().position(|term| *term == line.term).unwrap())
        .collect();
    assert!(places.is_sorted_by(|a, b| a < b), "each term once, in order: {places:?}");
    for line in &balance.lines {
        let parts: i128 = line.parts.iter().map(|part| i128::from(part.bytes)).sum();
        assert!(line.parts.is_empty() || parts == i128::from(line.bytes), "{line:#?}");
        assert!(!line.note.is_empty() && line.note.len() < 500, "{line:#?}");
        let may_be_negative = [TermName::Unaccounted, TermName::Context];
        assert!(line.bytes >= 0 || may_be_negative.contains(&line.term), "{line:#?}");
    }
    for finding in &balance.findings {
        assert!(!finding.text.is_empty() && !finding.action.is_empty());
    }
}

fn bytes_of(balance: &Balance, term: TermName) -> Option<i64> {
    balance.line(term).map(|line: &Line| line.bytes)
}

fn kinds(balance: &Balance) -> Vec<FindingKind> {
    balance.findings.iter().map(|finding| finding.kind).collect()
}
