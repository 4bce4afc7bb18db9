//! What contexts take for themselves: when they are made, for modules, at a first launch, and for
//! local memory.

use crate::abi::{Code, Done};
use crate::cupti::callbacks::Loaded;
use crate::driver::module::Entry;
use crate::world::{Module, Tag, World};
use serde::Serialize;
use std::collections::HashMap;

/// Stack that every thread has by default; local memory up to this is part of a new context.
pub(crate) const STACK_BYTES: u64 = 1 << 10;

/// What the contexts of a device take, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Growth {
    contexts_bytes: u64,
    modules_bytes: u64,
    lazy_modules_bytes: u64,
    local_memory_bytes: u64,
    limits_bytes: u64,
}

/// `CU_LIMIT_PRINTF_FIFO_SIZE` and `CU_LIMIT_MALLOC_HEAP_SIZE` with their defaults, which are part of
/// a new context.
const BUFFERS: [(u32, u64); 2] = [(1, 1 << 20), (2, 8 << 20)];

impl World {
    /// Loads a module into the current context.
    pub(crate) fn load_module(&mut self, entries: Vec<Entry>) -> Done<u64> {
        let context = self.current()?;
        let device = self.context(context)?.device;
        let spec = &self.devices[device].spec;
        let (bytes, is_lazy) = (spec.module_bytes, spec.lazy_module_bytes > 0);
        self.take_context_bytes(device, bytes)?;
        let handle = self.handle(Tag::Module);
        let functions = HashMap::new();
        if !is_lazy {
            self.note_loaded(context, handle, bytes);
        }
        let module = Module { context, entries, functions, has_launched: false };
        self.modules.insert(handle, module);
        Ok(handle)
    }

    pub(crate) fn unload_module(&mut self, handle: u64) -> Done {
        let module = self.modules.remove(&handle).ok_or(Code::INVALID_HANDLE)?;
        self.functions.retain(|_, function| function.module != handle);
        let device = self.context(module.context)?.device;
        self.give_context_bytes(device, self.module_bytes(&module, device));
        Ok(())
    }

    fn module_bytes(&self, module: &Module, device: usize) -> u64 {
        let spec = &self.devices[device].spec;
        spec.module_bytes + if module.has_launched { spec.lazy_module_bytes } else { 0 }
    }

    /// What the first launch of a kernel of `module` loads.
    pub(crate) fn load_lazily(&mut self, module: u64) -> Done {
        let record = self.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        if record.has_launched {
            return Ok(());
        }
        let context = record.context;
        let device = self.context(context)?.device;
        let bytes = self.devices[device].spec.lazy_module_bytes;
        self.take_context_bytes(device, bytes)?;
        if let Some(record) = self.modules.get_mut(&module) {
            record.has_launched = true;
        }
        if bytes > 0 {
            self.note_loaded(context, module, bytes);
        }
        Ok(())
    }

    /// CUPTI is to tell of it; all that a module takes is called its code.
    fn note_loaded(&mut self, context: u64, module: u64, code_bytes: u64) {
        let id = u32::try_from((module >> 4) & 0xffff_ffff).unwrap_or(u32::MAX);
        self.loaded.push(Loaded { context, id, code_bytes });
    }

    /// Local memory of a context whose threads have `bytes` each.
    fn local_memory(&self, device: usize, bytes: u64) -> Done<u64> {
        let threads = self.devices[device].spec.local_memory_threads;
        let above = bytes.saturating_sub(STACK_BYTES);
        above.checked_mul(threads).ok_or(Code::OUT_OF_MEMORY)
    }

    /// Gives each thread of a context so much local memory.
    pub(crate) fn set_local_memory(&mut self, context: u64, bytes: u64) -> Done {
        let record = self.context(context)?;
        let (device, before) = (record.device, record.local_bytes);
        let (before, after) =
            (self.local_memory(device, before)?, self.local_memory(device, bytes)?);
        if after > before {
            self.take_context_bytes(device, after - before)?;
        } else {
            self.give_context_bytes(device, before - after);
        }
        self.context(context)?.local_bytes = bytes;
        Ok(())
    }

    /// Gives the buffer of a limit of a context so many bytes, in whole pages.
    pub(crate) fn set_buffer(&mut self, context: u64, limit: u32, bytes: u64) -> Done {
        let device = self.context(context)?.device;
        let before = self.buffers_bytes(context);
        let former = self.context(context)?.limits.insert(limit, bytes as usize);
        let after = self.buffers_bytes(context);
        let taken = match after.checked_sub(before) {
            Some(more) => self.take_context_bytes(device, more),
            None => {
                self.give_context_bytes(device, before - after);
                Ok(())
            }
        };
        if taken.is_err() {
            let limits = &mut self.context(context)?.limits;
            match former {
                Some(former) => limits.insert(limit, former),
                None => limits.remove(&limit),
            };
        }
        taken
    }

    /// What the buffers of a context take beyond those of a new one.
    fn buffers_bytes(&self, handle: u64) -> u64 {
        let Some(context) = self.contexts.get(&handle) else { return 0 };
        let spec = &self.devices[context.device].spec;
        if !spec.limits_take_memory {
            return 0;
        }
        let beyond = BUFFERS.map(|(limit, default)| {
            let bytes = context.limits.get(&limit).map_or(default, |bytes| *bytes as u64);
            let beyond = bytes.saturating_sub(default);
            beyond.checked_next_multiple_of(spec.page_bytes).unwrap_or(u64::MAX)
        });
        beyond.iter().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes))
    }

    /// All local memory of the context that CUPTI calls `uid`: what a kernel's record says.
    pub(crate) fn local_memory_of(&self, uid: u32) -> u64 {
        let Some(context) = self.contexts.values().find(|it| it.uid == uid) else { return 0 };
        let threads = self.devices[context.device].spec.local_memory_threads;
        context.local_bytes.saturating_mul(threads)
    }

    /// Makes sure that threads have as much local memory as a kernel needs.
    pub(crate) fn need_local_memory(&mut self, context: u64, bytes: u64) -> Done {
        if bytes <= self.context(context)?.local_bytes {
            return Ok(());
        }
        self.set_local_memory(context, bytes)
    }

    /// Everything that a context takes.
    pub(crate) fn bytes_of_context(&self, handle: u64) -> u64 {
        let Some(context) = self.contexts.get(&handle) else { return 0 };
        let device = context.device;
        let modules = self.modules.values().filter(|module| module.context == handle);
        let modules: u64 = modules.map(|module| self.module_bytes(module, device)).sum();
        let local = self.local_memory(device, context.local_bytes).unwrap_or(0);
        self.devices[device].spec.context_bytes + modules + local + self.buffers_bytes(handle)
    }

    /// What the contexts of a device take, by cause.
    pub(crate) fn growth(&self, device: usize) -> Growth {
        let spec = &self.devices[device].spec;
        let mut growth = Growth::default();
        for (handle, context) in self.contexts.iter().filter(|(_, it)| it.device == device) {
            growth.contexts_bytes += spec.context_bytes;
            growth.limits_bytes += self.buffers_bytes(*handle);
            let local = self.local_memory(device, context.local_bytes);
            growth.local_memory_bytes += local.unwrap_or(0);
        }
        for module in self.modules.values() {
            let at = self.contexts.get(&module.context).map(|context| context.device);
            if at == Some(device) {
                growth.modules_bytes += spec.module_bytes;
                let lazy = if module.has_launched { spec.lazy_module_bytes } else { 0 };
                growth.lazy_modules_bytes += lazy;
            }
        }
        growth
    }
}
