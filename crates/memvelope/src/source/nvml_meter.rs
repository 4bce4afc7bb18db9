//! NVML for callbacks: what is free on a device, without a lock, an allocation or a look-up.

#![expect(unsafe_code, reason = "a device is remembered by its handle")]

use super::driver::DeviceInfo;
use super::nvml::{self, Nvml, Processes};
use crate::event::DeviceIndex;
use crate::units::Bytes;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// Devices that are remembered; those past it are not measured.
const DEVICES: usize = 16;

/// The devices of the process, by CUDA ordinal.
#[derive(Debug)]
pub(crate) struct Meter {
    /// Leaked: it outlives every callback.
    library: AtomicPtr<nvml_wrapper::Nvml>,
    sees_own_pid: AtomicBool,
    /// NVML's handles; 0 where a device is not known.
    handles: [AtomicUsize; DEVICES],
}

/// The one instance.
pub(crate) static METER: Meter = Meter {
    library: AtomicPtr::new(std::ptr::null_mut()),
    sees_own_pid: AtomicBool::new(false),
    handles: [const { AtomicUsize::new(0) }; DEVICES],
};

impl Meter {
    /// From now on devices are asked through `nvml`. Takes locks and may allocate.
    pub(crate) fn connect(&self, nvml: &Nvml, devices: &[DeviceInfo]) {
        let library = std::ptr::from_ref(nvml.library()).cast_mut();
        self.sees_own_pid.store(nvml.own_pid().is_some(), Ordering::Relaxed);
        self.library.store(library, Ordering::Release);
        devices.iter().for_each(|device| self.know(device.index, &device.uuid));
    }

    /// Whether the device is known.
    pub(crate) fn knows(&self, device: DeviceIndex) -> bool {
        self.handle(device).is_some()
    }

    /// Remembers a device by its UUID. Takes locks and may allocate.
    pub(crate) fn know(&self, device: DeviceIndex, uuid: &str) {
        let place = self.handles.get(device.0 as usize);
        let Some((place, library)) = place.zip(self.library()) else { return };
        if let Ok(handle) = library.device_by_uuid(uuid) {
            // SAFETY: the handle is kept as a number and used with the library that gave it.
            let handle = unsafe { handle.handle() };
            place.store(handle.expose_provenance(), Ordering::Release);
        }
    }

    /// Free bytes of a device, all processes together; 12 µs.
    pub(crate) fn free(&self, device: DeviceIndex) -> Option<Bytes> {
        Some(nvml::memory(&self.handle(device)?).ok()??.free)
    }

    /// Who uses the device; milliseconds, and it allocates.
    pub(crate) fn processes(&self, device: DeviceIndex) -> Option<Processes> {
        let own = self.sees_own_pid.load(Ordering::Relaxed).then(std::process::id);
        nvml::processes(&self.handle(device)?, own).ok()
    }

    fn library(&self) -> Option<&'static nvml_wrapper::Nvml> {
        // SAFETY: only `connect` stores here, and only what is leaked.
        unsafe { self.library.load(Ordering::Acquire).cast_const().as_ref() }
    }

    fn handle(&self, device: DeviceIndex) -> Option<nvml_wrapper::Device<'static>> {
        let handle = self.handles.get(device.0 as usize)?.load(Ordering::Acquire);
        let library = self.library().filter(|_| handle != 0)?;
        let handle = std::ptr::with_exposed_provenance_mut(handle);
        // SAFETY: the handle is NVML's own, of the library that is never shut down.
        Some(unsafe { nvml_wrapper::Device::new(handle, library) })
    }
}
