//! Graph and capture calls.

use crate::abi::{Code, Done, KernelNodeParams, Memcpy3d, MemsetNodeParams};
use crate::driver::copy::{self, Direction};
use crate::driver::module::{self, Launch};
use crate::driver::work::{Fill, Work};
use crate::edge::{get, put, put_if};
use crate::entry::Call;
use crate::world::World;
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

pub(crate) fn instantiate(call: &Call, to: *mut u64, graph: u64) -> Done {
    call.world(|world| {
        if to.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let executable = world.instantiate(graph)?;
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
    instantiate(call, to, graph)
}

pub(crate) fn launch(call: &Call, executable: u64, stream: u64) -> Done {
    call.world(|world| world.launch_graph(executable, stream, call.correlation))
}

pub(crate) fn upload(call: &Call, executable: u64, stream: u64) -> Done {
    call.world(|world| {
        world.stream_handle(stream)?;
        world.executable(executable)
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
