//! API records of driver calls (DRIVER), each after the external ids that its thread carries.
//!
//! They are complete when their call returns, and the calling thread delivers them itself, before
//! whatever of the GPU's is complete by then.

use crate::cupti::callbacks::CBID_COUNT;
use crate::cupti::layout::{Record, driver};
use crate::cupti::{external, pending};
use crate::{thread, world};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};

/// Which driver callback ids are recorded; read on every call without a lock.
static WANTED: [AtomicU8; CBID_COUNT] = [const { AtomicU8::new(0) }; CBID_COUNT];

/// Turns all of them on or off, which overrides what was said of single ones.
pub(crate) fn switch_all(on: bool) {
    WANTED.iter().skip(1).for_each(|wanted| wanted.store(u8::from(on), Ordering::Relaxed));
}

/// Turns one of them on or off; `false` when there is no such call.
pub(crate) fn switch_one(cbid: u32, on: bool) -> bool {
    let Some(wanted) = WANTED.get(cbid as usize).filter(|_| cbid != 0) else { return false };
    wanted.store(u8::from(on), Ordering::Relaxed);
    let any = WANTED.iter().any(|wanted| wanted.load(Ordering::Relaxed) != 0);
    pending::switch(driver::LAYOUT.kind, any);
    true
}

/// The time at which a call began, where it is to be recorded. Calls from inside a client's
/// callback are its own and are not.
pub(crate) fn begun(cbid: u32) -> Option<u64> {
    let is_wanted = || WANTED.get(cbid as usize).is_some_and(|on| on.load(Ordering::Relaxed) != 0);
    if !pending::is_on(driver::LAYOUT.kind) || !is_wanted() || thread::is_in_client() {
        return None;
    }
    world::machine_if_made().map(|world| world.now)
}

/// The records of a call that ends now.
pub(crate) fn ended(cbid: u32, start: u64, correlation: u32, code: u32) -> VecDeque<Record> {
    let Some(mut world) = world::machine_if_made() else { return VecDeque::new() };
    let (version, now) = (world.activity.version, world.now);
    let (process, thread) = thread::ids();
    let mut records = external::records(version, correlation);
    records.push_back(
        Record::new(&driver::LAYOUT, version)
            .with(driver::CBID, u64::from(cbid))
            .with(driver::START, world.activity.stamp(start))
            .with(driver::END, world.activity.stamp(now))
            .with(driver::PROCESS, process)
            .with(driver::THREAD, thread)
            .with(driver::CORRELATION, u64::from(correlation))
            .with(driver::RETURN_VALUE, u64::from(code)),
    );
    records.iter().for_each(|record| world.activity.count(record));
    records
}
