//! What a processor can do, as far as an engine's rules ask.

use serde::Serialize;

/// What a processor can do, as far as an engine's rules ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Processor {
    /// Tiles of the Advanced Matrix Extensions.
    pub amx: bool,
    /// Dot products of bfloat16 in AVX-512.
    pub avx512_bf16: bool,
}

impl Processor {
    /// The processor that this runs on; on Linux only, elsewhere it has neither.
    #[must_use]
    pub fn here() -> Self {
        Self::from_cpuinfo(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
    }

    fn from_cpuinfo(text: &str) -> Self {
        let flags = text.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
        let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
        Self { amx: has("amx_tile"), avx512_bf16: has("avx512_bf16") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_whole_words() {
        let of = Processor::from_cpuinfo;
        let genoa = of("model name\t: x\nflags\t\t: fpu avx512f avx512_bf16 sha_ni\nbugs\t: y\n");
        assert_eq!(genoa, Processor { amx: false, avx512_bf16: true });
        let rapids = of("flags\t\t: avx512_bf16 amx_bf16 amx_tile amx_int8\n");
        assert_eq!(rapids, Processor { amx: true, avx512_bf16: true });
        assert_eq!(of("flags : amx_tiles avx512_bf16x\n"), Processor::default());
        assert_eq!(of("Features\t: fp asimd bf16\n"), Processor::default());
        assert_eq!(of(""), Processor::default());
    }
}
