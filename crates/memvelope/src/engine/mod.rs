//! What an inference engine makes of a model: block sizes, pages, groups, and how much fits.
//!
//! * [`vllm_0_32`] follows vLLM 0.32 rule by rule, to the byte.
//! * [`generic`] is the arithmetic alone, without any engine's rounding.
//!
//! ```
//! use memvelope::engine::{Device, Params, Vllm};
//! use memvelope::model::Layout;
//! use memvelope::units::{Bytes, Tokens};
//!
//! let layout = Layout::builtin_8b();
//! let vllm = Vllm::new(&layout, &Params::new(Device::named("h100").expect("known")))?;
//! let capacity = vllm.capacity(Bytes(40 << 30), Tokens(8192));
//! assert_eq!(capacity.num_gpu_blocks.0, 20_480); // 40 GiB in blocks of 2 MiB
//! assert_eq!(capacity.max_concurrency, Some(40.0)); // 512 blocks a sequence
//! # Ok::<(), memvelope::model::Refusal>(())
//! ```

mod device;
pub mod generic;
mod params;
mod processor;
pub mod vllm_0_32;

pub use device::{Device, DeviceKind, DeviceSource};
pub use params::{KvDtype, Params, Usage};
pub use processor::Processor;
pub use vllm_0_32::{Capacity, Group, Vllm};
