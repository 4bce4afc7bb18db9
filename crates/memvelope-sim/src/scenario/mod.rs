//! What is simulated: a TOML file at `$MEMVELOPE_SIM_SCENARIO`, described in `SCENARIO.md`.
//!
//! Every key has a default, so that the empty file is the default scenario; an unknown key is an
//! error that names the file and the key.

mod cupti;
mod device;

pub use cupti::{Cupti, CuptiFaults, Overhead};
pub use device::{CoTenant, Device, Step};

use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// CUPTI versions whose record layouts the simulator knows, with the number `cuptiGetVersion`
/// returns for the newest release of each.
pub const CUPTI_VERSIONS: &[(&str, u32, u32)] = &[
    // (name in a scenario, major * 100 + minor, API number)
    ("12.0", 1200, 18),
    ("12.1", 1201, 18),
    ("12.2", 1202, 20),
    ("12.3", 1203, 21),
    ("12.4", 1204, 22),
    ("12.5", 1205, 23),
    ("12.6", 1206, 24),
    ("12.8", 1208, 26),
    ("12.9", 1209, 28),
    ("13.0", 1300, 130_001),
    ("13.1", 1301, 130_101),
    ("13.2", 1302, 130_202),
    ("13.3", 1303, 130_301),
    ("13.4", 1304, 130_401),
    ("13.5", 1305, 130_500),
];

/// A whole scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// Seed of faults with a probability.
    pub seed: u64,
    /// What `cuDriverGetVersion` says: major * 1000 + minor * 10.
    pub driver_version: i32,
    /// What NVML calls the driver.
    pub driver_name: String,
    /// The simulated CUPTI.
    pub cupti: Cupti,
    /// Where the virtual clock starts, in nanoseconds.
    pub start_ns: u64,
    /// What every `cuInit` returns; 0 is success.
    pub init_code: u32,
    /// Functions that this driver does not have.
    pub missing: Vec<String>,
    /// Name of another CUPTI subscriber; ours is then refused with 39.
    pub subscriber: Option<String>,
    /// The GPUs, in ordinal order.
    pub devices: Vec<Device>,
    /// Host time that calls take.
    pub costs: Costs,
    /// GPU time that kernels take.
    pub kernels: Kernels,
    /// GPU time that copies and memsets take.
    pub copies: Copies,
    /// How much of the device's contents is kept.
    pub contents: Contents,
    /// Seeded faults.
    pub faults: Vec<Fault>,
    /// What CUPTI does wrong.
    pub cupti_faults: CuptiFaults,
}

/// Host nanoseconds per call, by class.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Costs {
    /// Any call without a class of its own.
    pub call_ns: u64,
    /// Kernel launches.
    pub launch_ns: u64,
    /// Allocation calls.
    pub alloc_ns: u64,
    /// Free calls.
    pub free_ns: u64,
    /// Copies and memsets.
    pub copy_ns: u64,
    /// Synchronising calls, before the wait itself.
    pub sync_ns: u64,
    /// Creating a context, loading a module.
    pub setup_ns: u64,
    /// Whether `cuMemFree` waits for the device.
    pub free_waits: bool,
    /// Overrides by function name.
    pub calls: BTreeMap<String, u64>,
}

/// GPU nanoseconds per kernel.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kernels {
    /// Kernels that are not named below.
    pub default: KernelCost,
    /// By entry name.
    pub named: BTreeMap<String, KernelCost>,
}

/// Duration = `base_ns` + `per_block_ns` × blocks of the grid, rounded down.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KernelCost {
    /// Nanoseconds of an empty grid.
    pub base_ns: u64,
    /// Nanoseconds each block adds.
    pub per_block_ns: f64,
    /// Local memory of each of its threads.
    pub local_bytes: u64,
}

/// Bandwidths in bytes per microsecond (1,000 is 1 GB/s).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Copies {
    /// Nanoseconds that every copy takes on top.
    pub latency_ns: u64,
    /// Host to device.
    pub htod_bytes_per_us: u64,
    /// Device to host.
    pub dtoh_bytes_per_us: u64,
    /// Device to device.
    pub dtod_bytes_per_us: u64,
    /// From one device to another.
    pub peer_bytes_per_us: u64,
    /// Memset.
    pub memset_bytes_per_us: u64,
}

/// Limits on the device contents that are kept in host memory.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Contents {
    /// All of it together.
    pub bytes_max: u64,
    /// Larger copies and memsets are not kept.
    pub copy_bytes_max: u64,
}

/// A fault after which every call of libcuda fails and NVML says that the GPU is lost.
pub const DEVICE_LOSS: &str = "device_loss";
/// A fault after which every call of libcuda fails, as while the driver shuts down.
pub const TEARDOWN: &str = "teardown";
/// What stands for several functions in a fault.
const GROUPS: [&str; 3] = ["allocation", DEVICE_LOSS, TEARDOWN];

/// A call that fails.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// An exported function, `allocation` for any call that allocates device memory, or, for every
    /// call of libcuda from the n-th on, [`DEVICE_LOSS`] or [`TEARDOWN`].
    pub call: String,
    /// What it returns instead of doing its work.
    pub code: u32,
    /// The first call that fails; 1 is the first there is.
    #[serde(default = "one")]
    pub nth: u64,
    /// How many calls fail from then on; 0 is all of them.
    #[serde(default = "one")]
    pub times: u64,
    /// How likely each of those calls fails; drawn from `seed`.
    #[serde(default = "certain")]
    pub probability: f64,
}

fn one() -> u64 {
    1
}

fn certain() -> f64 {
    1.0
}

pub(crate) const MIB: u64 = 1 << 20;

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seed: 1,
            driver_version: 13_000,
            driver_name: "580.95.05".into(),
            cupti: Cupti::default(),
            // Far from zero and from today: a time mixed up with another clock shows at once.
            start_ns: 1_000_000_000_000_000_000,
            init_code: 0,
            missing: Vec::new(),
            subscriber: None,
            devices: vec![Device::default()],
            costs: Costs::default(),
            kernels: Kernels::default(),
            copies: Copies::default(),
            contents: Contents::default(),
            faults: Vec::new(),
            cupti_faults: CuptiFaults::default(),
        }
    }
}

impl Default for Costs {
    fn default() -> Self {
        // Orders of magnitude of a current driver, not measurements of one.
        Self {
            call_ns: 100,
            launch_ns: 2_500,
            alloc_ns: 20_000,
            free_ns: 10_000,
            copy_ns: 3_000,
            sync_ns: 1_000,
            setup_ns: 1_000_000,
            free_waits: true,
            calls: BTreeMap::new(),
        }
    }
}

impl Default for KernelCost {
    fn default() -> Self {
        // The project's kernels handle 64 KiB a block: 20 ns are 3.3 TB/s, about what an H100's
        // HBM3 is specified for (3.35 TB/s).
        Self { base_ns: 3_000, per_block_ns: 20.0, local_bytes: 0 }
    }
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            latency_ns: 1_500,
            htod_bytes_per_us: 50_000,
            dtoh_bytes_per_us: 50_000,
            dtod_bytes_per_us: 1_500_000,
            // Fourth generation NVLink is specified for 450 GB/s each way.
            peer_bytes_per_us: 450_000,
            memset_bytes_per_us: 2_500_000,
        }
    }
}

impl Default for Contents {
    fn default() -> Self {
        Self { bytes_max: 256 * MIB, copy_bytes_max: 4 * MIB }
    }
}

impl Scenario {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// A sentence that names the file, and the line and key where there is one.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read scenario {}: {error}", path.display()))?;
        Self::from_toml(&text).map_err(|error| format!("scenario {}: {error}", path.display()))
    }

    /// Reads TOML text.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        let scenario: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        scenario.check()?;
        Ok(scenario)
    }

    /// CUPTI version as major * 100 + minor, and the number `cuptiGetVersion` returns.
    #[must_use]
    pub fn cupti_version(&self) -> (u32, u32) {
        let known = CUPTI_VERSIONS.iter().find(|(name, ..)| *name == self.cupti.version);
        known.map_or((1300, 130_001), |(_, version, api)| (*version, *api))
    }

    fn check(&self) -> Result<(), String> {
        let version = &self.cupti.version;
        if CUPTI_VERSIONS.iter().all(|(name, ..)| name != version) {
            let known: Vec<_> = CUPTI_VERSIONS.iter().map(|(name, ..)| *name).collect();
            return Err(format!("cupti = {version:?}: known are {}", known.join(", ")));
        }
        self.cupti.check().map_err(|error| format!("cupti.{error}"))?;
        for (i, device) in self.devices.iter().enumerate() {
            device.check().map_err(|error| format!("devices[{i}].{error}"))?;
        }
        device::check_slices(&self.devices)?;
        for (i, fault) in self.faults.iter().enumerate() {
            if !(0.0..=1.0).contains(&fault.probability) || fault.nth == 0 || fault.code == 0 {
                return Err(format!(
                    "faults[{i}]: probability must lie in 0..=1, nth and code be above 0"
                ));
            }
            if !GROUPS.contains(&fault.call.as_str()) && !crate::exported(&fault.call) {
                return Err(format!("faults[{i}].call = {:?}: no such function", fault.call));
            }
        }
        let called = self.costs.calls.keys().map(|name| ("costs.calls", name));
        for (key, name) in called.chain(self.missing.iter().map(|name| ("missing", name))) {
            if !crate::exported(name) {
                return Err(format!("{key}: {name:?} is no function of the simulator"));
            }
        }
        let kernels = self.kernels.named.values().chain([&self.kernels.default]);
        for cost in kernels {
            if !(0.0..=1e15).contains(&cost.per_block_ns) {
                return Err(format!("kernels: per_block_ns = {}: from 0 up", cost.per_block_ns));
            }
        }
        self.copies.check()
    }
}

impl Copies {
    fn check(&self) -> Result<(), String> {
        let speeds = [
            ("htod", self.htod_bytes_per_us),
            ("dtoh", self.dtoh_bytes_per_us),
            ("dtod", self.dtod_bytes_per_us),
            ("peer", self.peer_bytes_per_us),
            ("memset", self.memset_bytes_per_us),
        ];
        match speeds.iter().find(|(_, speed)| *speed == 0) {
            Some((name, _)) => Err(format!("copies.{name}_bytes_per_us must be above 0")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_file_is_the_default() {
        let scenario = Scenario::from_toml("").unwrap();
        assert_eq!(scenario.devices.len(), 1);
        assert_eq!(scenario.devices[0].total_bytes, 80 << 30);
        assert_eq!(scenario.cupti_version(), (1300, 130_001));
    }

    /// Each text is refused, and the message names the key.
    #[test]
    fn bad_scenarios_name_the_key() {
        for (text, named) in [
            ("sede = 1", "sede"),
            ("[[devices]]\nbytes = 1", "bytes"),
            ("[costs]\nlaunch_us = 1", "launch_us"),
            ("cupti = \"11.8\"", "cupti"),
            ("[[devices]]\npage_bytes = 3", "devices[0].page_bytes"),
            ("[[devices]]\ntotal_bytes = 1", "devices[0].total_bytes"),
            ("[[devices]]\nuuid = \"GPU-1\"", "devices[0].uuid"),
            ("[[devices]]\nmig_of = \"GPU-1\"", "devices[0].mig_of"),
            ("[[devices]]\nuuid = \"MIG-00112233-4455-6677-8899-aabbccddeeff\"", "devices[0].uuid"),
            ("[[devices]]\nreserved_bytes = 99999999999", "devices[0].total_bytes"),
            (
                "[[devices]]\nmig_of = \"GPU-00112233-4455-6677-8899-aabbccddeeff\"\n\
                 mig_parent_bytes = 1\n",
                "mig_parent_bytes",
            ),
            ("[[devices]]\nhidden_steps = [{ after_ns = 1, bytes = 1, x = 1 }]", "x"),
            ("[[faults]]\ncall = \"cuFly\"\ncode = 2", "cuFly"),
            ("[[faults]]\ncall = \"allocation\"\ncode = 0", "faults[0]"),
            ("missing = [\"cuFly\"]", "missing"),
            ("[cupti]\nversion = \"11.8\"", "cupti"),
            ("[cupti]\nbuffers = 1", "buffers"),
            ("[cupti]\ndevice_buffer_records = 0", "cupti.device_buffer_records"),
            ("[cupti_faults]\ngarbage = 1", "garbage"),
            ("[cupti_faults]\ndistinct_names = -1", "distinct_names"),
            ("[costs.calls]\ncuFly = 1", "costs.calls"),
            ("[copies]\ndtoh_bytes_per_us = 0", "copies.dtoh_bytes_per_us"),
            ("[kernels.named.k]\nns = 1", "ns"),
            ("[kernels.default]\nper_block_ns = nan", "per_block_ns"),
            (
                "[[devices]]\n[[devices.co_tenants]]\npid = 1\nbytes = 1\nsteps = [{ after_ns = 2, \
              bytes = 1 }, { after_ns = 1, bytes = 1 }]",
                "steps",
            ),
        ] {
            let error = Scenario::from_toml(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn cupti_is_a_version_or_a_table() {
        let version = |text: &str| Scenario::from_toml(text).unwrap().cupti_version().0;
        assert_eq!(version("cupti = \"12.4\""), 1204);
        assert_eq!(version("[cupti]\nversion = \"12.4\"\nbuffer_request_ns = 5"), 1204);
        assert_eq!(version("[cupti]\nbuffer_request_ns = 5"), 1300);
        let names = |text: &str| Scenario::from_toml(text).unwrap().cupti_faults.distinct_names;
        assert_eq!(names("[cupti_faults]\ndistinct_names = true"), u64::MAX);
        assert_eq!(names("[cupti_faults]\ndistinct_names = 7"), 7);
    }
}
