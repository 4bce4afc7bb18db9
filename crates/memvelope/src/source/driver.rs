//! libcuda through our own small table: result codes are numbers, symbols resolve one by one.

use crate::config::Config;
use crate::error::Result;
use crate::event::{DeviceIndex, Event};
use crate::source::loader::LoadReport;
use crate::units::Bytes;
use serde::Serialize;

/// A loaded libcuda. Leaked on purpose: it must outlive every callback.
#[derive(Debug)]
pub struct Driver {
    _todo: (),
}

/// A device as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceInfo {
    /// CUDA ordinal in this process.
    pub index: DeviceIndex,
    /// `GPU-…` or `MIG-…`.
    pub uuid: String,
    /// Marketing name.
    pub name: String,
    /// `cuDeviceTotalMem`.
    pub total_bytes: Bytes,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
}

impl Driver {
    /// Finds and opens libcuda; does not initialise it. The report is there in either case.
    pub fn load(_config: &Config) -> (Result<&'static Self>, LoadReport) {
        todo!()
    }

    /// `cuInit(0)`. Idempotent.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`] with the driver's code (100: no device; 803: driver too old …).
    pub fn init(&self) -> Result<()> {
        todo!()
    }

    /// The simulator's version, when this is the simulated driver.
    pub fn simulator_version(&self) -> Option<&str> {
        todo!()
    }

    /// CUDA version the driver supports, e.g. 13000. Needs no `init`.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub fn version(&self) -> Result<u32> {
        todo!()
    }

    /// All devices visible to this process. Needs [`Self::init`].
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub fn devices(&self) -> Result<Vec<DeviceInfo>> {
        todo!()
    }

    /// `cuMemGetInfo` in the calling thread's current context, as a [`crate::event::Body::DeviceMemory`]
    /// event; `None` when the thread has no current context.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub fn memory_here(&self) -> Result<Option<Event>> {
        todo!()
    }

    /// The same for `device` from any thread: only if its primary context is active, and without
    /// keeping it alive.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub fn memory_of(&self, _device: DeviceIndex) -> Result<Option<Event>> {
        todo!()
    }

    /// Reserved and used bytes of the device's default memory pool, as an event; `None` without
    /// pool support or without an active primary context.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub fn default_pool_of(&self, _device: DeviceIndex) -> Result<Option<Event>> {
        todo!()
    }
}
