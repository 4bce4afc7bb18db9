//! CUPTI's functions, each resolved by itself.

use std::ffi::{c_char, c_void};
use std::fmt;

/// A `CUcontext`; opaque.
pub type Context = *mut c_void;
/// A `CUstream`; opaque.
pub type Stream = *mut c_void;
/// What a subscription is named by; opaque.
pub type SubscriberHandle = *mut c_void;

/// Called for each enabled callback: `(userdata, domain, cbid, cbdata)`. In the API domains
/// `cbdata` is laid out as [`crate::layout::callback_data`] says.
pub type CallbackFunc = Option<
    unsafe extern "C" fn(userdata: *mut c_void, domain: u32, cbid: u32, cbdata: *const c_void),
>;
/// CUPTI asks for a buffer, on a thread of the application:
/// `(buffer, size in bytes, most records or 0 for as many as fit)`. Alignment 8.
pub type BufferRequestedFunc =
    Option<unsafe extern "C" fn(buffer: *mut *mut u8, size: *mut usize, max_records: *mut usize)>;
/// CUPTI hands a buffer back: `(context, stream id, buffer, size, bytes that hold records)`.
pub type BufferCompletedFunc = Option<
    unsafe extern "C" fn(
        context: Context,
        stream_id: u32,
        buffer: *mut u8,
        size: usize,
        valid_size: usize,
    ),
>;
/// The clock of the records, in nanoseconds.
pub type TimestampFunc = Option<unsafe extern "C" fn() -> u64>;

/// What `cuptiSubscribe_v2` is told and tells.
#[repr(C)]
#[derive(Debug)]
pub struct SubscriberParams {
    /// [`SubscriberParams::SIZE_13_0`] or, from 13.2 on, [`SubscriberParams::SIZE_13_2`].
    pub struct_size: usize,
    /// Who we are; NUL-terminated, outlives the subscription.
    pub subscriber_name: *const c_char,
    /// Where CUPTI writes the name of whoever holds the only subscription, or null.
    pub old_subscriber_name: *mut c_char,
    /// Bytes at `old_subscriber_name`.
    pub old_subscriber_size: usize,
    /// 13.2 and later: whether others may subscribe beside us.
    pub allow_multiple_subscribers: u8,
    /// Zero.
    pub padding: [u8; 7],
}

impl SubscriberParams {
    /// Size of the first form, which ends with `old_subscriber_size`.
    pub const SIZE_13_0: usize = 32;
    /// Size of the form that 13.2 brought.
    pub const SIZE_13_2: usize = 40;
}

/// A function that the library at hand does not export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingSymbol {
    /// The C name.
    pub name: &'static str,
}

impl fmt::Display for MissingSymbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this libcupti does not export {}", self.name)
    }
}

impl std::error::Error for MissingSymbol {}

macro_rules! functions {
    ($(
        $(#[$doc:meta])*
        $field:ident = $symbol:ident($($arg:ident: $type:ty),*);
    )*) => {
        /// CUPTI's functions as one library exports them. Every one returns a result code
        /// ([`crate::result`]); 0 is success.
        ///
        /// It is `Copy` and does not own the library: libcupti is never closed, because closing it
        /// without `cuptiFinalize` crashes some versions, and finalizing crashes others.
        #[derive(Debug, Clone, Copy)]
        pub struct Cupti {
            $(
                $(#[$doc])*
                #[doc = concat!("\n\nC name: `", stringify!($symbol), "`.")]
                pub $field: Result<unsafe extern "C" fn($($arg: $type),*) -> u32, MissingSymbol>,
            )*
        }

        impl Cupti {
            /// The C names of all functions that we look for.
            pub const NAMES: &[&str] = &[$(stringify!($symbol)),*];

            /// Resolves every function in an open libcupti. Calls none of them.
            ///
            /// # Safety
            /// `library` is CUPTI (or speaks its ABI) and stays open for the rest of the process.
            #[must_use]
            pub unsafe fn from_library(library: &libloading::Library) -> Self {
                Self {
                    $($field: {
                        type Function = unsafe extern "C" fn($($type),*) -> u32;
                        let name = concat!(stringify!($symbol), "\0").as_bytes();
                        // SAFETY: the caller says that the library speaks CUPTI's ABI, in which
                        // this name has this type. `Option` makes a null symbol a `None`.
                        unsafe { library.get::<Option<Function>>(name) }
                            .ok()
                            .and_then(|symbol| *symbol)
                            .ok_or(MissingSymbol { name: stringify!($symbol) })
                    },)*
                }
            }

            /// The functions that this library lacks, by C name.
            #[must_use]
            pub fn missing(&self) -> Vec<&'static str> {
                [$(self.$field.err()),*].into_iter().flatten().map(|missing| missing.name).collect()
            }
        }

        /// Compiles only where every type above is what the headers declare.
        #[cfg(test)]
        pub(crate) fn signatures_match(ours: &Cupti, headers: &crate::bindings::Headers) {
            $(crate::tests::same(&ours.$field, &headers.$symbol);)*
        }
    };
}

functions! {
    /// API version, say 130000 for 13.0 or 26 for 12.8.
    get_version = cuptiGetVersion(version: *mut u32);
    /// Now, on the clock of the records, in nanoseconds.
    get_timestamp = cuptiGetTimestamp(timestamp: *mut u64);
    /// CUPTI's own name of a code. See [`crate::result_name`] for why we do not use it.
    get_result_string = cuptiGetResultString(result: u32, text: *mut *const c_char);
    /// Takes the subscription. 39 where another tool has it.
    subscribe = cuptiSubscribe(
        subscriber: *mut SubscriberHandle,
        callback: CallbackFunc,
        userdata: *mut c_void
    );
    /// The same since 13.0, and it names the tool that has it.
    subscribe_v2 = cuptiSubscribe_v2(
        subscriber: *mut SubscriberHandle,
        callback: CallbackFunc,
        userdata: *mut c_void,
        params: *mut SubscriberParams
    );
    /// Gives the subscription back.
    unsubscribe = cuptiUnsubscribe(subscriber: SubscriberHandle);
    /// Switches one callback on (1) or off (0).
    enable_callback = cuptiEnableCallback(
        enable: u32,
        subscriber: SubscriberHandle,
        domain: u32,
        cbid: u32
    );
    /// Whether a callback is on, as its subscriber sees it.
    get_callback_state = cuptiGetCallbackState(
        enable: *mut u32,
        subscriber: SubscriberHandle,
        domain: u32,
        cbid: u32
    );
    /// Switches all callbacks of a domain on (1) or off (0).
    enable_domain = cuptiEnableDomain(enable: u32, subscriber: SubscriberHandle, domain: u32);
    /// Says who provides and who takes buffers; process-wide.
    activity_register_callbacks = cuptiActivityRegisterCallbacks(
        requested: BufferRequestedFunc,
        completed: BufferCompletedFunc
    );
    /// Starts recording an activity kind.
    activity_enable = cuptiActivityEnable(kind: u32);
    /// Stops recording an activity kind.
    activity_disable = cuptiActivityDisable(kind: u32);
    /// Since 12.5: records calls of one driver function (its callback id) alone.
    activity_enable_driver_api = cuptiActivityEnableDriverApi(cbid: u32, enable: u8);
    /// Since 12.5: the same of one runtime function.
    activity_enable_runtime_api = cuptiActivityEnableRuntimeApi(cbid: u32, enable: u8);
    /// From now on, calls of this thread that are recorded carry this id of the client's.
    activity_push_external_correlation_id = cuptiActivityPushExternalCorrelationId(
        kind: u32,
        id: u64
    );
    /// Ends the innermost such id of this thread. 18 where there is none.
    activity_pop_external_correlation_id = cuptiActivityPopExternalCorrelationId(
        kind: u32,
        last_id: *mut u64
    );
    /// Hands back the buffers whose records are complete. Never from a callback.
    activity_flush_all = cuptiActivityFlushAll(flag: u32);
    /// Every so many milliseconds CUPTI hands back the full buffers; 0 stops that.
    activity_flush_period = cuptiActivityFlushPeriod(time_ms: u32);
    /// Steps through a buffer: `record` is null at first, 12 comes at the end.
    activity_get_next_record = cuptiActivityGetNextRecord(
        buffer: *mut u8,
        valid_size: usize,
        record: *mut *mut c_void
    );
    /// Records lost since the last such call.
    activity_get_num_dropped_records = cuptiActivityGetNumDroppedRecords(
        context: Context,
        stream_id: u32,
        dropped: *mut usize
    );
    /// Writes an attribute ([`crate::activity_attribute`]).
    activity_set_attribute = cuptiActivitySetAttribute(
        attribute: u32,
        value_size: *mut usize,
        value: *mut c_void
    );
    /// Reads an attribute.
    activity_get_attribute = cuptiActivityGetAttribute(
        attribute: u32,
        value_size: *mut usize,
        value: *mut c_void
    );
    /// Replaces the clock. At most once a process: each time corrupts a record.
    activity_register_timestamp_callback = cuptiActivityRegisterTimestampCallback(
        timestamp: TimestampFunc
    );
    /// The id that records carry for this context.
    get_context_id = cuptiGetContextId(context: Context, context_id: *mut u32);
    /// The id that records carry for this stream.
    get_stream_id_ex = cuptiGetStreamIdEx(
        context: Context,
        stream: Stream,
        per_thread_stream: u8,
        stream_id: *mut u32
    );
    /// Detaches CUPTI from the process. Blocks all threads, and crashes some versions; never
    /// called unless the user asked for it.
    finalize = cuptiFinalize();
}

impl Cupti {
    /// Resolves every function from a handle that `dlopen` returned, and leaves the handle open.
    ///
    /// # Safety
    /// As [`Cupti::from_library`]; `handle` came from `dlopen` and was not closed.
    #[must_use]
    pub unsafe fn from_handle(handle: *mut c_void) -> Self {
        // SAFETY: the caller owns the handle and leaves it open. `into_raw` below gives our view
        // of it up again without closing it.
        let library: libloading::Library =
            unsafe { libloading::os::unix::Library::from_raw(handle) }.into();
        // SAFETY: the caller's promise, passed on.
        let cupti = unsafe { Self::from_library(&library) };
        let _still_open = libloading::os::unix::Library::from(library).into_raw();
        cupti
    }
}
