//! VRAM over time, in bounded memory: the upper envelope of each device's curve.

use super::totals::DEVICES_MAX;
use crate::event::DeviceIndex;
use crate::units::{Bytes, Nanos};

/// One point of the curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryPoint {
    /// When.
    pub time: Nanos,
    /// Which device.
    pub device: DeviceIndex,
    /// Live VRAM bytes: every kind that counts, plus pool reserves.
    pub vram_bytes: Bytes,
    /// Of those, tagged as KV cache.
    pub kv_bytes: Bytes,
    /// Counts the changes of this device's curve.
    ordinal: u64,
}

/// The points, allocated once. Neighbouring changes share a point (the highest of them is kept),
/// and how many do doubles whenever the store is full: peaks survive, dips between them may not.
#[derive(Debug)]
pub(super) struct History {
    points: Vec<HistoryPoint>,
    limit: usize,
    /// Changes that share a point: 2^shift. A shift, because this runs at every allocation.
    shift: u32,
    /// By device: its changes so far and the index of its last point.
    heads: Box<[(u64, u32)]>,
}

impl History {
    pub(super) fn new(limit: usize) -> Self {
        // Two points a device, so that halving always makes room.
        let limit = limit.clamp(2 * DEVICES_MAX, u32::MAX as usize);
        Self {
            points: Vec::with_capacity(limit),
            limit,
            shift: 0,
            heads: vec![(0, u32::MAX); DEVICES_MAX].into(),
        }
    }

    pub(super) fn host_bytes(&self) -> u64 {
        (self.points.capacity() * std::mem::size_of::<HistoryPoint>()
            + self.heads.len() * std::mem::size_of::<(u64, u32)>()) as u64
    }

    pub(super) fn points(&self) -> &[HistoryPoint] {
        &self.points
    }

    pub(super) fn push(&mut self, time: Nanos, device: DeviceIndex, vram: Bytes, kv: Bytes) {
        let Some((ordinal, _)) = self.heads.get_mut(device.0 as usize) else { return };
        let point =
            HistoryPoint { time, device, vram_bytes: vram, kv_bytes: kv, ordinal: *ordinal };
        *ordinal += 1;
        if self.points.len() >= self.limit {
            self.thin();
        }
        self.place(point);
    }

    /// Merges with the device's last point if they are to share one, appends otherwise. Never grows
    /// past the limit: after `thin` there is room for two points a device.
    fn place(&mut self, point: HistoryPoint) {
        let shift = self.shift;
        let Some((_, last)) = self.heads.get_mut(point.device.0 as usize) else { return };
        if let Some(known) = self.points.get_mut(*last as usize)
            && known.ordinal >> shift == point.ordinal >> shift
        {
            if point.vram_bytes >= known.vram_bytes {
                *known = point;
            }
            return;
        }
        if self.points.len() < self.limit {
            *last = self.points.len() as u32;
            self.points.push(point);
        }
    }

    /// Doubles how many changes share a point until half of the store is free.
    fn thin(&mut self) {
        while self.points.len() > self.limit / 2 && self.shift < u64::BITS - 1 {
            self.shift += 1;
            for (_, last) in &mut self.heads {
                *last = u32::MAX;
            }
            // In place: `place` never writes past what has been read.
            let count = self.points.len();
            let mut kept = 0;
            for read in 0..count {
                let point = self.points[read];
                let Some((_, last)) = self.heads.get_mut(point.device.0 as usize) else { continue };
                let same = self
                    .points
                    .get_mut(*last as usize)
                    .filter(|known| known.ordinal >> self.shift == point.ordinal >> self.shift);
                match same {
                    Some(known) if point.vram_bytes >= known.vram_bytes => *known = point,
                    Some(_) => {}
                    None => {
                        *last = kept as u32;
                        self.points[kept] = point;
                        kept += 1;
                    }
                }
            }
            self.points.truncate(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_survive_thinning() {
        let mut history = History::new(256);
        let mut highest = 0;
        for i in 0..100_000u64 {
            let device = DeviceIndex((i % 3) as u32);
            let vram = (i * 2_654_435_761) % 1_000_003;
            if device.0 == 1 {
                highest = highest.max(vram);
            }
            history.push(Nanos(i), device, Bytes(vram), Bytes(0));
        }
        let points = history.points();
        assert!(points.len() <= 256 && points.len() > 64, "{}", points.len());
        let seen = points.iter().filter(|p| p.device.0 == 1).map(|p| p.vram_bytes.0).max();
        assert_eq!(seen, Some(highest));
        for device in 0..3 {
            let times: Vec<_> = points.iter().filter(|p| p.device.0 == device).collect();
            assert!(times.is_sorted_by_key(|p| p.time));
        }
    }

    #[test]
    fn a_short_curve_is_kept_whole() {
        let mut history = History::new(256);
        for i in 0..100 {
            history.push(Nanos(i), DeviceIndex(0), Bytes(100 - i), Bytes(i));
        }
        assert_eq!(history.points().len(), 100);
    }
}
