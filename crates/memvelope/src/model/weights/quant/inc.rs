//! Intel Neural Compressor and AutoRound: integers in GPTQ's or AWQ's packing, FP8 by block, MX
//! formats.
//!
//! vLLM 0.32: `inc/inc.py`, `inc/config_parser.py`, `inc/schemes/`.

use super::effort::Effort;
use super::form::{Form, Grain};
use super::fp8::{fp8_experts, mxfp4_experts};
use super::integer::{awq, fits_marlin, gptq, in_bytes, whole_groups};
use super::names::Naming;
use super::pattern::Regex;
use super::read::Declared;
use super::skip::few_expressions;
use super::{Bias, Class, ExpertsForm, ExpertsTarget, Method, Target};
use crate::error::Result as ReadResult;
use crate::model::hf_config::{Fields, wrong};
use std::collections::BTreeMap;

#[derive(Debug)]
pub(super) struct Inc {
    base: Layer,
    packing: Packing,
    naming: Naming,
    blocks: Vec<String>,
    layers: BTreeMap<String, Layer>,
    expressions: Vec<(Regex, Layer)>,
}

/// Bits, group and symmetry of a layer; 16 bits are as the model has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layer {
    bits: u32,
    /// 0: one a channel.
    group: u64,
    is_symmetric: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gptq,
    Awq,
    Fp8Block(u64, u64),
    Mx,
}

impl Inc {
    pub(super) fn read(declared: &Declared<'_>) -> ReadResult<Self> {
        let fields = &declared.fields;
        let kind = fields.text("data_type")?.unwrap_or("int");
        let packing = fields.text("packing_format")?.unwrap_or_default();
        let backend = match fields.text("backend")? {
            Some(backend) => backend,
            None => fields.text("vllm_backend")?.unwrap_or("auto"),
        };
        let packing = match kind {
            "int" if packing.contains("awq") || backend.contains("awq") => Packing::Awq,
            "int" => Packing::Gptq,
            "fp" | "fp8" => match super::fp8::block(fields, "group_size")? {
                Some((rows, columns)) => Packing::Fp8Block(rows, columns),
                None => return Err(wrong(fields.path("group_size"), "missing; expected a block")),
            },
            kind if kind.contains("mx_fp") => Packing::Mx,
            other => {
                let problem = format!("`{other:.40}`; expected int, fp or mx_fp");
                return Err(wrong(fields.path("data_type"), problem));
            }
        };
        let bits = fields.required(&["bits"], 32)?;
        if !(2..=8).contains(&bits) {
            return Err(wrong(fields.path("bits"), format!("{bits}; expected 2 to 8")));
        }
        let mut base = Layer { bits, group: 0, is_symmetric: fields.flag("sym", true)? };
        if !matches!(packing, Packing::Fp8Block(..)) {
            base = base.with(fields)?;
        }
        let blocks = match fields.value("block_name_to_quantize") {
            Some(serde_json::Value::String(names)) => names.split(',').collect(),
            Some(_) => fields.texts("block_name_to_quantize")?,
            None => match fields.value("to_quant_block_names") {
                Some(serde_json::Value::String(names)) => names.split(',').collect(),
                _ => Vec::new(),
            },
        };
        let naming = declared.naming;
        let blocks: Vec<String> = blocks.into_iter().map(|name| naming.rename(name)).collect();
        let (layers, expressions) = layers(fields, &naming, base)?;
        Ok(Self { base, packing, naming, blocks, layers, expressions })
    }

    /// What the config says of a layer by name.
    fn configured(&self, name: &str, effort: &Effort) -> Option<Layer> {
        let by_expression =
            || self.expressions.iter().find(|(regex, _)| regex.is_found(name, effort));
        self.layers.get(name).copied().or_else(|| by_expression().map(|(_, layer)| *layer))
    }

    /// `_resolve_raw`.
    fn of(
        &self,
        name: &str,
        is_head: bool,
        is_experts: bool,
        effort: &Effort,
    ) -> Result<Layer, String> {
        if let Some(layer) = self.layers.get(name) {
            return Ok(*layer);
        }
        // Names without their beginning.
        let mut rest = name;
        while let Some((_, after)) = rest.split_once('.') {
            if let Some(layer) = self.layers.get(after) {
                return Ok(*layer);
            }
            rest = after;
        }
        let is_quantised = match self.blocks.is_empty() {
            true => !is_head,
            false => {
                effort.search(self.blocks.len())
                    && self.blocks.iter().any(|block| name.starts_with(block.as_str()))
            }
        };
        let default = match is_quantised {
            true => self.base,
            false => Layer { bits: 16, group: 0, is_symmetric: true },
        };
        let agreed = |of: Vec<Layer>| match of.split_first() {
            Some((first, rest)) if rest.iter().all(|layer| layer == first) => Ok(*first),
            _ => Err("its parts are quantised differently".to_owned()),
        };
        if is_experts {
            let below = self.layers.range(name.to_owned()..);
            let below: Vec<Layer> =
                below.take_while(|(key, _)| key.starts_with(name)).map(|(_, l)| *l).collect();
            effort.search(below.len());
            if !below.is_empty() {
                return agreed(below);
            }
        }
        if let Some(parts) = self.naming.parts(name)
            && parts.iter().any(|part| self.configured(part, effort).is_some())
        {
            return agreed(
                parts.iter().map(|p| self.configured(p, effort).unwrap_or(default)).collect(),
            );
        }
        Ok(self.configured(name, effort).unwrap_or(default))
    }
}

impl Layer {
    /// With what `fields` say differently.
    fn with(mut self, fields: &Fields<'_>) -> ReadResult<Self> {
        if fields.value("bits").is_some() {
            self.bits = fields.count("bits", 64)?.unwrap_or(self.bits);
        }
        match fields.value("group_size").map(serde_json::Value::as_i64) {
            None => {}
            Some(Some(-1)) => self.group = 0,
            Some(_) => self.group = fields.count("group_size", 1 << 24)?.unwrap_or(0).into(),
        }
        self.is_symmetric = fields.flag("sym", self.is_symmetric)?;
        Ok(self)
    }
}

type Layers = (BTreeMap<String, Layer>, Vec<(Regex, Layer)>);

fn layers(fields: &Fields<'_>, naming: &Naming, base: Layer) -> ReadResult<Layers> {
    let (mut layers, mut expressions) = (BTreeMap::new(), Vec::new());
    let Some(extra) = fields.object("extra_config")? else { return Ok((layers, expressions)) };
    for name in extra.names() {
        let Some(layer) = extra.object(name)? else { continue };
        let layer = base.with(&layer)?;
        let renamed = naming.rename(name);
        if renamed.contains(['*', '+', '?', '^', '$', '(', '[', '{', '|', '\\']) {
            // vLLM passes over what is no expression, and so does this.
            if let Ok(regex) = Regex::compile(&renamed) {
                expressions.push((regex, layer));
                few_expressions(fields, "extra_config", expressions.len())?;
            }
        }
        layers.insert(renamed, layer);
    }
    Ok((layers, expressions))
}

impl Method for Inc {
    fn name(&self) -> &'static str {
        "inc"
    }

    fn form(&self, target: &Target<'_>) -> Result<Option<Form>, String> {
        if target.class == Class::Vocabulary {
            return Ok(None);
        }
        let layer = self.of(target.name, target.class == Class::Head, false, target.effort)?;
        if layer.bits >= 16 {
            return Ok(None);
        }
        let bits = u64::from(layer.bits);
        Ok(Some(match self.packing {
            Packing::Fp8Block(rows, columns) => Form::fp8(Grain::Block(rows, columns)),
            Packing::Mx if layer.bits == 4 => Form::mxfp4(),
            Packing::Mx => Form::mxfp8(),
            Packing::Gptq | Packing::Awq => {
                whole_groups(target, layer.group)?;
                match self.packing {
                    Packing::Awq => awq(bits, layer.group),
                    _ if layer.is_symmetric || !matches!(layer.bits, 4 | 8) => {
                        gptq(bits, layer.group)
                    }
                    _ => return Err("vLLM 0.32 serves symmetric values only".into()),
                }
            }
        }))
    }

    fn experts(&self, target: &ExpertsTarget<'_>) -> Result<Option<ExpertsForm>, String> {
        let layer = self.of(target.name, false, true, target.effort)?;
        if layer.bits >= 16 {
            return Ok(None);
        }
        let (bits, group) = (u64::from(layer.bits), layer.group);
        let takes_marlin = fits_marlin(target, group, false);
        Ok(Some(match self.packing {
            Packing::Fp8Block(rows, columns) => fp8_experts(target, Some((rows, columns)), false)?,
            Packing::Mx if layer.bits == 4 => mxfp4_experts(target.hardware),
            Packing::Mx => ExpertsForm::from(Form::mxfp8()).bias(Bias::Always(false)),
            Packing::Gptq if takes_marlin && layer.is_symmetric => {
                ExpertsForm::from(gptq(bits, group)).bias(Bias::Always(true))
            }
            Packing::Awq if takes_marlin => {
                ExpertsForm::from(awq(bits, group)).bias(Bias::Always(false))
            }
            Packing::Gptq | Packing::Awq => in_bytes(target, bits, group, !layer.is_symmetric)?,
        }))
    }
}
