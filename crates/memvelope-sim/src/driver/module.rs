//! Modules, functions, launches and occupancy.

use crate::abi::{Code, Done, LaunchConfig};
use crate::driver::work::{Kernel, Wait, Work, submit};
use crate::edge::{get, put, text};
use crate::entry::Call;
use crate::world::{Function, Module, Tag, World};
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_void};

/// A kernel that a module offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    name: CString,
    parameters: usize,
}

/// First bytes of the images that hold no PTX text: ELF (cubin) and fatbin.
const BINARY_MAGIC: [[u8; 4]; 2] = [[0x7f, b'E', b'L', b'F'], [0x50, 0xed, 0x55, 0xba]];

pub(crate) fn load_data(call: &Call, to: *mut u64, image: *const c_void) -> Done {
    let first: [u8; 4] = get(image.cast())?;
    if BINARY_MAGIC.contains(&first) {
        // There is no machine to run binaries, and their kernels' names cannot be trusted.
        return Err(Code::INVALID_IMAGE);
    }
    load_text(call, to, text(image.cast())?.to_str().map_err(|_| Code::INVALID_PTX)?)
}

pub(crate) fn load_file(call: &Call, to: *mut u64, path: *const c_char) -> Done {
    let path = text(path)?.to_str().map_err(|_| Code::FILE_NOT_FOUND)?;
    let ptx = std::fs::read(path).map_err(|_| Code::FILE_NOT_FOUND)?;
    load_text(call, to, std::str::from_utf8(&ptx).map_err(|_| Code::INVALID_IMAGE)?)
}

fn load_text(call: &Call, to: *mut u64, ptx: &str) -> Done {
    let entries = entries(ptx);
    if entries.is_empty() || !ptx.contains(".version") {
        return Err(Code::INVALID_PTX);
    }
    call.world(|world| {
        let context = world.current()?;
        let device = world.context(context)?.device;
        world.take_context_bytes(device, world.devices[device].spec.module_bytes)?;
        world.context(context)?.modules += 1;
        let handle = world.handle(Tag::Module);
        world.modules.insert(handle, Module { context, entries, functions: HashMap::new() });
        put(to, handle)
    })
}

/// The `.entry NAME(…)`s of PTX text, with the number of their parameters.
fn entries(ptx: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let code: String = ptx.lines().map(|line| line.split("//").next().unwrap_or("")).fold(
        String::with_capacity(ptx.len()),
        |mut code, line| {
            code.push_str(line);
            code.push('\n');
            code
        },
    );
    let mut rest = code.as_str();
    while let Some(at) = rest.find(".entry") {
        rest = rest[at + ".entry".len()..].trim_start();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || "_$%.".contains(c)));
        let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
        let after = after.trim_start();
        let parameters = after
            .strip_prefix('(')
            .map_or(0, |list| list.split(')').next().unwrap_or("").matches(".param").count());
        if let Ok(name) = CString::new(name)
            && !name.is_empty()
        {
            entries.push(Entry { name, parameters });
        }
        rest = after;
    }
    entries
}

pub(crate) fn unload(call: &Call, handle: u64) -> Done {
    call.world(|world| {
        let module = world.modules.remove(&handle).ok_or(Code::INVALID_HANDLE)?;
        world.functions.retain(|_, function| function.module != handle);
        let device = world.context(module.context).map(|context| {
            context.modules = context.modules.saturating_sub(1);
            context.device
        })?;
        let bytes = world.devices[device].spec.module_bytes;
        world.give_context_bytes(device, bytes);
        Ok(())
    })
}

pub(crate) fn function(call: &Call, to: *mut u64, module: u64, name: *const c_char) -> Done {
    let name = text(name)?;
    call.world(|world| {
        let loaded = world.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        if let Some(function) = loaded.functions.get(name) {
            return put(to, *function);
        }
        let entry = loaded.entries.iter().find(|entry| *entry.name == *name);
        let parameters = entry.ok_or(Code::NOT_FOUND)?.parameters;
        let kernels = &world.scenario.kernels;
        let cost = name.to_str().ok().and_then(|name| kernels.named.get(name));
        let cost = *cost.unwrap_or(&kernels.default);
        let handle = world.handle(Tag::Function);
        let id = world.names.intern(name);
        let dynamic_shared_bytes_max = 48 << 10;
        world.functions.insert(
            handle,
            Function { module, name: id, parameters, cost, dynamic_shared_bytes_max },
        );
        if let Some(module) = world.modules.get_mut(&module) {
            module.functions.insert(name.to_owned(), handle);
        }
        put(to, handle)
    })
}

pub(crate) fn function_name(call: &Call, to: *mut *const c_char, function: u64) -> Done {
    call.world(|world| {
        let id = world.functions.get(&function).ok_or(Code::INVALID_HANDLE)?.name;
        put(to, world.names.text(id).as_ptr())
    })
}

/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
const MAX_DYNAMIC_SHARED: u32 = 8;
/// Registers per thread of every simulated kernel.
pub(crate) const REGISTERS: i32 = 32;

pub(crate) fn get_attribute(call: &Call, to: *mut i32, attribute: u32, function: u64) -> Done {
    call.world(|world| {
        let function = world.functions.get(&function).ok_or(Code::INVALID_HANDLE)?;
        let value = match attribute {
            0 => 1024,
            4 => REGISTERS,
            5 | 6 => 90,
            MAX_DYNAMIC_SHARED => function.dynamic_shared_bytes_max,
            9 => -1,
            1..=15 => 0,
            _ => return Err(Code::INVALID_VALUE),
        };
        put(to, value)
    })
}

pub(crate) fn set_attribute(call: &Call, function: u64, attribute: u32, value: i32) -> Done {
    call.world(|world| {
        let function = world.functions.get_mut(&function).ok_or(Code::INVALID_HANDLE)?;
        match attribute {
            MAX_DYNAMIC_SHARED if (0..=227 << 10).contains(&value) => {
                function.dynamic_shared_bytes_max = value;
                Ok(())
            }
            9..=15 => Ok(()),
            _ => Err(Code::INVALID_VALUE),
        }
    })
}

pub(crate) fn known(call: &Call, function: u64) -> Done {
    call.world(|world| world.functions.get(&function).map(|_| ()).ok_or(Code::INVALID_HANDLE))
}

/// Resident blocks per multiprocessor, by threads alone: 2,048 threads, 32 blocks.
pub(crate) fn occupancy(call: &Call, to: *mut i32, function: u64, block: i32) -> Done {
    known(call, function)?;
    if !(1..=1024).contains(&block) {
        return Err(Code::INVALID_VALUE);
    }
    put(to, (2048 / block).min(32))
}

pub(crate) fn best_block(call: &Call, grid: *mut i32, block: *mut i32, function: u64) -> Done {
    known(call, function)?;
    let multiprocessors = call.world(|world| {
        let device = crate::driver::device::current_device_index(world)?;
        Ok(world.devices[device].spec.multiprocessors)
    })?;
    put(grid, multiprocessors * 2)?;
    put(block, 1024)
}

/// A launch as every launch call states it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch {
    pub(crate) function: u64,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
    pub(crate) stream: u64,
    /// `kernelParams` and `extra`.
    pub(crate) arguments: (u64, u64),
}

pub(crate) fn launch_ex(
    call: &Call,
    config: *const LaunchConfig,
    function: u64,
    arguments: (u64, u64),
    stream: fn(u64) -> u64,
) -> Done {
    let config = get(config)?;
    let launch = Launch {
        function,
        grid: config.grid,
        block: config.block,
        shared_bytes: config.shared_bytes,
        stream: stream(config.stream),
        arguments,
    };
    self::launch(call, &launch)
}

fn check(launch: &Launch, function: &Function) -> Done {
    let threads: u64 = launch.block.iter().map(|n| u64::from(*n)).product();
    let [x, y, z] = launch.grid;
    let in_range = x >= 1
        && i32::try_from(x).is_ok()
        && (1..=65_535).contains(&y)
        && (1..=65_535).contains(&z);
    if !in_range || threads == 0 || launch.block[2] > 64 {
        return Err(Code::INVALID_VALUE);
    }
    if threads > 1024 || launch.shared_bytes.cast_signed() > function.dynamic_shared_bytes_max {
        // The driver tells these two apart by device and version; both are refused.
        return Err(Code::INVALID_VALUE);
    }
    if function.parameters > 0 && launch.arguments == (0, 0) {
        return Err(Code::INVALID_VALUE);
    }
    Ok(())
}

pub(crate) fn launch(call: &Call, launch: &Launch) -> Done {
    call.world(|world| {
        world.current()?;
        let kernel = prepare(world, launch)?;
        submit(world, call, Work::Kernel(kernel), Wait::On(launch.stream))
    })
}

/// A launch as work.
pub(crate) fn prepare(world: &World, launch: &Launch) -> Done<Kernel> {
    let function = *world.functions.get(&launch.function).ok_or(Code::INVALID_HANDLE)?;
    check(launch, &function)?;
    Ok(Kernel {
        name: function.name,
        cost: function.cost,
        grid: launch.grid,
        block: launch.block,
        shared_bytes: launch.shared_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ptx: &str, expected: &[(&str, usize)]) {
        let found: Vec<(String, usize)> = entries(ptx)
            .into_iter()
            .map(|entry| (entry.name.into_string().unwrap(), entry.parameters))
            .collect();
        let found: Vec<(&str, usize)> =
            found.iter().map(|(name, parameters)| (name.as_str(), *parameters)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn entries_are_found() {
        check("", &[]);
        check("// .entry nothing(", &[]);
        check(".version 9.0\n.visible .entry k()\n{ret;}", &[("k", 0)]);
        check(
            ".visible .entry _Z1kPfi(\n  .param .u64 p0,\n  .param .u32 p1\n)\n.maxntid 256\n{}\n\
             .entry\n  second\n(.param .align 8 .b8 q[16])",
            &[("_Z1kPfi", 2), ("second", 1)],
        );
    }
}
