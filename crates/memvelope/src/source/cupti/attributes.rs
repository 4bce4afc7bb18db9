//! Settings of the activity API, and what its buffers take on the device.

#![expect(unsafe_code, reason = "calls into libcupti")]

use super::session::{check, needed};
use crate::error::Result;
use crate::units::Bytes;
use cupti_sys::{Cupti, activity_attribute, result};

/// CUPTI's own buffers on the device, as it says itself. It makes some with each context that is
/// made while it is attached, and more as they fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceBuffers {
    /// Size of one.
    pub bytes: Bytes,
    /// How many a context gets at once.
    pub preallocated: u64,
    /// How many it gets at most.
    pub limit: u64,
}

impl DeviceBuffers {
    /// What a context takes at once.
    #[must_use]
    pub const fn context_bytes(&self) -> Bytes {
        self.bytes.saturating_mul(self.preallocated)
    }

    /// What it takes at most.
    #[must_use]
    pub const fn context_bytes_max(&self) -> Bytes {
        self.bytes.saturating_mul(self.limit)
    }
}

/// Sets an attribute. Some are eight bytes wide and some one; on the little-endian machines that
/// CUPTI exists for, the narrow value is the first byte of the wide one.
pub(super) fn set(cupti: &Cupti, attribute: u32, value: u64) -> Result<()> {
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

/// Reads an attribute, whatever its width.
fn get(cupti: &Cupti, attribute: u32) -> Option<u64> {
    let get = cupti.activity_get_attribute.ok()?;
    for width in [8, 1] {
        let mut value = [0_u8; 8];
        let mut size = width;
        // SAFETY: `size` bytes may be written at `value`, which has at least as many.
        let code = unsafe { get(attribute, &raw mut size, value.as_mut_ptr().cast()) };
        if code == result::SUCCESS {
            return Some(u64::from_le_bytes(value));
        }
    }
    None
}

/// What CUPTI takes on the device; `None` where it does not say, or takes host memory instead.
pub(super) fn device_buffers(cupti: &Cupti) -> Option<DeviceBuffers> {
    let is_on_host = get(cupti, activity_attribute::MEM_ALLOCATION_TYPE_HOST_PINNED) == Some(1);
    if is_on_host {
        return None;
    }
    Some(DeviceBuffers {
        bytes: Bytes(get(cupti, activity_attribute::DEVICE_BUFFER_SIZE)?),
        preallocated: get(cupti, activity_attribute::DEVICE_BUFFER_PRE_ALLOCATE_VALUE)?,
        limit: get(cupti, activity_attribute::DEVICE_BUFFER_POOL_LIMIT)?,
    })
}
