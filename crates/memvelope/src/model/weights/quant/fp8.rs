//! `fp8` (DeepSeek's blocks, or one scale a matrix), its variant for DeepSeek V4, and `mxfp4`.
//!
//! vLLM 0.32: `fp8.py`, `mxfp4.py`, `models/deepseek_v41/quant_config.py`.

use super::form::{Form, Grain, Per};
use super::names::Naming;
use super::read::Declared;
use super::skip::{Mode, Skip};
use super::{
    Bias, CACHE_SCALES, CacheScales, Class, ExpertsForm, ExpertsTarget, Hardware, Method, Target,
};
use crate::error::Result as ReadResult;
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Fields, kind, wrong};

/// The block of scales, outputs by inputs.
pub(super) type Block = (u64, u64);

/// Largest side of a block of scales.
const BLOCK_MAX: u32 = 1 << 16;

#[derive(Debug)]
pub(super) struct Fp8 {
    name: &'static str,
    block: Option<Block>,
    is_static: bool,
    skip: Skip,
    mode: Mode,
    naming: Naming,
    experts: ExpertsKind,
    /// Patterns of expert layers that keep MXFP4 though others are NVFP4.
    not_nvfp4: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExpertsKind {
    Fp8,
    Mxfp4,
    Nvfp4,
}

impl Fp8 {
    pub(super) fn read(declared: &Declared<'_>) -> ReadResult<Self> {
        let fields = &declared.fields;
        let block = block(fields, "weight_block_size")?;
        let is_static = match fields.text("activation_scheme")? {
            Some("static") => true,
            Some("dynamic") => false,
            found => {
                let found = found.unwrap_or("missing");
                let field = fields.path("activation_scheme");
                return Err(wrong(field, format!("{found:.40}; expected static or dynamic")));
            }
        };
        if is_static && block.is_some() {
            let problem = "static, but scales by block need a dynamic one";
            return Err(wrong(fields.path("activation_scheme"), problem));
        }
        let naming = declared.naming;
        let mut skip = Skip::read(fields, "ignored_layers", &naming)?;
        if skip.names.is_empty() {
            skip = Skip::read(fields, "modules_to_not_convert", &naming)?;
        }
        let is_v4 = declared.name == "deepseek_v4_fp8";
        let experts = if is_v4 {
            match declared.config.root.text("expert_dtype")? {
                Some("fp8") => ExpertsKind::Fp8,
                None | Some("fp4") => match fields.text("moe_quant_algo")? {
                    Some(algorithm) if algorithm.eq_ignore_ascii_case("nvfp4") => {
                        ExpertsKind::Nvfp4
                    }
                    _ => ExpertsKind::Mxfp4,
                },
                Some(other) => {
                    let problem = format!("`{other:.40}`; expected fp4 or fp8");
                    return Err(wrong(declared.config.root.path("expert_dtype"), problem));
                }
            }
        } else if fields.text("store_dtype")? == Some("mxfp4") {
            ExpertsKind::Mxfp4
        } else {
            ExpertsKind::Fp8
        };
        let ignored = if is_v4 { fields.texts("ignore")? } else { Vec::new() };
        // `bailing_moe_v3.py` reads the list by endings.
        let is_suffix = declared.is_model_type("bailing_moe_v3")?
            || declared.is_model_type("bailing_hybrid_v3")?;
        Ok(Self {
            name: declared.name,
            block,
            is_static,
            skip,
            mode: if is_suffix { Mode::Suffix } else { Mode::Exact },
            naming,
            experts,
            not_nvfp4: ignored.into_iter().map(str::to_owned).collect(),
        })
    }

    fn is_v4(&self) -> bool {
        self.name == "deepseek_v4_fp8"
    }

    /// Scales of DeepSeek V4's matrices are powers of two where its experts are 4-bit.
    fn has_power_scales(&self) -> bool {
        self.is_v4() && self.experts != ExpertsKind::Fp8
    }
}

impl Method for Fp8 {
    fn name(&self) -> &'static str {
        self.name
    }

    fn form(&self, target: &Target<'_>) -> Result<Option<Form>, String> {
        let is_linear = matches!(target.class, Class::Linear(_));
        if !is_linear || self.skip.has(target.name, Some(&self.naming), self.mode, target.effort)? {
            return Ok(None);
        }
        Ok(Some(match self.block {
            Some((32, 32)) if self.has_power_scales() => {
                divides(target.matrix.input, 32)?;
                Form::mxfp8()
            }
            Some(block) => {
                // A matrix of several outputs may have a block across them.
                if target.matrix.parts == 1 {
                    whole_blocks(target, block)?;
                }
                let scale = if self.has_power_scales() { Dtype::E8m0 } else { Dtype::Float32 };
                Form::of(Dtype::Fp8E4m3, Some(scale), Grain::Block(block.0, block.1))
            }
            None => Form::fp8(Grain::Part).input_scale(Per::Part, self.is_static),
        }))
    }

    fn experts(&self, target: &ExpertsTarget<'_>) -> Result<Option<ExpertsForm>, String> {
        let mode = if self.is_v4() { Mode::Exact } else { self.mode };
        if self.skip.has(target.name, Some(&self.naming), mode, target.effort)? {
            return Ok(None);
        }
        let is_nvfp4 = self.experts == ExpertsKind::Nvfp4 && {
            // The list names modules as the checkpoint does, without `model.`.
            let name = target.name.strip_prefix("model.").unwrap_or(target.name);
            !self
                .not_nvfp4
                .iter()
                .any(|pattern| super::pattern::fnmatch(name, pattern, target.effort))
        };
        Ok(Some(match self.experts {
            ExpertsKind::Nvfp4 if is_nvfp4 => {
                ExpertsForm::from(Form::nvfp4(16, true)).bias(Bias::Always(false))
            }
            ExpertsKind::Mxfp4 | ExpertsKind::Nvfp4 => mxfp4_experts(target.hardware),
            ExpertsKind::Fp8 => fp8_experts(target, self.block, self.is_static)?,
        }))
    }

    fn cache_scales(&self) -> CacheScales {
        // V4's attention is a class of its own, which keeps none.
        if self.is_v4() { CacheScales::default() } else { CACHE_SCALES }
    }
}

/// Experts in 8-bit floats with scales by block, or one a matrix.
pub(super) fn fp8_experts(
    target: &ExpertsTarget<'_>,
    block: Option<Block>,
    is_static: bool,
) -> Result<ExpertsForm, String> {
    let Some(block) = block else {
        return Ok(Form::fp8(Grain::Part).input_scale(Per::Matrix, is_static).into());
    };
    let (rows, columns) = block;
    let inner = target.inner;
    let fits =
        inner.is_multiple_of(rows) && (!target.divides_inner() || inner.is_multiple_of(columns));
    if fits {
        return Ok(Form::fp8(Grain::Block(rows, columns)).into());
    }
    // Scales are spread over smaller blocks, down to 32 (`refine_fp8_moe_block_shape`).
    let refined = [rows, columns, inner, target.experts.hidden].into_iter().fold(0, gcd);
    if refined < 32 {
        return Err(format!(
            "width {inner} of an expert on a rank is not of whole blocks of {rows}"
        ));
    }
    Ok(Form::fp8(Grain::Block(refined, refined)).into())
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What `validate_fp8_block_shape` asks of a matrix: whole blocks on a rank, and in each of several
/// outputs but the last.
pub(super) fn whole_blocks(target: &Target<'_>, block: Block) -> Result<(), String> {
    if target.divides_input {
        divides(target.matrix.input, block.1)?;
    }
    let checked = match (target.divides_output, target.outs.split_last()) {
        (true, _) => target.outs,
        (false, Some((_, others))) => others,
        (false, None) => &[],
    };
    checked.iter().try_for_each(|&out| divides(out, block.0))
}

pub(super) fn divides(amount: u64, by: u64) -> Result<(), String> {
    if amount.is_multiple_of(by) {
        return Ok(());
    }
    Err(format!("{amount} on a rank is not a multiple of the block of scales, {by}"))
}

/// A pair of block sizes.
pub(super) fn block(fields: &Fields<'_>, field: &str) -> ReadResult<Option<Block>> {
    match fields.counts(field, BLOCK_MAX)?.as_deref() {
        None => Ok(None),
        Some(&[rows, columns]) if rows > 0 && columns > 0 => {
            Ok(Some((rows.into(), columns.into())))
        }
        Some(_) => {
            let found = fields.value(field).map_or("nothing".into(), kind);
            Err(wrong(fields.path(field), format!("{found}; expected two sizes above 0")))
        }
    }
}

/// Experts in MXFP4 as vLLM lays them out for DeepSeek V4 and others: Humming's kernel on Hopper,
/// TensorRT-LLM's or Marlin's elsewhere (`mxfp4_round_up_hidden_size_and_intermediate_size`).
pub(super) fn mxfp4_experts(hardware: Hardware) -> ExpertsForm {
    let (hidden, inner) = if hardware.capability == (9, 0) { (1, 64) } else { (256, 128) };
    let form = ExpertsForm::from(Form::mxfp4()).round(hidden, inner);
    form.bias(Bias::AsModel(Some(Dtype::Bfloat16)))
}

/// `mxfp4`: experts alone.
#[derive(Debug)]
pub(super) struct Mxfp4 {
    name: &'static str,
}

impl Mxfp4 {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name }
    }
}

impl Method for Mxfp4 {
    fn name(&self) -> &'static str {
        self.name
    }

    fn form(&self, _: &Target<'_>) -> Result<Option<Form>, String> {
        Ok(None)
    }

    fn experts(&self, target: &ExpertsTarget<'_>) -> Result<Option<ExpertsForm>, String> {
        let form = mxfp4_experts(target.hardware);
        Ok(Some(match self.name {
            // Triton's kernel serves gpt-oss on Hopper.
            "gpt_oss_mxfp4" if target.hardware.capability.0 == 9 => form.round(1, 64),
            _ => form,
        }))
    }
}
