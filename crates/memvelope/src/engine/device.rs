//! Devices as an engine's rules see them: a name, a size and a compute capability.

use crate::units::Bytes;
use serde::Serialize;

/// A device as an engine's rules see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its product name.
    pub name: String,
    /// What the driver reports as total memory: somewhat less than is built in.
    pub total: Bytes,
    /// Whether it is a GPU, and of which compute capability.
    pub kind: DeviceKind,
    /// How the total is known.
    pub source: DeviceSource,
}

/// How a device's total is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceSource {
    /// From the table of [`Device::named`].
    Table,
    /// A person said so.
    Declared,
    /// The driver (or, of a CPU, the operating system) was asked.
    Measured,
    /// The simulated driver was asked: there is no such device.
    Simulated,
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

    /// A device by its short name (`h100`), with a MIG profile (`h100-3g.40gb`) or by its product
    /// name. Its total is assumed: drivers and ECC settings differ by a few hundred MiB.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let wanted = name.trim().to_ascii_lowercase();
        let is_it = |row: &Row| {
            wanted == row.short
                || wanted == row.product.to_ascii_lowercase()
                || row.also.contains(&wanted.as_str())
        };
        if let Some(row) = ROWS.iter().find(|row| is_it(row)) {
            return Some(row.device());
        }
        let (short, profile) = wanted.rsplit_once('-')?;
        let row = ROWS.iter().find(|row| row.short == short || row.also.contains(&short))?;
        let (profile, eighths, listed) = row.profiles.iter().find(|(name, ..)| *name == profile)?;
        let whole = row.device();
        let mib = match listed {
            0 => row.mib * eighths / 8 * UNLISTED_PROFILE_PERCENT / 100,
            listed => *listed,
        };
        Some(Self {
            name: format!("{} MIG {profile}", whole.name),
            total: Bytes(mib * Bytes::MIB),
            ..whole
        })
    }

    /// A GPU of which a person said the size and the compute capability.
    #[must_use]
    pub fn declared(total: Bytes, capability: (u32, u32)) -> Self {
        let (major, minor) = capability;
        Self {
            name: format!("a GPU of {total}, compute capability {major}.{minor}"),
            total,
            kind: DeviceKind::Cuda(major, minor),
            source: DeviceSource::Declared,
        }
    }

    /// A GPU as its driver describes it.
    #[must_use]
    pub fn measured(name: &str, total: Bytes, capability: (u32, u32), is_simulated: bool) -> Self {
        Self {
            name: name.to_owned(),
            total,
            kind: DeviceKind::Cuda(capability.0, capability.1),
            source: if is_simulated { DeviceSource::Simulated } else { DeviceSource::Measured },
        }
    }

    /// The host's processor, with the memory of the node it runs on.
    #[must_use]
    pub fn cpu(total: Bytes, source: DeviceSource) -> Self {
        Self { name: "cpu".to_owned(), total, kind: DeviceKind::Cpu, source }
    }

    /// Short names that [`Self::named`] knows, MIG profiles included.
    pub fn names() -> impl Iterator<Item = String> {
        ROWS.iter().flat_map(|row| {
            let profiles = row.profiles.iter().map(|(name, ..)| format!("{}-{name}", row.short));
            std::iter::once(row.short.to_owned()).chain(profiles)
        })
    }
}

struct Row {
    short: &'static str,
    also: &'static [&'static str],
    product: &'static str,
    /// Total in MiB as PyTorch states it in out-of-memory messages ("has a total capacity of"), the
    /// least that several users' messages show.
    mib: u64,
    kind: DeviceKind,
    profiles: &'static [Profile],
}

/// A MIG profile: its name, its eighths of the memory (NVIDIA's MIG user guide), and its memory in
/// MiB where a listing of `nvidia-smi mig -lgip` was found, the least of several; else 0.
type Profile = (&'static str, u64, u64);

/// Where no listing was found: every listed profile has between 1 and 8 % less than its eighths of
/// the whole, so so much is taken off.
const UNLISTED_PROFILE_PERCENT: u64 = 92;

impl Row {
    fn device(&self) -> Device {
        Device {
            name: self.product.into(),
            total: Bytes(self.mib * Bytes::MIB),
            kind: self.kind,
            source: DeviceSource::Table,
        }
    }
}

/// A100 and H100 with 80 GB.
const EIGHTY: [Profile; 6] = [
    ("1g.10gb", 1, 9_850),
    ("1g.20gb", 2, 19_968),
    ("2g.20gb", 2, 19_968),
    ("3g.40gb", 4, 40_192),
    ("4g.40gb", 4, 40_192),
    ("7g.80gb", 8, 0),
];

const ROWS: &[Row] = &[
    Row {
        short: "h100",
        also: &["h100-80gb"],
        product: "NVIDIA H100 80GB HBM3",
        mib: 80_998, // 79.10 GiB
        kind: DeviceKind::Cuda(9, 0),
        profiles: &EIGHTY,
    },
    Row {
        short: "h200",
        also: &[],
        product: "NVIDIA H200",
        mib: 143_073, // 139.72 GiB
        kind: DeviceKind::Cuda(9, 0),
        profiles: &[
            ("1g.18gb", 1, 16_384),
            ("1g.35gb", 2, 0),
            ("2g.35gb", 2, 0),
            ("3g.71gb", 4, 0),
            ("4g.71gb", 4, 0),
            ("7g.141gb", 8, 0),
        ],
    },
    Row {
        short: "a100",
        also: &["a100-80gb", "a100-80"],
        product: "NVIDIA A100-SXM4-80GB",
        mib: 81_049, // 79.15 GiB
        kind: DeviceKind::Cuda(8, 0),
        profiles: &EIGHTY,
    },
    Row {
        short: "a100-40",
        also: &["a100-40gb"],
        product: "NVIDIA A100-SXM4-40GB",
        mib: 40_335, // 39.39 GiB
        kind: DeviceKind::Cuda(8, 0),
        profiles: &[
            ("1g.5gb", 1, 4_864),
            ("1g.10gb", 2, 9_850),
            ("2g.10gb", 2, 9_850),
            ("3g.20gb", 4, 19_968),
            ("4g.20gb", 4, 19_968),
            ("7g.40gb", 8, 0),
        ],
    },
    Row {
        short: "b200",
        also: &[],
        product: "NVIDIA B200",
        mib: 182_630, // 178.35 GiB
        kind: DeviceKind::Cuda(10, 0),
        profiles: &[
            ("1g.23gb", 1, 0),
            ("1g.45gb", 2, 0),
            ("2g.45gb", 2, 0),
            ("3g.90gb", 4, 0),
            ("4g.90gb", 4, 0),
            ("7g.180gb", 8, 0),
        ],
    },
    Row {
        short: "l40s",
        also: &[],
        product: "NVIDIA L40S",
        mib: 45_404, // 44.34 GiB
        kind: DeviceKind::Cuda(8, 9),
        profiles: &[],
    },
    Row {
        short: "l4",
        also: &[],
        product: "NVIDIA L4",
        mib: 22_558, // 22.03 GiB
        kind: DeviceKind::Cuda(8, 9),
        profiles: &[],
    },
    Row {
        short: "a10",
        also: &["a10g"],
        product: "NVIDIA A10",
        mib: 22_517, // 21.99 GiB
        kind: DeviceKind::Cuda(8, 6),
        profiles: &[],
    },
    Row {
        short: "rtx4090",
        also: &["4090", "rtx-4090"],
        product: "NVIDIA GeForce RTX 4090",
        mib: 24_207, // 23.64 GiB
        kind: DeviceKind::Cuda(8, 9),
        profiles: &[],
    },
    Row {
        short: "rtx5090",
        also: &["5090", "rtx-5090"],
        product: "NVIDIA GeForce RTX 5090",
        mib: 32_092, // 31.34 GiB
        kind: DeviceKind::Cuda(12, 0),
        profiles: &[],
    },
    Row {
        short: "cpu",
        also: &[],
        product: "cpu",
        // Never used: the memory of a host is measured or given.
        mib: 0,
        kind: DeviceKind::Cpu,
        profiles: &[],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_says_what_it_is() {
        for name in Device::names() {
            let device = Device::named(&name).unwrap();
            assert_eq!(device.kind == DeviceKind::Cpu, name == "cpu", "{name}");
        }
        let h100 = Device::named("H100").unwrap();
        assert_eq!(h100.capability(), (9, 0));
        let slice = Device::named("h100-3g.40gb").unwrap();
        assert_eq!(slice.total, Bytes(40_192 * Bytes::MIB));
        assert!(slice.name.ends_with("MIG 3g.40gb"));
        assert_eq!(
            Device::named("NVIDIA L40S").unwrap().total,
            Device::named("l40s").unwrap().total
        );
        assert_eq!(Device::named("a100-40").unwrap().name, "NVIDIA A100-SXM4-40GB");
        for unknown in ["", "h1000", "h100-5g.40gb", "l4-1g.10gb", "-"] {
            assert!(Device::named(unknown).is_none(), "{unknown}");
        }
    }

    /// The batch limits of vLLM depend on these sizes.
    #[test]
    fn totals_fall_on_the_right_side_of_the_engines_limits() {
        let gib = |name: &str| Device::named(name).unwrap().total.0 / Bytes::GIB;
        assert!(gib("b200") >= 160);
        assert!((70..160).contains(&gib("h100")) && (70..160).contains(&gib("h200")));
        assert!(gib("l40s") < 70 && gib("rtx5090") < 70);
    }
}
