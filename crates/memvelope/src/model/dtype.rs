//! Element types of weights and caches.

use serde::Serialize;
use std::fmt;

/// The type of one stored element. Types narrower than a byte are stored packed in [`Self::Uint8`]
/// or [`Self::Int32`], as the engines do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 64-bit signed integer.
    Int64,
    /// IEEE single precision.
    Float32,
    /// 32-bit signed integer, also eight packed 4-bit values.
    Int32,
    /// Brain float.
    Bfloat16,
    /// IEEE half precision.
    Float16,
    /// 8-bit float, 4 bits of exponent.
    #[serde(rename = "float8_e4m3fn")]
    Fp8E4m3,
    /// 8-bit float, 5 bits of exponent.
    #[serde(rename = "float8_e5m2")]
    Fp8E5m2,
    /// 8-bit power of two, the scale of MX formats.
    #[serde(rename = "float8_e8m0fnu")]
    E8m0,
    /// 8-bit signed integer.
    Int8,
    /// 8-bit unsigned integer, also two packed 4-bit values.
    Uint8,
    /// A truth value, one byte.
    Bool,
}

impl Dtype {
    /// Every type, in the order of their declaration.
    pub const ALL: [Self; 11] = [
        Self::Int64,
        Self::Float32,
        Self::Int32,
        Self::Bfloat16,
        Self::Float16,
        Self::Fp8E4m3,
        Self::Fp8E5m2,
        Self::E8m0,
        Self::Int8,
        Self::Uint8,
        Self::Bool,
    ];

    /// Bytes of one element.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Int64 => 8,
            Self::Float32 | Self::Int32 => 4,
            Self::Bfloat16 | Self::Float16 => 2,
            Self::Fp8E4m3 | Self::Fp8E5m2 | Self::E8m0 => 1,
            Self::Int8 | Self::Uint8 | Self::Bool => 1,
        }
    }

    /// PyTorch's name of the type, without `torch.`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int64 => "int64",
            Self::Float32 => "float32",
            Self::Int32 => "int32",
            Self::Bfloat16 => "bfloat16",
            Self::Float16 => "float16",
            Self::Fp8E4m3 => "float8_e4m3fn",
            Self::Fp8E5m2 => "float8_e5m2",
            Self::E8m0 => "float8_e8m0fnu",
            Self::Int8 => "int8",
            Self::Uint8 => "uint8",
            Self::Bool => "bool",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
