//! What tying work to scopes takes of CUPTI: the calls that launch work have to be recorded, one
//! record each, because CUPTI ties ids to *recorded* calls only. That begins with the first scope: a
//! program without scopes pays nothing.

#![expect(unsafe_code, reason = "calls into libcupti")]

use super::state::STATE;
use cupti_sys::{Cupti, activity_kind, cbid, result, runtime_cbid};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Driver calls that put work on the device.
const LAUNCHING: &[u32] = &[
    cbid::LAUNCH_KERNEL,
    cbid::LAUNCH_KERNEL_PTSZ,
    cbid::LAUNCH_KERNEL_EX,
    cbid::LAUNCH_KERNEL_EX_PTSZ,
    cbid::LAUNCH_COOPERATIVE_KERNEL,
    cbid::LAUNCH_COOPERATIVE_KERNEL_PTSZ,
    cbid::GRAPH_LAUNCH,
    cbid::GRAPH_LAUNCH_PTSZ,
    cbid::MEMCPY,
    cbid::MEMCPY_PTDS,
    cbid::MEMCPY_ASYNC,
    cbid::MEMCPY_ASYNC_PTSZ,
    cbid::MEMCPY_HTOD_V2,
    cbid::MEMCPY_HTOD_V2_PTDS,
    cbid::MEMCPY_HTOD_ASYNC_V2,
    cbid::MEMCPY_HTOD_ASYNC_V2_PTSZ,
    cbid::MEMCPY_DTOH_V2,
    cbid::MEMCPY_DTOH_V2_PTDS,
    cbid::MEMCPY_DTOH_ASYNC_V2,
    cbid::MEMCPY_DTOH_ASYNC_V2_PTSZ,
    cbid::MEMCPY_DTOD_V2,
    cbid::MEMCPY_DTOD_V2_PTDS,
    cbid::MEMCPY_DTOD_ASYNC_V2,
    cbid::MEMCPY_DTOD_ASYNC_V2_PTSZ,
    cbid::MEMCPY_2D_V2,
    cbid::MEMCPY_2D_ASYNC_V2,
    cbid::MEMCPY_3D_ASYNC_V2,
    cbid::MEMCPY_PEER,
    cbid::MEMCPY_PEER_ASYNC,
    cbid::MEMCPY_PEER_ASYNC_PTSZ,
    cbid::MEMSET_D8_V2,
    cbid::MEMSET_D32_V2,
    cbid::MEMSET_D8_ASYNC,
    cbid::MEMSET_D8_ASYNC_PTSZ,
    cbid::MEMSET_D16_ASYNC,
    cbid::MEMSET_D16_ASYNC_PTSZ,
    cbid::MEMSET_D32_ASYNC,
    cbid::MEMSET_D32_ASYNC_PTSZ,
];

/// How long the end of an attachment waits for a thread that switches the records on. One that takes
/// longer hangs in CUPTI.
const BEGIN_WAIT_MAX: Duration = Duration::from_millis(50);

/// Attachments so far; each has a number of its own.
static ATTACHMENTS: AtomicU64 = AtomicU64::new(0);

/// How many there were so far.
pub(super) fn attachments() -> u64 {
    ATTACHMENTS.load(Ordering::Acquire)
}

/// Nobody has opened a scope yet.
const UNBEGUN: u8 = 0;
/// A thread is switching the records on.
const BEGINNING: u8 = 1;
/// Scopes are told to CUPTI.
const BEGUN: u8 = 2;
/// It cannot be had.
const REFUSED: u8 = 3;

/// Whether scopes can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Ready,
    /// Another thread is switching on what that takes.
    Beginning,
    /// They are not wanted, CUPTI refused, or the attachment is over.
    No,
}

/// Tying work to scopes, for one attachment.
#[derive(Debug)]
pub(super) struct Correlation {
    is_wanted: bool,
    pub(super) attachment: u64,
    phase: AtomicU8,
    problem: OnceLock<String>,
    is_over: AtomicBool,
    is_abandoned: AtomicBool,
}

impl Correlation {
    pub(super) fn new(is_wanted: bool) -> Self {
        Self {
            is_wanted,
            attachment: ATTACHMENTS.fetch_add(1, Ordering::AcqRel) + 1,
            phase: AtomicU8::new(UNBEGUN),
            problem: OnceLock::new(),
            is_over: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
        }
    }

    /// Why work is not tied to scopes, if a scope was opened and it is not.
    pub(super) fn problem(&self) -> Option<String> {
        self.problem.get().cloned()
    }

    /// Whether the next scope has to switch something on first, which takes CUPTI a while.
    pub(super) fn is_pending(&self) -> bool {
        self.is_wanted && self.phase.load(Ordering::Acquire) == UNBEGUN
    }

    /// Whether scopes can be told; with the first one, switches on what that takes. Nobody waits for
    /// the thread that does so, which calls CUPTI: it may hang.
    pub(super) fn readiness(&self, cupti: &Cupti) -> Readiness {
        self.readiness_by(|| begin(cupti), || switch_off(cupti))
    }

    fn readiness_by(
        &self,
        begin: impl FnOnce() -> Result<(), String>,
        switch_off: impl FnOnce(),
    ) -> Readiness {
        if !self.is_wanted || self.is_over.load(Ordering::Acquire) {
            return Readiness::No;
        }
        let turn =
            self.phase.compare_exchange(UNBEGUN, BEGINNING, Ordering::AcqRel, Ordering::Acquire);
        let phase = match turn {
            Ok(_) => self.begin(begin, switch_off),
            Err(phase) => phase,
        };
        match phase {
            BEGUN => Readiness::Ready,
            BEGINNING => Readiness::Beginning,
            _ => Readiness::No,
        }
    }

    fn begin(&self, begin: impl FnOnce() -> Result<(), String>, switch_off: impl FnOnce()) -> u8 {
        let phase = match begin() {
            Ok(()) => BEGUN,
            Err(problem) => {
                // Set once, by the one that begins.
                let _ = self.problem.set(problem);
                REFUSED
            }
        };
        // One total order with `end`: whoever comes second sees the other, and switches off.
        self.phase.store(phase, Ordering::SeqCst);
        if !self.is_over.load(Ordering::SeqCst) {
            return phase;
        }
        if phase == BEGUN && !self.is_abandoned.load(Ordering::Acquire) {
            switch_off();
        }
        REFUSED
    }

    /// CUPTI is somebody else's now: nothing more is told to it.
    pub(super) fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Release);
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// Switches off what [`begin`] switched on. Ids that are still on threads' stacks stay there
    /// unused.
    pub(super) fn end(&self, cupti: &Cupti) {
        self.is_over.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + BEGIN_WAIT_MAX;
        while self.phase.load(Ordering::SeqCst) == BEGINNING && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(100));
        }
        if self.phase.load(Ordering::SeqCst) == BEGUN {
            switch_off(cupti);
        }
    }
}

fn switch_off(cupti: &Cupti) {
    switch_calls(cupti, 0);
    if let Ok(disable) = cupti.activity_disable {
        // SAFETY: CUPTI is attached and the kind is on.
        unsafe { disable(activity_kind::EXTERNAL_CORRELATION) };
    }
}

/// Switches the records on that tie work to scopes.
fn begin(cupti: &Cupti) -> Result<(), String> {
    let needs = "work is not tied to scopes: this takes CUPTI 12.5 or later";
    if cupti.activity_enable_driver_api.is_err()
        || cupti.activity_push_external_correlation_id.is_err()
    {
        return Err(needs.into());
    }
    let Ok(enable) = cupti.activity_enable else { return Err(needs.into()) };
    STATE.expect_scopes();
    let refused = switch_calls(cupti, 1);
    if refused == LAUNCHING.len() {
        return Err(format!("{needs} (none of the launching calls can be recorded)"));
    }
    // SAFETY: CUPTI is attached.
    match unsafe { enable(activity_kind::EXTERNAL_CORRELATION) } {
        result::SUCCESS => Ok(()),
        code => {
            switch_calls(cupti, 0);
            let name = cupti_sys::result_name(code);
            Err(format!("work is not tied to scopes: cuptiActivityEnable returned {code} ({name})"))
        }
    }
}

/// Switches the records of launching calls on (1) or off (0). Returns how many driver functions
/// were refused: an older driver lacks the newest.
fn switch_calls(cupti: &Cupti, on: u8) -> usize {
    let mut refused = 0;
    if let Ok(switch) = cupti.activity_enable_driver_api {
        for id in LAUNCHING {
            // SAFETY: CUPTI is attached; the call takes two numbers.
            refused += usize::from(unsafe { switch(*id, on) } != result::SUCCESS);
        }
    }
    if let Ok(switch) = cupti.activity_enable_runtime_api {
        for (_, id) in runtime_cbid::ALL {
            // SAFETY: as above. What this runtime lacks nobody calls.
            unsafe { switch(*id, on) };
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn nobody_waits_for_the_thread_that_begins() {
        let correlation = &Correlation::new(true);
        assert!(correlation.is_pending());
        let (begun, has_begun) = channel();
        let (go_on, may_go_on) = channel();
        let not_me = || correlation.readiness_by(|| Err("begun twice".into()), || panic!("off"));
        std::thread::scope(|scope| {
            let first = scope.spawn(move || {
                let begin = || {
                    begun.send(()).map_err(|error| error.to_string())?;
                    may_go_on.recv().map_err(|error| error.to_string())
                };
                correlation.readiness_by(begin, || panic!("off"))
            });
            has_begun.recv().unwrap();
            assert_eq!((not_me(), correlation.is_pending()), (Readiness::Beginning, false));
            go_on.send(()).unwrap();
            assert_eq!(first.join().unwrap(), Readiness::Ready);
        });
        assert_eq!((not_me(), correlation.problem()), (Readiness::Ready, None));
    }

    #[test]
    fn what_was_begun_too_late_is_switched_off() {
        for (is_abandoned, expected) in [(false, 1), (true, 0)] {
            let (correlation, mut off) = (Correlation::new(true), 0);
            let begin = || {
                // The attachment ends meanwhile, and whoever ends it has waited long enough.
                correlation.is_abandoned.store(is_abandoned, Ordering::Release);
                correlation.is_over.store(true, Ordering::SeqCst);
                Ok(())
            };
            assert_eq!(correlation.readiness_by(begin, || off += 1), Readiness::No);
            assert_eq!(off, expected);
        }
    }

    #[test]
    fn a_refusal_is_told_and_final() {
        let correlation = Correlation::new(true);
        let mut asked = 0;
        for _ in 0..2 {
            let begin = || {
                asked += 1;
                Err("why".into())
            };
            assert_eq!(correlation.readiness_by(begin, || panic!("off")), Readiness::No);
        }
        assert_eq!((asked, correlation.problem().as_deref()), (1, Some("why")));
        assert_eq!(Correlation::new(false).readiness_by(|| Ok(()), || ()), Readiness::No);
    }
}
