//! The simulated machine: one value behind one lock, with a virtual clock.
//!
//! The lock is a leaf: it is never held while a client's callback runs, because those call back
//! into the simulator.

pub(crate) mod arrays;
pub(crate) mod contents;
pub(crate) mod graph_memory;
pub(crate) mod graphs;
pub(crate) mod growth;
pub(crate) mod imports;
pub(crate) mod memory;
pub(crate) mod multicast;
pub(crate) mod pools;
pub(crate) mod timeline;
pub(crate) mod vmm;

use crate::abi::{Code, Done};
use crate::books::Books;
use crate::cupti::callbacks::Loaded;
use crate::cupti::pending::Pending;
use crate::driver::library::{Library, LibraryKernel};
use crate::scenario::{KernelCost, Scenario};
use crate::share::Exports;
use crate::thread;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

static WORLD: OnceLock<Option<Mutex<World>>> = OnceLock::new();
/// Set once `cuInit` succeeded.
static READY: AtomicBool = AtomicBool::new(false);
/// Set while the injection library's entry runs.
static INJECTING: AtomicBool = AtomicBool::new(false);
/// Set in a child forked after that.
static FORKED: AtomicBool = AtomicBool::new(false);

/// The machine, made on first use; `None` when its scenario cannot be read (said once on stderr).
pub(crate) fn machine() -> Option<MutexGuard<'static, World>> {
    let world = WORLD.get_or_init(|| match World::from_env() {
        Ok(world) => {
            crate::books::write_at_exit();
            Some(Mutex::new(world))
        }
        Err(error) => {
            eprintln!("memvelope-sim: {error}");
            None
        }
    });
    // A panic inside leaves counters that may be off by the call that panicked; it is counted.
    world.as_ref().map(|world| world.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The machine, if it was ever made.
pub(crate) fn machine_if_made() -> Option<MutexGuard<'static, World>> {
    let world = WORLD.get()?.as_ref()?;
    Some(world.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Whether `cuInit` succeeded, in this process.
pub(crate) fn is_ready() -> bool {
    READY.load(Ordering::Acquire)
}

/// Whether the injection library's entry runs, from inside `cuInit`.
pub(crate) fn is_injecting() -> bool {
    INJECTING.load(Ordering::Acquire)
}

pub(crate) fn set_injecting(on: bool) {
    INJECTING.store(on, Ordering::Release);
}

/// Whether this process was forked from one that had initialised the driver: as with the real
/// one, there is no way back.
pub(crate) fn is_forked() -> bool {
    FORKED.load(Ordering::Acquire)
}

/// Makes the driver unusable in children that this process forks from now on.
#[expect(unsafe_code, reason = "pthread_atfork")]
fn die_in_children() {
    extern "C" fn in_child() {
        FORKED.store(true, Ordering::Release);
        READY.store(false, Ordering::Release);
    }
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler only stores to atomics, which is allowed between fork and exec.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}

/// Marks the driver initialised. Returns whether it already was.
pub(crate) fn set_ready() -> bool {
    die_in_children();
    READY.swap(true, Ordering::AcqRel)
}

/// The simulated machine.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    /// The virtual clock, in nanoseconds.
    pub(crate) now: u64,
    pub(crate) devices: Vec<memory::Device>,
    pub(crate) contexts: HashMap<u64, Context>,
    pub(crate) streams: HashMap<u64, timeline::Stream>,
    /// When the work queued on each stream ends, oldest first.
    pub(crate) queues: HashMap<u64, VecDeque<u64>>,
    pub(crate) events: HashMap<u64, timeline::Event>,
    pub(crate) modules: HashMap<u64, Module>,
    pub(crate) functions: HashMap<u64, Function>,
    pub(crate) libraries: HashMap<u64, Library>,
    pub(crate) kernels: HashMap<u64, LibraryKernel>,
    /// Live device, pitch, managed and pool allocations by base address.
    pub(crate) allocs: BTreeMap<u64, memory::Alloc>,
    /// Live host allocations by base address.
    pub(crate) hosts: BTreeMap<u64, memory::Host>,
    pub(crate) arrays: HashMap<u64, arrays::Array>,
    pub(crate) addresses: memory::Addresses,
    pub(crate) pools: HashMap<u64, pools::Pool>,
    /// Default and current pool by kind and id of a location, and allocation type: those that are
    /// not of a device's pinned memory.
    pub(crate) located_pools: HashMap<(i32, i32, i32), (u64, u64)>,
    /// Memory of other processes, by its address here.
    pub(crate) imports: BTreeMap<u64, imports::Import>,
    pub(crate) vmm: vmm::Vmm,
    pub(crate) exports: Exports,
    pub(crate) graphs: graphs::Graphs,
    pub(crate) graph_allocs: graph_memory::GraphAllocs,
    pub(crate) contents: contents::Store,
    pub(crate) names: Names,
    pub(crate) books: Books,
    pub(crate) activity: Pending,
    /// How many of the scenario's overheads were told.
    pub(crate) overheads_told: usize,
    /// Modules whose code has gone to the device in the call that is under way.
    pub(crate) loaded: Vec<Loaded>,
    next_handle: u64,
    next_buffer: u64,
    next_context_uid: u32,
}

/// A context.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) device: usize,
    /// CUPTI's id of it.
    pub(crate) uid: u32,
    pub(crate) flags: u32,
    /// Handle of its legacy default stream.
    pub(crate) legacy: u64,
    /// Per-thread default streams, by thread number.
    pub(crate) per_thread: HashMap<u64, u64>,
    /// When the last work of its legacy default stream ends.
    pub(crate) legacy_tail: u64,
    /// When the last work of all its blocking streams ends.
    pub(crate) blocking_tail: u64,
    /// When the last work of its destroyed streams ends.
    pub(crate) orphan_tail: u64,
    pub(crate) limits: HashMap<u32, usize>,
    /// Contexts of other devices that it may reach.
    pub(crate) peers: Vec<u64>,
    /// Local memory of each of its threads.
    pub(crate) local_bytes: u64,
}

/// A loaded module.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) context: u64,
    pub(crate) entries: Vec<crate::driver::module::Entry>,
    pub(crate) functions: HashMap<CString, u64>,
    /// Whether a kernel of it was launched.
    pub(crate) has_launched: bool,
}

/// A kernel of a loaded module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function {
    pub(crate) module: u64,
    pub(crate) name: u32,
    pub(crate) parameters: usize,
    pub(crate) cost: KernelCost,
    pub(crate) dynamic_shared_bytes_max: i32,
}

/// What a handle names. The tag makes a handle of the wrong kind an invalid one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    Context = 0xc1,
    Stream = 0xc2,
    Event = 0xc3,
    Module = 0xc4,
    Function = 0xc5,
    Pool = 0xc6,
    Vmm = 0xc7,
    Graph = 0xc8,
    Node = 0xc9,
    Executable = 0xca,
    Physical = 0xcb,
    Library = 0xcc,
    Kernel = 0xcd,
    Array = 0xce,
}

impl World {
    fn from_env() -> Result<Self, String> {
        match std::env::var_os("MEMVELOPE_SIM_SCENARIO").filter(|path| !path.is_empty()) {
            Some(path) => Ok(Self::new(Scenario::from_file(path.as_ref())?)),
            None => Ok(Self::new(Scenario::default())),
        }
    }

    pub(crate) fn new(scenario: Scenario) -> Self {
        crate::fault::arm(&scenario);
        crate::cupti::faults::arm(&scenario);
        let devices: Vec<_> =
            scenario.devices.iter().enumerate().map(|(i, d)| memory::Device::new(i, d)).collect();
        let mut world = Self {
            now: scenario.start_ns,
            contexts: HashMap::new(),
            streams: HashMap::new(),
            queues: HashMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            libraries: HashMap::new(),
            kernels: HashMap::new(),
            allocs: BTreeMap::new(),
            hosts: BTreeMap::new(),
            arrays: HashMap::new(),
            addresses: memory::Addresses::default(),
            pools: HashMap::new(),
            located_pools: HashMap::new(),
            imports: BTreeMap::new(),
            vmm: vmm::Vmm::default(),
            exports: Exports::default(),
            graphs: graphs::Graphs::default(),
            graph_allocs: graph_memory::GraphAllocs::new(),
            contents: contents::Store::new(scenario.contents),
            names: Names::default(),
            books: Books::default(),
            activity: Pending::of(&scenario),
            overheads_told: 0,
            loaded: Vec::new(),
            next_handle: 1,
            next_buffer: 1,
            next_context_uid: 1,
            devices,
            scenario,
        };
        for ordinal in 0..world.devices.len() {
            world.make_default_pool(ordinal);
        }
        world
    }

    pub(crate) fn handle(&mut self, tag: Tag) -> u64 {
        let handle = ((tag as u64) << 40) | (self.next_handle << 4);
        self.next_handle += 1;
        handle
    }

    /// A number for an allocation, never used again (`CU_POINTER_ATTRIBUTE_BUFFER_ID`).
    pub(crate) fn buffer_id(&mut self) -> u64 {
        let id = self.next_buffer;
        self.next_buffer += 1;
        id
    }

    pub(crate) fn device_index(&self, ordinal: i32) -> Done<usize> {
        let index = usize::try_from(ordinal).map_err(|_| Code::INVALID_DEVICE)?;
        if index < self.devices.len() { Ok(index) } else { Err(Code::INVALID_DEVICE) }
    }

    /// The calling thread's current context.
    pub(crate) fn current(&self) -> Done<u64> {
        match thread::current() {
            0 => Err(Code::INVALID_CONTEXT),
            handle if self.contexts.contains_key(&handle) => Ok(handle),
            _ => Err(Code::CONTEXT_IS_DESTROYED),
        }
    }

    pub(crate) fn context(&mut self, handle: u64) -> Done<&mut Context> {
        self.contexts.get_mut(&handle).ok_or(Code::INVALID_CONTEXT)
    }

    /// Makes a context under `handle`, with its default stream and its bytes.
    pub(crate) fn make_context(&mut self, handle: u64, device: usize, flags: u32) -> Done {
        let bytes = self.devices[device].spec.context_bytes;
        self.take_context_bytes(device, bytes)?;
        let uid = self.next_context_uid;
        self.next_context_uid += 1;
        let legacy = self.handle(Tag::Stream);
        self.contexts.insert(
            handle,
            Context {
                device,
                uid,
                flags,
                legacy,
                per_thread: HashMap::new(),
                legacy_tail: self.now,
                blocking_tail: self.now,
                orphan_tail: self.now,
                limits: HashMap::new(),
                peers: Vec::new(),
                local_bytes: growth::STACK_BYTES,
            },
        );
        self.make_stream(handle, legacy, timeline::LEGACY);
        self.make_device_buffers(uid, device);
        Ok(())
    }

    /// Destroys a context and everything that belongs to it.
    pub(crate) fn destroy_context(&mut self, handle: u64) -> Done {
        let bytes = self.bytes_of_context(handle);
        let context = self.contexts.remove(&handle).ok_or(Code::INVALID_CONTEXT)?;
        self.give_context_bytes(context.device, bytes);
        self.drop_device_buffers(context.uid);
        self.streams.retain(|_, stream| stream.context != handle);
        let streams = &self.streams;
        self.queues.retain(|handle, _| streams.contains_key(handle));
        self.events.retain(|_, event| event.context != handle);
        let (streams, events) = (&self.streams, &self.events);
        self.graphs.forget(|gone| !streams.contains_key(&gone) && !events.contains_key(&gone));
        self.modules.retain(|_, module| module.context != handle);
        let modules = &self.modules;
        self.functions.retain(|_, function| modules.contains_key(&function.module));
        self.free_all_of(handle);
        self.destroy_arrays_of(handle);
        Ok(())
    }

    /// Waits, in virtual time, until `time`.
    pub(crate) fn wait_until(&mut self, time: u64) {
        self.now = self.now.max(time);
    }
}

/// Kernel names as C strings that live as long as the process, as CUPTI's records need them.
/// Bounded by the distinct kernels of the modules that a program loads.
#[derive(Debug, Default)]
pub(crate) struct Names {
    ids: HashMap<&'static CStr, u32>,
    texts: Vec<&'static CStr>,
}

impl Names {
    pub(crate) fn intern(&mut self, name: &CStr) -> u32 {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let text: &'static CStr = Box::leak(name.to_owned().into_boxed_c_str());
        let id = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        self.texts.push(text);
        self.ids.insert(text, id);
        id
    }

    pub(crate) fn text(&self, id: u32) -> &'static CStr {
        self.texts.get(id as usize).copied().unwrap_or(c"")
    }
}
