//! Modules, functions, launches and occupancy.

use crate::abi::{Code, Done, LaunchConfig};
use crate::driver::work::{Kernel, Wait, Work, submit};
use crate::edge::{get, put, text};
use crate::entry::Call;
use crate::world::{Function, Tag, World};
use std::ffi::{CStr, CString, c_char, c_void};

/// A kernel that a module offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    name: CString,
    parameters: usize,
}

impl Entry {
    pub(crate) fn is_named(&self, name: &CStr) -> bool {
        *self.name == *name
    }
}

/// First bytes of the images that hold no PTX text: ELF (cubin) and fatbin.
const BINARY_MAGIC: [[u8; 4]; 2] = [[0x7f, b'E', b'L', b'F'], [0x50, 0xed, 0x55, 0xba]];

pub(crate) fn load_data(call: &Call, to: *mut u64, image: *const c_void) -> Done {
    load(call, to, read_image(image)?)
}

/// The kernels of an image.
pub(crate) fn read_image(image: *const c_void) -> Done<Vec<Entry>> {
    let first: [u8; 4] = get(image.cast())?;
    if BINARY_MAGIC.contains(&first) {
        // There is no machine to run binaries, and their kernels' names cannot be trusted.
        return Err(Code::INVALID_IMAGE);
    }
    read_text(text(image.cast())?.to_str().map_err(|_| Code::INVALID_PTX)?)
}

pub(crate) fn load_file(call: &Call, to: *mut u64, path: *const c_char) -> Done {
    load(call, to, read_file(path)?)
}

/// The kernels of a file of PTX text.
pub(crate) fn read_file(path: *const c_char) -> Done<Vec<Entry>> {
    let path = text(path)?.to_str().map_err(|_| Code::FILE_NOT_FOUND)?;
    let ptx = std::fs::read(path).map_err(|_| Code::FILE_NOT_FOUND)?;
    read_text(std::str::from_utf8(&ptx).map_err(|_| Code::INVALID_IMAGE)?)
}

fn read_text(ptx: &str) -> Done<Vec<Entry>> {
    let entries = entries(ptx);
    if entries.is_empty() || !ptx.contains(".version") {
        return Err(Code::INVALID_PTX);
    }
    Ok(entries)
}

fn load(call: &Call, to: *mut u64, entries: Vec<Entry>) -> Done {
    call.world(|world| {
        if to.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let handle = world.load_module(entries)?;
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
    call.world(|world| world.unload_module(handle))
}

pub(crate) fn function(call: &Call, to: *mut u64, module: u64, name: *const c_char) -> Done {
    let name = text(name)?;
    call.world(|world| {
        let handle = world.module_function(module, name)?;
        put(to, handle)
    })
}

impl World {
    /// The function of a module's kernel.
    pub(crate) fn module_function(&mut self, module: u64, name: &CStr) -> Done<u64> {
        let loaded = self.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        if let Some(function) = loaded.functions.get(name) {
            return Ok(*function);
        }
        let entry = loaded.entries.iter().find(|entry| entry.is_named(name));
        let parameters = entry.ok_or(Code::NOT_FOUND)?.parameters;
        let kernels = &self.scenario.kernels;
        let cost = name.to_str().ok().and_then(|name| kernels.named.get(name));
        let cost = *cost.unwrap_or(&kernels.default);
        let handle = self.handle(Tag::Function);
        let id = self.names.intern(name);
        let dynamic_shared_bytes_max = 48 << 10;
        self.functions.insert(
            handle,
            Function { module, name: id, parameters, cost, dynamic_shared_bytes_max },
        );
        if let Some(module) = self.modules.get_mut(&module) {
            module.functions.insert(name.to_owned(), handle);
        }
        Ok(handle)
    }
}

pub(crate) fn module_of(call: &Call, to: *mut u64, function: u64) -> Done {
    call.world(|world| {
        let module = world.functions.get(&function).ok_or(Code::INVALID_HANDLE)?.module;
        put(to, module)
    })
}

/// Loads a function before its first launch would.
pub(crate) fn load_function(call: &Call, function: u64) -> Done {
    call.world(|world| {
        let module = world.functions.get(&function).ok_or(Code::INVALID_HANDLE)?.module;
        world.load_lazily(module)
    })
}

/// `CU_FUNCTION_LOADING_STATE_…`: 0 before, 1 after.
pub(crate) fn is_loaded(call: &Call, to: *mut u32, function: u64) -> Done {
    call.world(|world| {
        let module = world.functions.get(&function).ok_or(Code::INVALID_HANDLE)?.module;
        let is_loaded = world.modules.get(&module).is_some_and(|module| module.has_launched);
        put(to, u32::from(is_loaded))
    })
}

/// `CU_MODULE_LAZY_LOADING` (2) where the scenario has it so, else `…_EAGER_LOADING` (1).
pub(crate) fn loading_mode(call: &Call, to: *mut u32) -> Done {
    call.world(|world| {
        let is_lazy = world.devices.iter().any(|device| device.spec.lazy_module_bytes > 0);
        put(to, if is_lazy { 2 } else { 1 })
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
            3 => i32::try_from(function.cost.local_bytes).unwrap_or(i32::MAX),
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

/// A launch as work. Loads what the kernel needs; a library's kernel may stand for its function.
pub(crate) fn prepare(world: &mut World, launch: &Launch) -> Done<Kernel> {
    let handle = match world.kernels.contains_key(&launch.function) {
        true => world.kernel_function(launch.function)?,
        false => launch.function,
    };
    let function = *world.functions.get(&handle).ok_or(Code::INVALID_HANDLE)?;
    check(launch, &function)?;
    world.load_lazily(function.module)?;
    if let Some(context) = world.modules.get(&function.module).map(|module| module.context) {
        world.need_local_memory(context, function.cost.local_bytes)?;
    }
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
