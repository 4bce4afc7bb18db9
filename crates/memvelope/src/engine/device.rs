//! Devices as an engine's rules see them: a name, a size and a compute capability.

use crate::units::Bytes;
use serde::Serialize;

/// A device as an engine's rules see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its product name.
    pub name: String,
    /// What the driver reports as total memory.
    pub total: Bytes,
    /// Whether it is a GPU, and of which compute capability.
    pub kind: DeviceKind,
}

/// Whether it is a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// An NVIDIA GPU of this compute capability (major, minor).
    Cuda(u32, u32),
    /// The host's processor.
    Cpu,
}

impl Device {
    /// Major and minor compute capability; `(0, 0)` for a CPU.
    #[must_use]
    pub const fn capability(&self) -> (u32, u32) {
        match self.kind {
            DeviceKind::Cuda(major, minor) => (major, minor),
            DeviceKind::Cpu => (0, 0),
        }
    }

    /// A device by its common short name or by its product name, e.g. `h100`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let wanted = name.to_ascii_lowercase();
        let (short, name, gib, kind) = DEVICES
            .iter()
            .find(|(short, name, ..)| *short == wanted || name.eq_ignore_ascii_case(&wanted))?;
        let _ = short;
        Some(Self { name: (*name).into(), total: Bytes(gib * Bytes::GIB), kind: *kind })
    }
}

const DEVICES: &[(&str, &str, u64, DeviceKind)] = &[
    ("h100", "NVIDIA H100 80GB HBM3", 80, DeviceKind::Cuda(9, 0)),
    ("b200", "NVIDIA B200", 180, DeviceKind::Cuda(10, 0)),
    ("l40s", "NVIDIA L40S", 48, DeviceKind::Cuda(8, 9)),
    ("cpu", "cpu", 16, DeviceKind::Cpu),
];
