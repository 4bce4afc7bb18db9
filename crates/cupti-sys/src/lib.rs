//! The CUPTI ABI and nothing else: where fields lie, what numbers mean, and functions that are
//! resolved one by one, so that a missing one is a value and not a crash.
//!
//! * [`layout`]: offsets in activity records and callback data, the same for CUPTI 12.0 to 13.5
//! * [`cbid`], [`params`]: driver functions by callback id, and their arguments
//! * [`activity_kind`], [`memory_kind`], [`result_name`] …: numbers
//! * [`Cupti`]: the functions
//!
//! Nothing here opens a library, and nothing here calls into one: *when* a call is allowed (never
//! before `cuInit` returned 0: CUPTI 13.2 recurses until the stack ends) is the caller's business.
#![expect(unsafe_code, reason = "the functions of a C library, resolved from its handle")]

#[cfg(test)]
mod bindings;
mod driver;
mod functions;
pub mod layout;
mod numbers;
mod runtime;
#[cfg(test)]
mod tests;

pub use driver::{cbid, params};
pub use functions::{
    BufferCompletedFunc, BufferRequestedFunc, CallbackFunc, Context, Cupti, MissingSymbol, Stream,
    SubscriberHandle, SubscriberParams, TimestampFunc,
};
pub use numbers::{
    activity_attribute, activity_flag, activity_kind, callback_site, copy_kind, domain,
    external_kind, marker_flag, memory_kind, memory_operation, object_kind, overhead_kind,
    pool_operation, pool_type, resource_cbid, result, result_name, sync_type,
};
pub use runtime::runtime_cbid;
