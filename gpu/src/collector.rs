//! The least that a CUPTI client can be: buffers from `malloc`, records stepped over and counted.
//! What memvelope costs beyond this is memvelope's; what this costs is CUPTI's.

use crate::cupti::{self, Library, check, needed};
use anyhow::Result;
use cupti_sys::{activity_kind, result};
use std::ffi::c_void;
use std::panic::catch_unwind;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Size of a buffer: what kineto takes, and within what NVIDIA's guide recommends (1 to 10 MiB).
pub const BUFFER_BYTES: usize = 4 << 20;

/// What the baseline records.
pub const KINDS: &[u32] =
    &[activity_kind::CONCURRENT_KERNEL, activity_kind::MEMCPY, activity_kind::MEMSET];

/// Kinds are counted by number; every kind there is lies below.
pub const KINDS_MAX: usize = 128;

/// Records by kind; kinds past the last are counted in the last.
pub static COUNTS: [AtomicU64; KINDS_MAX] = [const { AtomicU64::new(0) }; KINDS_MAX];
/// Buffers that CUPTI asked for.
pub static REQUESTED: AtomicU64 = AtomicU64::new(0);
/// Buffers that it gave back.
pub static COMPLETED: AtomicU64 = AtomicU64::new(0);

/// Looks at a record: its kind, and its bytes up to the next one.
pub type Look = fn(u32, &[u8]);

static LOOK: OnceLock<Look> = OnceLock::new();

/// Registers the buffer callbacks. With `look`, each record is shown to it, on CUPTI's thread or
/// inside a flush.
///
/// # Errors
/// CUPTI's code.
pub fn register(library: &Library, look: Option<Look>) -> Result<()> {
    if let Some(look) = look {
        let _first_one_stays = LOOK.set(look);
    }
    let register = needed(library.cupti.activity_register_callbacks)?;
    // SAFETY: functions of this object, which is never unloaded.
    check("cuptiActivityRegisterCallbacks", unsafe { register(Some(requested), Some(completed)) })
}

/// Registers, and switches the baseline's kinds on.
///
/// # Errors
/// CUPTI's code.
pub fn begin(library: &Library) -> Result<()> {
    register(library, None)?;
    KINDS.iter().try_for_each(|kind| library.enable(*kind))
}

/// What was counted, as JSON.
#[must_use]
pub fn counts() -> serde_json::Value {
    let by_kind = COUNTS.iter().enumerate().filter_map(|(kind, count)| {
        let count = count.load(Ordering::Relaxed);
        let name = activity_kind::name(u32::try_from(kind).ok()?).unwrap_or("UNKNOWN");
        (count > 0).then(|| (format!("{kind} {name}"), serde_json::json!(count)))
    });
    serde_json::json!({
        "records": COUNTS.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>(),
        "records_by_kind": by_kind.collect::<serde_json::Map<_, _>>(),
        "buffers_requested": REQUESTED.load(Ordering::Relaxed),
        "buffers_completed": COMPLETED.load(Ordering::Relaxed),
    })
}

extern "C" fn requested(buffer: *mut *mut u8, size: *mut usize, max_records: *mut usize) {
    REQUESTED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: CUPTI passes three out-pointers. `malloc` aligns to 16, and CUPTI asks for 8; where
    // it has nothing, a size of 0 says so.
    unsafe {
        *buffer = libc::malloc(BUFFER_BYTES).cast();
        *size = if (*buffer).is_null() { 0 } else { BUFFER_BYTES };
        *max_records = 0;
    }
}

extern "C" fn completed(
    _context: *mut c_void,
    _stream: u32,
    buffer: *mut u8,
    _size: usize,
    valid: usize,
) {
    // A panic must not cross into CUPTI. Nothing is done about one: the counts then do not add up.
    let _ = catch_unwind(|| {
        COMPLETED.fetch_add(1, Ordering::Relaxed);
        if let Ok(library) = cupti::open() {
            walk(library, buffer, valid);
        }
    });
    // SAFETY: `requested` made it, and CUPTI has given it back.
    unsafe { libc::free(buffer.cast()) };
}

fn walk(library: &Library, buffer: *mut u8, valid: usize) {
    let Ok(next) = library.cupti.activity_get_next_record else { return };
    let look = LOOK.get();
    let mut record: *mut c_void = std::ptr::null_mut();
    // SAFETY: a buffer that CUPTI just completed, with the size it stated.
    let mut code = unsafe { next(buffer, valid, &raw mut record) };
    while code == result::SUCCESS && !record.is_null() {
        let this = record;
        // SAFETY: every record begins with its kind.
        let kind = unsafe { this.cast::<u32>().read_unaligned() };
        let slot = (kind as usize).min(KINDS_MAX - 1);
        COUNTS[slot].fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        code = unsafe { next(buffer, valid, &raw mut record) };
        if let Some(look) = look {
            let begin = this as usize;
            let end = match code {
                result::SUCCESS => record as usize,
                _ => buffer as usize + valid,
            };
            // SAFETY: from one record to the next, or to the end of what is valid: all within the
            // buffer, which is freed after this.
            let bytes =
                unsafe { std::slice::from_raw_parts(this.cast(), end.saturating_sub(begin)) };
            look(kind, bytes);
        }
    }
}
