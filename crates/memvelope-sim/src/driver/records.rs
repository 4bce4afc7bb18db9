//! Activity records of driver calls.

use crate::books::Family;
use crate::cupti::layout::{Record, memory_pool, memory2, synchronization};
use crate::cupti::pending;
use crate::entry::Call;
use crate::world::World;
use crate::world::pools::{Pool, PoolPlace};

/// What a MEMORY2 record tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    address: u64,
    is_free: bool,
    /// Size of host memory; device memory is looked up.
    host_bytes: Option<u64>,
    stream: Option<u64>,
}

impl Operation {
    pub(crate) fn allocated(address: u64) -> Self {
        Self { address, is_free: false, host_bytes: None, stream: None }
    }

    pub(crate) fn released(address: u64) -> Self {
        Self { is_free: true, ..Self::allocated(address) }
    }

    pub(crate) fn host(address: u64, bytes: u64, is_free: bool) -> Self {
        Self { address, is_free, host_bytes: Some(bytes), stream: None }
    }

    pub(crate) fn on(self, stream: u64) -> Self {
        Self { stream: Some(stream), ..self }
    }
}

/// `CUpti_ActivityMemoryKind`s.
const PINNED: u64 = 2;
const DEVICE: u64 = 3;
const MANAGED: u64 = 5;

/// Writes a MEMORY2 record of an allocation that is live now (just made, or about to be freed).
pub(crate) fn memory_record(world: &mut World, call: &Call, operation: &Operation) {
    if !pending::is_on(memory2::LAYOUT.kind) {
        return;
    }
    let context = crate::thread::current();
    let (device, uid) =
        world.contexts.get(&context).map_or((0, 0), |context| (context.device, context.uid));
    let alloc = world.allocs.get(&operation.address).copied();
    let (bytes, kind, device) = match (operation.host_bytes, alloc) {
        (Some(bytes), _) => (bytes, PINNED, device),
        (None, Some(a)) => {
            let kind = match a.family {
                Family::Managed | Family::PoolManaged => MANAGED,
                Family::PoolHost => PINNED,
                _ => DEVICE,
            };
            (a.requested, kind, a.device)
        }
        (None, None) => return,
    };
    let stream = operation.stream.and_then(|stream| Some(world.stream(stream).ok()?.1.id));
    let mut record = Record::new(&memory2::LAYOUT, world.activity.version)
        .with(memory2::OPERATION, if operation.is_free { 2 } else { 1 })
        .with(memory2::KIND, kind)
        .with(memory2::CORRELATION, u64::from(call.correlation))
        .with(memory2::ADDRESS, operation.address)
        .with(memory2::BYTES, bytes)
        .with(memory2::TIMESTAMP, world.activity.stamp(world.now))
        .with(memory2::PROCESS, u64::from(std::process::id()))
        .with(memory2::DEVICE, device as u64)
        .with(memory2::CONTEXT, u64::from(uid))
        .with(memory2::STREAM, u64::from(stream.unwrap_or(0)))
        .with(memory2::IS_ASYNC, u64::from(stream.is_some()));
    if let Some(pool) = alloc.and_then(|alloc| world.pools.get(&alloc.pool)) {
        let (kind, size) = pool_type_and_size(pool);
        record.set(memory2::POOL_TYPE, kind);
        record.set(memory2::POOL_ADDRESS, alloc.map_or(0, |alloc| alloc.pool));
        record.set(memory2::POOL_THRESHOLD, pool.release_threshold);
        record.set(memory2::POOL_SIZE, size);
        record.set(memory2::POOL_UTILIZED, pool.used);
    }
    let now = world.now;
    world.activity.push(now, now, now, record);
}

/// `CUpti_ActivityMemoryPoolType`, and what stands where a local pool (1) has its size: an imported
/// one (2) has the process that it is of.
fn pool_type_and_size(pool: &Pool) -> (u64, u64) {
    match pool.place {
        PoolPlace::Imported { process, .. } => (2, process.into()),
        _ => (1, pool.reserved),
    }
}

/// `CUpti_ActivityMemoryPoolOperationType`s.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PoolOperation {
    Created = 1,
    Destroyed = 2,
    Trimmed = 3,
}

/// Writes a MEMORY_POOL record of a pool that is live now (just made, or about to go). `kept` is
/// what a trim was told to keep.
pub(crate) fn pool_record(
    world: &mut World,
    call: &Call,
    operation: PoolOperation,
    handle: u64,
    kept: u64,
) {
    if !pending::is_on(memory_pool::LAYOUT.kind) {
        return;
    }
    let Some(pool) = world.pools.get(&handle) else { return };
    let now = world.now;
    let (kind, size) = pool_type_and_size(pool);
    let record = Record::new(&memory_pool::LAYOUT, world.activity.version)
        .with(memory_pool::OPERATION, operation as u64)
        .with(memory_pool::TYPE, kind)
        .with(memory_pool::CORRELATION, u64::from(call.correlation))
        .with(memory_pool::PROCESS, u64::from(std::process::id()))
        .with(memory_pool::DEVICE, pool.device as u64)
        .with(memory_pool::KEPT, kept)
        .with(memory_pool::ADDRESS, handle)
        .with(memory_pool::SIZE, size)
        .with(memory_pool::THRESHOLD, pool.release_threshold)
        .with(memory_pool::TIMESTAMP, world.activity.stamp(now))
        .with(memory_pool::UTILIZED, pool.used);
    world.activity.push(now, now, now, record);
}

/// What was waited for: CUPTI's number, and the books' word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waited(u64, &'static str);

pub(crate) const EVENT: Waited = Waited(1, "event");
pub(crate) const STREAM_WAIT: Waited = Waited(2, "stream_wait");
pub(crate) const STREAM: Waited = Waited(3, "stream");
pub(crate) const CONTEXT: Waited = Waited(4, "context");

/// CUPTI's id for "no stream" and "no event".
const NO_ID: u64 = u32::MAX as u64;

/// Counts a synchronising call that began at `start` and ends now, and writes its record.
pub(crate) fn waited(
    world: &mut World,
    call: &Call,
    what: Waited,
    start: u64,
    (context, stream, event): (u64, Option<u32>, Option<u32>),
) {
    let end = world.now;
    world.books.sync(what.1, end - start);
    if !pending::is_on(synchronization::LAYOUT.kind) {
        return;
    }
    let uid = world.contexts.get(&context).map_or(0, |context| context.uid);
    let record = Record::new(&synchronization::LAYOUT, world.activity.version)
        .with(synchronization::TYPE, what.0)
        .with(synchronization::START, world.activity.stamp(start))
        .with(synchronization::END, world.activity.stamp(end))
        .with(synchronization::CORRELATION, u64::from(call.correlation))
        .with(synchronization::CONTEXT, u64::from(uid))
        .with(synchronization::STREAM, stream.map_or(NO_ID, u64::from))
        .with(synchronization::EVENT, event.map_or(NO_ID, u64::from))
        .with(synchronization::EVENT_SYNC, u64::from(event.unwrap_or(0)))
        .with(synchronization::RETURN_VALUE, 0);
    world.activity.push(start, end, end, record);
}
