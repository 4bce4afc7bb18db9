//! Attaching to CUPTI and detaching from it.
//!
//! The subscription comes first: buffer callbacks and activity kinds are the process's, not ours
//! alone, so whoever does not hold the subscription touches neither. Whatever else can be had is
//! taken: a kind or a callback that is refused is noted in the coverage and the rest goes on. Only
//! if nothing at all can be recorded is it an error.

#![expect(unsafe_code, reason = "calls into libcupti")]

use super::attributes::{self, DeviceBuffers};
use super::callbacks;
use super::decode::MemoryRecords;
use super::growth;
use super::pools;
use super::quirks;
use super::scope_calls::Correlation;
use super::state::STATE;
use super::subscription::{self, NotOurs, Subscriber};
use super::{Coverage, failed, find};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::event::{Names, Sink};
use crate::fork;
use crate::source::driver::Driver;
use crate::source::loader::{self, LoadReport};
use crate::source::{attribution, clock};
use cupti_sys::{
    Cupti, MissingSymbol, activity_attribute, activity_flag, activity_kind, cbid, domain, result,
};
use std::sync::atomic::Ordering;

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

/// What a recorder needs to attach, and to attach again.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) config: Config,
    pub(super) driver: &'static Driver,
    pub(super) sink: &'static dyn Sink,
    pub(super) names: &'static Names,
    /// The session has told no time yet, so that its clock may still be chosen.
    pub(super) is_first: bool,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("config", &self.config).finish_non_exhaustive()
    }
}

/// One attachment.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) cupti: Cupti,
    pub(super) names: &'static Names,
    pub(super) coverage: Coverage,
    pub(super) driver: &'static Driver,
    kinds: Vec<u32>,
    subscriber: Option<Subscriber>,
    pub(super) correlation: Correlation,
    pub(super) device_buffers: Option<DeviceBuffers>,
}

/// What came of attaching.
#[derive(Debug)]
pub(super) enum Attached {
    /// Kinds and callbacks are on.
    Recording(Box<Run>),
    /// Another tool has CUPTI; why, in a sentence.
    Busy(String),
}

/// Attaches; see [`super::Recorder::start`]. `on_ready` is called once the subscription is ours and
/// nothing is on yet.
pub(super) fn attach(
    setup: &Setup,
    report: &mut LoadReport,
    on_ready: &mut dyn FnMut(),
) -> Result<Attached> {
    let Setup { config, driver, .. } = setup;
    let cupti = open(config, driver, report)?;
    let version = version(&cupti, report)?;
    fork::watch();
    attribution::start(config.attribution);
    if let Ok(get_timestamp) = cupti.get_timestamp {
        clock::use_cupti(get_timestamp);
    }
    let null_crashes = quirks::NULL_BUFFER_CRASHES.applies_to(version);
    STATE.null_tolerated.store(!null_crashes, Ordering::Relaxed);
    let mut coverage = Coverage::of_version(version);
    let subscriber = match subscription::subscribe(&cupti, version) {
        Ok(subscriber) => Some(subscriber),
        Err(NotOurs::Busy(why)) => return Ok(Attached::Busy(why)),
        Err(NotOurs::Refused(problem)) => {
            coverage.missing.push(problem);
            None
        }
    };
    let mut run = Run {
        cupti,
        names: setup.names,
        coverage,
        driver,
        kinds: Vec::new(),
        subscriber,
        correlation: Correlation::new(config.correlation),
        device_buffers: None,
    };
    let outcome = run.begin(setup, on_ready);
    if let Err(error) = outcome {
        let _ = run.detach();
        report.hint = match &error {
            Error::CuptiCall { hint, .. } => hint.clone(),
            other => other.to_string(),
        };
        return Err(error);
    }
    Ok(Attached::Recording(Box::new(run)))
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
    let is_since_13_2 = loader::address_of(library, quirks::SINCE_13_2).is_some();
    if must_wait(driver.is_inside_init(), is_since_13_2) {
        report.hint =
            "this libcupti (13.2 or later) must not be called before the driver answers: \
                       it is attached right after"
                .into();
        return Err(report.to_error());
    }
    // SAFETY: it exports cuptiGetVersion, so it is CUPTI; the loader never closes a library.
    let cupti = unsafe { Cupti::from_library(library) };
    report.missing_symbols = cupti.missing();
    Ok(cupti)
}

/// Whether not even the version may be asked yet: [`quirks::CRASHES_BEFORE_DRIVER`] and
/// [`quirks::REFUSES_BEFORE_DRIVER`].
const fn must_wait(is_inside_init: bool, is_since_13_2: bool) -> bool {
    is_inside_init && is_since_13_2
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

pub(super) fn needed<T>(function: Result<T, MissingSymbol>) -> Result<T> {
    function.map_err(|missing| Error::MissingSymbol {
        library: "libcupti",
        symbol: missing.name,
        hint: "use a libcupti of CUDA 12.0 or later",
    })
}

pub(super) fn check(call: &'static str, code: u32) -> Result<()> {
    if code == result::SUCCESS { Ok(()) } else { Err(failed(call, code)) }
}

impl Run {
    /// Everything after the subscription.
    fn begin(&mut self, setup: &Setup, on_ready: &mut dyn FnMut()) -> Result<()> {
        self.prepare_buffers(setup)?;
        if let Some(note) = clock::choose(
            setup.config.clock,
            self.driver,
            self.coverage.cupti_version,
            self.cupti.activity_register_timestamp_callback.ok(),
            setup.is_first,
        ) {
            self.coverage.notes.push(note);
        }
        on_ready();
        STATE.connect(setup.sink, setup.driver);
        STATE.growth.switch(setup.config.context_growth);
        let first_error = self.enable_kinds(&setup.config);
        self.enable_callbacks();
        if self.kinds.is_empty() && !self.coverage.callbacks {
            return Err(first_error.unwrap_or_else(|| failed("cuptiActivityEnable", 999)));
        }
        Ok(())
    }

    /// Settings and memory. The limit on CUPTI's own device buffers binds contexts made from now on
    /// only; its refusal costs memory, not correctness.
    fn prepare_buffers(&mut self, setup: &Setup) -> Result<()> {
        let config = &setup.config;
        let bytes = usize::try_from(config.buffer_bytes).unwrap_or(usize::MAX);
        let count = usize::try_from(config.buffer_count).unwrap_or(usize::MAX);
        let Some(arena) = STATE.arena_of(bytes, count) else {
            return Err(Error::ReadConfig {
                key: crate::config::BUFFER_COUNT.name.into(),
                value: format!("{count} x {bytes} bytes"),
                expected: "no more memory than this machine has".into(),
            });
        };
        let (coverage, cupti) = (&mut self.coverage, &self.cupti);
        if arena.buffer_bytes() < bytes {
            coverage.missing.push(format!(
                "activity buffers keep their first size of {} bytes: CUPTI may still hold some",
                arena.buffer_bytes()
            ));
        }
        let limit = config.cupti_pool_buffers;
        let limited = attributes::set(cupti, activity_attribute::DEVICE_BUFFER_POOL_LIMIT, limit);
        match limited {
            Err(error) => coverage
                .missing
                .push(format!("CUPTI's own device buffers are not limited: {error}")),
            Ok(()) if !self.driver.is_inside_init() && self.driver.has_context() => {
                coverage.notes.push(
                    "contexts were there before: in those, CUPTI's own device buffers are not \
                     limited"
                        .into(),
                );
            }
            Ok(()) => {}
        }
        // We hand out zeroed buffers, so that CUPTI need not zero them on the host's thread. Where
        // it is refused CUPTI zeroes them again, which is only slower.
        let _ = attributes::set(cupti, activity_attribute::ZEROED_OUT_ACTIVITY_BUFFER, 1);
        self.device_buffers = attributes::device_buffers(cupti);
        self.register()
    }

    /// Registers the buffer callbacks: with each attachment, because another tool may have put its
    /// own in their place meanwhile.
    fn register(&self) -> Result<()> {
        let register = needed(self.cupti.activity_register_callbacks)?;
        let (requested, completed) = (callbacks::buffer_requested, callbacks::buffer_completed);
        // SAFETY: both functions match CUPTI's types, never unwind and live as long as the process.
        let code = unsafe { register(Some(requested), Some(completed)) };
        check("cuptiActivityRegisterCallbacks", code)
    }

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
        let wanted = [
            (config.whole_graphs, activity_kind::GRAPH_TRACE, "MEMVELOPE_GRAPHS=nodes"),
            (config.nvtx, activity_kind::MARKER, "MEMVELOPE_NVTX=off"),
        ];
        for (_, kind, key) in wanted.iter().filter(|(is_wanted, ..)| !is_wanted) {
            let name = activity_kind::name(*kind).unwrap_or("unknown");
            self.coverage.notes.push(format!("no {name} records: {key}"));
        }
        let asked = wanted.iter().filter(|(is_wanted, ..)| *is_wanted).map(|(_, kind, _)| *kind);
        for kind in KINDS.into_iter().chain(asked) {
            let name = activity_kind::name(kind).unwrap_or("unknown");
            // SAFETY: CUPTI may be called, and knows where to get buffers.
            match check("cuptiActivityEnable", unsafe { enable(kind) }) {
                Ok(()) => {
                    self.kinds.push(kind);
                    self.coverage.kinds.push(name.into());
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
        let Some(subscriber) = &self.subscriber else { return };
        let refused: Vec<_> = callbacks::WATCHED
            .iter()
            .filter_map(|id| {
                let code = subscriber.switch(&self.cupti, 1, domain::DRIVER_API, *id);
                let is_newer = callbacks::may_be_newer_than_cupti(*id)
                    && code == result::ERROR_INVALID_PARAMETER;
                (code != result::SUCCESS && !is_newer)
                    .then(|| (cbid::name(*id).unwrap_or("unknown"), code))
            })
            .collect();
        self.coverage.callbacks = refused.len() < callbacks::WATCHED.len();
        // Whatever is refused of these is unaccounted for, which the balance says.
        for id in growth::WATCHED {
            subscriber.switch(&self.cupti, 1, domain::DRIVER_API, *id);
        }
        let watch = |id: &u32| subscriber.switch(&self.cupti, 1, domain::DRIVER_API, *id);
        if pools::WATCHED.iter().all(|id| watch(id) == result::SUCCESS) {
            STATE.pools.watch();
        }
        for (name, code) in refused {
            let result = cupti_sys::result_name(code);
            self.coverage.missing.push(format!("no callback for {name}: {code} ({result})"));
        }
        let code = subscriber.watch_contexts(&self.cupti, 1);
        if code != result::SUCCESS {
            self.coverage.missing.push(format!(
                "the end of contexts goes unseen: {code} ({})",
                cupti_sys::result_name(code)
            ));
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

    /// Whether our subscription still holds. Without one there is nothing to lose.
    pub(super) fn is_alive(&self) -> bool {
        if self.driver_is_gone() {
            return true;
        }
        self.subscriber.as_ref().is_none_or(|subscriber| subscriber.is_alive(&self.cupti))
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

    /// The subscription was taken from us: nothing of CUPTI is touched any more, because what is on
    /// now may be its new owner's.
    pub(super) fn abandon(&self) {
        STATE.is_withholding.store(true, Ordering::Release);
        STATE.disconnect();
        self.correlation.abandon();
        if let Some(subscriber) = &self.subscriber {
            subscriber.forget();
        }
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
        if let Ok(flush) = self.cupti.activity_flush_all
            && !self.kinds.is_empty()
        {
            // Unfinished records count as lost: nobody will wait for them.
            // SAFETY: CUPTI is attached, and this is none of its callbacks.
            note("cuptiActivityFlushAll", unsafe { flush(activity_flag::FLUSH_FORCED) });
        }
        if let Some(subscriber) = &self.subscriber {
            note("cuptiUnsubscribe", subscriber.unsubscribe(&self.cupti));
        }
        STATE.disconnect();
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaint_10_a_cupti_that_crashes_early_is_known_without_calling_it() {
        for (is_inside_init, is_since_13_2, expect) in
            [(true, true, true), (true, false, false), (false, true, false), (false, false, false)]
        {
            assert_eq!(must_wait(is_inside_init, is_since_13_2), expect);
        }
    }
}
