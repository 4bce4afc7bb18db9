//! libcuda through our own small table: result codes are numbers, symbols resolve one by one.

#![expect(unsafe_code, reason = "the CUDA driver is a C library")]

mod find;
mod table;

pub(crate) use table::CuResult;
pub use table::result_name;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::event::{Body, DeviceIndex, Event, SeenBy};
use crate::source::clock;
use crate::source::loader::{self, LoadReport};
use crate::units::Bytes;
use libloading::Library;
use serde::Serialize;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use table::{CuContext, CuDevice, Table, attribute};

/// A loaded libcuda. Leaked on purpose: it must outlive every callback.
#[derive(Debug)]
pub struct Driver {
    table: Table,
    library: &'static Library,
    path: PathBuf,
    simulator_version: Option<&'static str>,
    /// `cuInit` is known to have returned 0.
    initialized: AtomicBool,
    /// `cuInit` is calling us and has not returned yet: nothing may be asked.
    inside_init: AtomicBool,
    /// The driver said that it is being torn down: it is called no more (a call then crashes).
    gone: AtomicBool,
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

/// Calls a function of the table, or says that the library lacks it.
macro_rules! call {
    ($driver:expr, $field:ident = $symbol:literal ($($arg:expr),*)) => {{
        let driver: &Driver = $driver;
        match driver.table.$field {
            None => Err(Error::MissingSymbol {
                library: "libcuda",
                symbol: $symbol,
                hint: "the driver is too old for this; update it",
            }),
            Some(_) if driver.is_gone() => {
                Err(driver_error($symbol, CuResult::DEINITIALIZED))
            }
            Some(function) => {
                // SAFETY: the table gives the function its ABI type; each pointer passed is to a
                // live local of the type that the driver writes, for the time of the call.
                driver.check($symbol, unsafe { function($($arg),*) })
            }
        }
    }};
}

// After the macro, which it uses.
mod memory;

pub(crate) use memory::is_asking;
pub use memory::{Asked, Reading, Relaxed};

fn driver_error(call: &'static str, result: CuResult) -> Error {
    Error::DriverCall { call, code: result.0, name: result_name(result.0) }
}

/// Whether the driver answered with this code.
fn is_code(error: &Error, result: CuResult) -> bool {
    matches!(error, Error::DriverCall { code, .. } if *code == result.0)
}

impl Driver {
    /// Finds and opens libcuda; does not initialise it. The report is there in either case.
    pub fn load(config: &Config) -> (Result<&'static Self>, LoadReport) {
        let mut report = LoadReport::new("libcuda");
        let Some(found) = find::find(config, &mut report) else {
            return (Err(report.to_error()), report);
        };
        let simulator_version = ask_simulator(found.library);
        report.simulated = simulator_version.is_some();
        let driver = remembered(found, simulator_version);
        match driver.version() {
            Ok(version) => {
                report.version = Some(format!("CUDA {}.{}", version / 1000, version % 1000 / 10));
            }
            Err(error) => report.hint = format!("the driver does not state its version: {error}"),
        }
        (Ok(driver), report)
    }

    /// `cuInit(0)`. Idempotent.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`] with the driver's code (100: no device; 803: driver too old …).
    pub fn init(&self) -> Result<()> {
        call!(self, init = "cuInit"(0))?;
        self.initialized.store(true, Ordering::Release);
        self.follow_virtual_clock();
        Ok(())
    }

    /// On the simulator time is virtual, for those too who never attach to its CUPTI.
    fn follow_virtual_clock(&self) {
        let simulated = self.simulator_version.is_some();
        let address = loader::address_of(self.library, c"cuptiGetTimestamp");
        if let Some(address) = address.filter(|_| simulated) {
            // SAFETY: the simulator is one file, in which this name has this type; `cuInit`
            // returned 0.
            clock::use_cupti(unsafe {
                std::mem::transmute::<*const c_void, clock::GetTimestamp>(address)
            });
        }
    }

    /// Takes the driver as initialised without asking: for code that `cuInit` itself is calling
    /// (`InitializeInjection`), where another `cuInit` might wait for the first for ever.
    pub(crate) fn init_is_calling_us(&self) {
        self.inside_init.store(true, Ordering::Release);
        self.initialized.store(true, Ordering::Release);
    }

    /// Whether that `cuInit` is not known to have returned yet.
    pub(crate) fn is_inside_init(&self) -> bool {
        self.inside_init.load(Ordering::Acquire)
    }

    /// What to do about an error of [`Self::init`]; `None` for errors of another kind.
    #[must_use]
    pub fn init_hint(error: &Error) -> Option<String> {
        match error {
            Error::DriverCall { code, .. } => Some(find::init_hint(*code)),
            _ => None,
        }
    }

    /// Whether `cuInit` is known to have returned 0 (by [`Self::init`] or by a call that needs it)
    /// and the driver is not being torn down.
    #[must_use]
    pub fn is_initialized(&self) -> bool {
        self.initialized.load(Ordering::Acquire) && !self.is_gone()
    }

    /// Whether the driver said that it is being torn down. Nothing of CUDA is called any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The simulator's version, when this is the simulated driver.
    pub fn simulator_version(&self) -> Option<&str> {
        self.simulator_version
    }

    /// The file in use, as the dynamic loader names it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// CUDA version the driver supports, e.g. 13000. Needs no `init`.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub fn version(&self) -> Result<u32> {
        let mut version: c_int = 0;
        call!(self, driver_get_version = "cuDriverGetVersion"(&raw mut version))?;
        Ok(u32::try_from(version).unwrap_or(0))
    }

    /// All devices visible to this process. Needs [`Self::init`].
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let mut count: c_int = 0;
        call!(self, device_get_count = "cuDeviceGetCount"(&raw mut count))?;
        self.initialized.store(true, Ordering::Release);
        self.inside_init.store(false, Ordering::Release);
        (0..count.max(0)).map(|ordinal| self.device(ordinal)).collect()
    }

    /// One device. Needs [`Self::init`].
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub fn describe(&self, device: DeviceIndex) -> Result<DeviceInfo> {
        self.device(c_int::try_from(device.0).unwrap_or(c_int::MAX))
    }

    fn device(&self, ordinal: c_int) -> Result<DeviceInfo> {
        let mut device: CuDevice = 0;
        call!(self, device_get = "cuDeviceGet"(&raw mut device, ordinal))?;
        let mut name = [0 as c_char; 256];
        call!(self, device_get_name = "cuDeviceGetName"(name.as_mut_ptr(), 256, device))?;
        let mut total: usize = 0;
        call!(self, device_total_mem = "cuDeviceTotalMem_v2"(&raw mut total, device))?;
        let major = self.attribute(attribute::COMPUTE_CAPABILITY_MAJOR, device)?;
        let minor = self.attribute(attribute::COMPUTE_CAPABILITY_MINOR, device)?;
        Ok(DeviceInfo {
            index: DeviceIndex(u32::try_from(ordinal).unwrap_or(0)),
            uuid: self.uuid(device)?,
            name: text_from_c(&name),
            total_bytes: Bytes(total as u64),
            compute_capability: (major, minor),
        })
    }

    fn attribute(&self, attribute: u32, device: CuDevice) -> Result<u32> {
        let mut value: c_int = 0;
        call!(
            self,
            device_get_attribute = "cuDeviceGetAttribute"(&raw mut value, attribute, device)
        )?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    /// The second version of the call gives a MIG slice its own UUID, the first one its parent's:
    /// where they differ, the device is a slice.
    fn uuid(&self, device: CuDevice) -> Result<String> {
        let mut parent = [0u8; 16];
        let first = call!(self, device_get_uuid = "cuDeviceGetUuid"(&raw mut parent, device));
        let mut own = [0u8; 16];
        let second = call!(self, device_get_uuid_v2 = "cuDeviceGetUuid_v2"(&raw mut own, device));
        match (first, second) {
            (Ok(()), Ok(())) if own != parent => Ok(uuid_text("MIG", own)),
            (_, Ok(())) => Ok(uuid_text("GPU", own)),
            (Ok(()), Err(_)) => Ok(uuid_text("GPU", parent)),
            (Err(error), Err(_)) => Err(error),
        }
    }

    /// Device of the calling thread's current context; `None` without one. A thread-local look-up
    /// in the driver: it takes no lock that a launch holds, so a driver callback may ask it.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub fn current_device(&self) -> Result<Option<DeviceIndex>> {
        let mut context: CuContext = std::ptr::null_mut();
        match call!(self, ctx_get_current = "cuCtxGetCurrent"(&raw mut context)) {
            Ok(()) if context.is_null() => return Ok(None),
            Ok(()) => {}
            Err(error) if is_code(&error, CuResult::NOT_INITIALIZED) => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut device: CuDevice = 0;
        match call!(self, ctx_get_device = "cuCtxGetDevice"(&raw mut device)) {
            Ok(()) => Ok(u32::try_from(device).ok().map(DeviceIndex)),
            Err(error) if is_code(&error, CuResult::INVALID_CONTEXT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Devices whose primary context is active. (Contexts of the program's own making cannot be
    /// listed.)
    pub(crate) fn active_devices(&self) -> Vec<DeviceIndex> {
        let mut count: c_int = 0;
        let counted = call!(self, device_get_count = "cuDeviceGetCount"(&raw mut count));
        let ordinals = if counted.is_ok() { 0..count.max(0) } else { 0..0 };
        let indices = ordinals.filter_map(|n| u32::try_from(n).ok()).map(DeviceIndex);
        indices.filter(|index| self.is_active(*index).unwrap_or(false)).collect()
    }

    /// Whether the device's primary context is active.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub fn is_active(&self, device: DeviceIndex) -> Result<bool> {
        let ordinal = c_int::try_from(device.0).unwrap_or(c_int::MAX);
        let (mut handle, mut flags, mut active): (CuDevice, u32, c_int) = (0, 0, 0);
        call!(self, device_get = "cuDeviceGet"(&raw mut handle, ordinal))?;
        call!(
            self,
            primary_ctx_get_state =
                "cuDevicePrimaryCtxGetState"(handle, &raw mut flags, &raw mut active)
        )?;
        Ok(active != 0)
    }

    /// Whether a context is known to exist: an active primary one, or the calling thread's.
    pub(crate) fn has_context(&self) -> bool {
        matches!(self.current_device(), Ok(Some(_))) || !self.active_devices().is_empty()
    }

    /// Makes the calling thread's questions harmless to stream captures on other threads. While
    /// one of the usual, global, kind is under way, an "unsafe" call of any thread fails and
    /// invalidates the *capture*; which calls those are is not documented in full. For threads of
    /// our own only, once `cuInit` returned 0.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub(crate) fn leave_captures_alone(&self) -> Result<()> {
        // CU_STREAM_CAPTURE_MODE_RELAXED
        let mut mode: u32 = 2;
        call!(
            self,
            thread_exchange_stream_capture_mode =
                "cuThreadExchangeStreamCaptureMode"(&raw mut mode)
        )
    }

    fn check(&self, call: &'static str, result: CuResult) -> Result<()> {
        match result {
            CuResult::SUCCESS => Ok(()),
            CuResult::DEINITIALIZED => {
                self.gone.store(true, Ordering::Release);
                Err(driver_error(call, result))
            }
            other => Err(driver_error(call, other)),
        }
    }
}

fn polled(body: Body) -> Event {
    Event { time: clock::now(), seen_by: SeenBy::Poll, body }
}

/// `memvelope_sim_version` of the simulated driver: a function that returns a C string.
fn ask_simulator(library: &Library) -> Option<&'static str> {
    let address = loader::address_of(library, loader::SIMULATOR_VERSION)?;
    // SAFETY: only our simulator exports this name, with this type; it has no preconditions.
    let version =
        unsafe { std::mem::transmute::<*const c_void, extern "C" fn() -> *const c_char>(address) };
    let text = version();
    if text.is_null() {
        return Some("unknown");
    }
    // SAFETY: the simulator returns a NUL-terminated constant.
    Some(find::leak_text(unsafe { CStr::from_ptr(text) }))
}

/// One `Driver` a library, so that "initialised" and "being torn down" are known to all holders
/// and repeated loads do not leak.
fn remembered(found: find::Found, simulator_version: Option<&'static str>) -> &'static Driver {
    static KNOWN: Mutex<Vec<&'static Driver>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(driver) = known.iter().find(|driver| driver.path == found.path) {
        return driver;
    }
    let driver: &'static Driver = Box::leak(Box::new(Driver {
        table: found.table,
        library: found.library,
        path: found.path,
        simulator_version,
        initialized: AtomicBool::new(false),
        inside_init: AtomicBool::new(false),
        gone: AtomicBool::new(false),
    }));
    known.push(driver);
    driver
}

fn uuid_text(prefix: &str, bytes: [u8; 16]) -> String {
    let mut text = String::from(prefix);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 0 | 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn text_from_c(text: &[c_char]) -> String {
    let bytes: Vec<u8> =
        text.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(any(test, feature = "bench-internals"))]
impl Driver {
    /// A driver that has none of the functions.
    #[expect(clippy::unwrap_used, reason = "tests and benches alone, and libc is always loaded")]
    pub(crate) fn without_functions() -> &'static Self {
        let mut report = LoadReport::new("libc");
        let library = report.open("libc.so.6".as_ref(), loader::Open::OnlyIfLoaded).unwrap();
        let (table, path) = (Table::resolve(library), PathBuf::from("libc.so.6"));
        remembered(find::Found { table, library, path }, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_look_like_nvidia_smi() {
        let bytes = std::array::from_fn(|i| (i as u8) * 0x11);
        assert_eq!(uuid_text("GPU", bytes), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn a_missing_driver_is_a_report() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libcuda.so.1");
        let load = |path: &Path| {
            Driver::load(&Config { cuda_path: Some(path.into()), ..Config::default() })
        };
        let (driver, report) = load(&path);
        assert!(driver.is_err() && !report.is_loaded());
        assert_eq!(report.candidates.len(), 1, "an explicit path is tried alone");
        assert!(report.hint.contains("MEMVELOPE_CUDA_PATH"));
        std::fs::write(&path, b"\x7fELF, but no more").unwrap();
        let (driver, report) = load(&path);
        assert!(matches!(driver, Err(Error::LoadLibrary { .. })), "{report:?}");
    }

    #[test]
    fn a_library_that_is_no_driver_is_refused() {
        let libc = loader::path_of(libc::getpid as *const c_void).unwrap();
        let config = Config { cuda_path: Some(libc.into()), ..Config::default() };
        let (driver, report) = Driver::load(&config);
        assert!(driver.is_err());
        assert!(format!("{:?}", report.candidates).contains("no cuInit"), "{report:?}");
    }

    #[test]
    fn names_from_c_are_bounded_and_lossy() {
        assert_eq!(text_from_c(&[b'a' as c_char, 0, b'b' as c_char]), "a");
        assert_eq!(text_from_c(&[b'x' as c_char; 3]), "xxx");
        assert_eq!(text_from_c(&[-1]), "\u{fffd}");
    }
}
