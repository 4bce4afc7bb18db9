//! The decoder against the compiler: the same bytes, read by both.

use super::generator::Random;
use super::random::{self, Buffer};
use super::reader::{Fields, Kind, Reader};
use super::rows::{Expect, Seen};
use super::{Referees, referees};
use crate::event::{Event, NameId};
use crate::source::cupti::decode::{Decoder, MemoryRecords, Outside, Step, Tally};
use crate::source::cupti::drain::stepper;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Records of each kind; at least so many of each that the decoder reads must make events.
const RECORDS_A_KIND: usize = 2_000;
const EVENTS_A_KIND_MIN: u64 = 1_000;

/// Records in one buffer.
const RECORDS_A_BUFFER: usize = 256;

/// Records of each kind whose every byte is changed, and how.
const CHANGED_A_KIND: usize = 48;
const CHANGES: [u8; 4] = [0x01, 0x02, 0x80, 0xff];

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

/// Decodes a buffer. The token of a free is the number of its record in the buffer.
fn decode(
    decoder: &mut Decoder,
    bytes: &[u8],
    mut step: impl FnMut(Option<usize>) -> Step,
    names: &RefCell<HashMap<u64, NameId>>,
) -> Decoded {
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
            *names.entry(address).or_insert(new)
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
            Self::NoTime | Self::Unknown => events.is_empty(),
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
            Self::Unknown => tally.unknown_kinds += 1,
        }
    }
}

/// What was compared.
#[derive(Default)]
struct Compared {
    /// Records that made events, by kind.
    with_events: BTreeMap<&'static str, u64>,
    records: u64,
    fields: usize,
    without_time: u64,
    mismatches: Vec<String>,
}

/// One record as the compiler reads it.
fn seen<'a>(
    reader: &'a Reader,
    fields: &'a Fields,
    memory_records: MemoryRecords,
    names: &'a HashMap<u64, NameId>,
    token: usize,
) -> Seen<'a> {
    let used = RefCell::new(BTreeSet::new());
    Seen { fields, constants: &reader.constants, memory_records, names, token: token as u64, used }
}

impl Compared {
    fn buffer(
        &mut self,
        reader: &Reader,
        kinds: &[&'static str],
        fields: &[(String, Fields)],
        decoded: &Decoded,
        memory_records: MemoryRecords,
        names: &HashMap<u64, NameId>,
    ) {
        assert_eq!(decoded.events.len(), fields.len(), "records stepped to");
        let mut tally = Tally::default();
        for (at, (name, fields)) in fields.iter().enumerate() {
            assert_eq!(name, kinds[at], "the order of records");
            let row = reader.kinds.iter().find(|kind| kind.row.name == name).unwrap().row;
            let seen = seen(reader, fields, memory_records, names, at);
            let wanted = row.expect.map_or(Expect::Unknown, |expect| expect(&seen));
            let events = &decoded.events[at];
            if !wanted.is_met_by(events) {
                self.mismatches.push(format!("{name}: by C {wanted:?}, decoded {events:?}"));
            }
            wanted.count(&mut tally);
            self.records += 1;
            self.fields += seen.used.borrow().len();
            *self.with_events.entry(row.name).or_default() += u64::from(!events.is_empty());
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

#[test]
#[ignore = "run by the referee lane"]
fn fields() {
    let Referees { cupti, reader } = referees();
    let records = shuffled(reader, &mut Random(0x5ee0_0002));
    let bytes: Vec<u8> = records.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    let fields = reader.fields(&bytes);
    assert_eq!(fields.len(), records.len());
    let mut compared = Compared::default();
    for memory_records in MODES {
        let mut decoder = Decoder::new(memory_records);
        let names = RefCell::default();
        for (records, fields) in
            records.chunks(RECORDS_A_BUFFER).zip(fields.chunks(RECORDS_A_BUFFER))
        {
            let kinds: Vec<_> = records.iter().map(|(kind, _)| kind.row.name).collect();
            let (mut buffer, _) = Buffer::of(records.iter().map(|(_, bytes)| bytes.clone()));
            let bytes = buffer.records();
            // SAFETY: the bytes are records, and outlive the stepper.
            let step = unsafe { stepper(cupti, bytes.as_mut_ptr(), bytes.len()) };
            let decoded = decode(&mut decoder, bytes, step, &names);
            compared.buffer(reader, &kinds, fields, &decoded, memory_records, &names.borrow());
        }
    }
    compared.settle();
    for kind in reader.kinds.iter().filter(|kind| kind.row.expect.is_some()) {
        let events = compared.with_events[kind.row.name];
        let wanted = EVENTS_A_KIND_MIN * MODES.len() as u64;
        assert!(events >= wanted, "{}: {events} records with events", kind.row.name);
    }
    let Compared { records, fields, without_time, .. } = compared;
    assert!(without_time > 0);
    println!(
        "referee: {records} records compared, {fields} fields, {without_time} of them without a \
         time, 0 mismatches"
    );
}

/// That the rows are complete: whatever byte of a record changes what the decoder makes of it, it
/// belongs to a field that is compared, and each of those does.
#[test]
#[ignore = "run by the referee lane"]
fn whatever_the_decoder_reads_is_compared() {
    let reader = &referees().reader;
    let mut random = Random(0x5ee0_0003);
    for kind in reader.kinds.iter().filter(|kind| kind.row.expect.is_some()) {
        let (mut compared, mut read) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..CHANGED_A_KIND {
            let record = random::record(kind, &mut random);
            let fields = reader.fields(&record);
            for memory_records in MODES {
                let names = HashMap::new();
                let seen = seen(reader, &fields[0].1, memory_records, &names, 0);
                kind.row.expect.unwrap()(&seen);
                compared.extend(seen.used.borrow().iter().copied());
                read.extend(bytes_read(&record, memory_records));
            }
        }
        let field_of = |at: &usize| {
            let place = kind
                .fields
                .iter()
                .find(|place| (place.offset..place.offset + place.size).contains(at));
            place.map_or_else(|| format!("byte {at}"), |place| place.name.clone())
        };
        let read: BTreeSet<String> = read.iter().map(field_of).collect();
        let compared: BTreeSet<String> = compared.into_iter().map(str::to_owned).collect();
        assert_eq!(read, compared, "{}: what the decoder reads, and the row", kind.row.name);
    }
}

/// The bytes of a record, its kind apart, on which it depends what the decoder makes of it.
fn bytes_read(record: &[u8], memory_records: MemoryRecords) -> Vec<usize> {
    let names = RefCell::default();
    let one = |bytes: &[u8]| {
        let step = |last: Option<usize>| if last.is_none() { Step::Record(0) } else { Step::End };
        decode(&mut Decoder::new(memory_records), bytes, step, &names)
    };
    let before = one(record);
    let matters = |at: &usize| {
        let mut changed = record.to_vec();
        CHANGES.iter().any(|change| {
            changed[*at] = record[*at] ^ change;
            one(&changed) != before
        })
    };
    (4..record.len()).filter(matters).collect()
}
