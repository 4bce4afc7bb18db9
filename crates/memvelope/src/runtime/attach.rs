//! Finding the libraries and attaching to them: the links of a session.

use super::Mode;
use crate::config::{self, Config, Record};
use crate::event::{DeviceIndex, Names, Sink};
use crate::source::cupti::Recorder;
use crate::source::driver::{DeviceInfo, Driver};
use crate::source::loader::LoadReport;
use crate::source::nvml::Nvml;
use std::sync::Arc;

/// What a session is connected to. Links are values: they are copied out of their lock before
/// anything foreign is called.
#[derive(Clone, Debug)]
pub(super) struct Links {
    pub(super) driver: Option<&'static Driver>,
    pub(super) devices: Arc<[DeviceInfo]>,
    pub(super) nvml: Option<Arc<Nvml>>,
    pub(super) recorder: Option<&'static Recorder>,
    pub(super) mode: Mode,
    pub(super) reports: Vec<LoadReport>,
    pub(super) simulated: bool,
    /// Devices whose primary context was there before CUPTI was attached.
    pub(super) active_before: Vec<DeviceIndex>,
    /// What went unseen on the way, one sentence each.
    pub(super) missed: Vec<String>,
    /// Allocations were seen before this process could make any.
    pub(super) is_from_start: bool,
    /// The driver is loaded but does not answer yet: [`complete`] is to be called until it does.
    pub(super) is_incomplete: bool,
}

impl Links {
    /// Connected to nothing.
    pub(super) fn blind(why: impl Into<String>) -> Self {
        Self {
            driver: None,
            devices: Arc::from([]),
            nvml: None,
            recorder: None,
            mode: Mode::Blind(why.into()),
            reports: Vec::new(),
            simulated: false,
            active_before: Vec::new(),
            missed: Vec::new(),
            is_from_start: false,
            is_incomplete: false,
        }
    }
}

impl Links {
    /// Another copy of memvelope, loaded from `path`, has CUPTI and takes no clients: this one only
    /// polls.
    pub(super) fn with_peer(mut self, path: &str) -> Self {
        if let Mode::Polling(why) = &mut self.mode {
            *why = format!(
                "another copy of memvelope in this process, {path}, records already and is too old \
                 to be asked; end its session first, or update it"
            );
        }
        self
    }
}

/// Loads, initialises the driver and attaches.
pub(super) fn attach(config: &Config, sink: &'static dyn Sink, names: &'static Names) -> Links {
    let mut links = load(config);
    let Some(driver) = links.driver else { return links };
    if let Err(error) = driver.init() {
        let hint = Driver::init_hint(&error).map(|hint| format!("; hint: {hint}"));
        let why = format!("{error}{}", hint.unwrap_or_default());
        return Links { mode: Mode::Blind(why), driver: None, ..links };
    }
    match driver.devices() {
        Ok(devices) => links.devices = devices.into(),
        Err(error) => {
            return Links { mode: Mode::Blind(error.to_string()), driver: None, ..links };
        }
    }
    attach_nvml(config, &mut links);
    links.active_before = driver.active_devices();
    attach_cupti(config, driver, sink, names, &mut links);
    links
}

/// Attaches from within `cuInit`, where CUPTI may be called and the driver may not: its questions
/// wait for [`complete`]. If CUPTI refuses here, it is asked again then.
pub(super) fn attach_inside_init(
    config: &Config,
    sink: &'static dyn Sink,
    names: &'static Names,
) -> Links {
    let mut links = load(config);
    let Some(driver) = links.driver else { return links };
    driver.init_is_calling_us();
    // It is needed when the program makes its first context, which may be the next thing it does.
    // NVML is no part of CUDA: it may be initialised here, in some milliseconds.
    attach_nvml(config, &mut links);
    attach_cupti(config, driver, sink, names, &mut links);
    // Without a context, which takes a driver that answers, nothing can be allocated.
    links.is_from_start = matches!(&links.mode, Mode::Cupti(coverage) if coverage.callbacks);
    links.is_incomplete = true;
    links
}

/// Finishes [`attach_inside_init`] from a thread of ours. False while the driver does not answer.
pub(super) fn complete(
    config: &Config,
    sink: &'static dyn Sink,
    names: &'static Names,
    links: &mut Links,
) -> bool {
    let Some(driver) = links.driver else { return true };
    let Ok(devices) = driver.devices() else { return false };
    links.devices = devices.into();
    links.is_incomplete = false;
    attach_nvml(config, links);
    if links.recorder.is_none() && config.record == Record::Auto {
        links.active_before = driver.active_devices();
        attach_cupti(config, driver, sink, names, links);
        if links.recorder.is_some() {
            links.missed.push(
                "CUPTI could only be attached after cuInit: what was allocated in between is in the opening balance".into(),
            );
        }
    }
    true
}

fn load(config: &Config) -> Links {
    if config.record == Record::Off {
        let blind = Links::blind("recording is off (MEMVELOPE_RECORD=off)");
        // No driver is asked, but what runs on the simulated one says so all the same.
        let simulated = std::env::var_os(config::SIM_ACTIVE.name).is_some();
        return Links { simulated, ..blind };
    }
    let (driver, report) = Driver::load(config);
    let mut links = Links::blind("the driver has not been asked yet");
    links.simulated = report.simulated;
    links.reports.push(report);
    match driver {
        Ok(driver) => {
            links.simulated |= driver.simulator_version().is_some();
            links.driver = Some(driver);
        }
        Err(error) => links.mode = Mode::Blind(error.to_string()),
    }
    links
}

fn attach_nvml(config: &Config, links: &mut Links) {
    let simulated_with = links
        .reports
        .iter()
        .find(|report| report.library == "libcuda" && links.simulated)
        .and_then(|report| report.chosen.as_deref());
    let (nvml, report) = Nvml::load(config, simulated_with);
    match nvml {
        Ok(nvml) => {
            nvml.measure(&links.devices);
            links.nvml = Some(Arc::new(nvml));
        }
        Err(error) => {
            let missed = format!("the device plane as NVML tells it: {error}");
            if !links.missed.contains(&missed) {
                links.missed.push(missed);
            }
        }
    }
    keep_report(links, report);
}

fn attach_cupti(
    config: &Config,
    driver: &'static Driver,
    sink: &'static dyn Sink,
    names: &'static Names,
    links: &mut Links,
) {
    if config.record != Record::Auto {
        links.mode = Mode::Polling("only polling was asked for (MEMVELOPE_RECORD=poll)".into());
        return;
    }
    let (recorder, report) = Recorder::start(config, driver, sink, names);
    keep_report(links, report);
    match recorder {
        Ok(recorder) => {
            links.recorder = Some(recorder);
            // What the session says of it is asked anew each time, see `Inner::mode`.
            links.mode = Mode::Cupti(recorder.coverage());
        }
        Err(error) => links.mode = Mode::Polling(error.to_string()),
    }
}

/// The last search for a library is the one that counts.
fn keep_report(links: &mut Links, report: LoadReport) {
    links.reports.retain(|known| known.library != report.library);
    links.reports.push(report);
}
