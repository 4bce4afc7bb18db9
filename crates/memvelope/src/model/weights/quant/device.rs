//! Which methods of quantisation a device runs.

use super::Hardware;
use crate::model::dtype::Dtype;
use crate::model::refusal::{Refusal, RefusalRule};

/// What vLLM asks of a device for a method: its name, the least compute capability
/// (`get_min_capability`), and whether it computes in bfloat16 only (`get_supported_act_dtypes`).
const METHODS: &[(&str, (u32, u32), bool)] = &[
    ("auto_awq", (7, 5), false),
    ("auto_gptq", (6, 0), false),
    ("compressed-tensors", (7, 0), false),
    ("deepseek_v4_fp8", (7, 5), false),
    ("experts_int8", (8, 0), false),
    ("fp8", (7, 5), false),
    ("gpt_oss_mxfp4", (8, 0), true),
    ("inc", (6, 0), false),
    ("modelopt", (8, 0), false),
    ("modelopt_fp4", (7, 5), false),
    ("modelopt_mixed", (7, 5), false),
    ("modelopt_mxfp8", (8, 0), true),
    ("mxfp4", (8, 0), true),
    ("quark", (7, 0), false),
    ("torchao", (7, 5), false),
];

/// What a scheme of a method asks beyond the method itself.
pub(super) fn at_least(least: (u32, u32), scheme: &str, hardware: Hardware) -> Result<(), String> {
    let (major, minor) = hardware.capability;
    if major == 0 || hardware.capability >= least {
        return Ok(());
    }
    Err(format!(
        "{scheme} needs compute capability {}.{}, and this device has {major}.{minor}",
        least.0, least.1
    ))
}

/// # Errors
/// [`Refusal`] where vLLM does not run the method on such a device or in this type.
pub(super) fn check(method: &str, dtype: Dtype, hardware: Hardware) -> Result<(), Refusal> {
    let Some((_, least, is_bf16_only)) = METHODS.iter().find(|(name, ..)| *name == method) else {
        return Ok(());
    };
    // A CPU has none.
    let (major, minor) = hardware.capability;
    if major > 0 && hardware.capability < *least {
        let reason = format!(
            "quantisation {method} needs compute capability {}.{}, and this device has \
             {major}.{minor}",
            least.0, least.1
        );
        return Err(Refusal::new(RefusalRule::Dtype, reason));
    }
    if *is_bf16_only && dtype != Dtype::Bfloat16 {
        let reason = format!(
            "quantisation {method} is served in bfloat16 only, and the config says {dtype}; set \
             --dtype bfloat16"
        );
        return Err(Refusal::new(RefusalRule::Dtype, reason));
    }
    Ok(())
}
