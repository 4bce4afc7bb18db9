//! What of this machine memvelope can use from this process, and what to do about the rest: the
//! findings behind `memvelope doctor` and Python's `doctor()`.

use super::{Mode, Session};
use crate::config::{Config, KEYS, Key, Shape};
use crate::error::{Error, Result};
use crate::snapshot::{DeviceSnapshot, HostSnapshot, Snapshot};
use crate::source::driver::{DeviceInfo, Driver};
use crate::source::loader::LoadReport;
use crate::source::nvml::Nvml;
use crate::source::privileges::{self, Privileges};
use crate::units::Bytes;
use serde::Serialize;
use std::time::Duration;

/// How long a session of ours may take to detach.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What it comes to, and the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Everything is recorded. Exit code 0.
    Usable,
    /// Something is missing. Exit code 1.
    Degraded,
    /// No driver or no device. Exit code 2.
    Unusable,
}

/// All that doctor found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Findings {
    /// Version of this library.
    pub memvelope_version: &'static str,
    /// Whether the driver is memvelope's simulator.
    pub simulated: bool,
    /// What it comes to.
    pub health: Health,
    /// Why it is not better, one sentence each.
    pub problems: Vec<String>,
    /// How libcuda, libcupti and libnvidia-ml were looked for.
    pub libraries: Vec<LoadReport>,
    /// CUDA version that the driver supports, e.g. 13000.
    pub cuda_version: Option<u32>,
    /// The driver's own version, e.g. `580.95.05`.
    pub driver_version: Option<String>,
    /// How a session records here.
    pub mode: Mode,
    /// Devices that this process sees.
    pub devices: Vec<Device>,
    /// Host plane, where the cgroup tells.
    pub host: Option<HostSnapshot>,
    /// What this process may do.
    pub privileges: Privileges,
    /// Resource limits that bear on a recorder.
    pub limits: Vec<Limit>,
    /// Every `MEMVELOPE_*` key.
    pub keys: Vec<KeyValue>,
}

/// A device, and what the planes say of it now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// As the driver describes it.
    #[serde(flatten)]
    pub info: DeviceInfo,
    /// Free as the driver tells.
    pub free_bytes: Option<Bytes>,
    /// Used by all processes as NVML tells.
    pub nvml_used_bytes: Option<Bytes>,
    /// Used by this process as NVML tells.
    pub process_used_bytes: Option<Bytes>,
    /// Over NVML's last sample period.
    pub utilization_percent: Option<u32>,
}

/// A resource limit of the process (`/proc/self/limits`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// The kernel's name for it.
    pub name: String,
    /// The soft limit: a number or `unlimited`.
    pub soft: String,
    /// Its unit, in the kernel's words.
    pub unit: String,
}

/// A `MEMVELOPE_*` key as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyValue {
    /// The environment variable.
    pub name: &'static str,
    /// Its value; `None`: not set, the default holds.
    pub value: Option<String>,
    /// The default, as one would write it.
    pub default: String,
    /// The number's unit, or `word` or `path`.
    pub unit: &'static str,
    /// What it does.
    pub doc: &'static str,
}

/// Examines this process: asks the running session, or starts one and stops it again.
///
/// Blocks while libraries load and the driver initialises. Nothing found is not an error.
///
/// # Errors
/// [`Error::StartThread`].
pub fn examine() -> Result<Findings> {
    let (config, config_problems) = Config::from_env();
    let mut problems: Vec<String> = config_problems.iter().map(ToString::to_string).collect();
    let is_misconfigured = !problems.is_empty();

    let (session, is_ours) = session(&config)?;
    session.sample();
    let (driver, _) = Driver::load(&config);
    let driver = driver.ok();
    let infos = driver.and_then(|driver| driver.devices().ok()).unwrap_or_default();
    let libraries = session.load_reports();
    let cuda = libraries.iter().find(|report| report.library == "libcuda");
    let simulated_with = cuda.filter(|report| report.simulated).and_then(|r| r.chosen.as_deref());
    let (nvml, _) = Nvml::load(&config, simulated_with);
    let nvml = nvml.ok();
    let snapshot = session.snapshot();
    let mode = session.mode();
    problems.extend(snapshot.unseen.iter().cloned());
    if is_ours && let Err(error) = session.stop(STOP_TIMEOUT) {
        problems.push(error.to_string());
    }
    note_mode(&mode, &mut problems);

    let is_complete = nvml.is_some() && !is_misconfigured;
    Ok(Findings {
        memvelope_version: env!("CARGO_PKG_VERSION"),
        simulated: snapshot.simulated,
        health: health(&mode, is_complete, !infos.is_empty()),
        problems,
        cuda_version: driver.and_then(|driver| driver.version().ok()),
        driver_version: nvml.as_ref().and_then(|nvml| nvml.driver_version().ok()),
        devices: infos.into_iter().map(|info| device(info, &snapshot, nvml.as_ref())).collect(),
        libraries,
        mode,
        host: snapshot.host,
        privileges: privileges::report(),
        limits: limits(),
        keys: KEYS.iter().map(key_value).collect(),
    })
}

/// The session to ask, and whether it is ours to stop.
fn session(config: &Config) -> Result<(Session, bool)> {
    if let Some(session) = Session::current() {
        return Ok((session, false));
    }
    match (Session::start(config), Session::current()) {
        (Ok(session), _) => Ok((session, true)),
        // Another thread was faster.
        (Err(Error::SessionExists), Some(session)) => Ok((session, false)),
        (Err(error), _) => Err(error),
    }
}

fn health(mode: &Mode, is_complete: bool, has_device: bool) -> Health {
    let sees_all = match mode {
        Mode::Cupti(coverage) => coverage.missing.is_empty(),
        Mode::Polling(_) | Mode::Blind(_) => false,
    };
    match (has_device, sees_all && is_complete) {
        (false, _) => Health::Unusable,
        (true, true) => Health::Usable,
        (true, false) => Health::Degraded,
    }
}

fn device(info: DeviceInfo, snapshot: &Snapshot, nvml: Option<&Nvml>) -> Device {
    let seen = snapshot.devices.iter().find(|device| device.totals.device == info.index);
    let ask = |of: fn(&DeviceSnapshot) -> Option<Bytes>| seen.and_then(of);
    Device {
        free_bytes: ask(|device| device.free_bytes),
        nvml_used_bytes: ask(|device| device.nvml_used_bytes),
        process_used_bytes: ask(|device| device.process_used_bytes),
        utilization_percent: nvml.and_then(|nvml| nvml.utilization_percent(info.index)),
        info,
    }
}

/// Adds why the mode is not better, unless the session has said so itself.
fn note_mode(mode: &Mode, problems: &mut Vec<String>) {
    let reasons = match mode {
        Mode::Cupti(coverage) => coverage.missing.as_slice(),
        Mode::Polling(why) | Mode::Blind(why) => std::slice::from_ref(why),
    };
    for reason in reasons {
        if !problems.iter().any(|problem| problem.contains(reason)) {
            problems.push(reason.clone());
        }
    }
}

fn key_value(key: &Key) -> KeyValue {
    let (default, unit) = match key.shape {
        Shape::Number { unit, default, .. } => (default.to_string(), unit),
        Shape::Word(words) => (words[0].to_owned(), "word"),
        Shape::Path => ("(none)".to_owned(), "path"),
    };
    KeyValue {
        name: key.name,
        value: std::env::var_os(key.name).map(|value| value.to_string_lossy().into_owned()),
        default,
        unit,
        doc: key.doc,
    }
}

/// The limits that bear on a recorder: locked memory (pinned buffers), address space, open files.
fn limits() -> Vec<Limit> {
    let text = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let wanted = ["Max locked memory", "Max address space", "Max open files"];
    let read = |name: &&str| {
        let line = text.lines().find_map(|line| line.strip_prefix(*name))?;
        let mut words = line.split_whitespace();
        let soft = words.next()?.to_owned();
        let unit = words.nth(1).unwrap_or_default().to_owned();
        Some(Limit { name: (*name).to_owned(), soft, unit })
    };
    wanted.iter().filter_map(read).collect()
}
