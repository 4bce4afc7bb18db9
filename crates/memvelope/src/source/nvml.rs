//! libnvidia-ml through nvml-wrapper, opened at an explicit path.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::event::{Body, DeviceIndex, Event, SeenBy};
use crate::source::driver::DeviceInfo;
use crate::source::loader::{self, LoadReport, Outcome};
use crate::source::nvml_meter::METER;
use crate::source::{clock, privileges};
use crate::units::Bytes;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The name the driver package installs. (`libnvidia-ml.so` is the development link, often absent
/// or the toolkit's stub.)
const SONAME: &str = "libnvidia-ml.so.1";

/// As for libcuda: systems whose loader configuration forgot the driver's directory.
const WELL_KNOWN: [&str; 5] = [
    "/usr/lib/wsl/lib/libnvidia-ml.so.1",
    "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
    "/usr/lib/aarch64-linux-gnu/libnvidia-ml.so.1",
    "/usr/lib64/libnvidia-ml.so.1",
    "/usr/local/nvidia/lib64/libnvidia-ml.so.1",
];

/// A loaded and initialised NVML.
#[derive(Debug)]
pub struct Nvml {
    /// Leaked: closing it would shut NVML down, and its `Drop` may panic.
    nvml: &'static nvml_wrapper::Nvml,
    /// CUDA ordinals that have been matched to NVML devices; the two count differently.
    uuids: Mutex<BTreeMap<DeviceIndex, String>>,
    /// Whether the process ids that NVML lists are ours to compare with.
    sees_own_pid: bool,
}

/// A device's memory, all processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// In use, driver reserve apart.
    pub used: Bytes,
    /// Free.
    pub free: Bytes,
    /// Kept by driver and firmware; `None` if the driver does not tell it apart.
    pub reserved: Option<Bytes>,
}

/// Who uses a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Processes {
    /// What this process uses; `None` where it is not listed, or cannot be recognised.
    pub own: Option<Bytes>,
    /// Whether this process would be recognised: not listed then means that it uses nothing.
    pub is_own_known: bool,
    /// Whether it is listed, with or without its bytes.
    pub is_listed: bool,
    /// What the others use, together; `None` where they cannot be told from this process.
    pub others: Option<Bytes>,
    /// Of the others, those whose bytes are not told.
    pub others_untold: u32,
    /// How many there are, whoever they are.
    pub listed: u32,
}

impl Processes {
    /// From what was listed, by process; `own` is this process's id where it can be recognised. A
    /// process that computes and draws is listed twice with the same bytes, and counts once.
    fn of(told: impl Iterator<Item = (u32, Option<Bytes>)>, own: Option<u32>) -> Self {
        let mut by_pid: BTreeMap<u32, Option<Bytes>> = BTreeMap::new();
        for (pid, used) in told {
            let known = by_pid.entry(pid).or_default();
            *known = (*known).max(used);
        }
        let listed = u32::try_from(by_pid.len()).unwrap_or(u32::MAX);
        let Some(own) = own else { return Self { listed, ..Self::default() } };
        let mut processes =
            Self { is_own_known: true, others: Some(Bytes::ZERO), listed, ..Self::default() };
        for (pid, used) in by_pid {
            match used {
                _ if pid == own => (processes.own, processes.is_listed) = (used, true),
                Some(used) => {
                    processes.others = processes.others.map(|sum| sum.saturating_add(used));
                }
                None => processes.others_untold += 1,
            }
        }
        processes
    }

    /// Whether nobody else is there. A list shows everybody; where ids are those of another
    /// namespace, one entry at most is this process.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        match self.others {
            Some(others) => others == Bytes::ZERO && self.others_untold == 0,
            None => self.listed <= 1,
        }
    }

    /// Whether this process would be listed if it used anything, and is not.
    #[must_use]
    pub fn uses_nothing(&self) -> bool {
        self.is_own_known && !self.is_listed
    }
}

impl Nvml {
    /// Finds, opens and initialises NVML. With the simulated driver, NVML must come from the same
    /// file (`simulated_with`: path of the simulated libcuda), anything else is an error.
    pub fn load(config: &Config, simulated_with: Option<&str>) -> (Result<Self>, LoadReport) {
        let mut report = LoadReport::new("libnvidia-ml");
        report.simulated = simulated_with.is_some();
        let Some(nvml) = find(config, simulated_with, &mut report) else {
            return (Err(report.to_error()), report);
        };
        report.version = nvml.sys_nvml_version().ok();
        let sees_own_pid = simulated_with.is_some() || privileges::in_initial_pid_namespace();
        (Ok(Self { nvml, uuids: Mutex::default(), sees_own_pid }), report)
    }

    /// The NVML device of a CUDA device, matched by UUID: a MIG slice by its own, never its parent.
    pub(crate) fn handle(&self, device: &DeviceInfo) -> Result<nvml_wrapper::Device<'static>> {
        let handle = self
            .nvml
            .device_by_uuid(device.uuid.as_str())
            .map_err(|problem| failed("nvmlDeviceGetHandleByUUID", &problem, Some(&device.uuid)))?;
        self.remember(device);
        Ok(handle)
    }

    /// From now on callbacks measure by this NVML. `devices`: those that are known by now.
    pub fn measure(&self, devices: &[DeviceInfo]) {
        METER.connect(self, devices);
    }

    /// The leaked library.
    pub(crate) fn library(&self) -> &'static nvml_wrapper::Nvml {
        self.nvml
    }

    /// This process's id where NVML lists it as that.
    ///
    /// Not inside a PID namespace: there NVML lists the host's process ids, and one that happens to
    /// equal ours is somebody else's.
    pub(crate) fn own_pid(&self) -> Option<u32> {
        self.sees_own_pid.then(std::process::id)
    }

    /// Device memory of all processes; `None` where the device has none of its own that NVML could
    /// tell of (unified memory). Takes about 12 µs.
    ///
    /// # Errors
    /// [`crate::Error::NvmlCall`].
    pub fn memory_of(&self, device: &DeviceInfo) -> Result<Option<Memory>> {
        memory(&self.handle(device)?)
    }

    /// Who uses the device. Takes milliseconds under the driver's global lock: once a second is
    /// plenty.
    ///
    /// # Errors
    /// [`crate::Error::NvmlCall`].
    pub fn processes_of(&self, device: &DeviceInfo) -> Result<Processes> {
        processes(&self.handle(device)?, self.own_pid())
    }

    /// Device and process memory as a [`crate::event::Body::DeviceUse`] event; `processes` is what
    /// [`Self::processes_of`] said last. `None` where the device has no memory of its own.
    ///
    /// # Errors
    /// [`crate::Error::NvmlCall`].
    pub fn use_of(
        &self,
        device: &DeviceInfo,
        processes: Option<&Processes>,
    ) -> Result<Option<Event>> {
        let Some(memory) = self.memory_of(device)? else { return Ok(None) };
        Ok(Some(Event {
            time: clock::now(),
            seen_by: SeenBy::Poll,
            body: Body::DeviceUse {
                device: device.index,
                used: memory.used,
                reserved: memory.reserved,
                process_used: processes.and_then(|processes| processes.own),
                others: processes.and_then(|processes| processes.others),
                others_untold: processes.map_or(0, |processes| processes.others_untold),
            },
        }))
    }

    /// Driver version as text, e.g. `580.95.05`.
    ///
    /// # Errors
    /// [`crate::Error::NvmlCall`].
    pub fn driver_version(&self) -> Result<String> {
        let answer = self.nvml.sys_driver_version();
        answer.map_err(|problem| failed("nvmlSystemGetDriverVersion", &problem, None))
    }

    /// GPU utilisation in percent over the last sample period, if supported. `device` is a CUDA
    /// ordinal: it is known once [`Self::use_of`] has matched it, or when there is one device only.
    pub fn utilization_percent(&self, device: DeviceIndex) -> Option<u32> {
        let uuid = self.lock().get(&device).cloned();
        let handle = match uuid {
            Some(uuid) => self.nvml.device_by_uuid(uuid).ok()?,
            None if device.0 == 0 && self.nvml.device_count().ok()? == 1 => {
                self.nvml.device_by_index(0).ok()?
            }
            None => return None,
        };
        handle.utilization_rates().ok().map(|rates| rates.gpu)
    }

    fn remember(&self, device: &DeviceInfo) {
        let mut uuids = self.lock();
        if uuids.get(&device.index) != Some(&device.uuid) {
            uuids.insert(device.index, device.uuid.clone());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<DeviceIndex, String>> {
        self.uuids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Nvml::memory_of`].
pub(crate) fn memory(handle: &nvml_wrapper::Device<'_>) -> Result<Option<Memory>> {
    match handle.memory_info() {
        Ok(memory) => Ok(Some(Memory {
            used: Bytes(memory.used),
            free: Bytes(memory.free),
            // A driver that does not tell it apart says 0; no device reserves nothing.
            reserved: (memory.reserved > 0).then_some(Bytes(memory.reserved)),
        })),
        Err(NvmlError::NotSupported) => Ok(None),
        Err(problem) => Err(failed("nvmlDeviceGetMemoryInfo_v2", &problem, None)),
    }
}

/// See [`Nvml::processes_of`]; `own` is this process's id where it is listed as that.
pub(crate) fn processes(handle: &nvml_wrapper::Device<'_>, own: Option<u32>) -> Result<Processes> {
    let computing = handle
        .running_compute_processes()
        .map_err(|problem| failed("nvmlDeviceGetComputeRunningProcesses", &problem, None))?;
    // A driver without graphics has no such list.
    let drawing = handle.running_graphics_processes().unwrap_or_default();
    let told = computing.iter().chain(&drawing).map(|process| {
        let used = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(Bytes(bytes)),
            UsedGpuMemory::Unavailable => None,
        };
        (process.pid, used)
    });
    Ok(Processes::of(told, own))
}

fn failed(call: &'static str, problem: &NvmlError, with: Option<&str>) -> Error {
    let problem = match with {
        Some(with) => format!("{with}: {problem}"),
        None => problem.to_string(),
    };
    Error::NvmlCall { call, problem }
}

fn find(
    config: &Config,
    simulated_with: Option<&str>,
    report: &mut LoadReport,
) -> Option<&'static nvml_wrapper::Nvml> {
    let explicit = config.nvml_path.as_deref();
    let candidates: Vec<OsString> = match (simulated_with, explicit) {
        (Some(simulated), _) => {
            let twin = loader::simulator_twin(report, Path::new(simulated), explicit, &[SONAME])?;
            vec![twin.into()]
        }
        (None, Some(path)) => vec![path.into()],
        (None, None) => std::iter::once(SONAME).chain(WELL_KNOWN).map(OsString::from).collect(),
    };
    let mut found = None;
    for candidate in &candidates {
        if found.is_some() {
            report.skip(candidate, "an earlier one is in use");
        } else {
            found = open(candidate, simulated_with.is_some(), report);
        }
    }
    if found.is_none() && report.hint.is_empty() {
        report.hint = match explicit {
            Some(_) => "MEMVELOPE_NVML_PATH is tried alone; unset it to search the usual places",
            None => {
                "comes with the NVIDIA driver; in a container, NVIDIA_DRIVER_CAPABILITIES must \
                 have `utility`"
            }
        }
        .into();
    }
    found
}

/// Initialised ones by path: repeated loads must neither leak nor count up NVML's own reference.
static KNOWN: Mutex<Vec<(PathBuf, &'static nvml_wrapper::Nvml)>> = Mutex::new(Vec::new());

fn known() -> MutexGuard<'static, Vec<(PathBuf, &'static nvml_wrapper::Nvml)>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remembered(candidate: &OsStr) -> Option<&'static nvml_wrapper::Nvml> {
    known().iter().find(|(path, _)| path == candidate).map(|(_, nvml)| *nvml)
}

fn open(
    candidate: &OsStr,
    simulated: bool,
    report: &mut LoadReport,
) -> Option<&'static nvml_wrapper::Nvml> {
    let nvml = match remembered(candidate) {
        Some(nvml) => nvml,
        // Without the lock: initialising talks to the kernel module, and may take seconds.
        None => match nvml_wrapper::Nvml::builder().lib_path(candidate).init() {
            Ok(nvml) => {
                // Should another thread have been faster, there are two handles to one library.
                let nvml: &'static _ = Box::leak(Box::new(nvml));
                known().push((candidate.into(), nvml));
                nvml
            }
            Err(problem) => {
                report.fail(candidate, words(&problem));
                return None;
            }
        },
    };
    if !simulated && loader::is_simulator(&nvml.lib().__library) {
        report.fail(candidate, "the simulator's, but no simulated driver is in use");
        return None;
    }
    report.push(candidate, Outcome::Loaded);
    let init = nvml.lib().nvmlInit_v2.as_ref().ok().map(|init| *init as *const c_void);
    let path = init.and_then(loader::path_of).unwrap_or_else(|| candidate.to_owned());
    report.chosen = Some(path.to_string_lossy().into_owned());
    Some(nvml)
}

fn words(problem: &NvmlError) -> String {
    match problem {
        NvmlError::LibloadingError(error) => loader::loader_words(error),
        other => format!("opened, but nvmlInit failed: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_count_once_and_own_ones_apart() {
        let mib = |n: u64| Some(Bytes(n << 20));
        let listed = [(7, mib(10)), (8, mib(5)), (9, None), (8, mib(5)), (9, None), (10, mib(1))];
        let of = |own| Processes::of(listed.into_iter(), own);
        let expect = Processes {
            own: mib(10),
            is_own_known: true,
            is_listed: true,
            others: mib(6),
            others_untold: 1,
            listed: 4,
        };
        assert_eq!(of(Some(7)), expect);
        assert_eq!((of(Some(9)).own, of(Some(9)).uses_nothing()), (None, false));
        assert!(of(Some(1)).uses_nothing() && !of(None).uses_nothing());
        assert_eq!((of(Some(1)).own, of(Some(1)).others), (None, mib(16)));
        let foreign = Processes { listed: 4, ..Processes::default() };
        assert_eq!(of(None), foreign, "ids of another namespace say nothing");
        assert!(!of(None).is_alone() && !of(Some(7)).is_alone());
        let alone = Processes::of(std::iter::empty(), Some(1));
        assert_eq!((alone.others, alone.is_own_known), (Some(Bytes::ZERO), true));
        assert!(alone.is_alone());
        let one = Processes::of(listed.into_iter().take(1), None);
        assert!(one.is_alone(), "who is listed alone is this process, by whatever id");
    }

    fn check(path: &Path, expect: &str) {
        let config = Config { nvml_path: Some(path.into()), ..Config::default() };
        let (nvml, report) = Nvml::load(&config, None);
        assert!(nvml.is_err() && !report.is_loaded());
        assert_eq!(report.candidates.len(), 1, "an explicit path is tried alone");
        let Outcome::Failed(why) = &report.candidates[0].outcome else { panic!("{report:?}") };
        assert!(why.contains(expect), "{why}");
        assert!(report.hint.contains("MEMVELOPE_NVML_PATH"));
    }

    #[test]
    fn a_missing_or_bogus_library_is_a_report() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SONAME);
        check(&path, "No such file");
        std::fs::write(&path, "text").unwrap();
        check(&path, "file too short");
    }

    #[test]
    fn with_a_simulated_driver_only_its_own_file_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let cuda = dir.path().join("libcuda.so.1");
        std::fs::write(&cuda, "sim").unwrap();
        std::fs::write(dir.path().join(SONAME), "other").unwrap();
        let (nvml, report) = Nvml::load(&Config::default(), cuda.to_str());
        assert!(nvml.is_err() && report.simulated);
        assert!(report.hint.contains("simulated"), "{}", report.hint);
    }
}
