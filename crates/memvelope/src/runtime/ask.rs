//! Questions to a session that are answered with a fresh look at the planes.

use super::epoch::{self, Reader, Whence};
use super::planes::Told;
use super::state::Inner;
use super::{Role, Session, poll};
use crate::event::DeviceIndex;
use crate::framework::Framework;
use crate::ledger::DEVICES_MAX;
use crate::snapshot::{self, Epoch, Fit, Snapshot, Via};
use crate::source::driver::Driver;
use crate::units::Bytes;

impl Session {
    /// Reads the planes of a device together: ledger, framework, driver, pools; see
    /// [`crate::snapshot::Epoch`]. `read` tells the framework plane and may be called up to eight
    /// times (what it tells of another device is not taken); without it, what
    /// [`Self::accept_framework`] was told last counts while it still holds. `None` where neither
    /// driver nor NVML tells what is free, or the session has ended.
    ///
    /// Takes some tens of microseconds, and what `read` takes; on any thread but one that is inside
    /// a driver callback. Stream captures of this thread are not disturbed.
    pub fn read_epoch(
        &self,
        device: DeviceIndex,
        read: Option<&mut dyn FnMut() -> Option<Framework>>,
    ) -> Option<Epoch> {
        match &self.role {
            Role::Own(inner) => read_epoch(inner, device, read),
            Role::Client(client) => client.read_epoch(device, read),
        }
    }

    /// Takes the framework plane of a device as it was a moment ago. It counts until the driver hands
    /// out or takes back memory on that device: segments may then have come or gone. Ignored for an
    /// index from [`DEVICES_MAX`] on, as in the ledger.
    pub fn accept_framework(&self, framework: Framework) {
        match &self.role {
            Role::Own(inner) => accept_framework(inner, framework),
            Role::Client(client) => client.accept_framework(&framework),
        }
    }

    /// One epoch of everything, like [`Self::snapshot`], but with all planes read anew: some tens of
    /// microseconds a device beyond what that costs, and NVML's list of processes (milliseconds, at
    /// most once a second). Does not flush.
    #[must_use]
    pub fn snapshot_now(&self) -> Snapshot {
        self.sample();
        self.snapshot()
    }

    /// Whether so many bytes would be served now, and if not, why and what would help: with a fresh
    /// epoch, and the framework plane as [`Self::accept_framework`] told it last, if that still holds
    /// ([`Self::read_epoch`] with a function, just before, sees to that).
    #[must_use]
    pub fn would_fit(&self, device: DeviceIndex, bytes: Bytes, via: Via) -> Fit {
        match &self.role {
            Role::Own(inner) => would_fit(inner, device, bytes, via),
            Role::Client(client) => client.would_fit(device, bytes, via),
        }
    }

    /// Notes that so many bytes were asked for: what is asked for recently tells which fragmentation
    /// hurts. Requests to the driver are noted without it. Cheap, and callable anywhere.
    pub fn note_request(&self, device: DeviceIndex, bytes: Bytes) {
        match &self.role {
            Role::Own(inner) => inner.requests().note(device, bytes),
            Role::Client(client) => client.note_request(device, bytes),
        }
    }
}

/// See [`Session::read_epoch`].
pub(super) fn read_epoch(
    inner: &Inner,
    device: DeviceIndex,
    read: Option<&mut Reader<'_>>,
) -> Option<Epoch> {
    if inner.is_frozen() || !inner.is_awake() || (inner.is_incomplete() && !poll::complete(inner)) {
        return None;
    }
    let links = inner.links();
    let device = links.devices.iter().find(|known| known.index == device)?;
    let has_opening = inner.planes().plane(device.index).opening_bytes.is_some();
    if !has_opening {
        // What this process used before is asked of NVML, which is not asked below.
        poll::sample(inner, true);
    }
    let driver = links.driver.filter(|_| inner.may_call());
    let _relaxed = driver.and_then(Driver::relaxed);
    epoch::read(inner, &links, device, Whence::Here, read)
}

fn would_fit(inner: &Inner, device: DeviceIndex, bytes: Bytes, via: Via) -> Fit {
    let Some(epoch) = read_epoch(inner, device, None) else {
        let missing = format!("the planes of device {} could not be read", device.0);
        return Fit::Unknown { missing };
    };
    let page = inner.planes().side(device).page.unwrap_or(poll::PAGE);
    snapshot::would_fit(&epoch, bytes, via, page)
}

/// See [`Session::accept_framework`].
pub(super) fn accept_framework(inner: &Inner, framework: Framework) {
    // No device has such a number, and each that is told of is kept.
    let is_a_device = (framework.device.0 as usize) < DEVICES_MAX;
    if inner.is_frozen() || !inner.is_awake() || !is_a_device {
        return;
    }
    let mark = inner.ledger.vram_and_turnover(framework.device);
    let mut planes = inner.planes();
    let side = planes.side(framework.device);
    side.told = Some(Told { framework, mark });
}
