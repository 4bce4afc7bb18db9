//! The C edge: one macro per library declares its exported functions, and everything that holds
//! for all of them (faults, host cost, callbacks, caught unwinds) happens here.

use crate::abi::{Code, Done};
use crate::books::{CALLS, CAUGHT_PANICS};
use crate::cupti::layout::Record;
use crate::cupti::{api, buffers, callbacks, faults, overhead, pending};
use crate::fault::Caller;
use crate::world::{self, World};
use crate::{fault, thread};
use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::{CStr, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};

/// What a driver call costs its host thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cost {
    /// Nothing: answered without asking anybody, or a question that a monitor on a thread of its
    /// own asks from time to time. Threads share one clock here, so a cost would delay the work of
    /// the others, at moments that only the host's scheduler decides.
    Free,
    Call,
    Launch,
    Alloc,
    Release,
    Copy,
    Sync,
    Setup,
}

/// A function of the simulated libcuda.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: &'static CStr,
    /// CUPTI's callback id; 0 for functions that are never watched.
    pub(crate) cbid: u32,
    pub(crate) cost: Cost,
    pub(crate) address: Address,
}

impl Function {
    pub(crate) fn name(&self) -> &'static str {
        self.name.to_str().unwrap_or("")
    }
}

/// The address of an exported function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address(pub(crate) *const c_void);

#[expect(unsafe_code, reason = "function addresses in a static table")]
// SAFETY: the address of a function of this library, which is never unloaded while it is used.
unsafe impl Sync for Address {}

/// One driver call under way.
#[derive(Debug)]
pub(crate) struct Call {
    function: &'static Function,
    pub(crate) correlation: u32,
    charged: Cell<bool>,
    /// Virtual time at which the call was made, before its host cost.
    began: Cell<u64>,
}

impl Call {
    /// Runs `action` on the machine, after the call's host cost.
    pub(crate) fn world<R>(&self, action: impl FnOnce(&mut World) -> Done<R>) -> Done<R> {
        if !world::is_ready() {
            return Err(Code::NOT_INITIALIZED);
        }
        let mut world = world::machine().ok_or(Code::SYSTEM_NOT_READY)?;
        if !self.charged.replace(true) {
            self.began.set(world.now);
            let costs = &world.scenario.costs;
            let of_class = match self.function.cost {
                Cost::Free => 0,
                Cost::Call => costs.call_ns,
                Cost::Launch => costs.launch_ns,
                Cost::Alloc => costs.alloc_ns,
                Cost::Release => costs.free_ns,
                Cost::Copy => costs.copy_ns,
                Cost::Sync => costs.sync_ns,
                Cost::Setup => costs.setup_ns,
            };
            let ns = if costs.calls.is_empty() {
                of_class
            } else {
                costs.calls.get(self.function.name()).copied().unwrap_or(of_class)
            };
            world.now = world.now.saturating_add(ns);
        }
        world.reap_exports();
        let result = action(&mut world);
        let loaded = std::mem::take(&mut world.loaded);
        drop(world);
        loaded.iter().for_each(callbacks::module_loaded);
        result
    }

    /// When the call was made; meaningful inside [`Self::world`].
    pub(crate) fn began(&self) -> u64 {
        self.began.get()
    }

    fn allocates(&self) -> bool {
        self.function.cost == Cost::Alloc
    }

    fn run(&self, body: impl FnOnce(&Self) -> Done) -> u32 {
        let due = fault::due(self.function.name(), Caller::Driver { allocates: self.allocates() });
        let code = match due {
            Some(code) => code,
            None => body(self).err().unwrap_or(Code::SUCCESS).0,
        };
        let failed_allocation = self.allocates() && code != 0;
        if due.is_some() || failed_allocation {
            let _ = self.world(|world| {
                world.books.faults_fired += u64::from(due.is_some());
                world.books.failed_allocations += u64::from(failed_allocation);
                let oom = failed_allocation && code == Code::OUT_OF_MEMORY.0;
                world.books.cuda_ooms += u64::from(oom);
                Ok(())
            });
        }
        code
    }
}

static NEXT_CORRELATION: AtomicU32 = AtomicU32::new(1);

/// Everything that surrounds the body of a driver function. `symbol` is the function handle of a
/// launch, 0 for other calls.
pub(crate) fn driver(
    function: &'static Function,
    params: *const c_void,
    symbol: u64,
    body: impl FnOnce(&Call) -> Done,
) -> u32 {
    caught(Code::UNKNOWN.0, || {
        if fault::is_missing(function.name()) {
            return Code::NOT_SUPPORTED.0;
        }
        faults::driver_called(CALLS.fetch_add(1, Ordering::Relaxed) + 1);
        let correlation = NEXT_CORRELATION.fetch_add(1, Ordering::Relaxed);
        let call = Call { function, correlation, charged: Cell::new(false), began: Cell::new(0) };
        let begun = api::begun(function.cbid);
        let code = if callbacks::is_watched(function.cbid) {
            let mut slot = 0;
            let mut seen = seen_by_subscriber(&call, params, symbol, &mut slot);
            seen.entered();
            let code = call.run(body);
            // The context may be new, or gone.
            seen.context = current_context();
            seen.returned(code);
            code
        } else {
            call.run(body)
        };
        match begun {
            Some(start) => settle_after(api::ended(function.cbid, start, correlation, code)),
            None => settle(),
        }
        code
    })
}

fn seen_by_subscriber<'a>(
    call: &Call,
    params: *const c_void,
    symbol: u64,
    slot: &'a mut u64,
) -> callbacks::Seen<'a> {
    let symbol = if symbol == 0 {
        None
    } else {
        world::machine_if_made().and_then(|mut world| {
            let function = match world.kernels.contains_key(&symbol) {
                true => world.kernel_function(symbol).ok()?,
                false => symbol,
            };
            let name = world.functions.get(&function)?.name;
            Some(world.names.text(name))
        })
    };
    callbacks::Seen {
        cbid: call.function.cbid,
        name: call.function.name,
        params,
        symbol,
        context: current_context(),
        correlation: call.correlation,
        slot,
    }
}

fn current_context() -> (u64, u32) {
    let handle = thread::current();
    let world = world::machine_if_made();
    let uid = world.and_then(|world| world.contexts.get(&handle).map(|context| context.uid));
    (handle, uid.unwrap_or(0))
}

/// Hands completed records to the client's buffers.
pub(crate) fn settle() {
    if pending::any_on() {
        settle_after(VecDeque::new());
    }
}

/// The same, also for what was made before its kind was turned off.
pub(crate) fn settle_all() {
    settle_after(VecDeque::new());
}

/// The same, after records that are the calling thread's own.
fn settle_after(mut records: VecDeque<Record>) {
    if thread::is_in_client() {
        return;
    }
    if let Some(mut world) = world::machine_if_made() {
        overhead::declared(&mut world);
        let now = world.now;
        records.append(&mut world.activity.take_complete(now));
    }
    buffers::deliver(records);
}

/// Everything that surrounds the body of a CUPTI or NVML function.
pub(crate) fn plain(
    name: &'static str,
    (missing, panicked): (u32, u32),
    before: fn(&'static str),
    body: impl FnOnce() -> u32,
) -> u32 {
    caught(panicked, || {
        before(name);
        if fault::is_missing(name) {
            return missing;
        }
        match fault::due(name, Caller::Other) {
            Some(code) => {
                if let Some(mut world) = world::machine() {
                    world.books.faults_fired += 1;
                }
                code
            }
            None => body(),
        }
    })
}

fn caught(panicked: u32, body: impl FnOnce() -> u32) -> u32 {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        CAUGHT_PANICS.fetch_add(1, Ordering::Relaxed);
        panicked
    })
}

/// Declares the functions of the simulated libcuda: name, arguments as the C ABI passes them,
/// CUPTI callback id, cost class, and what the call does. Yields the exports, the parameter
/// struct that callbacks see, and the table that `cuGetProcAddress` and the tests read.
macro_rules! driver_functions {
    ($(
        $name:ident($($arg:ident: $type:ty),* $(,)?) = $cbid:literal $cost:ident
        $(symbol $symbol:ident)? => |$call:ident| $body:expr;
    )*) => {
        #[derive(Clone, Copy)]
        enum Index { $($name),* }

        /// Every function of the simulated libcuda.
        pub(crate) static TABLE: &[$crate::entry::Function] = &[$($crate::entry::Function {
            name: match ::std::ffi::CStr::from_bytes_with_nul(
                concat!(stringify!($name), "\0").as_bytes()
            ) { Ok(name) => name, Err(_) => c"" },
            cbid: $cbid,
            cost: $crate::entry::Cost::$cost,
            address: $crate::entry::Address($name as *const ::std::ffi::c_void),
        }),*];

        $(
            #[doc = concat!("Simulates `", stringify!($name), "`.")]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($arg: $type),*) -> u32 {
                /// The arguments in the layout that CUPTI's callbacks promise.
                #[repr(C)]
                struct Params { $($arg: $type),* }
                let params = Params { $($arg),* };
                $crate::entry::driver(
                    &TABLE[Index::$name as usize],
                    (&raw const params).cast(),
                    0 $(+ $symbol)?,
                    |$call| $body,
                )
            }
        )*
    };
}

/// Declares the functions of the simulated libcupti or libnvidia-ml.
macro_rules! plain_functions {
    (missing $missing:literal, panicked $panicked:literal, before $before:path;
    $( $name:ident($($arg:ident: $type:ty),* $(,)?) => $body:expr; )*) => {
        /// Their names.
        pub(crate) static NAMES: &[&str] = &[$(stringify!($name)),*];
        $(
            #[doc = concat!("Simulates `", stringify!($name), "`.")]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($arg: $type),*) -> u32 {
                $crate::entry::plain(
                    stringify!($name), ($missing, $panicked), $before, || $body,
                )
            }
        )*
    };
}

pub(crate) use {driver_functions, plain_functions};
