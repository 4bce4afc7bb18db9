//! Records of every kind as the CUPTI at hand writes them: how long they are, and whether the
//! fields that memvelope reads are plausible where it reads them.

use super::{Bench, field, head, said, settle, start};
use crate::options::Options;
use anyhow::Result;
use cupti_sys::{activity_kind, layout};
use gpu_lane_collector::collector;
use gpu_lane_collector::cuda::Arg;
use gpu_lane_collector::cupti::Library;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

/// `KERNEL` excludes `CONCURRENT_KERNEL`, which is what we read.
const LEFT_OUT: &[u32] = &[activity_kind::KERNEL];

/// What was seen of one kind.
#[derive(Default)]
struct Seen {
    count: u64,
    /// Distances to the next record, how often each.
    strides: BTreeMap<usize, u64>,
    /// Begin of the last record.
    bytes: Vec<u8>,
    ordered: u64,
    reversed: u64,
    zero: u64,
    outside: u64,
    names: BTreeMap<String, u64>,
}

static SEEN: Mutex<BTreeMap<u32, Seen>> = Mutex::new(BTreeMap::new());
/// The first moment at which a record can have begun.
static SINCE: Mutex<u64> = Mutex::new(0);

fn look(kind: u32, record: &[u8]) {
    let since = *SINCE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut kinds = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = kinds.entry(kind).or_default();
    seen.count += 1;
    *seen.strides.entry(record.len()).or_default() += 1;
    seen.bytes = record.iter().take(512).copied().collect();
    let Some(table) = layout::RECORDS.iter().find(|table| table.kind == kind) else { return };
    let read = |name: &str| {
        let place = table.fields.iter().find(|place| place.name == name)?;
        field(record, place.offset, place.size)
    };
    if let (Some(begin), Some(end)) = (read("start"), read("end")) {
        seen.zero += u64::from(begin == 0 || end == 0);
        seen.reversed += u64::from(end < begin);
        seen.ordered += u64::from(begin != 0 && begin <= end);
        seen.outside += u64::from(begin != 0 && begin < since);
    }
    if kind == activity_kind::CONCURRENT_KERNEL
        && let Some(address) = read("name")
        && let Some(name) = text_at(address)
    {
        *seen.names.entry(name).or_default() += 1;
    }
}

/// The text at an address of this process, read as a stranger: an address that is no text's is
/// an answer, not a crash.
fn text_at(address: u64) -> Option<String> {
    let mut text = [0_u8; 128];
    let to = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() };
    // To the end of its page at most: the next one may not be there.
    let length = usize::try_from(4096 - address % 4096).ok()?.min(text.len());
    let from = libc::iovec { iov_base: address as *mut _, iov_len: length };
    // SAFETY: the kernel checks the foreign range; ours is a local.
    let read = unsafe { libc::process_vm_readv(libc::getpid(), &to, 1, &from, 1, 0) };
    let read = usize::try_from(read).ok()?;
    let end = text.iter().take(read).position(|byte| *byte == 0).unwrap_or(read);
    Some(String::from_utf8_lossy(&text[..end]).into_owned())
}

/// Enables every kind, does something of everything, and says what came.
pub(crate) fn records(options: &Options) -> Result<Value> {
    let (cuda, library) = start()?;
    let mut found = head(cuda, library);
    collector::register(library, Some(look))?;
    let mut enabled = Map::new();
    for (name, kind) in activity_kind::ALL.iter().filter(|(_, kind)| !LEFT_OUT.contains(kind)) {
        enabled.insert((*name).to_owned(), said(library.enable(*kind)));
    }
    found["enabled"] = enabled.into();
    *SINCE.lock().unwrap_or_else(PoisonError::into_inner) = library.now()?;
    let bench = Bench::open(cuda, options)?;
    found["work"] = said(everything(&bench, options));
    settle(library)?;
    let until = library.now()?;
    found["kinds"] = described(library, until);
    Ok(found)
}

fn everything(bench: &Bench, options: &Options) -> Result<()> {
    let (gpu, stream) = (bench.gpu, bench.stream);
    let bytes = 4_usize << 20;
    let (a, b, host) = (gpu.alloc(bytes)?, gpu.alloc(bytes)?, gpu.pinned(bytes)?);
    let fill = gpu.kernel(&options.ptx("memory_stream.ptx")?, "stream_fill")?;
    let args = [Arg::Wide(a), Arg::Wide(bytes as u64), Arg::Wide(1), Arg::Wide(2)];
    for _ in 0..50 {
        gpu.launch(fill, 64, stream, &args)?;
        gpu.copy(b, a, bytes, stream)?;
        gpu.fetch(host, b, stream)?;
        gpu.send(a, host, stream)?;
        gpu.zero(b, bytes, stream)?;
        gpu.alloc_free_async(1 << 20, stream)?;
        gpu.wait(stream)?;
    }
    gpu.join(stream, gpu.stream()?)?;
    if gpu.has_graphs() {
        let exec =
            gpu.capture(stream, || (0..3).try_for_each(|_| gpu.launch(fill, 64, stream, &args)))?;
        (0..5).try_for_each(|_| gpu.launch_graph(exec, stream))?;
    }
    gpu.free(b)?;
    let other = gpu.another()?;
    other.wait_all()?;
    other.destroy()?;
    gpu.enter()?;
    gpu.wait_all()
}

fn described(library: &Library, until: u64) -> Value {
    let kinds = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all = Map::new();
    for (kind, seen) in kinds.iter() {
        let name = activity_kind::name(*kind).unwrap_or("UNKNOWN");
        let table = layout::RECORDS.iter().find(|table| table.kind == *kind);
        // The commonest distance is the size: the last record of a buffer has the distance to the
        // end of what is valid.
        let size = seen.strides.iter().max_by_key(|(_, count)| **count).map(|(size, _)| *size);
        let fields = table.map(|table| {
            let read = |place: &layout::Field| {
                let value = field(&seen.bytes, place.offset, place.size);
                (place.name.to_owned(), json!(value))
            };
            table.fields.iter().map(read).collect::<Map<_, _>>()
        });
        let mut hex = String::new();
        for byte in seen.bytes.iter().take(size.unwrap_or(0)) {
            let _ = write!(hex, "{byte:02x}");
        }
        let entry = json!({
            "count": seen.count,
            "size": size,
            "strides": seen.strides.iter().map(|(k, v)| (k.to_string(), json!(v)))
                .collect::<Map<_, _>>(),
            "prefix_bytes": table.map(|table| table.prefix_bytes),
            "is_as_long_as_its_prefix":
                table.zip(size).map(|(table, size)| size >= table.prefix_bytes),
            "begin_before_end": seen.ordered,
            "end_before_begin": seen.reversed,
            "zero_timestamps": seen.zero,
            "begin_before_the_work": seen.outside,
            "names": seen.names.iter().take(8).collect::<BTreeMap<_, _>>(),
            "last_fields": fields,
            "last_bytes": hex,
        });
        all.insert(format!("{kind} {name}"), entry);
    }
    json!({ "now": until, "path": library.path, "by_kind": all })
}
