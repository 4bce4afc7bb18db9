//! AMD Quark: a global configuration, some by layer.
//!
//! vLLM 0.32: `quark/quark.py`, `quark/quark_moe.py`, `quark/schemes/`.

use super::device::at_least;
use super::effort::Effort;
use super::form::{Axis, Form, Grain, Per};
use super::fp8::{divides, mxfp4_experts, whole_blocks};
use super::integer::in_bytes;
use super::names::{Naming, projection};
use super::pattern::{Regex, fnmatch};
use super::read::Declared;
use super::skip::{SEARCHED_MAX, all_or_none, few_expressions};
use super::{Bias, CACHE_SCALES, CacheScales, Class, ExpertsForm, ExpertsTarget, Method, Target};
use crate::error::Result as ReadResult;
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Fields, wrong};
use serde_json::Value;

#[derive(Debug)]
pub(super) struct Quark {
    naming: Naming,
    excluded: Vec<Excluded>,
    default: Scheme,
    by_layer: Vec<(String, Scheme)>,
}

#[derive(Debug)]
enum Excluded {
    Name(String),
    Regex(Regex),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    /// As the model has it: no weights are quantised.
    Plain,
    Fp8 {
        scale: Scaled,
        is_static: bool,
    },
    Int8 {
        by_channel: bool,
        is_static: bool,
        is_symmetric: bool,
    },
    Int4 {
        group: u64,
        is_symmetric: bool,
    },
    /// MX elements of so many bits; a static scale of the input.
    Mx {
        bits: u64,
        is_static: bool,
    },
    Nvfp4,
    /// 4-bit integers under 8-bit floats, for experts.
    Int4Fp8,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scaled {
    Tensor,
    Channel,
    /// By 128, single precision.
    Block,
    /// By 128, powers of two.
    PowerBlock,
}

impl Quark {
    pub(super) fn read(declared: &Declared<'_>) -> ReadResult<Self> {
        let fields = &declared.fields;
        let naming = declared.naming;
        let Some(export) = fields.object("export")? else {
            return Err(wrong(fields.path("export"), "missing"));
        };
        let is_packed = matches!(export.text("pack_method")?, None | Some("order" | "reorder"));
        let (mut excluded, mut expressions) = (Vec::new(), 0);
        for listed in fields.texts("exclude")? {
            expressions += usize::from(listed.starts_with("re:"));
            few_expressions(fields, "exclude", expressions)?;
            excluded.push(match listed.strip_prefix("re:") {
                None => Excluded::Name(naming.rename(listed)),
                Some(expression) => {
                    Excluded::Regex(Regex::compile(expression).map_err(|problem| {
                        wrong(fields.path("exclude"), format!("`{listed:.60}`: {problem}"))
                    })?)
                }
            });
        }
        let default = match fields.object("global_quant_config")? {
            Some(global) => Scheme::read(&global, is_packed)?,
            None => Scheme::Plain,
        };
        let mut by_layer = Vec::new();
        if let Some(layers) = fields.object("layer_quant_config")? {
            for name in layers.names() {
                let Some(layer) = layers.object(name)? else { continue };
                by_layer.push((naming.rename(name), Scheme::read(&layer, is_packed)?));
            }
        }
        if excluded.len().max(by_layer.len()) > SEARCHED_MAX {
            let problem = format!("more than {SEARCHED_MAX} layers");
            return Err(wrong(fields.path("layer_quant_config"), problem));
        }
        Ok(Self { naming, excluded, default, by_layer })
    }

    fn is_excluded(&self, name: &str, below: bool, effort: &Effort) -> Result<bool, String> {
        let has = |name: &str| {
            effort.search(self.excluded.len())
                && self.excluded.iter().any(|excluded| match excluded {
                    Excluded::Name(listed) => listed == name,
                    Excluded::Regex(regex) => regex.is_match(name, effort),
                })
        };
        let start = format!("{name}.");
        let is_below =
            |excluded: &Excluded| matches!(excluded, Excluded::Name(n) if n.starts_with(&start));
        if has(name) || below && self.excluded.iter().any(is_below) {
            return Ok(true);
        }
        match self.naming.packed(projection(name)) {
            Some(_) => all_or_none(name, &self.naming, has),
            None => Ok(false),
        }
    }

    fn scheme(&self, name: &str, effort: &Effort) -> Result<Scheme, String> {
        let of = |name: &str| {
            effort.search(self.by_layer.len());
            let is_it = |pattern: &str| match pattern.contains('*') {
                true => fnmatch(name, pattern, effort),
                false => pattern.contains(name),
            };
            let found = self.by_layer.iter().find(|(pattern, _)| is_it(pattern));
            found.map_or(self.default, |(_, scheme)| *scheme)
        };
        let Some(parts) = self.naming.parts(name) else { return Ok(of(name)) };
        let schemes: Vec<Scheme> = parts.iter().map(|part| of(part)).collect();
        match schemes.split_first() {
            Some((first, rest)) if rest.iter().all(|scheme| scheme == first) => Ok(*first),
            _ => Err("its parts are quantised differently".into()),
        }
    }
}

/// The one element of a list of one, else the thing itself.
fn single<'a>(fields: &Fields<'a>, name: &str) -> ReadResult<(Option<Fields<'a>>, usize)> {
    match fields.value(name) {
        Some(Value::Array(_)) => {
            let all = fields.objects(name)?;
            Ok((all.first().cloned(), all.len()))
        }
        _ => {
            let one = fields.object(name)?;
            let count = usize::from(one.is_some());
            Ok((one, count))
        }
    }
}

impl Scheme {
    fn read(fields: &Fields<'_>, is_packed: bool) -> ReadResult<Self> {
        let (weight, weights) = single(fields, "weight")?;
        let (input, inputs) = single(fields, "input_tensors")?;
        let Some(weight) = weight else { return Ok(Self::Plain) };
        let dtype = weight.text("dtype")?.unwrap_or_default();
        let by = weight.text("qscheme")?.unwrap_or_default();
        let group = weight.count("group_size", 1 << 24)?;
        if weights == 2 {
            return Ok(match (dtype, by, group) {
                ("fp4", "per_group", Some(16)) if inputs == 2 => Self::Nvfp4,
                ("fp8_e4m3", "per_tensor", _) => Self::Int4Fp8,
                _ => Self::Unknown,
            });
        }
        let is_dynamic = match &input {
            Some(input) => input.flag("is_dynamic", false)?,
            None => true,
        };
        let input_dtype = match &input {
            Some(input) => input.text("dtype")?,
            None => None,
        };
        let blocks = weight.counts("block_size", 1 << 16)?.unwrap_or_default();
        Ok(match (dtype, by, input_dtype) {
            ("fp8_e4m3", "per_tensor", Some("fp8_e4m3")) => {
                Self::Fp8 { scale: Scaled::Tensor, is_static: !is_dynamic }
            }
            ("fp8_e4m3", "per_channel", Some("fp8_e4m3")) => {
                Self::Fp8 { scale: Scaled::Channel, is_static: !is_dynamic }
            }
            ("fp8_e4m3", "per_block", Some("fp8_e4m3")) if blocks == [128, 128] => {
                let is_power = weight.text("scale_type")? == Some("float8_e8m0fnu");
                let scale = if is_power { Scaled::PowerBlock } else { Scaled::Block };
                Self::Fp8 { scale, is_static: false }
            }
            ("int8", "per_tensor" | "per_channel", Some("int8")) => Self::Int8 {
                by_channel: by == "per_channel",
                is_static: !is_dynamic,
                is_symmetric: match &input {
                    Some(input) => input.flag("symmetric", true)?,
                    None => true,
                },
            },
            ("int4" | "uint4", _, None) if is_packed => Self::Int4 {
                group: group.unwrap_or(0).into(),
                is_symmetric: weight.flag("symmetric", true)?,
            },
            ("fp4", "per_group", _) if group == Some(32) => {
                Self::Mx { bits: 4, is_static: !is_dynamic }
            }
            ("fp6_e3m2" | "fp6_e2m3", "per_group", _) if group == Some(32) => {
                Self::Mx { bits: 6, is_static: !is_dynamic }
            }
            ("fp8_e4m3", "per_group", _) if group == Some(32) => {
                Self::Mx { bits: 8, is_static: !is_dynamic }
            }
            ("fp8_e4m3", "per_block", _) if blocks.get(1) == Some(&32) => {
                Self::Mx { bits: 8, is_static: !is_dynamic }
            }
            _ => Self::Unknown,
        })
    }
}

fn mx(bits: u64) -> Form {
    let container = if bits == 8 { Dtype::Fp8E4m3 } else { Dtype::Uint8 };
    Form::mx(container, bits)
}

fn int8(by_channel: bool) -> Form {
    let form = Form::int8(if by_channel { Grain::Output } else { Grain::Part });
    form.zeros(true)
}

const UNKNOWN: &str = "vLLM 0.32 has no scheme for what Quark's config says of it";

impl Method for Quark {
    fn name(&self) -> &'static str {
        "quark"
    }

    fn form(&self, target: &Target<'_>) -> Result<Option<Form>, String> {
        if !matches!(target.class, Class::Linear(_))
            || self.is_excluded(target.name, false, target.effort)?
        {
            return Ok(None);
        }
        let input = target.matrix.input;
        Ok(Some(match self.scheme(target.name, target.effort)? {
            Scheme::Plain => return Ok(None),
            Scheme::Fp8 { scale, is_static } => {
                // Unlike other methods, it has no weight-only form for older devices.
                at_least((8, 9), "Quark's fp8", target.hardware)?;
                let form = match scale {
                    Scaled::Tensor => Form::fp8(Grain::Part),
                    Scaled::Channel => Form::fp8(Grain::Output),
                    Scaled::Block | Scaled::PowerBlock => {
                        whole_blocks(target, (128, 128))?;
                        let power = scale == Scaled::PowerBlock;
                        let scale = if power { Dtype::E8m0 } else { Dtype::Float32 };
                        Form::of(Dtype::Fp8E4m3, Some(scale), Grain::Block(128, 128))
                    }
                };
                form.input_scale(Per::Part, is_static)
            }
            Scheme::Int8 { by_channel, is_static, is_symmetric } => {
                let form = int8(by_channel).input_scale(Per::Matrix, is_static);
                match is_static && !is_symmetric {
                    true => form.scalar(Dtype::Int8, Per::Matrix, 1),
                    false => form,
                }
            }
            Scheme::Int4 { group, .. } => {
                divides(input, group.max(1))?;
                Form::packed(4, group, Axis::Output).zeros(true)
            }
            Scheme::Mx { bits, is_static } => {
                divides(input, 32)?;
                mx(bits).input_scale(Per::Part, is_static)
            }
            Scheme::Nvfp4 => {
                divides(input, 16)?;
                Form::nvfp4(16, true)
            }
            Scheme::Int4Fp8 | Scheme::Unknown => return Err(UNKNOWN.into()),
        }))
    }

    fn experts(&self, target: &ExpertsTarget<'_>) -> Result<Option<ExpertsForm>, String> {
        if self.is_excluded(target.name, true, target.effort)? {
            return Ok(None);
        }
        // Biases, where there are any, are of single precision.
        let single = Bias::AsModel(Some(Dtype::Float32));
        let form = match self.scheme(target.name, target.effort)? {
            Scheme::Plain | Scheme::Unknown => return Err(UNKNOWN.into()),
            Scheme::Fp8 { scale, is_static } => {
                let grain = match scale {
                    Scaled::Tensor => Grain::Part,
                    Scaled::Channel => Grain::Output,
                    Scaled::Block | Scaled::PowerBlock => {
                        divides(target.inner, 128)?;
                        Grain::Block(128, 128)
                    }
                };
                Form::fp8(grain).input_scale(Per::Matrix, is_static)
            }
            Scheme::Int8 { by_channel, is_static, .. } => int8(by_channel)
                .input_scale(Per::Matrix, is_static)
                .scalar(Dtype::Int8, Per::Part, 1),
            Scheme::Int4 { group, .. } => return in_bytes(target, 4, group, true).map(Some),
            Scheme::Mx { bits: 4, is_static } => {
                let mut form = mxfp4_experts(target.hardware).bias(single);
                form.form = form.form.input_scale(Per::Matrix, is_static);
                return Ok(Some(form));
            }
            Scheme::Mx { bits, is_static } => mx(bits).input_scale(Per::Matrix, is_static),
            Scheme::Nvfp4 => {
                return Ok(Some(
                    ExpertsForm::from(Form::nvfp4(16, true)).bias(Bias::Always(false)),
                ));
            }
            Scheme::Int4Fp8 => {
                // A scale a matrix over one an output.
                let form = Form::packed(4, 0, Axis::Input);
                let form = Form { scale: Form::fp8(Grain::Output).scale, ..form };
                form.scalar(Dtype::Float32, Per::Part, 1)
            }
        };
        Ok(Some(ExpertsForm::from(form).bias(single)))
    }

    fn cache_scales(&self) -> CacheScales {
        CACHE_SCALES
    }
}
