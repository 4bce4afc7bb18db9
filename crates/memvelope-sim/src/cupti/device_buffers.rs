//! CUPTI's own buffers on the device: what they take of a context's device, and how many records
//! of its work have a place in them.

use crate::world::World;

/// Activity attributes, and CUPTI's defaults: size of one, how many at most, how many at once, and
/// whether they are in pinned host memory instead.
const SIZE: u32 = 0;
const LIMIT: (u32, u64) = (2, 250);
const PREALLOCATED: (u32, u64) = (6, 3);
const IN_HOST_MEMORY: u32 = 8;

/// The buffers of one context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceBuffers {
    device: usize,
    /// Device bytes of one; 0 where they are in host memory.
    bytes: u64,
    /// Records that one takes.
    records: u64,
    count: u64,
    limit: u64,
    used: u64,
    leak: bool,
}

impl DeviceBuffers {
    /// Gives a place back.
    pub(crate) fn release(&mut self) {
        if !self.leak {
            self.used = self.used.saturating_sub(1);
        }
    }
}

impl World {
    /// Makes the buffers of a new context, while somebody listens to CUPTI.
    pub(crate) fn make_device_buffers(&mut self, context_uid: u32, device: usize) {
        let settings = &self.scenario.cupti;
        let unit = settings.device_buffer_bytes;
        if unit == 0 || !crate::cupti::is_attached() {
            return;
        }
        let attribute = |id: u32| self.activity.attributes.get(&id).copied();
        let size = attribute(SIZE).unwrap_or(unit);
        let in_host_memory = attribute(IN_HOST_MEMORY).is_some_and(|on| on != 0);
        let scaled = u128::from(settings.device_buffer_records) * u128::from(size);
        let records = u64::try_from(scaled / u128::from(unit)).unwrap_or(u64::MAX).max(1);
        let limit = attribute(LIMIT.0).unwrap_or(LIMIT.1);
        let buffers = DeviceBuffers {
            device,
            bytes: if in_host_memory { 0 } else { size },
            records,
            count: 0,
            limit,
            used: 0,
            leak: settings.device_buffer_leak,
        };
        let at_once = attribute(PREALLOCATED.0).unwrap_or(PREALLOCATED.1).min(limit);
        self.activity.device_buffers.insert(context_uid, buffers);
        for _ in 0..at_once {
            self.grow_device_buffers(context_uid);
        }
    }

    /// Gives back the buffers of a context that goes.
    pub(crate) fn drop_device_buffers(&mut self, context_uid: u32) {
        if let Some(buffers) = self.activity.device_buffers.remove(&context_uid) {
            let device = &mut self.devices[buffers.device];
            device.cupti_bytes = device.cupti_bytes.saturating_sub(buffers.count * buffers.bytes);
        }
    }

    /// One more buffer, if the limit and the device have room.
    fn grow_device_buffers(&mut self, context_uid: u32) -> bool {
        let Some(buffers) = self.activity.device_buffers.get(&context_uid).copied() else {
            return false;
        };
        if buffers.count >= buffers.limit || buffers.bytes > self.free_bytes(buffers.device) {
            return false;
        }
        self.devices[buffers.device].cupti_bytes += buffers.bytes;
        if let Some(buffers) = self.activity.device_buffers.get_mut(&context_uid) {
            buffers.count += 1;
        }
        true
    }

    /// Takes a place for a record; `false` when there is none, and its times are lost.
    pub(crate) fn take_device_place(&mut self, context_uid: u32) -> bool {
        let Some(buffers) = self.activity.device_buffers.get(&context_uid) else { return true };
        let is_full = buffers.used >= buffers.count.saturating_mul(buffers.records);
        if is_full && !self.grow_device_buffers(context_uid) {
            self.activity.without_place += 1;
            return false;
        }
        if let Some(buffers) = self.activity.device_buffers.get_mut(&context_uid) {
            buffers.used += 1;
        }
        true
    }
}
