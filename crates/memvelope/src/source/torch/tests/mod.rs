//! The builder against a naive model, on snapshots of an allocator that plays PyTorch's (built from
//! the documented format, not recorded) and on snapshots that do not hold together.

mod allocator;
mod hostile;
mod tags;

use super::*;
use crate::error::Result;
use crate::event::DeviceIndex;
use crate::framework::{Framework, Settings};
use crate::units::Bytes;
use allocator::{Allocator, Told};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn read(told: &[Told]) -> Result<Framework> {
    let mut builder = Builder::new(DeviceIndex(1));
    feed(&mut builder, told)?;
    builder.finish().map(|reading| reading.framework)
}

fn feed(builder: &mut Builder<'_>, told: &[Told]) -> Result<()> {
    for (head, blocks) in told {
        builder.segment(*head)?;
        for block in blocks {
            builder.block(block)?;
        }
    }
    Ok(())
}

/// What is to be compared of a space: reserved, active, requested, largest free, releasable, free
/// blocks.
type Row = [u64; 6];
type Key = ((u64, u64), u64, SizeClass, bool);

/// The same sums in the plainest way: every byte range is looked at by itself.
fn naive(told: &[Told]) -> (Row, BTreeMap<Key, Row>) {
    let (mut all, mut spaces) = (Row::default(), BTreeMap::new());
    for (head, blocks) in told {
        let row: &mut Row =
            spaces.entry((head.pool, head.stream, head.class, head.is_expandable)).or_default();
        let mut add = |at: usize, bytes: u64| {
            row[at] += bytes;
            all[at] += bytes;
        };
        add(0, head.bytes);
        for block in blocks {
            match block.state {
                BlockState::Inactive => add(5, 1),
                BlockState::AwaitingFree => add(1, block.bytes),
                BlockState::Allocated => {
                    add(1, block.bytes);
                    add(2, block.requested_bytes.unwrap_or(block.bytes));
                }
            }
        }
        add(4, naive_releasable(head, blocks));
        let free = blocks.iter().filter(|block| block.state == BlockState::Inactive);
        row[3] = row[3].max(free.map(|block| block.bytes).max().unwrap_or(0));
        all[3] = all[3].max(row[3]);
    }
    (all, spaces)
}

/// Page by page: a page is given back if nothing in it is used.
fn naive_releasable(head: &SegmentHead, blocks: &[Block]) -> u64 {
    let page = match (head.is_expandable, head.class) {
        (false, _) => head.bytes,
        (true, SizeClass::Small) => 2 << 20,
        (true, SizeClass::Large) => 20 << 20,
    };
    if head.pool != (0, 0) {
        return 0;
    }
    let pages = (0..head.bytes / page).map(|index| (index * page, (index + 1) * page));
    let is_free = |(start, end): &(u64, u64)| {
        let mut at = 0;
        blocks.iter().all(|block| {
            let (from, to) = (at, at + block.bytes);
            at = to;
            block.state == BlockState::Inactive || to <= *start || from >= *end
        })
    };
    pages.filter(is_free).count() as u64 * page
}

fn check(told: &[Told]) {
    let framework = read(told).expect("it holds together");
    let (all, spaces) = naive(told);
    let row = |space: &crate::framework::Space| {
        [
            space.reserved_bytes.0,
            space.active_bytes.0,
            space.requested_bytes.0,
            space.largest_free_bytes.0,
            space.releasable_bytes.0,
            space.free_blocks,
        ]
    };
    let found: BTreeMap<_, _> = framework
        .spaces
        .iter()
        .map(|it| ((it.pool, it.stream, it.class, it.is_expandable), row(it)))
        .collect();
    assert_eq!(found, spaces);
    let [reserved, active, requested, _, releasable, _] = all;
    assert_eq!(framework.reserved_bytes.0, reserved);
    assert_eq!(framework.active_bytes.0, active);
    assert_eq!(framework.requested_bytes.0, requested);
    assert_eq!(framework.releasable_bytes.0, releasable);
    assert_eq!(framework.by_tag.iter().map(|bytes| bytes.0).sum::<u64>(), requested);
    let order = [requested, framework.allocated_bytes.0, active, reserved];
    assert!(order.is_sorted(), "{order:?}");
    assert!(releasable <= framework.cached_bytes().0);
    assert_eq!(framework.segments.len(), told.len());
    assert!(framework.segments.is_sorted_by_key(|segment| segment.address));
    assert_eq!(framework.blocks, told.iter().map(|(_, blocks)| blocks.len() as u64).sum::<u64>());
    let in_use = told.iter().flat_map(|(_, blocks)| blocks);
    let in_use = in_use.filter(|block| block.state == BlockState::Allocated);
    assert_eq!(framework.requests.total(), in_use.count() as u64);
}

/// One step of a program.
#[derive(Clone, Debug)]
enum Step {
    Allocate { asked: u64, pool: usize, stream: u64 },
    Free { which: usize, waits: bool },
    Toggle,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![1..4096_u64, 1..(1_u64 << 20), 1..(64_u64 << 20)];
    let allocate = (size, 0..3_usize, 0..2_u64).prop_map(|(asked, pool, stream)| Step::Allocate {
        asked,
        pool,
        stream,
    });
    let free =
        (any::<usize>(), any::<bool>()).prop_map(|(which, waits)| Step::Free { which, waits });
    prop::collection::vec(prop_oneof![4 => allocate, 3 => free, 1 => Just(Step::Toggle)], 0..80)
}

fn played(steps: &[Step]) -> Allocator {
    let mut allocator = Allocator::default();
    let mut live = Vec::new();
    for step in steps {
        match *step {
            Step::Allocate { asked, pool, stream } => {
                let pool = [(0, 0), (3, 0), (0, 2)][pool];
                live.push(allocator.allocate(asked, pool, stream));
            }
            Step::Free { which, waits } if !live.is_empty() => {
                allocator.free(live.swap_remove(which % live.len()), waits);
            }
            Step::Free { .. } => {}
            Step::Toggle => allocator.is_expandable = !allocator.is_expandable,
        }
    }
    allocator
}

proptest! {
    #[test]
    fn sums_are_those_of_the_naive_model(steps in steps()) {
        check(&played(&steps).snapshot());
    }

    #[test]
    fn segments_may_come_in_any_order(steps in steps(), seed in any::<u64>()) {
        let mut told = played(&steps).snapshot();
        let by_address = read(&told).expect("it holds together");
        told.sort_by_key(|(head, _)| (head.address ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        prop_assert_eq!(read(&told).expect("still"), by_address);
    }

    /// Whatever is changed in a snapshot: an error, or numbers that add up. Never a panic.
    #[test]
    fn what_is_changed_is_noticed_or_harmless(
        steps in steps(),
        at in any::<(usize, usize)>(),
        field in 0..6_u8,
        value in any::<u64>(),
    ) {
        let mut told = played(&steps).snapshot();
        prop_assume!(!told.is_empty());
        let segment = at.0 % told.len();
        let (head, blocks) = &mut told[segment];
        let block_at = at.1 % blocks.len();
        let block = &mut blocks[block_at];
        match field {
            0 => head.address = value,
            1 => head.bytes = value,
            2 => block.bytes = value,
            3 => block.requested_bytes = Some(value),
            4 => block.address = Some(value),
            _ => head.active_bytes = Some(value),
        }
        if let Ok(framework) = read(&told) {
            let order = [
                framework.requested_bytes,
                framework.allocated_bytes,
                framework.active_bytes,
                framework.reserved_bytes,
            ];
            prop_assert!(order.is_sorted());
            prop_assert_eq!(framework.by_tag.iter().map(|it| it.0).sum::<u64>(), order[0].0);
        }
    }
}

const MIB: u64 = 1 << 20;

/// Sizes and states of one segment, and what is to be given back of it.
#[test]
fn what_is_releasable() {
    use BlockState::{Allocated, AwaitingFree, Inactive};
    type Case = (bool, SizeClass, (u64, u64), &'static [(u64, BlockState)], u64);
    let cases: &[Case] = &[
        (false, SizeClass::Large, (0, 0), &[(20, Inactive)], 20),
        (false, SizeClass::Large, (0, 0), &[(12, Inactive), (8, Allocated)], 0),
        (false, SizeClass::Large, (0, 0), &[(12, Inactive), (8, AwaitingFree)], 0),
        (false, SizeClass::Large, (4, 0), &[(20, Inactive)], 0),
        (true, SizeClass::Large, (0, 0), &[(60, Inactive)], 60),
        (true, SizeClass::Large, (0, 0), &[(5, Allocated), (55, Inactive)], 40),
        (true, SizeClass::Large, (0, 0), &[(55, Inactive), (5, Allocated)], 40),
        (true, SizeClass::Large, (0, 0), &[(21, Allocated), (37, Inactive), (2, Allocated)], 0),
        (true, SizeClass::Large, (0, 0), &[(20, Inactive), (20, AwaitingFree), (20, Inactive)], 40),
        (true, SizeClass::Small, (0, 0), &[(1, Allocated), (5, Inactive)], 4),
        (true, SizeClass::Large, (0, 7), &[(60, Inactive)], 0),
    ];
    for (is_expandable, class, pool, parts, releasable) in cases.iter().copied() {
        let bytes = parts.iter().map(|(mib, _)| mib * MIB).sum();
        let address = 1 << 40;
        let head = SegmentHead { address, bytes, class, pool, is_expandable, ..Default::default() };
        let block = |&(mib, state): &(u64, BlockState)| Block {
            address: None,
            bytes: mib * MIB,
            requested_bytes: Some(mib * MIB),
            state,
        };
        let told = [(head, parts.iter().map(block).collect())];
        let framework = read(&told).expect("it holds together");
        assert_eq!(framework.releasable_bytes.0, releasable * MIB, "{parts:?}");
        let [space] = framework.spaces.as_slice() else { panic!("one space") };
        assert_eq!(space.stranded_bytes().0, space.cached_bytes().0 - releasable * MIB);
    }
}

/// Three blocks of an expandable segment, in MiB; what is free at its end, what comes back once
/// nothing awaits a stream, and free blocks below and from 32 MiB on.
#[test]
fn what_only_the_prediction_needs() {
    use BlockState::{Allocated, AwaitingFree, Inactive};
    let settings = Settings { max_split_size: Some(Bytes(32 * MIB)), ..Settings::default() };
    let read = |parts: &[(u64, BlockState)], copies: u64| {
        let mut builder = Builder::new(DeviceIndex(0));
        builder.settings(settings);
        for copy in 0..copies {
            let bytes = parts.iter().map(|(mib, _)| mib * MIB).sum();
            let (address, class) = ((copy + 1) << 40, SizeClass::Large);
            let is_expandable = true;
            let head = SegmentHead { address, bytes, class, is_expandable, ..Default::default() };
            builder.segment(head).expect("it begins");
            for (mib, state) in parts {
                let (bytes, requested_bytes) = (mib * MIB, Some(MIB));
                let block = Block { address: None, bytes, requested_bytes, state: *state };
                builder.block(&block).expect("it fits");
            }
        }
        builder.finish().expect("it adds up").framework
    };
    let parts = [(20, AwaitingFree), (40, Inactive), (2, Allocated), (18, Inactive)];
    let framework = read(&parts, 1);
    let space = &framework.spaces[0];
    assert_eq!(framework.releasable_bytes.0, 40 * MIB);
    assert_eq!(framework.awaiting_releasable_bytes.0, 20 * MIB);
    assert_eq!(space.tail_free_bytes.0, 18 * MIB);
    assert_eq!(space.largest_splittable_free_bytes.0, 18 * MIB);
    assert_eq!(space.unsplittable_free, [Bytes(40 * MIB)]);
    // Two ranges: growth may begin between them.
    let two = read(&parts, 2);
    assert_eq!(two.spaces[0].tail_free_bytes, Bytes::ZERO);
    assert_eq!(two.spaces[0].unsplittable_free, [Bytes(40 * MIB); 2]);
    // No more than the smallest ones.
    let most = read(&[(33, Inactive), (1, Allocated), (64, Inactive)], 300);
    assert_eq!(most.spaces[0].unsplittable_free, [Bytes(33 * MIB); 256]);
}

#[test]
fn more_segments_than_are_listed_still_add_up() {
    let count = Framework::SEGMENTS_MAX as u64 + 10;
    let mut builder = Builder::new(DeviceIndex(0));
    let (bytes, requested_bytes) = (2 * MIB, Some(MIB));
    let block = Block { address: None, bytes, requested_bytes, state: BlockState::Allocated };
    for index in 0..count {
        let address = (1 << 40) + index * bytes;
        builder.segment(SegmentHead { address, bytes, ..Default::default() }).expect("in order");
        builder.block(&block).expect("it fits");
    }
    let framework = builder.finish().expect("it adds up").framework;
    assert!(framework.segments.is_empty());
    assert_eq!(framework.reserved_bytes.0, count * bytes);
    assert_eq!(framework.requested_bytes.0, count * MIB);
    assert!(
        framework.notes.iter().any(|note| note.contains("not listed")),
        "{:?}",
        framework.notes
    );
}

#[test]
fn statistics_of_another_moment_are_said_to_be() {
    let mut allocator = Allocator::default();
    allocator.allocate(3 * MIB, (0, 0), 0);
    for (reserved, notes) in [(20 * MIB, 0), (22 * MIB, 1)] {
        let mut builder = Builder::new(DeviceIndex(0));
        builder.stats(Stats { turnover: 7, reserved_bytes: Some(reserved), ..Stats::default() });
        feed(&mut builder, &allocator.snapshot()).expect("it holds together");
        let framework = builder.finish().expect("it adds up").framework;
        assert_eq!((framework.turnover, framework.notes.len()), (7, notes));
    }
}
