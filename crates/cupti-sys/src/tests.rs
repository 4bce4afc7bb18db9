//! The tables of this crate against two referees: what bindgen reads in the newest headers
//! (committed), and the layouts of 17 CUPTI versions (a table beside the checkout, if it is there).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::bindings::{self, *};
use crate::layout::RECORDS;
use crate::{Cupti, SubscriberParams, cbid, driver, functions, layout, numbers, runtime_cbid};

/// A block's name, ours and bindgen's size where we state one, ours and bindgen's fields; a field
/// is its offset and width.
pub(crate) type Block =
    (&'static str, Option<(usize, usize)>, Vec<((usize, usize), (usize, usize))>);

/// Offset and width of a field as bindgen has it.
macro_rules! field {
    ($strukt:ty, $($field:ident).+) => {
        (
            std::mem::offset_of!($strukt, $($field).+),
            // SAFETY: only the type of this function is looked at; it is never called.
            crate::tests::width(|block: *const $strukt| unsafe { &raw const (*block).$($field).+ }),
        )
    };
}
pub(crate) use field;

pub(crate) fn width<S, T>(_field_of: fn(*const S) -> *const T) -> usize {
    size_of::<T>()
}

/// Implemented for a type and what the headers call the same.
pub(crate) trait Same<T> {}
impl<T> Same<T> for T {}
// The one type that is ours by name; its layout is checked below.
type Subscribe<P> = unsafe extern "C" fn(
    *mut crate::SubscriberHandle,
    crate::CallbackFunc,
    *mut core::ffi::c_void,
    *mut P,
) -> u32;
impl Same<Subscribe<CUpti_SubscriberParams>> for Subscribe<SubscriberParams> {}

pub(crate) fn same<A: Same<B>, B, E, F>(_ours: &Result<A, E>, _headers: &Result<B, F>) {}

/// bindgen's constants, by name.
fn constants() -> BTreeMap<&'static str, u32> {
    let text = include_str!("bindings.rs");
    let items = text.split("pub const ").skip(1).filter_map(|item| {
        let (declared, rest) = item.split_once('=')?;
        let (value, _) = rest.split_once(';')?;
        Some((declared.split(':').next()?.trim(), value.trim().parse().ok()?))
    });
    items.collect()
}

#[test]
fn records_are_where_the_newest_headers_have_them() {
    let theirs = layout::records_in_bindings();
    assert_eq!(RECORDS.len(), theirs.len());
    for (record, (size, fields)) in RECORDS.iter().zip(theirs) {
        assert!(record.prefix_bytes <= size, "{}: prefix beyond the record", record.name);
        assert_eq!(record.fields.len(), fields.len(), "{}", record.name);
        for (ours, theirs) in record.fields.iter().zip(fields) {
            assert_eq!((ours.offset, ours.size), theirs, "{}.{}", record.name, ours.name);
            let end = ours.offset + ours.size;
            assert!(end <= record.prefix_bytes, "{}.{} beyond the prefix", record.name, ours.name);
        }
    }
}

#[test]
fn blocks_are_where_the_newest_headers_have_them() {
    let blocks = [layout::blocks_and_bindings(), driver::params_and_bindings()].concat();
    assert!(blocks.len() > 30, "the tables lost their rows: {}", blocks.len());
    for (name, sizes, fields) in blocks {
        if let Some((ours, theirs)) = sizes {
            assert_eq!(ours, theirs, "size of {name}");
        }
        for (ours, theirs) in fields {
            assert_eq!(ours, theirs, "a field of {name}, as (offset, width)");
        }
    }
}

/// The plain function's table is used for the per-thread-stream twin as well.
#[test]
fn twins_share_their_parameters() {
    macro_rules! check {
        ($plain:ty, $twin:ty, $($field:ident),+) => {
            assert_eq!(size_of::<$plain>(), size_of::<$twin>());
            $(assert_eq!(field!($plain, $field), field!($twin, $field));)+
        };
    }
    check!(cuMemAllocAsync_params, cuMemAllocAsync_ptsz_params, dptr, bytesize, hStream);
    check!(cuMemFreeAsync_params, cuMemFreeAsync_ptsz_params, dptr, hStream);
    check!(
        cuMemAllocFromPoolAsync_params,
        cuMemAllocFromPoolAsync_ptsz_params,
        dptr,
        bytesize,
        pool,
        hStream
    );
    check!(cuStreamBeginCapture_params, cuStreamBeginCapture_ptsz_params, hStream);
    check!(cuStreamBeginCapture_v2_params, cuStreamBeginCapture_v2_ptsz_params, hStream);
    check!(
        cuStreamBeginCaptureToGraph_params,
        cuStreamBeginCaptureToGraph_ptsz_params,
        hStream,
        hGraph
    );
    check!(cuStreamEndCapture_params, cuStreamEndCapture_ptsz_params, hStream, phGraph);
}

#[test]
fn subscriber_params_are_what_the_headers_declare() {
    macro_rules! check {
        ($($ours:ident = $theirs:ident),+) => {
            $(
                let theirs = field!(CUpti_SubscriberParams, $theirs);
                assert_eq!(field!(SubscriberParams, $ours), theirs);
            )+
        };
    }
    assert_eq!(size_of::<SubscriberParams>(), SubscriberParams::SIZE_13_2);
    assert_eq!(size_of::<CUpti_SubscriberParams>(), SubscriberParams::SIZE_13_2);
    assert_eq!(
        std::mem::offset_of!(SubscriberParams, allow_multiple_subscribers),
        SubscriberParams::SIZE_13_0
    );
    check!(
        struct_size = structSize,
        subscriber_name = subscriberName,
        old_subscriber_name = oldSubscriberName,
        old_subscriber_size = oldSubscriberSize,
        allow_multiple_subscribers = allowMultipleSubscribers
    );
}

#[test]
fn numbers_are_what_the_newest_headers_say() {
    let theirs = constants();
    for (prefix, table) in numbers::TABLES {
        for (name, value) in *table {
            let full = format!("{prefix}{name}");
            assert_eq!(theirs.get(full.as_str()), Some(value), "{full}");
        }
    }
    for record in RECORDS {
        let full = format!("CUPTI_ACTIVITY_KIND_{}", record.name);
        assert_eq!(theirs.get(full.as_str()), Some(&record.kind), "{full}");
    }
}

#[test]
fn callback_ids_are_what_the_newest_headers_say() {
    // The one name that 13.5 no longer has.
    const GONE: &[&str] = &["cuMemHostAlloc_v2"];
    let theirs = constants();
    for (function, id) in cbid::ALL {
        let found = theirs.get(format!("CUPTI_DRIVER_TRACE_CBID_{function}").as_str());
        if GONE.contains(function) {
            assert_eq!(found, None, "{function} is back: take it off the list");
        } else {
            assert_eq!(found, Some(id), "{function}");
        }
        assert_eq!(cbid::name(*id), Some(*function));
    }
}

#[test]
fn runtime_callback_ids_are_what_the_newest_headers_say() {
    let theirs = constants();
    for (function, id) in runtime_cbid::ALL {
        let found = theirs.get(format!("CUPTI_RUNTIME_TRACE_CBID_{function}").as_str());
        assert_eq!(found, Some(id), "{function}");
        assert!(runtime_cbid::name(*id).is_some_and(|name| function.starts_with(name)));
    }
}

/// A type error here, at compile time, is the finding.
#[test]
fn functions_have_the_types_of_the_headers() {
    let _: fn(&Cupti, &bindings::Headers) = functions::signatures_match;
    assert_eq!(Cupti::NAMES.len(), Cupti::NAMES.iter().collect::<BTreeSet<_>>().len());
}

/// Not CUPTI, so every name is missing; and asking leaves the library usable.
#[test]
fn a_library_without_cupti_misses_every_function() {
    let process = libloading::os::unix::Library::this();
    let library = libloading::Library::from(process);
    // SAFETY: nothing that this resolves is called.
    let cupti = unsafe { Cupti::from_library(&library) };
    assert_eq!(cupti.missing(), Cupti::NAMES);
    // SAFETY: as above; the handle is the program itself, which stays.
    let again =
        unsafe { Cupti::from_handle(libloading::os::unix::Library::from(library).into_raw()) };
    assert_eq!(again.missing(), Cupti::NAMES);
}

/// One row of the table of layouts.
struct Row<'a> {
    kind: &'a str,
    kind_value: u32,
    cupti: &'a str,
    sizeof: usize,
    field: &'a str,
    place: (usize, usize),
}

fn rows(text: &str) -> Vec<Row<'_>> {
    let parse = |line| {
        let column: Vec<&str> = str::split(line, ',').collect();
        // Bit fields have neither offset nor width, and say so with -1.
        Some(Row {
            kind: column[0],
            kind_value: column[1].parse().expect("a kind is a number"),
            cupti: column[2],
            sizeof: column[4].parse().expect("a size is a number"),
            field: column[6],
            place: (column[7].parse().ok()?, column[8].parse().ok()?),
        })
    };
    text.lines().skip(1).filter_map(parse).collect()
}

#[test]
fn every_version_has_every_field_in_the_same_place() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let Ok(text) = std::fs::read_to_string(shared.join("cupti_layout.csv")) else {
        println!("ignored: no ../shared/data/cupti_layout.csv beside the checkout");
        return;
    };
    let rows = rows(&text);
    let versions: BTreeSet<&str> = rows.iter().map(|row| row.cupti).collect();
    assert_eq!(versions.len(), 17, "versions in the table: {versions:?}");
    let mut checked = 0;
    for record in RECORDS {
        let of_kind: Vec<&Row<'_>> = rows.iter().filter(|row| row.kind == record.name).collect();
        assert!(of_kind.iter().all(|row| row.kind_value == record.kind), "{}", record.name);
        let shortest = of_kind.iter().map(|row| row.sizeof).min();
        assert_eq!(shortest, Some(record.prefix_bytes), "shortest {}", record.name);
        for field in record.fields {
            // bindgen appends an underscore where a C name is a Rust keyword.
            let name = field.name.replace(' ', "");
            let name = name.trim_end_matches('_');
            for version in &versions {
                let found = of_kind.iter().find(|row| row.cupti == *version && row.field == name);
                let place = found.map(|row| row.place);
                let ours = Some((field.offset, field.size));
                assert_eq!(place, ours, "{}.{name} in CUPTI {version}", record.name);
                checked += 1;
            }
        }
    }
    println!("{checked} offsets in {} versions", versions.len());
}
