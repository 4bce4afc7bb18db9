//! The recorder's clock, for sources that stamp their events themselves.
//!
//! CUPTI stamps records with `CLOCK_REALTIME` on a real driver and with the virtual clock on the
//! simulated one, or with `CLOCK_MONOTONIC` where we registered that. Once CUPTI may be called
//! (`cuInit` returned 0) its own clock is asked, which follows what is registered; until then, and
//! whenever it refuses, the system's clock of the same kind stands in.

#![expect(unsafe_code, reason = "cuptiGetTimestamp and clock_gettime are foreign")]

use super::cupti::quirks;
use super::driver::Driver;
use crate::config::Clock;
use crate::units::Nanos;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};

/// `cuptiGetTimestamp`: writes nanoseconds, returns 0 on success.
pub(crate) type GetTimestamp = unsafe extern "C" fn(*mut u64) -> u32;
/// `cuptiActivityRegisterTimestampCallback`.
type Register = unsafe extern "C" fn(cupti_sys::TimestampFunc) -> u32;

/// Null, or a [`GetTimestamp`] of a library that is never unloaded.
static GET_TIMESTAMP: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());
/// Which clock the records have: a [`Kind`].
static KIND: AtomicU8 = AtomicU8::new(Kind::Realtime as u8);
/// A clock was registered in this process, whatever became of it.
static WAS_REGISTERED: AtomicBool = AtomicBool::new(false);

/// Which clock the records have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Kind {
    /// `CLOCK_REALTIME`: steps when somebody sets it.
    #[default]
    Realtime,
    /// `CLOCK_MONOTONIC`: never steps.
    Monotonic,
    /// The simulator's.
    Virtual,
}

/// One moment on both clocks, so that times of records can be given as times of day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The clock of the records.
    pub kind: Kind,
    /// The moment on that clock, in nanoseconds.
    pub records_ns: Nanos,
    /// The same moment on `CLOCK_REALTIME`, in nanoseconds since 1970.
    pub realtime_ns: Nanos,
}

impl Origin {
    /// The moment that it is now.
    #[must_use]
    pub(crate) fn here(is_simulated: bool) -> Self {
        // Before and after, so that the pair is as close as the calls allow.
        let before = realtime_now();
        let records_ns = now();
        let after = realtime_now();
        let realtime_ns = Nanos(before.0 / 2 + after.0 / 2);
        let kind = if is_simulated { Kind::Virtual } else { kind() };
        Self { kind, records_ns, realtime_ns }
    }

    /// Time of day of a record's time, in nanoseconds since 1970. Off by whatever the system's
    /// clock was set or slewed by since.
    #[must_use]
    pub const fn realtime_of(&self, records: Nanos) -> Nanos {
        let ahead = records.0.saturating_sub(self.records_ns.0);
        let behind = self.records_ns.0.saturating_sub(records.0);
        Nanos(self.realtime_ns.0.saturating_add(ahead).saturating_sub(behind))
    }
}

/// From now on the clock is CUPTI's. Call only after `cuInit` returned 0: some versions crash.
pub(crate) fn use_cupti(get_timestamp: GetTimestamp) {
    GET_TIMESTAMP.store(get_timestamp as *mut (), Ordering::Release);
}

/// From now on the clock is the system's: CUPTI must not be called any more.
pub(crate) fn use_system() {
    GET_TIMESTAMP.store(std::ptr::null_mut(), Ordering::Release);
}

/// Chooses the clock of the records: registers the monotonic one where it is wanted and this CUPTI
/// bears it. `is_first`: no time has been told yet that belongs with those to come. Returns why it
/// was not, if it was wanted.
pub(crate) fn choose(
    wanted: Clock,
    driver: &Driver,
    version: u32,
    register: Option<Register>,
    is_first: bool,
) -> Option<String> {
    let is_simulated = driver.simulator_version().is_some();
    let is_wanted = match wanted {
        Clock::Realtime => false,
        Clock::Monotonic => true,
        Clock::Auto => !is_simulated,
    };
    if kind() == Kind::Monotonic {
        // Registered before. Another tool may have put its own in the place of ours meanwhile.
        let is_ours = is_simulated || is_near(now(), clock_now(libc::CLOCK_MONOTONIC));
        return (!is_ours).then(|| "records have the clock of another tool".into());
    }
    if !is_wanted {
        return None;
    }
    let has_context = || !driver.is_inside_init() && driver.has_context();
    let refusal = match register {
        None => "this libcupti takes none",
        Some(_) if !is_first => "times were told on that one already",
        Some(_) if WAS_REGISTERED.load(Ordering::Acquire) => {
            "one was registered before, and that is done once a process"
        }
        Some(_) if quirks::CLOCK_GIVES_ZEROES.applies_to(version) => {
            "this CUPTI would then leave records without times"
        }
        Some(_) if quirks::CLOCK_NEEDS_NO_CONTEXT.applies_to(version) && has_context() => {
            "contexts exist already, whose records would keep CUPTI's"
        }
        Some(register) => match register_monotonic(register) {
            Ok(()) => return None,
            Err(code) => {
                return Some(format!("records have CUPTI's clock: it refused ours ({code})"));
            }
        },
    };
    Some(format!("records have CUPTI's clock, which steps when the system's is set: {refusal}"))
}

fn register_monotonic(register: Register) -> Result<(), u32> {
    WAS_REGISTERED.store(true, Ordering::Release);
    // SAFETY: CUPTI may be called; the function has its type, never unwinds and never goes away.
    match unsafe { register(Some(monotonic)) } {
        0 => {
            KIND.store(Kind::Monotonic as u8, Ordering::Release);
            Ok(())
        }
        code => Err(code),
    }
}

/// Whether two looks at one clock, made one after the other, can be that.
fn is_near(first: Nanos, second: Nanos) -> bool {
    const APART_MAX: u64 = 1_000_000_000;
    first.0.abs_diff(second.0) < APART_MAX
}

/// CUPTI was finalized, and with it went the clock that was registered.
pub(crate) fn forget_registration() {
    KIND.store(Kind::Realtime as u8, Ordering::Release);
}

/// What CUPTI asks for the time: no lock, no allocation.
extern "C" fn monotonic() -> u64 {
    std::panic::catch_unwind(|| clock_now(libc::CLOCK_MONOTONIC).0).unwrap_or(0)
}

fn clock_now(clock: libc::clockid_t) -> Nanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec, which is ours.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Nanos::ZERO;
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Which clock the records of a real CUPTI have.
pub(crate) fn kind() -> Kind {
    if KIND.load(Ordering::Acquire) == Kind::Monotonic as u8 {
        Kind::Monotonic
    } else {
        Kind::Realtime
    }
}

/// Now, on the recorder's clock. Takes no lock and allocates nothing.
#[must_use]
pub fn now() -> Nanos {
    cupti_now().unwrap_or_else(system_now)
}

fn cupti_now() -> Option<Nanos> {
    let pointer = GET_TIMESTAMP.load(Ordering::Acquire);
    if pointer.is_null() || crate::fork::in_child() {
        return None;
    }
    // SAFETY: only `use_cupti` stores here, and it stores nothing but a `GetTimestamp`.
    let get_timestamp = unsafe { std::mem::transmute::<*mut (), GetTimestamp>(pointer) };
    let mut time = 0;
    // SAFETY: CUPTI may be called, by the contract of `use_cupti`; it writes one u64.
    let code = unsafe { get_timestamp(&raw mut time) };
    (code == 0 && time != 0).then_some(Nanos(time))
}

/// The system's clock of the same kind, for when CUPTI may not be called.
pub(crate) fn system_now() -> Nanos {
    match kind() {
        Kind::Monotonic => clock_now(libc::CLOCK_MONOTONIC),
        Kind::Realtime | Kind::Virtual => realtime_now(),
    }
}

/// The time of day.
fn realtime_now() -> Nanos {
    // A clock before 1970 reads as zero rather than failing.
    clock_now(libc::CLOCK_REALTIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_a_time_of_day() {
        let origin =
            Origin { kind: Kind::Monotonic, records_ns: Nanos(500), realtime_ns: Nanos(9_000) };
        for (records, expect) in [(500, 9_000), (700, 9_200), (400, 8_900), (0, 8_500)] {
            assert_eq!(origin.realtime_of(Nanos(records)), Nanos(expect));
        }
        let early = Origin { records_ns: Nanos(u64::MAX), ..origin };
        assert_eq!(early.realtime_of(Nanos(0)), Nanos(0), "nothing underflows");
    }

    #[test]
    fn a_clock_of_another_tool_is_told_from_ours() {
        let here = clock_now(libc::CLOCK_MONOTONIC);
        assert!(is_near(here, clock_now(libc::CLOCK_MONOTONIC)));
        assert!(!is_near(here, realtime_now()) && !is_near(Nanos(0), Nanos(u64::MAX)));
    }

    #[test]
    fn what_cupti_is_given_never_goes_back() {
        let (first, second) = (monotonic(), monotonic());
        assert!(first > 0 && second >= first);
    }
}
