//! Sources turn foreign APIs into events. Each owns all `unsafe` of its API and has no opinion.

pub(crate) mod attribution;
pub mod cgroup;
pub mod clock;
pub mod cupti;
pub mod driver;
pub mod loader;
pub mod nvml;
pub(crate) mod nvml_meter;
pub mod peers;
pub mod privileges;
pub mod signals;
pub mod torch;
