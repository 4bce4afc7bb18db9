//! CUPTI's account of itself (OVERHEAD): its requests for buffers, and what the scenario declares.

use crate::cupti::layout::{Record, overhead};
use crate::cupti::markers::OBJECT_THREAD;
use crate::cupti::pending;
use crate::thread;
use crate::world::{self, World};

/// `CUPTI_ACTIVITY_OVERHEAD_ACTIVITY_BUFFER_REQUEST`.
const BUFFER_REQUEST: u32 = 7 << 16;

fn record(world: &World, kind: u32, start: u64, end: u64) -> Record {
    let (process, thread) = thread::ids();
    Record::new(&overhead::LAYOUT, world.activity.version)
        .with(overhead::KIND, u64::from(kind))
        .with(overhead::OBJECT_KIND, OBJECT_THREAD)
        .with(overhead::PROCESS, process)
        .with(overhead::THREAD, thread)
        .with(overhead::START, world.activity.stamp(start))
        .with(overhead::END, world.activity.stamp(end))
}

/// Lets the host time of a buffer request pass; the request's record, where it is wanted.
pub(crate) fn buffer_request() -> Option<Record> {
    let mut world = world::machine_if_made()?;
    let start = world.now;
    world.now = start.saturating_add(world.scenario.cupti.buffer_request_ns);
    if !pending::is_on(overhead::LAYOUT.kind) {
        return None;
    }
    let record = record(&world, BUFFER_REQUEST, start, world.now);
    world.activity.count(&record);
    Some(record)
}

/// Writes the overheads of the scenario that have ended by now.
pub(crate) fn declared(world: &mut World) {
    while let Some(next) = world.scenario.cupti.overheads.get(world.overheads_told).copied() {
        let start = world.scenario.start_ns.saturating_add(next.after_ns);
        let end = start.saturating_add(next.ns);
        if end > world.now {
            return;
        }
        world.overheads_told += 1;
        if pending::is_on(overhead::LAYOUT.kind) {
            let record = record(world, next.kind, start, end);
            let now = world.now;
            world.activity.push(start, end, now, record);
        }
    }
}
