//! Libraries: images that belong to no context, and their kernels.

use crate::abi::{Code, Done};
use crate::driver::module::{self, Entry};
use crate::edge::{put, text};
use crate::entry::Call;
use crate::world::{Tag, World};
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_void};

/// A loaded library.
#[derive(Debug)]
pub(crate) struct Library {
    entries: Vec<Entry>,
    /// Its module in each context that asked for it.
    modules: HashMap<u64, u64>,
}

/// A kernel of a library.
#[derive(Debug)]
pub(crate) struct LibraryKernel {
    library: u64,
    name: CString,
}

impl World {
    /// The module of a library in the current context, loaded there if it is not yet.
    fn library_module(&mut self, handle: u64) -> Done<u64> {
        let context = self.current()?;
        let library = self.libraries.get(&handle).ok_or(Code::INVALID_HANDLE)?;
        let known = library.modules.get(&context).copied();
        if let Some(module) = known.filter(|module| self.modules.contains_key(module)) {
            return Ok(module);
        }
        let entries = library.entries.clone();
        let module = self.load_module(entries)?;
        if let Some(library) = self.libraries.get_mut(&handle) {
            library.modules.insert(context, module);
        }
        Ok(module)
    }

    /// The function of a kernel in the current context.
    pub(crate) fn kernel_function(&mut self, kernel: u64) -> Done<u64> {
        let kernel = self.kernels.get(&kernel).ok_or(Code::INVALID_HANDLE)?;
        let (library, name) = (kernel.library, kernel.name.clone());
        let module = self.library_module(library)?;
        self.module_function(module, &name)
    }
}

/// Loads an image. Where there is a current context, its module is loaded there at once.
pub(crate) fn load(call: &Call, to: *mut u64, image: *const c_void) -> Done {
    load_entries(call, to, module::read_image(image)?)
}

pub(crate) fn load_file(call: &Call, to: *mut u64, path: *const c_char) -> Done {
    load_entries(call, to, module::read_file(path)?)
}

fn load_entries(call: &Call, to: *mut u64, entries: Vec<Entry>) -> Done {
    call.world(|world| {
        if to.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let handle = world.handle(Tag::Library);
        world.libraries.insert(handle, Library { entries, modules: HashMap::new() });
        if world.current().is_ok()
            && let Err(code) = world.library_module(handle)
        {
            world.libraries.remove(&handle);
            return Err(code);
        }
        put(to, handle)
    })
}

pub(crate) fn unload(call: &Call, handle: u64) -> Done {
    call.world(|world| {
        let library = world.libraries.remove(&handle).ok_or(Code::INVALID_HANDLE)?;
        world.kernels.retain(|_, kernel| kernel.library != handle);
        for module in library.modules.into_values() {
            // Those of contexts that are gone went with them.
            let _ = world.unload_module(module);
        }
        Ok(())
    })
}

pub(crate) fn module(call: &Call, to: *mut u64, handle: u64) -> Done {
    call.world(|world| {
        let module = world.library_module(handle)?;
        put(to, module)
    })
}

pub(crate) fn kernel(call: &Call, to: *mut u64, library: u64, name: *const c_char) -> Done {
    let name = text(name)?;
    call.world(|world| {
        let entries = &world.libraries.get(&library).ok_or(Code::INVALID_HANDLE)?.entries;
        if !entries.iter().any(|entry| entry.is_named(name)) {
            return Err(Code::NOT_FOUND);
        }
        let handle = world.handle(Tag::Kernel);
        world.kernels.insert(handle, LibraryKernel { library, name: name.to_owned() });
        put(to, handle)
    })
}

pub(crate) fn function(call: &Call, to: *mut u64, kernel: u64) -> Done {
    call.world(|world| {
        let function = world.kernel_function(kernel)?;
        put(to, function)
    })
}
