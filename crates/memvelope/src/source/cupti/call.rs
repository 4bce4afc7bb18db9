//! One driver call as CUPTI tells of it, before and after: arguments by their place, the result, and
//! the device it is on.

#![expect(unsafe_code, reason = "arguments of C calls, read through CUPTI's pointers")]

use super::UNKNOWN_DEVICE;
use super::contexts::Known;
use super::state::STATE;
use crate::event::{Body, CallKind, DeviceIndex, DriverCall, Event, SeenBy, Sink};
use crate::source::clock;
use crate::units::Nanos;
use cupti_sys::layout::callback_data;
use cupti_sys::{callback_site, cbid};
use std::cell::Cell;
use std::sync::atomic::Ordering;

/// A C struct by its address.
#[derive(Clone, Copy)]
pub(super) struct Block(pub(super) *const u8);

impl Block {
    /// Whether there is none.
    pub(super) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The struct that the pointer at `offset` points to; `None` if it is null.
    ///
    /// # Safety
    /// A pointer lies there.
    pub(super) unsafe fn at(self, offset: usize) -> Option<Self> {
        // SAFETY: the caller's promise.
        let pointer: *const u8 = unsafe { self.read(offset) };
        (!pointer.is_null()).then_some(Self(pointer))
    }

    /// The field at `offset`.
    ///
    /// # Safety
    /// A readable `T` lies there.
    pub(super) unsafe fn read<T: Copy>(self, offset: usize) -> T {
        // SAFETY: the caller's promise; the alignment is not relied upon.
        unsafe { self.0.add(offset).cast::<T>().read_unaligned() }
    }

    /// What the pointer at `offset` points to; `None` if it is null.
    ///
    /// # Safety
    /// A pointer lies there, null or to a readable `T`.
    pub(super) unsafe fn read_through<T: Copy>(self, offset: usize) -> Option<T> {
        // SAFETY: the caller's promise.
        let pointer: *const T = unsafe { self.read(offset) };
        // SAFETY: the caller's promise, and it is not null.
        (!pointer.is_null()).then(|| unsafe { pointer.read_unaligned() })
    }
}

/// One driver call, at one of its two sites.
pub(super) struct Call {
    pub(super) id: u32,
    pub(super) at_exit: bool,
    pub(super) arguments: Block,
    /// The call's result; meaningful at the exit site.
    pub(super) result: u32,
    pub(super) context: usize,
    pub(super) context_uid: u32,
    /// Where the entry site leaves a number for the exit site; may be null.
    pub(super) shared: *mut u64,
    pub(super) correlation: u32,
    /// When this site was reached.
    pub(super) time: Nanos,
    sink: &'static dyn Sink,
}

thread_local! {
    // const-initialised, without a destructor: usable in a callback at any time of a thread's life.
    static ENTERED: Entered = const {
        Entered {
            time: Cell::new(Nanos::ZERO),
            ordinal: Cell::new(0),
            recording: Cell::new(0),
            depth: Cell::new(0),
        }
    };
}

/// The call that this thread is in. A cell each: one for all would be read as a whole right after a
/// part of it was written, and the processor waits for that.
struct Entered {
    /// When it was entered; zero outside of calls.
    time: Cell<Nanos>,
    /// A number that no other call has.
    ordinal: Cell<u64>,
    /// In which recording that was.
    recording: Cell<u64>,
    /// Calls that this thread is in: should the driver call itself.
    depth: Cell<u32>,
}

impl Call {
    /// # Safety
    /// `data` is a `CUpti_CallbackData` of the current callback.
    pub(super) unsafe fn read(id: u32, data: Block, sink: &'static dyn Sink) -> Self {
        // SAFETY: the offsets are those of CUpti_CallbackData in every version; the return value
        // is a CUresult that exists at the exit site.
        unsafe {
            let at_exit = data.read::<u32>(callback_data::SITE) == callback_site::EXIT;
            let result = if at_exit {
                data.read_through::<u32>(callback_data::FUNCTION_RETURN_VALUE)
            } else {
                None
            };
            Self {
                id,
                at_exit,
                arguments: Block(data.read(callback_data::FUNCTION_PARAMS)),
                // A result that is not there is not a success: 999 is the driver's "unknown".
                result: result.unwrap_or(999),
                context: data.read(callback_data::CONTEXT),
                context_uid: data.read(callback_data::CONTEXT_UID),
                shared: data.read(callback_data::CORRELATION_DATA),
                correlation: data.read(callback_data::CORRELATION_ID),
                time: clock::now(),
                sink,
            }
        }
    }

    pub(super) fn succeeded(&self) -> bool {
        self.result == 0
    }

    pub(super) fn emit(&self, body: Body) {
        self.sink.accept(&Event { time: self.time, seen_by: SeenBy::Callback, body });
    }

    /// The same, stamped now: where this thread waited since the site was reached.
    pub(super) fn emit_now(&self, body: Body) {
        self.sink.accept(&Event { time: clock::now(), seen_by: SeenBy::Callback, body });
    }

    /// Notes that the call was entered: from now on the driver's books may move before ours do.
    pub(super) fn enter(&self) {
        let (recording, ordinal) = STATE.under_way.enter();
        ENTERED.with(|entered| {
            let is_inner = entered.recording.replace(recording) == recording;
            let outer = if is_inner { entered.depth.get() } else { 0 };
            entered.depth.set(outer.saturating_add(1));
            entered.ordinal.set(ordinal);
            entered.time.set(self.time);
        });
    }

    /// Tells how long the host was in the call, now that it is over.
    pub(super) fn time_it(&self) {
        let start = ENTERED.with(|entered| entered.time.get());
        // Zero: we were attached between the two sites.
        if let (Some(call), true) = (call_kind(self.id), start != Nanos::ZERO) {
            let succeeded = self.succeeded();
            self.emit(Body::DriverCall(DriverCall { call, succeeded, start, end: self.time }));
        }
    }

    /// Notes that all is told of the call.
    pub(super) fn leave() {
        let recording = ENTERED.with(|entered| {
            entered.time.set(Nanos::ZERO);
            let depth = entered.depth.get();
            entered.depth.set(depth.saturating_sub(1));
            // Depth 0: we were attached between the two sites.
            if depth > 0 { entered.recording.get() } else { 0 }
        });
        STATE.under_way.leave(recording);
    }

    /// A number for what this call tells at both of its sites, at its entry: not 0, and no other
    /// call's.
    pub(super) fn token() -> u64 {
        /// Apart from [`super::state::State::next_token`]'s.
        const OF_CALLS: u64 = 1 << 62;
        OF_CALLS | ENTERED.with(|entered| entered.ordinal.get())
    }

    /// Device of the call's context.
    pub(super) fn device(&self) -> DeviceIndex {
        if self.context_uid != 0
            && let Some(device) = STATE.contexts.device_of(self.context_uid)
        {
            return device;
        }
        let asked = STATE.driver().and_then(|driver| driver.current_device().ok().flatten());
        match asked {
            Some(device) => {
                if self.context_uid != 0 && self.context != 0 {
                    STATE.contexts.learn(self.context, Known { uid: self.context_uid, device });
                }
                device
            }
            None => {
                STATE.unknown_device.fetch_add(1, Ordering::Relaxed);
                UNKNOWN_DEVICE
            }
        }
    }
}

fn call_kind(id: u32) -> Option<CallKind> {
    Some(match id {
        cbid::MEM_ALLOC_V2 => CallKind::Alloc,
        cbid::MEM_ALLOC_PITCH_V2 => CallKind::AllocPitch,
        cbid::MEM_ALLOC_MANAGED => CallKind::AllocManaged,
        cbid::MEM_HOST_ALLOC | cbid::MEM_HOST_ALLOC_V2 | cbid::MEM_ALLOC_HOST_V2 => {
            CallKind::AllocPinned
        }
        cbid::MEM_ALLOC_ASYNC
        | cbid::MEM_ALLOC_ASYNC_PTSZ
        | cbid::MEM_ALLOC_FROM_POOL_ASYNC
        | cbid::MEM_ALLOC_FROM_POOL_ASYNC_PTSZ => CallKind::AllocAsync,
        cbid::MEM_CREATE => CallKind::Create,
        cbid::MEM_MAP => CallKind::Map,
        cbid::MEM_UNMAP => CallKind::Unmap,
        cbid::MEM_FREE_V2 => CallKind::Free,
        cbid::MEM_FREE_HOST => CallKind::FreePinned,
        cbid::MEM_FREE_ASYNC | cbid::MEM_FREE_ASYNC_PTSZ => CallKind::FreeAsync,
        cbid::MEM_RELEASE => CallKind::Release,
        _ => return None,
    })
}
