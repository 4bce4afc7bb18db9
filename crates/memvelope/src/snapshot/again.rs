//! Questions to a snapshot that was read earlier, in another process say.

use super::{DeviceSnapshot, Epoch, Fit, Via, would_fit};
use crate::units::Bytes;

/// What the driver rounds allocations up to: used memory moves by so much on current GPUs, and it is
/// the granularity that `cuMemGetAllocationGranularity` tells there.
const PAGE: Bytes = Bytes(2 << 20);

impl DeviceSnapshot {
    /// Whether `bytes` would have fitted at that moment: [`would_fit`] with what the snapshot holds,
    /// and pages of 2 MiB.
    #[must_use]
    pub fn would_fit(&self, bytes: Bytes, via: Via) -> Fit {
        match self.reread() {
            Some(epoch) => would_fit(&epoch, bytes, via, PAGE),
            None => Fit::Unknown {
                missing: "nobody could be asked how much of this device is free".into(),
            },
        }
    }

    /// The epoch behind it; the segments' owners, which only the balance needs, are not kept.
    fn reread(&self) -> Option<Epoch> {
        let (time, used, is_torn) = match &self.balance {
            Some(balance) => (balance.time_ns, Some(balance.used_bytes), balance.is_torn),
            None => Default::default(),
        };
        let total_bytes = self.total_bytes?;
        let free = used.map(|used| total_bytes.saturating_sub(used)).or(self.free_bytes);
        let free_bytes = free.or(self.nvml_used_bytes.map(|used| total_bytes.saturating_sub(used)));
        Some(Epoch {
            time,
            total_bytes,
            free_bytes: free_bytes?,
            totals: self.totals.clone(),
            framework: self.framework.clone(),
            is_torn,
            others_bytes: self.others_bytes,
            ..Epoch::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::FitSource;

    #[test]
    fn a_snapshot_answers_as_its_epoch_did() {
        let device = DeviceSnapshot {
            total_bytes: Some(Bytes(100 << 20)),
            free_bytes: Some(Bytes(41 << 20)),
            ..DeviceSnapshot::default()
        };
        let fit = |mib: u64| device.would_fit(Bytes(mib << 20), Via::Driver);
        let largest_fit_bytes = Bytes(40 << 20);
        let expect =
            Fit::Yes { from: FitSource::Free, taken_bytes: Bytes(4 << 20), largest_fit_bytes };
        assert_eq!(fit(3), expect);
        assert!(matches!(fit(41), Fit::No { .. }), "{:?}", fit(41));
        assert!(matches!(device.would_fit(Bytes(1), Via::Framework), Fit::Unknown { .. }));
        let silent = DeviceSnapshot::default();
        assert!(matches!(silent.would_fit(Bytes(1), Via::Driver), Fit::Unknown { .. }));
    }
}
