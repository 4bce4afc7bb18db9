//! Units as types: a number of bytes is not a number of blocks, and mixing them does not compile.
//!
//! Arithmetic is checked or saturating by name; there is no silent wrap. At the edges (JSON,
//! Python, C) the unit is a suffix instead: `_bytes`, `_tokens`, `_blocks`, `_ns`.

pub use crate::curve::{CostCurve, CostTerm};

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident, $suffix:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Nothing of it.
            pub const ZERO: Self = Self(0);
            /// The largest representable amount.
            pub const MAX: Self = Self(u64::MAX);

            /// The plain number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
            /// Sum, or `None` past `u64::MAX`.
            #[must_use]
            pub const fn checked_add(self, other: Self) -> Option<Self> {
                match self.0.checked_add(other.0) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }
            /// Difference, or `None` below zero.
            #[must_use]
            pub const fn checked_sub(self, other: Self) -> Option<Self> {
                match self.0.checked_sub(other.0) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }
            /// Product with a plain factor, or `None` past `u64::MAX`.
            #[must_use]
            pub const fn checked_mul(self, factor: u64) -> Option<Self> {
                match self.0.checked_mul(factor) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }
            /// Sum, held at `u64::MAX`.
            #[must_use]
            pub const fn saturating_add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
            /// Difference, held at zero.
            #[must_use]
            pub const fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
            /// Product with a plain factor, held at `u64::MAX`.
            #[must_use]
            pub const fn saturating_mul(self, factor: u64) -> Self {
                Self(self.0.saturating_mul(factor))
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }

        impl From<$name> for u64 {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl std::iter::Sum for $name {
            fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
                iter.fold(Self::ZERO, Self::saturating_add)
            }
        }

        unit!(@display $name, $suffix);
    };
    (@display Bytes, $suffix:literal) => {};
    (@display Nanos, $suffix:literal) => {};
    (@display $name:ident, $suffix:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{} ", $suffix), self.0)
            }
        }
    };
}

unit!(
    /// An amount of memory in bytes. Displayed in binary units (1 KiB = 1024 B).
    Bytes,
    "bytes"
);
unit!(
    /// A number of tokens.
    Tokens,
    "tokens"
);
unit!(
    /// A number of KV-cache blocks, the engine's unit of KV allocation.
    Blocks,
    "blocks"
);
unit!(
    /// Nanoseconds: a duration, or an instant on the recorder's clock (see [`crate::event`]).
    Nanos,
    "ns"
);

impl Bytes {
    /// One KiB, 1024 bytes.
    pub const KIB: u64 = 1 << 10;
    /// One MiB, 1024 KiB.
    pub const MIB: u64 = 1 << 20;
    /// One GiB, 1024 MiB.
    pub const GIB: u64 = 1 << 30;
    /// One TiB, 1024 GiB.
    pub const TIB: u64 = 1 << 40;

    /// Rounds up to a multiple of `granule` bytes; held at the largest multiple. A granule of zero
    /// leaves the amount as it is.
    #[must_use]
    pub const fn rounded_up_to(self, granule: u64) -> Self {
        if granule == 0 {
            return self;
        }
        match self.0.checked_next_multiple_of(granule) {
            Some(value) => Self(value),
            None => Self(u64::MAX - u64::MAX % granule),
        }
    }

    /// Share of `whole` in percent; `None` when `whole` is zero.
    #[must_use]
    pub fn percent_of(self, whole: Self) -> Option<f64> {
        (whole.0 > 0).then(|| self.0 as f64 * 100.0 / whole.0 as f64)
    }
}

/// Why a text is no amount of memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseBytesError {
    /// The unit is none of those known.
    #[error("unknown unit {0:?}; known: KiB, MiB, GiB, TiB, KB, MB, GB, TB")]
    Unit(String),
    /// The number is missing, zero, or more than 2^63.
    #[error("expected bytes, e.g. 40GiB")]
    Number,
}

impl std::str::FromStr for Bytes {
    type Err = ParseBytesError;

    /// Bytes above zero with an optional unit: KiB, MiB, GiB, TiB (1024) or KB, MB, GB, TB (1000).
    fn from_str(text: &str) -> Result<Self, ParseBytesError> {
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let factor = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kib" => Self::KIB,
            "mib" => Self::MIB,
            "gib" => Self::GIB,
            "tib" => Self::TIB,
            "kb" => 1000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(ParseBytesError::Unit(unit.trim().chars().take(20).collect())),
        };
        let bytes = if number.contains('.') {
            number.parse::<f64>().ok().map(|number| (number * factor as f64) as u64)
        } else {
            number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor))
        };
        let bytes = bytes.filter(|bytes| (1..1 << 63).contains(bytes));
        bytes.map(Self).ok_or(ParseBytesError::Number)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            0..Self::KIB => format!("{} B", self.0),
            Self::KIB..Self::MIB => format!("{:.1} KiB", self.0 as f64 / Self::KIB as f64),
            Self::MIB..Self::GIB => format!("{:.1} MiB", self.0 as f64 / Self::MIB as f64),
            Self::GIB..Self::TIB => format!("{:.2} GiB", self.0 as f64 / Self::GIB as f64),
            _ => format!("{:.2} TiB", self.0 as f64 / Self::TIB as f64),
        };
        f.pad(&text)
    }
}

impl Nanos {
    /// One millisecond.
    pub const MILLI: u64 = 1_000_000;
    /// One second.
    pub const SECOND: u64 = 1_000_000_000;

    /// Nanoseconds of a std duration, held at `u64::MAX` (584 years).
    #[must_use]
    pub fn from_duration(duration: std::time::Duration) -> Self {
        Self(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }

    /// As a std duration.
    #[must_use]
    pub const fn to_duration(self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0)
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            0..1_000 => format!("{} ns", self.0),
            1_000..1_000_000 => format!("{:.1} us", self.0 as f64 / 1e3),
            1_000_000..1_000_000_000 => format!("{:.1} ms", self.0 as f64 / 1e6),
            _ => format!("{:.2} s", self.0 as f64 / 1e9),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_is_checked() {
        assert_eq!(Bytes(1).checked_sub(Bytes(2)), None);
        assert_eq!(Bytes(u64::MAX).checked_add(Bytes(1)), None);
        assert_eq!(Bytes(u64::MAX).checked_mul(2), None);
        assert_eq!(Bytes(3).saturating_sub(Bytes(5)), Bytes::ZERO);
    }

    #[test]
    fn rounding_holds_at_the_end_of_the_range() {
        assert_eq!(Bytes(1).rounded_up_to(2 << 20), Bytes(2 << 20));
        assert_eq!(Bytes(2 << 20).rounded_up_to(2 << 20), Bytes(2 << 20));
        assert_eq!(Bytes(u64::MAX).rounded_up_to(2 << 20).0 % (2 << 20), 0);
        assert_eq!(Bytes(7).rounded_up_to(0), Bytes(7));
    }

    #[test]
    fn sizes_have_units() {
        let parse = |text: &str| text.parse::<Bytes>().map(u64::from);
        assert_eq!(parse("1024"), Ok(1024));
        assert_eq!(parse("40GiB"), Ok(40 << 30));
        assert_eq!(parse("1 TB"), Ok(1_000_000_000_000));
        assert_eq!(parse("1.5 GiB"), Ok(3 << 29));
        assert_eq!(parse("24GB"), Ok(24_000_000_000));
        for bad in ["", "0", "-1", "GiB", "1TiX", "1.2.3GiB", "99999999999999999999GiB", "9e9"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn display_is_binary() {
        assert_eq!(Bytes(512).to_string(), "512 B");
        assert_eq!(Bytes(3 << 29).to_string(), "1.50 GiB");
        assert_eq!(Bytes(3 << 39).to_string(), "1.50 TiB");
        assert_eq!(format!("{:>10}", Bytes(1536)), "   1.5 KiB");
    }
}
