//! Ranges and marks of the program (MARKER). The real ones come from NVTX; here the program calls
//! three exported functions that stand for `nvtxRangePushA`, `nvtxRangePop` and `nvtxMarkA` in the
//! default domain.

#![expect(unsafe_code, reason = "exported symbols")]

use crate::cupti::layout::{Record, marker};
use crate::cupti::pending;
use crate::{edge, entry, thread, world};
use std::cell::RefCell;
use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicU32, Ordering};

/// `CUPTI_ACTIVITY_FLAG_MARKER_…`: a point in time, the start of a range, its end.
const INSTANTANEOUS: u64 = 1;
const START: u64 = 2;
const END: u64 = 4;
/// `CUPTI_ACTIVITY_OBJECT_THREAD`.
pub(crate) const OBJECT_THREAD: u64 = 2;

static NEXT_ID: AtomicU32 = AtomicU32::new(1);

thread_local! {
    /// Ids of the ranges that are open on this thread.
    static OPEN: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// Opens a range on the calling thread; returns how many were open before, -1 for no name.
///
/// # Safety
/// `name` is null or a terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memvelope_sim_range_push(name: *const c_char) -> i32 {
    std::panic::catch_unwind(|| {
        let Ok(name) = edge::text(name) else { return -1 };
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let depth = OPEN.try_with(|open| {
            let mut open = open.borrow_mut();
            open.push(id);
            open.len() - 1
        });
        write(START, id, Some(name));
        depth.ok().and_then(|depth| i32::try_from(depth).ok()).unwrap_or(-1)
    })
    .unwrap_or(-1)
}

/// Closes the calling thread's last range; returns how many are open after, -1 when none was.
#[unsafe(no_mangle)]
pub extern "C" fn memvelope_sim_range_pop() -> i32 {
    std::panic::catch_unwind(|| {
        let popped = OPEN.try_with(|open| {
            let mut open = open.borrow_mut();
            open.pop().map(|id| (id, open.len()))
        });
        let Ok(Some((id, depth))) = popped else { return -1 };
        write(END, id, None);
        i32::try_from(depth).unwrap_or(-1)
    })
    .unwrap_or(-1)
}

/// Marks a point in time.
///
/// # Safety
/// `name` is null or a terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memvelope_sim_mark(name: *const c_char) {
    let _ = std::panic::catch_unwind(|| {
        if let Ok(name) = edge::text(name) {
            write(INSTANTANEOUS, NEXT_ID.fetch_add(1, Ordering::Relaxed), Some(name));
        }
    });
}

fn write(flags: u64, id: u32, name: Option<&CStr>) {
    if !pending::is_on(marker::LAYOUT.kind) {
        return;
    }
    if let Some(mut world) = world::machine_if_made() {
        let now = world.now;
        let (process, thread) = thread::ids();
        // Names live as long as the process, one copy of each: records point at them.
        let name = name.map(|name| world.names.intern(name));
        let name = name.map_or(0, |id| world.names.text(id).as_ptr() as u64);
        // The default domain has no name.
        let record = Record::new(&marker::LAYOUT, world.activity.version)
            .with(marker::FLAGS, flags)
            .with(marker::TIMESTAMP, world.activity.stamp(now))
            .with(marker::ID, u64::from(id))
            .with(marker::OBJECT_KIND, OBJECT_THREAD)
            .with(marker::PROCESS, process)
            .with(marker::THREAD, thread)
            .with(marker::NAME, name);
        world.activity.push(now, now, now, record);
    }
    entry::settle();
}
