//! Attaching to CUPTI and detaching from it.
//!
//! Whatever can be had is taken: an activity kind or a callback that is refused is noted in the
//! coverage and the rest goes on. Only if nothing at all can be recorded is it an error.

#![expect(unsafe_code, reason = "calls into libcupti")]

use super::callbacks;
use super::decode::MemoryRecords;
use super::scopes::Correlation;
use super::state::STATE;
use super::{Coverage, failed, find};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::event::{Names, Sink};
use crate::fork;
use crate::source::driver::Driver;
use crate::source::loader::LoadReport;
use crate::source::{clock, privileges};
use cupti_sys::{
    Cupti, MissingSymbol, SubscriberParams, activity_attribute, activity_flag, activity_kind, cbid,
    domain, resource_cbid, result,
};
use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// What is recorded in any case. CONCURRENT_KERNEL and not KERNEL, which serialises.
const KINDS: [u32; 8] = [
    activity_kind::CONCURRENT_KERNEL,
    activity_kind::MEMCPY,
    activity_kind::MEMCPY2,
    activity_kind::MEMSET,
    activity_kind::SYNCHRONIZATION,
    activity_kind::MEMORY2,
    activity_kind::MEMORY_POOL,
    activity_kind::OVERHEAD,
];

/// `cuptiSubscribe_v2`, which names the tool that is in the way, came with 13.0.
const SUBSCRIBE_V2_SINCE: u32 = 130_000;
/// "No buffer" as an answer crashes CUPTI before 12.9. The number of 12.8 is 26; 12.9's is 27 or
/// 28 depending on the update, and taking a buffer to throw away is never wrong.
const NULL_BUFFER_SINCE: u32 = 28;

/// One attachment.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) cupti: Cupti,
    pub(super) names: &'static Names,
    pub(super) coverage: Coverage,
    driver: &'static Driver,
    kinds: Vec<u32>,
    subscriber: Option<Subscriber>,
    pub(super) correlation: Correlation,
}

/// Our subscription; null once it was given back.
#[derive(Debug)]
struct Subscriber(AtomicPtr<c_void>);

/// Attaches; see [`super::Recorder::start`].
pub(super) fn attach(
    config: &Config,
    driver: &'static Driver,
    sink: &'static dyn Sink,
    names: &'static Names,
    report: &mut LoadReport,
) -> Result<Run> {
    let cupti = open(config, driver, report)?;
    let version = version(&cupti, report)?;
    fork::watch();
    if let Ok(get_timestamp) = cupti.get_timestamp {
        clock::use_cupti(get_timestamp);
    }
    STATE.null_tolerated.store(version >= NULL_BUFFER_SINCE, Ordering::Relaxed);
    let mut coverage = Coverage { cupti_version: version, ..Coverage::default() };
    prepare_buffers(config, &cupti, &mut coverage)?;
    STATE.connect(sink, driver);
    let subscriber = match subscribe(&cupti, version) {
        Ok(subscriber) => Some(subscriber),
        Err(problem) => {
            coverage.missing.push(problem);
            None
        }
    };
    let mut run = Run {
        cupti,
        names,
        coverage,
        driver,
        kinds: Vec::new(),
        subscriber,
        correlation: Correlation::new(config.correlation),
    };
    let first_error = run.enable_kinds(config);
    run.enable_callbacks();
    if run.kinds.is_empty() && !run.coverage.callbacks {
        let _ = run.detach();
        let error = first_error.unwrap_or_else(|| failed("cuptiActivityEnable", 999));
        report.hint = match &error {
            Error::CuptiCall { hint, .. } => hint.clone(),
            other => other.to_string(),
        };
        return Err(error);
    }
    Ok(run)
}

/// Finds libcupti and its functions. Calls none of them.
fn open(config: &Config, driver: &Driver, report: &mut LoadReport) -> Result<Cupti> {
    if fork::in_child() {
        report.hint = "this process was forked from one that was recording; CUDA does not survive \
                       that: use spawn"
            .into();
        return Err(report.to_error());
    }
    let library = find::find(config, driver, report).ok_or_else(|| report.to_error())?;
    // SAFETY: it exports cuptiGetVersion, so it is CUPTI; the loader never closes a library.
    let cupti = unsafe { Cupti::from_library(library) };
    report.missing_symbols = cupti.missing();
    Ok(cupti)
}

fn version(cupti: &Cupti, report: &mut LoadReport) -> Result<u32> {
    let get_version = needed(cupti.get_version)?;
    let mut version = 0;
    // SAFETY: `cuInit` returned 0 or has called us; CUPTI writes one u32.
    check("cuptiGetVersion", unsafe { get_version(&raw mut version) }).inspect_err(|error| {
        report.hint = error.to_string();
    })?;
    report.version = Some(match version {
        100_000.. => format!("{}.{} (API {version})", version / 10_000, version / 100 % 100),
        _ => format!("12.x (API {version})"),
    });
    Ok(version)
}

fn needed<T>(function: Result<T, MissingSymbol>) -> Result<T> {
    function.map_err(|missing| Error::MissingSymbol {
        library: "libcupti",
        symbol: missing.name,
        hint: "use a libcupti of CUDA 12.0 or later",
    })
}

fn check(call: &'static str, code: u32) -> Result<()> {
    if code == result::SUCCESS { Ok(()) } else { Err(failed(call, code)) }
}

/// Settings and memory. The limit on CUPTI's own device buffers binds contexts made from now on
/// only; its refusal costs memory, not correctness.
fn prepare_buffers(config: &Config, cupti: &Cupti, coverage: &mut Coverage) -> Result<()> {
    let bytes = usize::try_from(config.buffer_bytes).unwrap_or(usize::MAX);
    let count = usize::try_from(config.buffer_count).unwrap_or(usize::MAX);
    let Some(arena) = STATE.arena_of(bytes, count) else {
        return Err(Error::ReadConfig {
            key: crate::config::BUFFER_COUNT.name.into(),
            value: format!("{count} x {bytes} bytes"),
            expected: "no more memory than this machine has".into(),
        });
    };
    if arena.buffer_bytes() < bytes {
        coverage.missing.push(format!(
            "activity buffers keep their first size of {} bytes: CUPTI may still hold some",
            arena.buffer_bytes()
        ));
    }
    let limit = config.cupti_pool_buffers;
    if let Err(error) = set(cupti, activity_attribute::DEVICE_BUFFER_POOL_LIMIT, limit) {
        coverage.missing.push(format!("CUPTI's own device buffers are not limited: {error}"));
    }
    // We hand out zeroed buffers, so that CUPTI need not zero them on the host's thread. Where it
    // is refused CUPTI zeroes them again, which is only slower.
    let _ = set(cupti, activity_attribute::ZEROED_OUT_ACTIVITY_BUFFER, 1);
    register(cupti)
}

/// Sets an attribute. Some are eight bytes wide and some one; on the little-endian machines that
/// CUPTI exists for, the narrow value is the first byte of the wide one.
fn set(cupti: &Cupti, attribute: u32, value: u64) -> Result<()> {
    let set = needed(cupti.activity_set_attribute)?;
    let mut value = value.to_le_bytes();
    let mut code = result::SUCCESS;
    for width in [8, 1] {
        let mut size = width;
        // SAFETY: `size` bytes lie at `value`; CUPTI copies them.
        code = unsafe { set(attribute, &raw mut size, value.as_mut_ptr().cast()) };
        if code == result::SUCCESS || value[1..].iter().any(|byte| *byte != 0) {
            break;
        }
    }
    check("cuptiActivitySetAttribute", code)
}

/// Registers the buffer callbacks, once a process: each further time costs a corrupt record.
fn register(cupti: &Cupti) -> Result<()> {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if REGISTERED.load(Ordering::Acquire) {
        return Ok(());
    }
    let register = needed(cupti.activity_register_callbacks)?;
    // SAFETY: both functions match CUPTI's types, never unwind and live as long as the process.
    let code =
        unsafe { register(Some(callbacks::buffer_requested), Some(callbacks::buffer_completed)) };
    check("cuptiActivityRegisterCallbacks", code)?;
    REGISTERED.store(true, Ordering::Release);
    Ok(())
}

/// Takes CUPTI's subscription. The error is the sentence for the coverage.
fn subscribe(cupti: &Cupti, version: u32) -> Result<Subscriber, String> {
    if version >= SUBSCRIBE_V2_SINCE {
        match subscribe_v2(cupti) {
            Ok(Some(subscriber)) => return Ok(subscriber),
            Ok(None) => {}
            Err(problem) => return Err(problem),
        }
    }
    let Ok(subscribe) = cupti.subscribe else {
        return Err("no callbacks: this libcupti has no cuptiSubscribe".into());
    };
    let mut handle = std::ptr::null_mut();
    // SAFETY: the callback matches CUPTI's type, never unwinds and lives as long as the process.
    let code =
        unsafe { subscribe(&raw mut handle, Some(callbacks::on_callback), std::ptr::null_mut()) };
    match code {
        result::SUCCESS => Ok(Subscriber(AtomicPtr::new(handle))),
        code => Err(refused("cuptiSubscribe", code, None)),
    }
}

/// The newer form. `Ok(None)`: this CUPTI does not serve it, the older form may work.
fn subscribe_v2(cupti: &Cupti) -> Result<Option<Subscriber>, String> {
    const HOLDER_BYTES: usize = 128;
    let (Ok(subscribe), Ok(unsubscribe)) = (cupti.subscribe_v2, cupti.unsubscribe) else {
        return Ok(None);
    };
    let mut holder = [0 as c_char; HOLDER_BYTES];
    let mut parameters = SubscriberParams {
        struct_size: SubscriberParams::SIZE_13_0,
        subscriber_name: c"memvelope".as_ptr(),
        old_subscriber_name: holder.as_mut_ptr(),
        old_subscriber_size: HOLDER_BYTES - 1,
        allow_multiple_subscribers: 0,
        padding: [0; 7],
    };
    let mut handle = std::ptr::null_mut();
    // SAFETY: as in `subscribe`; the parameters say how large they and the name's place are, and
    // outlive the call.
    let code = unsafe {
        subscribe(
            &raw mut handle,
            Some(callbacks::on_callback),
            std::ptr::null_mut(),
            &raw mut parameters,
        )
    };
    match code {
        result::SUCCESS if cupti_serves_both_forms(cupti) => {
            Ok(Some(Subscriber(AtomicPtr::new(handle))))
        }
        result::SUCCESS => {
            // SAFETY: the handle was just given to us.
            unsafe { unsubscribe(handle) };
            Ok(None)
        }
        result::ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED => {
            holder[HOLDER_BYTES - 1] = 0;
            // SAFETY: the array ends with a NUL and is alive.
            let holder = unsafe { CStr::from_ptr(holder.as_ptr()) }.to_string_lossy();
            Err(refused("cuptiSubscribe_v2", code, Some(&holder)))
        }
        _ => Ok(None),
    }
}

/// From 13.3 on, a subscriber of the newer form may find the older activity calls refused
/// (`NOT_COMPATIBLE`). We use those, so then we subscribe in the older form.
fn cupti_serves_both_forms(cupti: &Cupti) -> bool {
    let Ok(get_timestamp) = cupti.get_timestamp else { return true };
    let mut time = 0;
    // SAFETY: CUPTI may be called; it writes one u64.
    unsafe { get_timestamp(&raw mut time) != result::ERROR_NOT_COMPATIBLE }
}

fn refused(call: &str, code: u32, holder: Option<&str>) -> String {
    let mut tools = privileges::other_tools();
    tools.extend(holder.filter(|name| !name.is_empty()).map(str::to_owned));
    let by =
        if tools.is_empty() { String::new() } else { format!("; loaded: {}", tools.join(", ")) };
    format!(
        "no allocation callbacks ({call} returned {code}, {}{by}): the ledger lives on MEMORY2 \
         records, which come late and miss VMM; hint: {}",
        cupti_sys::result_name(code),
        super::hint(code)
    )
}

impl Run {
    /// What MEMORY2 records are for.
    pub(super) fn memory_records(&self) -> MemoryRecords {
        if self.coverage.callbacks { MemoryRecords::CrossCheck } else { MemoryRecords::Ledger }
    }

    /// Returns the first refusal.
    fn enable_kinds(&mut self, config: &Config) -> Option<Error> {
        let enable = match needed(self.cupti.activity_enable) {
            Ok(enable) => enable,
            Err(error) => {
                self.coverage.missing.push(error.to_string());
                return Some(error);
            }
        };
        let mut first = None;
        let graphs = config.whole_graphs.then_some(activity_kind::GRAPH_TRACE);
        let marks = config.nvtx.then_some(activity_kind::MARKER);
        for kind in KINDS.into_iter().chain(graphs).chain(marks) {
            let name = activity_kind::name(kind).unwrap_or("unknown");
            // SAFETY: CUPTI may be called, and knows where to get buffers.
            match check("cuptiActivityEnable", unsafe { enable(kind) }) {
                Ok(()) => {
                    self.kinds.push(kind);
                    self.coverage.kinds.push(name);
                }
                Err(error) => {
                    self.coverage.missing.push(format!("no {name} records: {error}"));
                    first = first.or(Some(error));
                }
            }
        }
        first
    }

    fn enable_callbacks(&mut self) {
        if self.subscriber.is_none() {
            return;
        }
        let refused: Vec<_> = callbacks::WATCHED
            .iter()
            .filter_map(|id| {
                let code = self.switch(1, domain::DRIVER_API, *id);
                (code != result::SUCCESS).then(|| (cbid::name(*id).unwrap_or("unknown"), code))
            })
            .collect();
        self.coverage.callbacks = refused.len() < callbacks::WATCHED.len();
        for (name, code) in refused {
            let result = cupti_sys::result_name(code);
            self.coverage.missing.push(format!("no callback for {name}: {code} ({result})"));
        }
        let code = self.switch(1, domain::RESOURCE, resource_cbid::CONTEXT_DESTROY_STARTING);
        if code != result::SUCCESS {
            self.coverage.missing.push(format!(
                "the end of contexts goes unseen: {code} ({})",
                cupti_sys::result_name(code)
            ));
        }
    }

    fn switch(&self, on: u32, callback_domain: u32, id: u32) -> u32 {
        let handle = self.subscriber.as_ref().map(|it| it.0.load(Ordering::Acquire));
        match (handle, self.cupti.enable_callback) {
            // SAFETY: the handle is that of our live subscription.
            (Some(handle), Ok(enable)) if !handle.is_null() => unsafe {
                enable(on, handle, callback_domain, id)
            },
            _ => result::ERROR_API_NOT_IMPLEMENTED,
        }
    }

    pub(super) fn flush(&self, forced: bool) -> Result<()> {
        if self.driver_is_gone() {
            return Ok(());
        }
        let flush = needed(self.cupti.activity_flush_all)?;
        let flag = if forced { activity_flag::FLUSH_FORCED } else { activity_flag::NONE };
        // SAFETY: CUPTI is attached, and this is none of its callbacks.
        check("cuptiActivityFlushAll", unsafe { flush(flag) })
    }

    /// Whether CUPTI may be called at all.
    pub(super) fn may_be_called(&self) -> bool {
        !fork::in_child() && !self.driver.is_gone()
    }

    /// Near the end of a process the driver goes first, and CUPTI must not be called after it.
    /// Asking for the current context tells: the answer is remembered by the driver's table.
    fn driver_is_gone(&self) -> bool {
        let _ = self.driver.current_device();
        if self.driver.is_gone() {
            clock::use_system();
        }
        self.driver.is_gone()
    }

    /// Undoes whatever was done; the first error is returned, nothing is left out because of it.
    pub(super) fn detach(&self) -> Result<()> {
        if fork::in_child() || self.driver_is_gone() {
            STATE.disconnect();
            return Ok(());
        }
        let mut outcome = Ok(());
        let mut note = |call, code| {
            if let Err(error) = check(call, code)
                && outcome.is_ok()
            {
                outcome = Err(error);
            }
        };
        self.correlation.end(&self.cupti);
        if let Ok(disable) = self.cupti.activity_disable {
            for kind in &self.kinds {
                // SAFETY: CUPTI is attached and the kind is on.
                note("cuptiActivityDisable", unsafe { disable(*kind) });
            }
        }
        if let Ok(flush) = self.cupti.activity_flush_all {
            // Unfinished records count as lost: nobody will wait for them.
            // SAFETY: CUPTI is attached, and this is none of its callbacks.
            note("cuptiActivityFlushAll", unsafe { flush(activity_flag::FLUSH_FORCED) });
        }
        if let Some(subscriber) = &self.subscriber {
            for id in callbacks::WATCHED {
                self.switch(0, domain::DRIVER_API, *id);
            }
            self.switch(0, domain::RESOURCE, resource_cbid::CONTEXT_DESTROY_STARTING);
            let handle = subscriber.0.swap(std::ptr::null_mut(), Ordering::AcqRel);
            if let (Ok(unsubscribe), false) = (self.cupti.unsubscribe, handle.is_null()) {
                // SAFETY: the handle was ours until this moment and is used nowhere else.
                note("cuptiUnsubscribe", unsafe { unsubscribe(handle) });
            }
        }
        STATE.disconnect();
        outcome
    }
}
