//! What the device plane says beyond the ledger: the context, and what others use.

use super::Origin;
use super::basis::Basis;
use super::equation::signed;
use crate::snapshot::DeviceSnapshot;

/// What the planes around the ledger say.
pub(super) struct Planes {
    /// Used by this process beyond ledger and recorder: the context, roughly.
    pub(super) context: Option<i64>,
    /// What CUPTI's own buffers take at least.
    pub(super) recorder: Option<i64>,
    /// Used by others, or before we attached.
    pub(super) others: Option<i64>,
    pub(super) others_origin: Origin,
    pub(super) others_note: &'static str,
}

impl Planes {
    pub(super) fn read(device: &DeviceSnapshot, basis: &Basis, used: Option<i64>) -> Self {
        let ledger = signed(device.totals.vram.live_bytes);
        let nvml = device.nvml_used_bytes.zip(device.process_used_bytes);
        let (own, others, others_note) = match nvml {
            Some((all, own)) => {
                let others = signed(all).saturating_sub(signed(own)).max(0);
                (Some(signed(own)), Some(others), "other processes, as NVML tells")
            }
            None => {
                let opening = device.opening_bytes.map(signed);
                let own = used.map(|used| used.saturating_sub(opening.unwrap_or(0)));
                let note = match opening {
                    Some(_) => "in use when the session attached, not told apart",
                    None => "nobody could be asked about other processes",
                };
                (own, opening, note)
            }
        };
        let others_origin = if nvml.is_some() { Origin::Derived } else { Origin::Measured };
        // CUPTI's own buffers have a term of their own; they too lie beyond the ledger.
        let recorder = device.recorder_bytes.map(signed);
        let known = ledger.saturating_add(recorder.unwrap_or(0));
        let derived = own.map(|own| own.saturating_sub(known).max(0));
        let declared = basis.is_context_declared.then_some(basis.context.0);
        let context = declared.or(derived);
        Self { context, recorder, others, others_origin, others_note }
    }
}
