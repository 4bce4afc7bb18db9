//! `--gpu`: a device from the table, from its driver, or as declared.

use crate::failure::{Failure, Outcome};
use crate::sim_exec::{self, Choice};
use memvelope::config::Config;
use memvelope::engine::{Device, DeviceSource};
use memvelope::source::driver::Driver;
use memvelope::units::Bytes;

/// Of a GPU of which only the bytes are known: that of a Hopper.
const CAPABILITY_DEFAULT: (u32, u32) = (9, 0);

/// More digits than this are bytes, not the ordinal of a device.
const ORDINAL_DIGITS_MAX: usize = 3;

/// Compute capability, major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capability(pub(super) u32, pub(super) u32);

impl std::str::FromStr for Capability {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('.').and_then(|(major, minor)| {
            let small = |part: &str| part.parse().ok().filter(|&part: &u32| part < 100);
            Some(Self(small(major)?, small(minor)?))
        });
        parts.ok_or("expected MAJOR.MINOR, e.g. 9.0")
    }
}

/// The device that a text means.
///
/// # Errors
/// None is called so; or the driver was asked for one and does not have it.
pub(super) fn open(text: &str, capability: Option<Capability>) -> Outcome<Device> {
    let is_ordinal = !text.is_empty()
        && text.len() <= ORDINAL_DIGITS_MAX
        && text.chars().all(|digit| digit.is_ascii_digit());
    if is_ordinal || text == "sim" || text.starts_with("GPU-") || text.starts_with("MIG-") {
        return measure(text);
    }
    if let Some(device) = Device::named(text) {
        return Ok(device);
    }
    let is_number = text.starts_with(|first: char| first.is_ascii_digit());
    match text.parse::<Bytes>() {
        Ok(total) => {
            let capability = capability.map_or(CAPABILITY_DEFAULT, |c| (c.0, c.1));
            Ok(Device::declared(total, capability))
        }
        Err(error) if is_number => Err(Failure::bad(format!("--gpu {text:.40}: {error}"))),
        Err(_) => Err(Failure::bad(format!(
            "--gpu: no device is called {text:.40?} here\nhint: give its bytes (80GiB) and --capability, an \
             ordinal (0) to ask the driver, or one of {}",
            known()
        ))),
    }
}

/// Short names of the table, each with the profiles of its slices.
fn known() -> String {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for name in Device::names() {
        let slice = groups.last().and_then(|(whole, _)| {
            let profile = name.strip_prefix(whole.as_str())?.strip_prefix('-')?;
            profile.contains("g.").then(|| profile.to_owned())
        });
        match (slice, groups.last_mut()) {
            (Some(profile), Some((_, profiles))) => profiles.push(profile),
            _ => groups.push((name, Vec::new())),
        }
    }
    let text = |(whole, profiles): &(String, Vec<String>)| match profiles.as_slice() {
        [] => whole.clone(),
        profiles => format!("{whole} (MIG: {whole}-{})", profiles.join(" -")),
    };
    groups.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// Asks the driver.
fn measure(text: &str) -> Outcome<Device> {
    let choice: Choice = text.parse().map_err(Failure::bad)?;
    let info = sim_exec::settle(&choice, None).map_err(|failure| match failure {
        Failure::Failed(error) => Failure::BadInput(error.context(format!(
            "--gpu {text:.60}: the driver cannot be asked\nhint: name the GPU instead, e.g. \
             --gpu h100"
        ))),
        bad => bad,
    })?;
    // Also where somebody else put the simulated driver on the library path.
    let (driver, _) = Driver::load(&Config::from_env().0);
    let is_simulated = sim_exec::is_re_executed()
        || driver.is_ok_and(|driver| driver.simulator_version().is_some());
    Ok(Device::measured(&info.name, info.total_bytes, info.compute_capability, is_simulated))
}

/// What vLLM's CPU backend is told by its variable, in whole GiB (`vllm/platforms/cpu.py`).
///
/// # Errors
/// It is set to something else.
pub(super) fn cpu_cache_space() -> Outcome<Option<Bytes>> {
    const KEY: &str = "VLLM_CPU_KVCACHE_SPACE";
    let Some(value) = std::env::var_os(KEY).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let gib = value.to_str().and_then(|text| text.parse::<u64>().ok()).filter(|&gib| gib > 0);
    let bytes = gib.and_then(|gib| gib.checked_mul(Bytes::GIB)).map(Bytes);
    bytes.map(Some).ok_or_else(|| {
        Failure::bad(format!("{KEY}={}: expected whole GiB", value.to_string_lossy()))
    })
}

/// Memory of this host.
///
/// # Errors
/// The kernel does not say.
pub(super) fn host_memory() -> Outcome<Bytes> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.and_then(|kib| kib.checked_mul(1024)).map(Bytes).ok_or_else(|| {
        Failure::bad("the host's memory is not known\nhint: give --kv-bytes, e.g. 4GiB")
    })
}

/// A device by name for a line of a batch, where nothing is measured.
///
/// # Errors
/// None is called so, and the line says no size.
pub(super) fn of_line(
    name: &str,
    total: Option<Bytes>,
    capability: Option<(u32, u32)>,
) -> Result<Device, String> {
    let mut device = match (Device::named(name), total) {
        (Some(device), _) => device,
        (None, Some(total)) => Device {
            name: name.chars().take(80).collect(),
            ..Device::declared(total, capability.unwrap_or(CAPABILITY_DEFAULT))
        },
        (None, None) => match name.parse::<Bytes>() {
            Ok(total) => Device::declared(total, capability.unwrap_or(CAPABILITY_DEFAULT)),
            Err(_) => {
                return Err(format!("device: none is called {name:.40?}; known are {}", known()));
            }
        },
    };
    if let (Some((major, minor)), DeviceSource::Table) = (capability, device.source)
        && device.kind != memvelope::engine::DeviceKind::Cpu
    {
        device.kind = memvelope::engine::DeviceKind::Cuda(major, minor);
    }
    Ok(device)
}
