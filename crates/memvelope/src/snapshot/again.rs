//! Questions to a snapshot that was read earlier, in another process say.

use super::{Balance, DeviceSnapshot, Epoch, FindingKind, Fit, Via, would_fit};
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

    /// The epoch behind it. Whom the driver handed the segments out to is not kept: what would come
    /// of freeing a tag is then the least that is sure.
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
            moved_bytes: self.balance.as_ref().map_or(Bytes::ZERO, moved_in),
            others_bytes: self.others_bytes,
            ..Epoch::default()
        })
    }
}

/// What moved while the planes were read, as the finding has it.
fn moved_in(balance: &Balance) -> Bytes {
    let torn = balance.findings.iter().find(|finding| finding.kind == FindingKind::Torn);
    torn.map_or(Bytes::ZERO, |torn| Bytes(torn.bytes.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Tag;
    use crate::framework::{Framework, Segment, Settings};
    use crate::snapshot::{DevicePlane, FitSource, Matched, Parts, RemedyKind, Snapshot};

    /// The device of a snapshot of an epoch with 100 MiB, 40 of them free.
    fn of(change: impl FnOnce(&mut Epoch)) -> (Epoch, DeviceSnapshot) {
        let mut epoch = Epoch {
            total_bytes: Bytes(100 << 20),
            free_bytes: Bytes(40 << 20),
            ..Epoch::default()
        };
        change(&mut epoch);
        let plane = DevicePlane { epoch: Some(epoch.clone()), ..DevicePlane::default() };
        let plane = DevicePlane { total_bytes: Some(epoch.total_bytes), ..plane };
        let totals = vec![epoch.totals.clone()];
        let parts = Parts { totals, planes: vec![plane], ..Parts::default() };
        let device = Snapshot::assemble(parts).devices.remove(0);
        (epoch, device)
    }

    #[test]
    fn a_torn_snapshot_answers_as_its_epoch_did() {
        let (epoch, device) =
            of(|epoch| (epoch.is_torn, epoch.moved_bytes) = (true, Bytes(10 << 20)));
        for (mib, is_unknown) in [(20, false), (31, true), (49, true), (60, false)] {
            let bytes = Bytes(mib << 20);
            let fit = device.would_fit(bytes, Via::Driver);
            assert_eq!(matches!(fit, Fit::Unknown { .. }), is_unknown, "{mib}: {fit:?}");
            assert_eq!(fit, would_fit(&epoch, bytes, Via::Driver, PAGE));
        }
    }

    #[test]
    fn segments_and_the_blocks_in_them_are_not_both_to_be_freed() {
        let (epoch, device) = of(|epoch| {
            let weights = Tag::Weights as usize;
            let mut framework = Framework {
                reserved_bytes: Bytes(30 << 20),
                segments: vec![Segment { bytes: Bytes(30 << 20), ..Segment::default() }],
                settings: Settings { expandable_segments: Some(false), ..Settings::default() },
                ..Framework::default()
            };
            framework.by_tag[weights] = Bytes(30 << 20);
            epoch.framework = Some(framework);
            epoch.totals.by_tag[weights].live_bytes = Bytes(50 << 20);
            let mut matched = Matched { count: 1, ..Matched::default() };
            matched.by_tag[weights] = Bytes(30 << 20);
            epoch.matched = vec![matched];
        });
        let expect = [(RemedyKind::FreeTag, 50 << 20, false)];
        let now = would_fit(&epoch, Bytes(70 << 20), Via::Framework, PAGE);
        for fit in [now, device.would_fit(Bytes(70 << 20), Via::Framework)] {
            let Fit::No { remedies, .. } = &fit else { panic!("{fit:?}") };
            let found = remedies.iter().map(|it| (it.kind, it.recovers_bytes.0, it.is_enough));
            assert_eq!(found.collect::<Vec<_>>(), expect, "{remedies:#?}");
        }
    }

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
