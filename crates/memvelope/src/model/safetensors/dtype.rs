//! Types of elements that the format knows.

use serde::Serialize;

macro_rules! stored_dtypes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $bits:literal;)*) => {
        /// A type of element that safetensors knows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[non_exhaustive]
        pub enum StoredDtype {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl StoredDtype {
            /// The format's name of it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Bits of one element.
            #[must_use]
            pub const fn bits(self) -> u64 {
                match self { $(Self::$variant => $bits,)* }
            }

            pub(super) fn of(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

stored_dtypes! {
    /// A truth value.
    Bool = "BOOL", 8;
    /// 4-bit float.
    F4 = "F4", 4;
    /// 6-bit float, 2 bits of exponent.
    F6E2M3 = "F6_E2M3", 6;
    /// 6-bit float, 3 bits of exponent.
    F6E3M2 = "F6_E3M2", 6;
    /// 8-bit unsigned integer.
    U8 = "U8", 8;
    /// 8-bit signed integer.
    I8 = "I8", 8;
    /// 8-bit float, 5 bits of exponent.
    F8E5M2 = "F8_E5M2", 8;
    /// 8-bit float, 4 bits of exponent.
    F8E4M3 = "F8_E4M3", 8;
    /// 8-bit power of two.
    F8E8M0 = "F8_E8M0", 8;
    /// 16-bit signed integer.
    I16 = "I16", 16;
    /// 16-bit unsigned integer.
    U16 = "U16", 16;
    /// IEEE half precision.
    F16 = "F16", 16;
    /// Brain float.
    Bf16 = "BF16", 16;
    /// 32-bit signed integer.
    I32 = "I32", 32;
    /// 32-bit unsigned integer.
    U32 = "U32", 32;
    /// IEEE single precision.
    F32 = "F32", 32;
    /// Two of single precision.
    C64 = "C64", 64;
    /// IEEE double precision.
    F64 = "F64", 64;
    /// 64-bit signed integer.
    I64 = "I64", 64;
    /// 64-bit unsigned integer.
    U64 = "U64", 64;
}
