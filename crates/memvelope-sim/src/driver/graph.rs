//! Graph and capture calls.

use crate::abi::{Code, Done, KernelNodeParams, MemAllocNodeParams, Memcpy3d, MemsetNodeParams};
use crate::driver::copy::{self, Direction};
use crate::driver::device::needs_pools;
use crate::driver::module::{self, Launch};
use crate::driver::vmm::location_device;
use crate::driver::work::{Fill, Work};
use crate::edge::{get, put, put_if};
use crate::entry::Call;
use crate::world::World;
use crate::world::graph_memory::Step;
use crate::world::pools::{PINNED, PoolPlace};
use std::ffi::c_char;

pub(crate) fn create(call: &Call, to: *mut u64, flags: u32) -> Done {
    call.world(|world| {
        if to.is_null() || flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let graph = world.make_graph();
        put(to, graph)
    })
}

/// Dependencies as node calls state them: an array of nodes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct After(pub(crate) *const u64, pub(crate) usize);

impl After {
    fn nodes(self) -> Done<Vec<u64>> {
        (0..self.1).map(|index| get(self.0.wrapping_add(index))).collect()
    }
}

fn add(world: &mut World, to: *mut u64, graph: u64, after: After, work: Work) -> Done {
    if to.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let node = world.add_node(graph, &after.nodes()?, work)?;
    put(to, node)
}

pub(crate) fn add_kernel(
    call: &Call,
    to: *mut u64,
    graph: u64,
    after: After,
    params: *const KernelNodeParams,
) -> Done {
    call.world(|world| {
        let params = get(params)?;
        let launch = Launch {
            function: params.function,
            grid: params.grid,
            block: params.block,
            shared_bytes: params.shared_bytes,
            stream: 0,
            arguments: (params.kernel_params, params.extra),
        };
        let kernel = module::prepare(world, &launch)?;
        add(world, to, graph, after, Work::Kernel(kernel))
    })
}

/// One row of bytes; what spans rows is not simulated.
pub(crate) fn add_copy(
    call: &Call,
    to: *mut u64,
    graph: u64,
    after: After,
    params: *const Memcpy3d,
    context: u64,
) -> Done {
    call.world(|world| {
        world.context(context)?;
        let params = get(params)?;
        if (params.height, params.depth) != (1, 1) {
            return Err(Code::NOT_SUPPORTED);
        }
        let (from, target) = (params.source.address()?, params.target.address()?);
        let bytes = params.width_bytes;
        if bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let direction = match copy::direction_of(world, target, from) {
            Direction::HostToHost => return Err(Code::INVALID_VALUE),
            direction => direction,
        };
        let copy = copy::prepare(world, direction, target, from, bytes);
        add(world, to, graph, after, Work::Copy(copy))
    })
}

/// One row of elements, or rows without a gap.
pub(crate) fn add_fill(
    call: &Call,
    to: *mut u64,
    graph: u64,
    after: After,
    params: *const MemsetNodeParams,
    context: u64,
) -> Done {
    call.world(|world| {
        world.context(context)?;
        let params = get(params)?;
        let row = params.width.checked_mul(params.element_bytes as usize);
        if params.height != 1 && row != Some(params.pitch) {
            return Err(Code::NOT_SUPPORTED);
        }
        let count = params.width.checked_mul(params.height).filter(|count| *count > 0);
        let count = count.ok_or(Code::INVALID_VALUE)?;
        let fill = Fill::new(params.target, params.value, params.element_bytes as usize, count)?;
        add(world, to, graph, after, Work::Fill(fill))
    })
}

/// A stream-ordered allocation on a captured stream.
pub(crate) fn capture_alloc(world: &mut World, stream: u64, pool: u64, bytes: u64) -> Done<u64> {
    let pool = world.pool(pool)?;
    if pool.place != PoolPlace::Device {
        return Err(Code::NOT_SUPPORTED);
    }
    let device = pool.device;
    let graph = world.captured_into(stream)?;
    let address = world.graph_address(graph, device, bytes)?;
    world.add_captured(stream, Work::Memory(Step::Take(address)))?;
    Ok(address)
}

/// A stream-ordered free on a captured stream: of what a graph allocates.
pub(crate) fn capture_free(world: &mut World, stream: u64, address: u64) -> Done {
    let graph = world.captured_into(stream)?;
    world.graph_free_at(graph, address)?;
    world.add_captured(stream, Work::Memory(Step::Give(address)))
}

pub(crate) fn add_alloc(
    call: &Call,
    to: *mut u64,
    graph: u64,
    after: After,
    params: *mut MemAllocNodeParams,
) -> Done {
    call.world(|world| {
        let mut filled = get(params.cast_const())?;
        if to.is_null() || filled.pool.kind != PINNED {
            return Err(Code::INVALID_VALUE);
        }
        let device = location_device(world, filled.pool.location)?;
        needs_pools(world, device)?;
        world.graph(graph)?;
        world.nodes_known(graph, &after.nodes()?)?;
        filled.address = world.graph_address(graph, device, filled.bytes as u64)?;
        add(world, to, graph, after, Work::Memory(Step::Take(filled.address)))?;
        put(params, filled)
    })
}

pub(crate) fn add_free(call: &Call, to: *mut u64, graph: u64, after: After, address: u64) -> Done {
    call.world(|world| {
        if to.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        world.nodes_known(graph, &after.nodes()?)?;
        world.graph_free_at(graph, address)?;
        add(world, to, graph, after, Work::Memory(Step::Give(address)))
    })
}

/// A node of whatever type, by `CUgraphNodeParams`: a type, and 16 bytes from its start on the
/// type's own parameters.
pub(crate) fn add_any(
    call: &Call,
    to: *mut u64,
    graph: u64,
    after: After,
    params: *mut u8,
) -> Done {
    let kind = get(params.cast::<u32>().cast_const())?;
    let own = params.wrapping_add(16);
    match kind {
        0 => add_kernel(call, to, graph, after, own.cast::<KernelNodeParams>()),
        1 => {
            // Flags and padding, and the context, stand before the copy.
            let context = get(own.wrapping_add(8).cast::<u64>())?;
            add_copy(call, to, graph, after, own.wrapping_add(16).cast::<Memcpy3d>(), context)
        }
        2 => {
            let context = get(own.wrapping_add(size_of::<MemsetNodeParams>()).cast::<u64>())?;
            add_fill(call, to, graph, after, own.cast::<MemsetNodeParams>(), context)
        }
        10 => add_alloc(call, to, graph, after, own.cast::<MemAllocNodeParams>()),
        11 => add_free(call, to, graph, after, get(own.cast::<u64>())?),
        3..=13 => Err(Code::NOT_SUPPORTED),
        _ => Err(Code::INVALID_VALUE),
    }
}

/// What graphs use and hold on a device, now and at most.
pub(crate) fn get_memory(call: &Call, device: i32, attribute: u32, to: *mut u64) -> Done {
    call.world(|world| {
        let device = world.device_index(device)?;
        let store = world.devices[device].graph_store;
        let values = [store.used, store.used_high, store.reserved, store.reserved_high];
        put(to, *values.get(attribute as usize).ok_or(Code::INVALID_VALUE)?)
    })
}

/// The high-water marks (1 and 3) can be reset.
pub(crate) fn set_memory(call: &Call, device: i32, attribute: u32, from: *const u64) -> Done {
    call.world(|world| {
        let device = world.device_index(device)?;
        let store = &mut world.devices[device].graph_store;
        match (attribute, get(from)?) {
            (1, 0) => store.used_high = store.used,
            (3, 0) => store.reserved_high = store.reserved,
            _ => return Err(Code::INVALID_VALUE),
        }
        Ok(())
    })
}

pub(crate) fn trim_memory(call: &Call, device: i32) -> Done {
    call.world(|world| {
        let device = world.device_index(device)?;
        world.trim_graph_store(device);
        Ok(())
    })
}

/// `CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH`; the other flags change nothing here.
const AUTO_FREE_ON_LAUNCH: u64 = 1;

pub(crate) fn instantiate(call: &Call, to: *mut u64, graph: u64, flags: u64) -> Done {
    call.world(|world| {
        if to.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let executable = world.instantiate(graph, flags & AUTO_FREE_ON_LAUNCH != 0)?;
        put(to, executable)
    })
}

/// The older call has a place for what went wrong, which is never anything here.
pub(crate) fn instantiate_with_log(
    call: &Call,
    to: *mut u64,
    graph: u64,
    error_node: *mut u64,
    (log, log_bytes): (*mut c_char, usize),
) -> Done {
    put_if(error_node, 0);
    if log_bytes > 0 {
        put_if(log, 0);
    }
    instantiate(call, to, graph, 0)
}

pub(crate) fn launch(call: &Call, executable: u64, stream: u64) -> Done {
    call.world(|world| world.launch_graph(executable, stream, call.correlation))
}

pub(crate) fn upload(call: &Call, executable: u64, stream: u64) -> Done {
    call.world(|world| {
        world.stream_handle(stream)?;
        world.upload_graph(executable)
    })
}

pub(crate) fn destroy(call: &Call, graph: u64) -> Done {
    call.world(|world| world.destroy_graph(graph))
}

pub(crate) fn destroy_executable(call: &Call, executable: u64) -> Done {
    call.world(|world| world.destroy_executable(executable))
}

pub(crate) fn begin_capture(call: &Call, stream: u64, mode: u32) -> Done {
    call.world(|world| world.begin_capture(stream, mode))
}

pub(crate) fn begin_capture_to(
    call: &Call,
    stream: u64,
    graph: u64,
    after: After,
    mode: u32,
) -> Done {
    call.world(|world| world.begin_capture_to(stream, graph, &after.nodes()?, mode))
}

pub(crate) fn end_capture(call: &Call, stream: u64, to: *mut u64) -> Done {
    call.world(|world| {
        put(to, 0)?;
        let graph = world.end_capture(stream)?;
        put(to, graph)
    })
}

pub(crate) fn is_capturing(call: &Call, stream: u64, to: *mut u32) -> Done {
    call.world(|world| {
        let handle = world.stream_handle(stream)?;
        world.refuse_implicit_capture(handle)?;
        put(to, world.graphs.status(handle))
    })
}
