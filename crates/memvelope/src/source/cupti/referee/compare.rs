//! The decoder against the compiler: the same bytes, read by both.

use super::events::{Expect, Memory, Seen};
use super::generator::Random;
use super::random::{self, Buffer};
use super::reader::{Fields, Kind, Reader};
use super::rows::UNREADABLE;
use super::{Referees, referees};
use crate::event::{Body, Event, NameId, ScopeId};
use crate::source::cupti::decode::{Decoder, MemoryRecords, Outside, Step, Tally};
use crate::source::cupti::drain::steps;
use crate::units::Nanos;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Records of each kind, and how many of them must be decoded at least: the others have no valid
/// time, cannot be read, or are of no kind.
const RECORDS_A_KIND: usize = 4_000;
const DECODED_A_KIND_MIN: u64 = 1_000;

/// Records in one buffer.
const RECORDS_A_BUFFER: usize = 256;

/// Records of each kind whose every byte is changed, and how.
const CHANGED_A_KIND: usize = 40;
const CHANGES: [u8; 4] = [0x01, 0x02, 0x04, 0xff];

/// Mismatches that are shown.
const SHOWN: usize = 20;

const MODES: [MemoryRecords; 2] = [MemoryRecords::CrossCheck, MemoryRecords::Ledger];

/// What the decoder made of a buffer.
#[derive(Debug, PartialEq)]
struct Decoded {
    /// The events of each record.
    events: Vec<Vec<Event>>,
    tally: Tally,
}

/// Decodes a buffer as the drain thread does: scopes are learned first. The token of a free is the
/// number of its record in the buffer.
fn decode<S: FnMut(Option<usize>) -> Step>(
    decoder: &mut Decoder,
    bytes: &[u8],
    stepper: impl Fn() -> S,
    names: &RefCell<HashMap<u64, NameId>>,
) -> Decoded {
    decoder.correlate(bytes, stepper());
    let mut step = stepper();
    let at = Cell::new(0_u64);
    let mut events: Vec<(u64, Event)> = Vec::new();
    let counted = |last| {
        let next = step(last);
        at.set(at.get() + u64::from(matches!(next, Step::Record(_))));
        next
    };
    let mut outside = Outside {
        name_at: &mut |address| {
            let mut names = names.borrow_mut();
            let new = NameId(u32::try_from(names.len()).unwrap() + 1);
            (address != UNREADABLE).then(|| *names.entry(address).or_insert(new))
        },
        next_token: &|| at.get() - 1,
        on_event: &mut |event| events.push((at.get() - 1, *event)),
    };
    let tally = decoder.decode(bytes, counted, &mut outside);
    let mut of_record = vec![Vec::new(); usize::try_from(at.get()).unwrap()];
    events.into_iter().for_each(|(at, event)| of_record[usize::try_from(at).unwrap()].push(event));
    Decoded { events: of_record, tally }
}

impl Expect {
    /// Whether the decoder did what had to be done.
    fn is_met_by(&self, events: &[Event]) -> bool {
        match self {
            Self::Events(wanted) => wanted == events,
            Self::Timeless(wanted) => wanted.iter().eq(events.iter().map(|event| &event.body)),
            Self::NoTime | Self::Unreadable | Self::Unknown | Self::Unpaired => events.is_empty(),
        }
    }

    fn count(&self, tally: &mut Tally) {
        match self {
            Self::Events(_) => tally.records += 1,
            Self::Timeless(_) => {
                tally.records += 1;
                tally.bad_timestamps += 1;
            }
            Self::NoTime => tally.bad_timestamps += 1,
            Self::Unreadable => tally.bad_records += 1,
            Self::Unknown => tally.unknown_kinds += 1,
            Self::Unpaired => tally.unpaired += 1,
        }
    }
}

/// What was compared.
#[derive(Default)]
struct Compared {
    /// Records that were decoded, by kind.
    decoded: BTreeMap<&'static str, u64>,
    /// Work that found its scope.
    scoped: u64,
    /// Marks, and ranges that found their end.
    spans: u64,
    ranges: u64,
    fields: usize,
    without_time: u64,
    mismatches: Vec<String>,
}

/// One record as the compiler reads it.
fn seen<'a>(
    reader: &'a Reader,
    fields: &'a Fields,
    memory_records: MemoryRecords,
    memory: &'a Memory,
    token: usize,
) -> Seen<'a> {
    let (token, used) = (token as u64, RefCell::default());
    Seen { fields, constants: &reader.constants, memory_records, memory, token, used }
}

/// The scope that an event of work names.
fn scope_of(event: &Event) -> Option<ScopeId> {
    match event.body {
        Body::Kernel(kernel) => Some(kernel.scope),
        Body::Copy(copied) => Some(copied.scope),
        Body::Memset(memset) => Some(memset.scope),
        Body::GraphLaunch(launch) => Some(launch.scope),
        _ => None,
    }
}

impl Compared {
    fn buffer(&mut self, kinds: &[&Kind], records: &[Seen<'_>], decoded: &Decoded) {
        assert_eq!(decoded.events.len(), records.len(), "records stepped to");
        let is_scope = |kind: &Kind| kind.row.name == "EXTERNAL_CORRELATION";
        for (_, seen) in kinds.iter().zip(records).filter(|(kind, _)| is_scope(kind)) {
            seen.learn();
        }
        let mut tally = Tally::default();
        for (at, (kind, seen)) in kinds.iter().zip(records).enumerate() {
            let (wanted, events) = ((kind.row.expect)(seen), &decoded.events[at]);
            if !wanted.is_met_by(events) {
                let name = kind.row.name;
                self.mismatches.push(format!("{name}: by C {wanted:?}, decoded {events:?}"));
            }
            wanted.count(&mut tally);
            let is_decoded = matches!(wanted, Expect::Events(_) | Expect::Timeless(_));
            *self.decoded.entry(kind.row.name).or_default() += u64::from(is_decoded);
            self.fields += seen.used.borrow().len();
            let scopes = events.iter().filter_map(scope_of);
            self.scoped += scopes.filter(|scope| scope.is_some()).count() as u64;
            for event in events {
                if let Body::Span(span) = event.body {
                    self.spans += 1;
                    self.ranges += u64::from(span.start != span.end);
                }
            }
        }
        if tally != decoded.tally {
            self.mismatches.push(format!("by C {tally:?}, decoded {:?}", decoded.tally));
        }
        self.without_time += tally.bad_timestamps;
    }

    fn settle(&self) {
        let shown = &self.mismatches[..self.mismatches.len().min(SHOWN)];
        let count = self.mismatches.len();
        assert!(shown.is_empty(), "{count} mismatches, first:\n{}", shown.join("\n"));
    }
}

/// Records of every kind, in any order.
fn shuffled<'a>(reader: &'a Reader, random: &mut Random) -> Vec<(&'a Kind, Vec<u8>)> {
    let of_kind = |kind| (0..RECORDS_A_KIND).map(move |_| kind);
    let mut kinds: Vec<&Kind> = reader.kinds.iter().flat_map(of_kind).collect();
    for at in (1..kinds.len()).rev() {
        kinds.swap(at, usize::try_from(random.below(at as u64 + 1)).unwrap());
    }
    kinds.into_iter().map(|kind| (kind, random::record(kind, random))).collect()
}

/// Compares what the decoder makes of the records, in one of its modes, with what C reads.
fn compare(
    records: &[(&Kind, Vec<u8>)],
    fields: &[(String, Fields)],
    memory_records: MemoryRecords,
    compared: &mut Compared,
) {
    let Referees { cupti, reader } = referees();
    let mut decoder = Decoder::new(memory_records, Nanos::ZERO);
    let memory = Memory::default();
    for (records, fields) in records.chunks(RECORDS_A_BUFFER).zip(fields.chunks(RECORDS_A_BUFFER)) {
        let kinds: Vec<&Kind> = records.iter().map(|(kind, _)| *kind).collect();
        let names = fields.iter().map(|(name, _)| name.as_str());
        assert!(names.eq(kinds.iter().map(|kind| kind.row.name)), "the order of records");
        let (mut buffer, _) = Buffer::of(records.iter().map(|(_, bytes)| bytes.clone()));
        let bytes = buffer.records();
        let (base, valid) = (bytes.as_mut_ptr(), bytes.len());
        // SAFETY: the bytes are records, and outlive every stepper.
        let stepper = || unsafe { steps(cupti, base, valid) };
        let decoded = decode(&mut decoder, bytes, stepper, &memory.names);
        let fields = fields.iter().enumerate();
        let records: Vec<Seen<'_>> = fields
            .map(|(at, (_, fields))| seen(reader, fields, memory_records, &memory, at))
            .collect();
        compared.buffer(&kinds, &records, &decoded);
    }
}

#[test]
#[ignore = "run by the referee lane"]
fn fields() {
    let reader = &referees().reader;
    let records = shuffled(reader, &mut Random(0x5ee0_0002));
    let bytes: Vec<u8> = records.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    let fields = reader.fields(&bytes);
    assert_eq!(fields.len(), records.len());
    let mut fields_compared = 0;
    for memory_records in MODES {
        let mut compared = Compared::default();
        compare(&records, &fields, memory_records, &mut compared);
        compared.settle();
        for (kind, decoded) in &compared.decoded {
            assert!(*decoded >= DECODED_A_KIND_MIN, "{kind}: {decoded} decoded");
        }
        assert_eq!(compared.decoded.len(), reader.kinds.len());
        let Compared { scoped, spans, ranges, without_time, .. } = compared;
        assert!(scoped >= 1_000 && spans >= 1_000 && ranges >= 100 && without_time >= 1_000);
        println!(
            "{memory_records:?}: {scoped} found their scope, {spans} marks and ranges, \
             {without_time} records have no valid time"
        );
        fields_compared += compared.fields;
    }
    let count = records.len();
    println!("referee: {count} records compared, {fields_compared} fields, 0 mismatches");
}

/// That the rows are complete: whatever byte of a record changes what the decoder makes of it, it
/// belongs to a field that is compared, and each of those does.
#[test]
#[ignore = "run by the referee lane"]
fn whatever_the_decoder_reads_is_compared() {
    let reader = &referees().reader;
    let mut random = Random(0x5ee0_0003);
    for kind in &reader.kinds {
        let (mut compared, mut read) = (BTreeSet::new(), BTreeSet::new());
        let records: Vec<_> =
            (0..CHANGED_A_KIND).map(|_| random::record(kind, &mut random)).collect();
        let all_fields = reader.fields(&records.concat());
        for (record, (_, fields)) in records.iter().zip(&all_fields) {
            let followed = followed(reader, kind, fields);
            for memory_records in MODES {
                let memory = Memory::default();
                let seen = seen(reader, fields, memory_records, &memory, 0);
                if kind.row.name == "EXTERNAL_CORRELATION" {
                    seen.learn();
                }
                (kind.row.expect)(&seen);
                compared.extend(seen.used.borrow().iter().copied());
                read.extend(bytes_read(record, &followed, memory_records));
            }
        }
        // The smallest, where one is a part of another.
        let field_of = |at: &usize| {
            let places = kind.fields.iter();
            let holding =
                places.filter(|place| (place.offset..place.offset + place.size).contains(at));
            let place = holding.min_by_key(|place| place.size);
            place.map_or_else(|| format!("byte {at}"), |place| place.name.clone())
        };
        let read: BTreeSet<String> = read.iter().map(field_of).collect();
        let compared: BTreeSet<String> = compared.into_iter().map(str::to_owned).collect();
        assert_eq!(read, compared, "{}: what the decoder reads, and the row", kind.row.name);
    }
}

/// The record that shows what is remembered of this one; empty where nothing is.
fn followed(reader: &Reader, kind: &Kind, fields: &Fields) -> Vec<u8> {
    let Some(follow) = &kind.row.follow else { return Vec::new() };
    let kind = reader.kinds.iter().find(|kind| kind.row.name == follow.kind).unwrap();
    let mut record = vec![0; kind.size];
    record[..4].copy_from_slice(&kind.number.to_ne_bytes());
    for (name, value) in (follow.fields)(fields) {
        random::put(&mut record, kind.field(name).unwrap(), value);
    }
    record
}

/// The bytes of a record, its kind apart, on which it depends what the decoder makes of it and of
/// the one that follows.
fn bytes_read(record: &[u8], followed: &[u8], memory_records: MemoryRecords) -> Vec<usize> {
    let names = RefCell::default();
    let both = |record: &[u8]| {
        let stepper = || {
            let mut begins =
                [0, record.len()].into_iter().filter(|at| *at == 0 || !followed.is_empty());
            move |_| begins.next().map_or(Step::End, Step::Record)
        };
        let bytes = [record, followed].concat();
        decode(&mut Decoder::new(memory_records, Nanos::ZERO), &bytes, stepper, &names)
    };
    let before = both(record);
    let matters = |at: &usize| {
        let mut changed = record.to_vec();
        CHANGES.iter().any(|change| {
            changed[*at] = record[*at] ^ change;
            both(&changed) != before
        })
    };
    (4..record.len()).filter(matters).collect()
}
