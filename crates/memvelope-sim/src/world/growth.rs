//! What contexts take for themselves: when they are made, for modules, at a first launch, and for
//! local memory.

use crate::abi::{Code, Done};
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
}

impl World {
    /// Loads a module into the current context.
    pub(crate) fn load_module(&mut self, entries: Vec<Entry>) -> Done<u64> {
        let context = self.current()?;
        let device = self.context(context)?.device;
        self.take_context_bytes(device, self.devices[device].spec.module_bytes)?;
        let handle = self.handle(Tag::Module);
        let functions = HashMap::new();
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
        self.take_context_bytes(device, self.devices[device].spec.lazy_module_bytes)?;
        if let Some(record) = self.modules.get_mut(&module) {
            record.has_launched = true;
        }
        Ok(())
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
        self.devices[device].spec.context_bytes + modules + local
    }

    /// What the contexts of a device take, by cause.
    pub(crate) fn growth(&self, device: usize) -> Growth {
        let spec = &self.devices[device].spec;
        let mut growth = Growth::default();
        for context in self.contexts.values().filter(|context| context.device == device) {
            growth.contexts_bytes += spec.context_bytes;
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
