//! What a step costs on a machine. Every number here is arithmetic on data sheets, not a
//! measurement.
//!
//! `step = a + b · batch + c · KV tokens read + Σ over prefill tokens (p + q · context)`
//!
//! * `a`: the weights are read once, at 80 % of the memory bandwidth, and a millisecond or so of
//!   launches and host work (and of all-reduces under tensor parallelism).
//! * `b`, `p`: two floating-point operations per parameter and token, at half of the dense bf16
//!   peak: an output token costs what a prompt token costs.
//! * `c`: one token of the KV cache is read, at 80 % of the memory bandwidth.
//! * `q`: attention of one prompt token over one token of context: `4 · layers · heads · head size`
//!   operations, at half of the peak.

use crate::failure::{Failure, Outcome};
use serde::Serialize;

/// Time to the first token that a client accepts, beside the time that its prompt takes on an idle
/// replica: two seconds and five times that time.
const TTFT_LIMIT_S: f64 = 2.0;
const TTFT_LIMIT_SOLO: f64 = 5.0;

/// A replica: constants of its step, and its KV cache.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Machine {
    /// Name, as `--machine` takes it.
    pub(crate) name: String,
    /// What it stands for.
    pub(crate) about: &'static str,
    /// Every step: `a`.
    pub(crate) step_ms: f64,
    /// Every sequence that decodes: `b`.
    pub(crate) sequence_us: f64,
    /// Every KV token that a decoding sequence reads: `c`.
    pub(crate) kv_token_ns: f64,
    /// Every prompt token: `p`.
    pub(crate) prefill_token_us: f64,
    /// Every pair of a prompt token and a token before it: `q`.
    pub(crate) prefill_context_ns: f64,
    /// Tokens that the KV cache holds.
    pub(crate) kv_tokens: u32,
    /// Mean time per output token that a client accepts.
    pub(crate) tpot_limit_ms: f64,
}

impl Machine {
    /// The known machines, the default first.
    pub(crate) fn all() -> [Self; 4] {
        // (name, about, a, b, c, p, q, KV tokens, accepted time per output token)
        [
            // 16 GB of weights at 2.68 TB/s and 1 ms; 131,072 B of KV a token; 16 GFLOP a token at
            // 495 TFLOPS; 4 · 32 layers · 32 heads · 128 = 524,288 FLOP a pair.
            ("8b-h100", "8B, one H100", 7.0, 30.0, 49.0, 30.0, 1.06, 412_000, 100.0),
            // A quarter of 141 GB, and 4 ms of all-reduces; a quarter of 327,680 B a token; 4 · 80
            // · 64 · 128 FLOP a pair, over four devices.
            ("70b-tp4-h100", "70B on four H100", 17.0, 71.0, 31.0, 71.0, 1.33, 411_000, 200.0),
            // 65 GB of weights leave an 80 GB device little: 15,300 tokens of 262,144 B. 4 · 64 ·
            // 40 · 128 FLOP a pair.
            ("32b-h100", "32B, one H100, KV-tight", 25.0, 66.0, 98.0, 121.0, 2.65, 15_300, 200.0),
            // Qwen2.5-7B: 15.2 GB of weights at 8 TB/s · 80 % = 2.4 ms and 1 ms, as for the others;
            // 57,344 B of KV a token; 15.2 GFLOP a token at 2.5 PFLOPS · 50 %; 4 · 28 · 28 · 128
            // FLOP a pair. KV tokens as the run of the external check had them.
            ("7b-gb200", "Qwen2.5-7B, one GB200", 3.4, 12.2, 9.0, 12.2, 0.32, 299_584, 100.0),
        ]
        .map(|(name, about, a, b, c, p, q, kv_tokens, tpot_limit_ms)| Self {
            name: name.to_owned(),
            about,
            step_ms: a,
            sequence_us: b,
            kv_token_ns: c,
            prefill_token_us: p,
            prefill_context_ns: q,
            kv_tokens,
            tpot_limit_ms,
        })
    }

    /// The machine of a name.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn named(name: &str) -> Outcome<Self> {
        let all = Self::all();
        let names = all.each_ref().map(|machine| machine.name.clone()).join(", ");
        all.into_iter().find(|machine| machine.name == name).ok_or_else(|| {
            Failure::bad(format!(
                "--machine: there is no machine {name:?}\nhint: known: {names}; for another one, \
                 take the nearest and set its numbers (--kv-tokens, --step-ms, ...)"
            ))
        })
    }

    /// Seconds of a step in which `batch` sequences decode, reading `kv_tokens`, beside prefill.
    pub(crate) fn step_s(&self, batch: u32, kv_tokens: u64, prefill_s: f64) -> f64 {
        self.step_ms * 1e-3
            + self.sequence_us * 1e-6 * f64::from(batch)
            + self.kv_token_ns * 1e-9 * kv_tokens as f64
            + prefill_s
    }

    /// Seconds that `tokens` of a prompt add to a step, with `context` tokens before them.
    pub(crate) fn prefill_s(&self, context: u32, tokens: u32) -> f64 {
        let (context, tokens) = (f64::from(context), f64::from(tokens));
        let pairs = tokens * context + tokens * (tokens + 1.0) / 2.0;
        self.prefill_token_us * 1e-6 * tokens + self.prefill_context_ns * 1e-9 * pairs
    }

    /// Time to the first token that a client with such a prompt accepts, in seconds.
    pub(crate) fn ttft_limit_s(&self, prompt_tokens: u32, prefill_budget_tokens: u32) -> f64 {
        let steps = f64::from(prompt_tokens.div_ceil(prefill_budget_tokens));
        let solo_s = steps * self.step_ms * 1e-3 + self.prefill_s(0, prompt_tokens);
        TTFT_LIMIT_S + TTFT_LIMIT_SOLO * solo_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_costs_what_its_parts_cost() {
        let machine = Machine::named("8b-h100").unwrap();
        let close = |got: f64, expect: f64| assert!((got - expect).abs() < 1e-9, "{got}");
        close(machine.step_s(0, 0, 0.0), 0.007);
        close(machine.step_s(10, 1000, 0.001), 0.007 + 0.0003 + 0.000_049 + 0.001);
        // Two tokens after ten: contexts 11 and 12, as each also sees itself.
        close(machine.prefill_s(10, 2), 60e-6 + 23.0 * 1.06e-9);
        // However it is cut, a prompt costs the same.
        close(machine.prefill_s(0, 7) + machine.prefill_s(7, 5), machine.prefill_s(0, 12));
        let solo_s = 0.014 + machine.prefill_s(0, 2000);
        close(machine.ttft_limit_s(2000, 1024), 2.0 + 5.0 * solo_s);
    }

    #[test]
    fn an_unknown_machine_is_named_with_the_known_ones() {
        let Err(Failure::BadInput(error)) = Machine::named("abacus") else { panic!("it is known") };
        assert!(error.to_string().contains("70b-tp4-h100"), "{error}");
    }
}
