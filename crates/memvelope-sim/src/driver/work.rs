//! Work for a GPU: kernels, copies and memsets, checked and ready to run. A call either queues it
//! on a stream at once or makes it a node of a graph.

use crate::abi::{Code, Done};
use crate::cupti::layout::{Record, kernel, memcpy, memset, peer_copy};
use crate::cupti::pending;
use crate::driver::copy::{self, Direction};
use crate::driver::module::REGISTERS;
use crate::entry::Call;
use crate::scenario::KernelCost;
use crate::world::World;
use crate::world::graph_memory::Step;
use crate::world::memory::Place;
use crate::world::timeline::Slot;

/// Whether a call waits for its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Synchronous, on the legacy default stream.
    Here,
    /// Asynchronous, on this stream.
    On(u64),
}

impl Wait {
    pub(crate) fn stream(self) -> u64 {
        match self {
            Self::Here => 0,
            Self::On(stream) => stream,
        }
    }
}

/// A kernel's launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    pub(crate) name: u32,
    pub(crate) cost: KernelCost,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
}

/// A copy of at least one byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    pub(crate) direction: Direction,
    pub(crate) to: u64,
    pub(crate) from: u64,
    pub(crate) bytes: usize,
    /// Where from and where to, for copies between devices.
    pub(crate) places: Option<(Place, Place)>,
}

/// A memset of at least one byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) to: u64,
    pub(crate) value: u32,
    pub(crate) width: usize,
    pub(crate) count: usize,
}

/// A piece of work.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    Kernel(Kernel),
    Copy(Copy),
    Fill(Fill),
    /// Memory taken or given back by a node of a graph.
    Memory(Step),
}

/// The node of a running graph that a piece of work is; all zero outside graphs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NodeIds {
    pub(crate) graph: u32,
    pub(crate) node: u64,
    pub(crate) source_graph: u32,
    pub(crate) source_node: u64,
}

/// What a record says of the call that a piece of work comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) correlation: u32,
    pub(crate) is_async: bool,
    pub(crate) priority: i32,
    pub(crate) ids: NodeIds,
}

/// Queues `work`, or adds it to the graph that its stream is captured into.
pub(crate) fn submit(world: &mut World, call: &Call, work: Work, wait: Wait) -> Done {
    let handle = world.stream_handle(wait.stream())?;
    if world.graphs.is_captured(handle) {
        return world.add_captured(handle, work);
    }
    world.refuse_implicit_capture(handle)?;
    work.take_effect(world)?;
    let duration = work.duration(world);
    let priority = world.stream(handle)?.1.priority;
    let slot = world.enqueue(handle, duration)?;
    work.count(world, duration);
    let (correlation, is_async) = (call.correlation, wait != Wait::Here);
    let origin = Origin { correlation, is_async, priority, ids: NodeIds::default() };
    work.record(world, &slot, &origin);
    if wait == Wait::Here {
        world.wait_until(slot.end);
    }
    Ok(())
}

impl Work {
    /// GPU time that it takes.
    pub(crate) fn duration(&self, world: &World) -> u64 {
        match self {
            Self::Kernel(kernel) => {
                let blocks: f64 = kernel.grid.iter().map(|n| f64::from(*n)).product();
                let added = (kernel.cost.per_block_ns * blocks) as u64;
                kernel.cost.base_ns.saturating_add(added)
            }
            Self::Copy(copy) => copy.direction.duration(world, copy.bytes as u64),
            Self::Fill(fill) => copy::fill_duration(world, fill.bytes()),
            Self::Memory(_) => 0,
        }
    }

    /// Moves the bytes. Time passes on the stream, contents change at once.
    pub(crate) fn take_effect(&self, world: &mut World) -> Done {
        match self {
            Self::Kernel(_) => Ok(()),
            Self::Copy(copy) => copy::move_bytes(world, copy),
            Self::Fill(fill) => copy::fill_bytes(world, fill),
            Self::Memory(step) => world.run_graph_step(*step),
        }
    }

    /// Enters it into the books.
    pub(crate) fn count(&self, world: &mut World, ns: u64) {
        match self {
            Self::Kernel(kernel) => world.books.kernel(kernel.name, ns),
            Self::Copy(copy) => world.books.copy(copy.direction.names().1, copy.bytes as u64, ns),
            Self::Fill(fill) => world.books.memset(fill.bytes(), ns),
            Self::Memory(_) => {}
        }
    }

    /// Writes its record, if its kind is on.
    pub(crate) fn record(&self, world: &mut World, slot: &Slot, origin: &Origin) {
        let record = match self {
            Self::Kernel(kernel) => kernel.record(world, slot, origin),
            Self::Copy(copy) => match copy.places {
                Some(places) => copy.peer_record(world, slot, origin, places),
                None => copy.record(world, slot, origin),
            },
            Self::Fill(fill) => fill.record(world, slot, origin),
            Self::Memory(_) => None,
        };
        if let Some(record) = record {
            world.push_gpu_record(slot, record);
        }
    }
}

impl Kernel {
    fn record(&self, world: &World, slot: &Slot, origin: &Origin) -> Option<Record> {
        if !pending::is_on(kernel::LAYOUT.kind) {
            return None;
        }
        let ([gx, gy, gz], [bx, by, bz], ids) = (self.grid, self.block, origin.ids);
        let local_bytes = world.local_memory_of(slot.context_uid);
        let record = Record::new(&kernel::LAYOUT, world.activity.version)
            .with(kernel::REGISTERS, REGISTERS.cast_unsigned().into())
            .with(kernel::START, world.activity.stamp(slot.start))
            .with(kernel::END, world.activity.stamp(slot.end))
            .with(kernel::DEVICE, slot.device as u64)
            .with(kernel::CONTEXT, u64::from(slot.context_uid))
            .with(kernel::STREAM, u64::from(slot.stream))
            .with(kernel::GRID_X, gx.into())
            .with(kernel::GRID_Y, gy.into())
            .with(kernel::GRID_Z, gz.into())
            .with(kernel::BLOCK_X, bx.into())
            .with(kernel::BLOCK_Y, by.into())
            .with(kernel::BLOCK_Z, bz.into())
            .with(kernel::DYNAMIC_SHARED, self.shared_bytes.into())
            .with(kernel::LOCAL_PER_THREAD, self.cost.local_bytes.min(u32::MAX.into()))
            .with(kernel::LOCAL_TOTAL_32, local_bytes.min(u32::MAX.into()))
            .with(kernel::LOCAL_TOTAL, local_bytes)
            .with(kernel::CORRELATION, origin.correlation.into())
            .with(kernel::GRID_ID, origin.correlation.into())
            .with(kernel::NAME, world.names.text(self.name).as_ptr() as u64)
            .with(kernel::GRAPH, ids.graph.into())
            .with(kernel::GRAPH_NODE, ids.node)
            .with(kernel::SOURCE_GRAPH, ids.source_graph.into())
            .with(kernel::SOURCE_GRAPH_NODE, ids.source_node)
            // One channel, of type CUPTI_CHANNEL_TYPE_COMPUTE.
            .with(kernel::CHANNEL, 1)
            .with(kernel::CHANNEL_TYPE, 1)
            .with(kernel::PRIORITY, u64::from(origin.priority.cast_unsigned()));
        Some(record)
    }
}

impl Copy {
    fn kinds(&self, world: &World) -> (u64, u64) {
        (world.memory_kind(self.from).into(), world.memory_kind(self.to).into())
    }

    fn record(&self, world: &World, slot: &Slot, origin: &Origin) -> Option<Record> {
        if !pending::is_on(memcpy::LAYOUT.kind) {
            return None;
        }
        let (kinds, ids) = (self.kinds(world), origin.ids);
        let record = Record::new(&memcpy::LAYOUT, world.activity.version)
            .with(memcpy::COPY_KIND, self.direction.names().0)
            .with(memcpy::SRC_KIND, kinds.0)
            .with(memcpy::DST_KIND, kinds.1)
            // CUPTI_ACTIVITY_FLAG_MEMCPY_ASYNC
            .with(memcpy::FLAGS, u64::from(origin.is_async))
            .with(memcpy::BYTES, self.bytes as u64)
            .with(memcpy::START, world.activity.stamp(slot.start))
            .with(memcpy::END, world.activity.stamp(slot.end))
            .with(memcpy::DEVICE, slot.device as u64)
            .with(memcpy::CONTEXT, u64::from(slot.context_uid))
            .with(memcpy::STREAM, u64::from(slot.stream))
            .with(memcpy::CORRELATION, u64::from(origin.correlation))
            .with(memcpy::GRAPH, ids.graph.into())
            .with(memcpy::GRAPH_NODE, ids.node)
            .with(memcpy::SOURCE_GRAPH, ids.source_graph.into())
            .with(memcpy::SOURCE_GRAPH_NODE, ids.source_node)
            .with(memcpy::COPY_COUNT, 1);
        Some(record)
    }

    fn peer_record(
        &self,
        world: &World,
        slot: &Slot,
        origin: &Origin,
        (from, to): (Place, Place),
    ) -> Option<Record> {
        if !pending::is_on(peer_copy::LAYOUT.kind) {
            return None;
        }
        let kinds = self.kinds(world);
        let record = Record::new(&peer_copy::LAYOUT, world.activity.version)
            .with(peer_copy::COPY_KIND, self.direction.names().0)
            .with(peer_copy::SRC_KIND, kinds.0)
            .with(peer_copy::DST_KIND, kinds.1)
            .with(peer_copy::FLAGS, u64::from(origin.is_async))
            .with(peer_copy::BYTES, self.bytes as u64)
            .with(peer_copy::START, world.activity.stamp(slot.start))
            .with(peer_copy::END, world.activity.stamp(slot.end))
            .with(peer_copy::DEVICE, slot.device as u64)
            .with(peer_copy::CONTEXT, u64::from(slot.context_uid))
            .with(peer_copy::STREAM, u64::from(slot.stream))
            .with(peer_copy::SRC_DEVICE, from.device as u64)
            .with(peer_copy::SRC_CONTEXT, from.context_uid.into())
            .with(peer_copy::DST_DEVICE, to.device as u64)
            .with(peer_copy::DST_CONTEXT, to.context_uid.into())
            .with(peer_copy::CORRELATION, u64::from(origin.correlation))
            .with(peer_copy::GRAPH, origin.ids.graph.into())
            .with(peer_copy::GRAPH_NODE, origin.ids.node);
        Some(record)
    }
}

impl Fill {
    pub(crate) fn bytes(&self) -> u64 {
        // Checked when it was made.
        self.width as u64 * self.count as u64
    }

    /// A memset of elements of 1, 2 or 4 bytes at a multiple of their size.
    pub(crate) fn new(to: u64, value: u32, width: usize, count: usize) -> Done<Self> {
        let fits = width.checked_mul(count).is_some();
        if !matches!(width, 1 | 2 | 4) || !fits || !to.is_multiple_of(width as u64) {
            return Err(Code::INVALID_VALUE);
        }
        Ok(Self { to, value, width, count })
    }

    fn record(&self, world: &World, slot: &Slot, origin: &Origin) -> Option<Record> {
        if !pending::is_on(memset::LAYOUT.kind) {
            return None;
        }
        let ids = origin.ids;
        let record = Record::new(&memset::LAYOUT, world.activity.version)
            .with(memset::VALUE, u64::from(self.value))
            .with(memset::BYTES, self.bytes())
            .with(memset::START, world.activity.stamp(slot.start))
            .with(memset::END, world.activity.stamp(slot.end))
            .with(memset::DEVICE, slot.device as u64)
            .with(memset::CONTEXT, u64::from(slot.context_uid))
            .with(memset::STREAM, u64::from(slot.stream))
            .with(memset::CORRELATION, u64::from(origin.correlation))
            // CUPTI_ACTIVITY_FLAG_MEMSET_ASYNC
            .with(memset::FLAGS, u64::from(origin.is_async))
            .with(memset::GRAPH, ids.graph.into())
            .with(memset::GRAPH_NODE, ids.node)
            .with(memset::SOURCE_GRAPH, ids.source_graph.into())
            .with(memset::SOURCE_GRAPH_NODE, ids.source_node)
            .with(memset::MEMORY_KIND, world.memory_kind(self.to).into());
        Some(record)
    }
}
