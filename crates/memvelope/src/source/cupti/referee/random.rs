//! Random records, with a leaning to extremes, and buffers of them.

use super::generator::Random;
use super::reader::{Kind, Place};

/// Zeroes behind the records of every buffer.
const TAIL_BYTES: usize = 4096 + 64;

/// One of 2^64 numbers.
fn word(random: &mut Random) -> u64 {
    // The generator's range ends below u64::MAX; two draws reach every value.
    random.below(1 << 32) << 32 | random.below(1 << 32)
}

/// Any kind, each as often.
pub(super) fn any<'a>(kinds: &'a [Kind], random: &mut Random) -> &'a Kind {
    &kinds[usize::try_from(random.below(kinds.len() as u64)).unwrap()]
}

/// Writes a field of a record.
pub(super) fn put(record: &mut [u8], place: &Place, value: u64) {
    record[place.offset..][..place.size].copy_from_slice(&value.to_ne_bytes()[..place.size]);
}

/// One of several, or anything.
fn one_of(values: &[u64], random: &mut Random) -> u64 {
    let at = random.below(values.len() as u64 + 1);
    values.get(usize::try_from(at).unwrap()).copied().unwrap_or_else(|| word(random))
}

/// Where values of a field tend to go wrong: at the ends, and where a sign would be.
fn extreme(place: &Place, random: &mut Random) -> u64 {
    let sign = 1 << (8 * place.size - 1);
    one_of(&[0, 1, 2, u64::MAX, u64::MAX - 1, sign, sign - 1, sign + 1], random)
}

/// A record of a kind. Seven in eight have times that CUPTI could have written.
pub(super) fn record(kind: &Kind, random: &mut Random) -> Vec<u8> {
    let mut record = match random.below(4) {
        0 => vec![0xff; kind.size],
        1 => vec![0; kind.size],
        _ => (0..kind.size).map(|_| word(random).to_ne_bytes()[0]).collect(),
    };
    for place in kind.numbers() {
        if random.below(2) == 0 {
            put(&mut record, place, extreme(place, random));
        }
    }
    for (name, values) in kind.row.draw {
        if random.below(8) != 0 {
            put(&mut record, kind.field(name).unwrap(), one_of(values, random));
        }
    }
    if random.below(8) != 0 {
        if let (Some(start), Some(end)) = (kind.field("start"), kind.field("end")) {
            let begin = one_of(&[1, 1 << 63, u64::MAX], random).max(1);
            let length = one_of(&[0, 1, 1 << 32], random);
            put(&mut record, start, begin);
            put(&mut record, end, begin.saturating_add(length));
        } else if let Some(stamp) = kind.field("timestamp") {
            put(&mut record, stamp, one_of(&[1, 1 << 63, u64::MAX], random).max(1));
        }
    }
    record[..4].copy_from_slice(&kind.number.to_ne_bytes());
    record
}

/// Where a record stands in a buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) offset: usize,
    pub(super) size: usize,
}

/// A buffer as CUPTI fills it: aligned to 8, one record behind the other.
pub(super) struct Buffer {
    storage: Vec<u8>,
    begin: usize,
    records_bytes: usize,
}

impl Buffer {
    pub(super) fn of(records: impl Iterator<Item = Vec<u8>>) -> (Self, Vec<Placed>) {
        let (mut all, mut placed) = (Vec::new(), Vec::new());
        for record in records {
            placed.push(Placed { offset: all.len(), size: record.len() });
            all.extend(record);
        }
        let records_bytes = all.len();
        let mut storage = vec![0; records_bytes + TAIL_BYTES];
        let begin = storage.as_ptr().align_offset(8);
        storage[begin..][..records_bytes].copy_from_slice(&all);
        (Self { storage, begin, records_bytes }, placed)
    }

    /// The first `length` bytes; behind the records there are zeroes.
    pub(super) fn bytes(&mut self, length: usize) -> &mut [u8] {
        &mut self.storage[self.begin..][..length]
    }

    /// All records.
    pub(super) fn records(&mut self) -> &mut [u8] {
        self.bytes(self.records_bytes)
    }
}
