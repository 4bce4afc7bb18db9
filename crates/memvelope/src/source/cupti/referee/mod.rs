//! The referees: a real libcupti, and a C compiler with that libcupti's own headers.
//!
//! `cargo xtask lane referee` runs these tests once for each of five CUPTI versions, each time in a
//! process of its own: two copies of libcupti never share one, and a crash is that version's alone.
//! A driver is not needed. `cuptiGetVersion` and `cuptiActivityGetNextRecord`, the only functions
//! that are called here, work in 12.0, 12.4, 12.9, 13.0 and 13.1 without libcuda even being looked
//! for, which is tested below; 13.2 recurses in either until the stack ends, and later versions
//! answer 999, so there the layouts rest on the tables of `cupti-sys` alone.
//!
//! Kinds are the rows of [`rows::ROWS`]. Not among them is JIT (52), which we do not ask for: there
//! the library steps 72 bytes from 12.4 on, whatever struct the headers' comments name.

#![expect(unsafe_code, reason = "a real libcupti is asked")]

mod compare;
mod events;
mod random;
mod reader;
mod rows;

#[expect(clippy::duplicate_mod, reason = "tests of another module, which we may not import")]
#[path = "../../../../../../benches/random.rs"]
mod generator;

use super::decode::Step;
use super::drain::steps;
use cupti_sys::{Cupti, result};
use generator::Random;
use random::{Buffer, Placed};
use reader::Reader;
use std::ffi::c_void;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Buffers stepped through in [`strides`], each to its end and in the ways of [`Cut`].
const BUFFERS: usize = 600;

/// One version's library and headers.
struct Referees {
    cupti: Cupti,
    reader: Reader,
}

/// The library that `REFEREE_LIBRARY` names, and the headers in `REFEREE_INCLUDE`.
fn referees() -> &'static Referees {
    static REFEREES: OnceLock<Referees> = OnceLock::new();
    REFEREES.get_or_init(|| {
        let hint = "run by `cargo xtask lane referee`, which names a libcupti and its headers";
        let library = std::env::var_os("REFEREE_LIBRARY").expect(hint);
        let include = std::env::var_os("REFEREE_INCLUDE").expect(hint);
        let include: Vec<PathBuf> = std::env::split_paths(&include).collect();
        // SAFETY: a libcupti has no constructor that needs a driver.
        let library = unsafe { libloading::Library::new(&library) }
            .unwrap_or_else(|error| panic!("{}: {error}", PathBuf::from(&library).display()));
        // Never closed: that crashes some versions.
        // SAFETY: it is CUPTI, and stays open.
        let cupti = unsafe { Cupti::from_library(Box::leak(Box::new(library))) };
        Referees { cupti, reader: Reader::build(&include) }
    })
}

/// The offsets that the library steps to, and the code that it ends with.
fn walk(cupti: &Cupti, bytes: &mut [u8]) -> (Vec<usize>, u32) {
    let next = cupti.activity_get_next_record.unwrap();
    let base = bytes.as_mut_ptr();
    let mut record: *mut c_void = std::ptr::null_mut();
    let mut found = Vec::new();
    loop {
        // SAFETY: `bytes` are the library's to read, `record` is null or what it gave last.
        match unsafe { next(base, bytes.len(), &raw mut record) } {
            result::SUCCESS => found.push(record as usize - base as usize),
            code => return (found, code),
        }
        assert!(found.len() <= bytes.len(), "it never ends");
    }
}

/// The same by a table of sizes, for the first `length` of the bytes. Where any byte is left the
/// library reads a kind, though it may take up to three bytes behind the end.
fn expected(reader: &Reader, bytes: &[u8], length: usize) -> (Vec<usize>, u32) {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < length {
        let number = u32::from_ne_bytes(*bytes[at..].first_chunk().unwrap());
        match reader.kinds.iter().find(|kind| kind.number == number) {
            Some(kind) if at + kind.size <= length => {
                found.push(at);
                at += kind.size;
            }
            Some(_) => break,
            // No such kind. To us both are one: the rest of the buffer is lost.
            None if reader.version == 1200 => return (found, result::ERROR_UNKNOWN),
            None => return (found, result::ERROR_INVALID_KIND),
        }
    }
    (found, result::ERROR_MAX_LIMIT_REACHED)
}

/// The same by the product's stepper.
fn ours(cupti: &Cupti, bytes: &mut [u8]) -> (Vec<usize>, Step) {
    // SAFETY: the bytes outlive the stepper, and are records or where CUPTI says so.
    let mut step = unsafe { steps(cupti, bytes.as_mut_ptr(), bytes.len()) };
    let mut found = Vec::new();
    loop {
        match step(found.last().copied()) {
            Step::Record(at) => found.push(at),
            end => return (found, end),
        }
    }
}

/// Lengths at which a buffer of records may end: exactly, short, or with zeroes behind it.
fn lengths(placed: &[Placed], random: &mut Random) -> Vec<usize> {
    let end = placed.last().map_or(0, |last| last.offset + last.size);
    let cut = usize::try_from(random.below(end as u64)).unwrap();
    let zeroes = [1, 2, 3, 4, 5, 7, 8, 40, 4096].map(|zeroes| end + zeroes);
    [end, end - 1, end - 4, cut].into_iter().chain(zeroes).collect()
}

#[test]
#[ignore = "run by the referee lane"]
fn version_and_sizes() {
    let Referees { cupti, reader } = referees();
    let mut version = 0;
    // SAFETY: it writes one number.
    let code = unsafe { cupti.get_version.unwrap()(&raw mut version) };
    assert_eq!((code, version), (result::SUCCESS, reader.api_version), "library and headers");
    let mut known = 0;
    for layout in memvelope_sim::LAYOUTS {
        let kind = reader.kinds.iter().find(|kind| kind.number == layout.kind);
        let Some(kind) = kind else { panic!("{}: simulated, and no row", layout.name) };
        assert_eq!(layout.size(reader.version), kind.size, "{} in the simulator", layout.name);
        known += 1;
    }
    println!("CUPTI {version}: {known} of {} kinds are simulated", reader.kinds.len());
}

#[test]
#[ignore = "run by the referee lane"]
fn layout_table() {
    let reader = &referees().reader;
    let misplaced = reader::misplaced(reader);
    assert!(misplaced.is_empty(), "{}", misplaced.join("\n"));
    let fields: usize = reader.kinds.iter().map(|kind| kind.fields.len()).sum();
    println!("referee: {fields} offsets compared, 0 mismatches");
}

#[test]
#[ignore = "run by the referee lane"]
fn strides() {
    let Referees { cupti, reader } = referees();
    let mut random = Random(0x5ee0_0001);
    let (mut steps, mut ends) = (0, 0);
    for _ in 0..BUFFERS {
        let count = 1 + random.below(40);
        let kinds: Vec<_> = (0..count).map(|_| random::any(&reader.kinds, &mut random)).collect();
        let (mut buffer, placed) =
            Buffer::of(kinds.iter().map(|kind| random::record(kind, &mut random)));
        for length in lengths(&placed, &mut random) {
            let wanted = expected(reader, buffer.bytes(length + size_of::<u32>()), length);
            let bytes = buffer.bytes(length);
            assert_eq!(walk(cupti, bytes), wanted, "{length} bytes of {placed:?}");
            let is_end = wanted.1 == result::ERROR_MAX_LIMIT_REACHED;
            steps += wanted.0.len();
            ends += 1;
            let end = if is_end { Step::End } else { Step::Lost };
            assert_eq!(ours(cupti, bytes), (wanted.0, end), "{length} bytes of {placed:?}");
        }
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains("libcuda.so"), "CUPTI loaded a driver: stepping may have needed it");
    println!("referee: {steps} strides compared, {ends} ends of buffers, 0 mismatches");
}
