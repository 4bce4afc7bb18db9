//! libnvidia-ml through nvml-wrapper, opened at an explicit path.

use crate::config::Config;
use crate::error::Result;
use crate::event::{DeviceIndex, Event};
use crate::source::driver::DeviceInfo;
use crate::source::loader::LoadReport;

/// A loaded and initialised NVML.
#[derive(Debug)]
pub struct Nvml {
    _todo: (),
}

impl Nvml {
    /// Finds, opens and initialises NVML. With the simulated driver, NVML must come from the same
    /// file (`simulated_with`: path of the simulated libcuda), anything else is an error.
    pub fn load(_config: &Config, _simulated_with: Option<&str>) -> (Result<Self>, LoadReport) {
        todo!()
    }

    /// Device and process memory as a [`crate::event::Body::DeviceUse`] event; devices are matched
    /// by UUID.
    ///
    /// # Errors
    /// [`crate::Error::NvmlCall`].
    pub fn use_of(&self, _device: &DeviceInfo) -> Result<Event> {
        todo!()
    }

    /// Driver version as text, e.g. `580.95.05`.
    ///
    /// # Errors
    /// [`crate::Error::NvmlCall`].
    pub fn driver_version(&self) -> Result<String> {
        todo!()
    }

    /// GPU utilisation in percent over the last sample period, if supported.
    pub fn utilization_percent(&self, _device: DeviceIndex) -> Option<u32> {
        todo!()
    }
}
