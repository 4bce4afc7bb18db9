//! A device whose every byte has one owner. The planes are told of it as they would be, and each
//! line must be what its owners hold: computed here from the owners alone, not from the planes.

use super::*;
use proptest::prelude::*;

/// Who holds physical bytes.
#[derive(Clone, Debug)]
enum Owner {
    /// A driver allocation: requested, and what its page adds.
    Driver {
        tag: usize,
        library: u16,
        bytes: u64,
        rounding: u64,
    },
    /// A segment of torch: its blocks (tag, requested, rounding), what awaits a stream, what is
    /// free and goes with the cache, what is free and stays.
    Torch {
        blocks: Vec<(usize, u64, u64)>,
        awaiting: u64,
        free: (u64, u64),
        seen: Seen,
        private: bool,
    },
    /// A pool: handed out by tag, rounded by, and idle.
    Pool {
        tag: usize,
        bytes: u64,
        rounding: u64,
        idle: u64,
    },
    Graph {
        used: u64,
        idle: u64,
    },
    Growth {
        cause: usize,
        bytes: u64,
        error: u64,
    },
    /// Before we attached.
    Opening(u64),
    Other(u64),
    Hidden(u64),
}

/// Whether the driver plane saw a segment being made, and with what tag and by which library.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Yes { tag: usize, library: u16 },
    BeforeAttach,
}

fn owner() -> impl Strategy<Value = Owner> {
    let size = || 0_u64..1 << 32;
    let tag = || 0_usize..Tag::COUNT;
    let seen = prop_oneof![
        3 => (tag(), 0_u16..6).prop_map(|(tag, library)| Seen::Yes { tag, library }),
        1 => Just(Seen::BeforeAttach),
    ];
    let blocks = prop::collection::vec((tag(), size(), 0_u64..512), 0..4);
    prop_oneof![
        4 => (tag(), 0_u16..6, size(), 0_u64..MIB)
            .prop_map(|(tag, library, bytes, rounding)| {
                Owner::Driver { tag, library, bytes, rounding }
            }),
        4 => (blocks, size(), (size(), size()), seen, any::<bool>()).prop_map(
            |(blocks, awaiting, free, seen, private)| Owner::Torch {
                blocks, awaiting, free, seen, private,
            }),
        2 => (tag(), size(), 0_u64..512, size())
            .prop_map(|(tag, bytes, rounding, idle)| Owner::Pool { tag, bytes, rounding, idle }),
        1 => (size(), size()).prop_map(|(used, idle)| Owner::Graph { used, idle }),
        2 => (0_usize..GrowthCause::COUNT, size(), 0_u64..MIB)
            .prop_map(|(cause, bytes, error)| Owner::Growth { cause, bytes, error }),
        1 => size().prop_map(Owner::Opening),
        1 => size().prop_map(Owner::Other),
        1 => size().prop_map(Owner::Hidden),
    ]
}

/// What the planes are told.
fn tell(owners: &[Owner], doubled: &[(usize, u64)]) -> Input {
    let mut input = Input::default();
    let (epoch, plane) = (&mut input.epoch, &mut input.plane);
    let mut framework = Framework::default();
    let (mut used, mut opening, mut others) = (0, 0, 0);
    let add = |sum: &mut Bytes, bytes: u64| *sum = sum.saturating_add(Bytes(bytes));
    for owner in owners {
        let totals = &mut epoch.totals;
        match owner {
            Owner::Driver { tag, library, bytes, rounding } => {
                used += bytes + rounding;
                add(&mut totals.by_tag[*tag].live_bytes, *bytes);
                add(&mut totals.rounding.bytes, *rounding);
                library_holds(totals, *library, *tag, *bytes);
            }
            Owner::Torch { seen, .. } => {
                let bytes = tell_segment(owner, &mut framework);
                used += bytes;
                let mut matched = Matched::default();
                match seen {
                    Seen::Yes { tag, library } => {
                        add(&mut totals.by_tag[*tag].live_bytes, bytes);
                        library_holds(totals, *library, *tag, bytes);
                        matched.by_tag[*tag] = Bytes(bytes);
                        matched.count = 1;
                        matched.library = LibraryId(*library);
                    }
                    Seen::BeforeAttach => opening += bytes,
                }
                epoch.matched.push(matched);
            }
            Owner::Pool { tag, bytes, rounding, idle } => {
                used += bytes + rounding + idle;
                let mut pool = PoolTotals {
                    reserved_bytes: Some(Bytes(bytes + rounding + idle)),
                    used_bytes: Some(Bytes(bytes + rounding)),
                    ..PoolTotals::default()
                };
                pool.by_tag[*tag] = Bytes(*bytes);
                totals.pools.push(pool);
            }
            Owner::Graph { used: in_use, idle } => {
                used += in_use + idle;
                add(totals.graph_used_bytes.get_or_insert_default(), *in_use);
                add(totals.graph_reserved_bytes.get_or_insert_default(), in_use + idle);
            }
            Owner::Growth { cause, bytes, error } => {
                used += bytes;
                let growth: &mut GrowthTotals = &mut totals.growth[*cause];
                growth.bytes += i64::try_from(*bytes).unwrap();
                growth.error_bytes = growth.error_bytes.saturating_add(Bytes(*error));
                growth.count += 1;
            }
            Owner::Opening(bytes) => (used, opening) = (used + bytes, opening + bytes),
            Owner::Other(bytes) => (used, others) = (used + bytes, others + bytes),
            Owner::Hidden(bytes) => used += bytes,
        }
    }
    for (tag, bytes) in doubled {
        add(&mut epoch.totals.by_tag[*tag].live_bytes, *bytes);
    }
    (epoch.total_bytes, epoch.free_bytes) = (Bytes(used + GIB), Bytes(GIB));
    epoch.framework = Some(framework);
    (plane.opening_own_bytes, plane.others_bytes) = (Some(Bytes(opening)), Some(Bytes(others)));
    input
}

/// Adds a segment; returns its bytes.
fn tell_segment(owner: &Owner, framework: &mut Framework) -> u64 {
    let Owner::Torch { blocks, awaiting, free, private, .. } = owner else { return 0 };
    let requested: u64 = blocks.iter().map(|block| block.1).sum();
    let untagged = blocks.iter().filter(|block| block.0 == 0).map(|block| block.1).sum();
    let allocated = requested + blocks.iter().map(|block| block.2).sum::<u64>();
    let bytes = allocated + awaiting + free.0 + free.1;
    for (tag, requested, _) in blocks {
        framework.by_tag[*tag].0 += requested;
    }
    framework.requested_bytes.0 += requested;
    framework.allocated_bytes.0 += allocated;
    framework.active_bytes.0 += allocated + awaiting;
    framework.reserved_bytes.0 += bytes;
    framework.releasable_bytes.0 += free.0;
    framework.spaces.push(crate::framework::Space {
        pool: if *private { (0, 7) } else { (0, 0) },
        requested_bytes: Bytes(requested),
        untagged_bytes: Bytes(untagged),
        ..Default::default()
    });
    framework.segments.push(Segment { bytes: Bytes(bytes), ..Segment::default() });
    bytes
}

fn library_holds(totals: &mut DeviceTotals, library: u16, tag: usize, bytes: u64) {
    let untagged = if tag == 0 { bytes } else { 0 };
    let library = LibraryId(library);
    match totals.libraries.iter_mut().find(|known| known.library == library) {
        Some(known) => known.untagged_bytes.0 += untagged,
        None => totals.libraries.push(LibraryTotals {
            library,
            untagged_bytes: Bytes(untagged),
            ..LibraryTotals::default()
        }),
    }
}

/// What a line must be, from the owners alone.
fn truth(owners: &[Owner], term: TermName) -> u64 {
    let of_tag = |tag: usize| match term {
        TermName::Weights => tag == Tag::Weights as usize,
        TermName::KvCache => tag == Tag::KvCache as usize,
        TermName::Activations => tag == Tag::Activations as usize,
        TermName::Graphs => tag == Tag::Graphs as usize,
        TermName::Withheld => tag == Tag::Withheld as usize,
        TermName::Libraries => tag == Tag::Untagged as usize,
        _ => false,
    };
    let held = |owner: &Owner| match owner {
        Owner::Driver { tag, bytes, .. } if of_tag(*tag) => *bytes,
        Owner::Driver { rounding, .. } if term == TermName::Rounding => *rounding,
        Owner::Torch { blocks, awaiting, free, private, .. } => match term {
            TermName::Rounding => blocks.iter().map(|block| block.2).sum(),
            TermName::AwaitingStream => *awaiting,
            TermName::Cached => free.0 + free.1,
            // What a private pool holds is a graph's, unless it is tagged.
            _ => blocks
                .iter()
                .filter(|(tag, ..)| match term {
                    TermName::Graphs if *private && *tag == 0 => true,
                    TermName::Libraries if *private => false,
                    _ => of_tag(*tag),
                })
                .map(|block| block.1)
                .sum(),
        },
        Owner::Pool { tag, bytes, .. } if of_tag(*tag) => *bytes,
        Owner::Pool { rounding, .. } if term == TermName::Rounding => *rounding,
        Owner::Pool { idle, .. } if term == TermName::Cached => *idle,
        Owner::Graph { used, .. } if term == TermName::Graphs => *used,
        Owner::Graph { idle, .. } if term == TermName::Cached => *idle,
        Owner::Growth { bytes, .. } if term == TermName::Context => *bytes,
        Owner::Opening(bytes) if term == TermName::OpeningBalance => *bytes,
        Owner::Other(bytes) if term == TermName::OtherProcesses => *bytes,
        Owner::Hidden(bytes) if term == TermName::Unaccounted => *bytes,
        _ => 0,
    };
    owners.iter().map(held).sum()
}

const TERMS: [TermName; 12] = [
    TermName::Withheld,
    TermName::Weights,
    TermName::Activations,
    TermName::Graphs,
    TermName::Libraries,
    TermName::Rounding,
    TermName::AwaitingStream,
    TermName::Cached,
    TermName::OpeningBalance,
    TermName::OtherProcesses,
    TermName::KvCache,
    TermName::Context,
];

/// Every line is its owners', and what is hidden is unaccounted for to the byte.
fn check(owners: &[Owner]) {
    let balance = tell(owners, &[]).reconcile();
    for term in TERMS {
        let grown = owners.iter().any(|owner| matches!(owner, Owner::Growth { .. }));
        let expected = (term != TermName::Context || grown).then(|| truth(owners, term) as i64);
        // Without segments there is nothing of torch to tell.
        let told = bytes_of(&balance, term);
        assert_eq!(told, expected, "{term:?}\n{owners:#?}");
    }
    let hidden = truth(owners, TermName::Unaccounted) as i64;
    assert_eq!(balance.unaccounted_bytes(), Some(hidden), "{owners:#?}");
    assert!(!kinds(&balance).contains(&FindingKind::CountedTwice));
    assert!(!kinds(&balance).contains(&FindingKind::PlanesDisagree));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_line_is_what_its_owners_hold(owners in prop::collection::vec(owner(), 0..12)) {
        check(&owners);
    }

    #[test]
    fn what_is_counted_twice_is_negative_to_the_byte(
        owners in prop::collection::vec(owner(), 0..8),
        tag in 0_usize..Tag::COUNT,
        bytes in 1_u64..1 << 34,
    ) {
        let owners: Vec<_> =
            owners.into_iter().filter(|owner| !matches!(owner, Owner::Hidden(_))).collect();
        let balance = tell(&owners, &[(tag, bytes)]).reconcile();
        let bytes = i64::try_from(bytes).unwrap();
        prop_assert_eq!(balance.unaccounted_bytes(), Some(-bytes));
        let line = balance.line(TermName::Unaccounted).unwrap();
        let is_told = kinds(&balance).contains(&FindingKind::CountedTwice);
        prop_assert_eq!(is_told, bytes.unsigned_abs() > line.error_bytes.0);
    }
}

#[test]
fn every_pair_of_owners() {
    let tag = Tag::Weights as usize;
    let torch = |seen, private| Owner::Torch {
        blocks: vec![(if private { 0 } else { tag }, 5, 3), (0, 7, 1)],
        awaiting: 11,
        free: (13, 17),
        seen,
        private,
    };
    let all = [
        Owner::Driver { tag, library: 2, bytes: 101, rounding: 9 },
        Owner::Driver { tag: 0, library: 3, bytes: 103, rounding: 0 },
        torch(Seen::Yes { tag: 0, library: 3 }, false),
        torch(Seen::Yes { tag, library: 3 }, true),
        torch(Seen::BeforeAttach, false),
        Owner::Pool { tag: 0, bytes: 19, rounding: 2, idle: 23 },
        Owner::Pool { tag, bytes: 29, rounding: 0, idle: 0 },
        Owner::Graph { used: 31, idle: 37 },
        Owner::Growth { cause: 0, bytes: 41, error: 0 },
        Owner::Growth { cause: 2, bytes: 43, error: 5 },
        Owner::Opening(47),
        Owner::Other(53),
        Owner::Hidden(59),
    ];
    for (at, one) in all.iter().enumerate() {
        check(std::slice::from_ref(one));
        for other in &all[at..] {
            check(&[one.clone(), other.clone()]);
        }
    }
    check(&all);
}
