//! NVIDIA ModelOpt: FP8, NVFP4, MXFP8, and mixtures of them by layer.
//!
//! vLLM 0.32: `modelopt.py`.

use super::effort::Effort;
use super::form::{Form, Grain, Per};
use super::fp8::{Block, divides, fp8_experts};
use super::names::{Naming, projection};
use super::pattern::fnmatch;
use super::read::Declared;
use super::skip::{Mode, SEARCHED_MAX, Skip};
use super::{Bias, CACHE_SCALES, CacheScales, Class, ExpertsForm, ExpertsTarget, Method, Target};
use crate::error::Result as ReadResult;
use crate::model::hf_config::{Document, Fields, wrong};
use std::collections::BTreeMap;

#[derive(Debug)]
pub(super) struct ModelOpt {
    name: &'static str,
    naming: Naming,
    excluded: Skip,
    wildcards: Vec<String>,
    kind: Kind,
    group: u64,
    /// The checkpoint declares a quantised cache.
    has_cache: bool,
}

#[derive(Debug)]
enum Kind {
    Uniform(Algorithm),
    /// By layer; and the block of those with scales by block.
    Mixed(BTreeMap<String, Algorithm>, Block),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Fp8,
    Fp8Channel,
    Fp8Block,
    Nvfp4,
    Nvfp4Weights,
    Mxfp8,
}

impl Algorithm {
    fn read(name: &str) -> Option<Self> {
        Some(match name.to_uppercase().as_str() {
            "FP8" => Self::Fp8,
            "FP8_PER_CHANNEL_PER_TOKEN" => Self::Fp8Channel,
            "FP8_PB_WO" | "FP8_BLOCK_SCALES" => Self::Fp8Block,
            "NVFP4" => Self::Nvfp4,
            "W4A16_NVFP4" => Self::Nvfp4Weights,
            "MXFP8" => Self::Mxfp8,
            _ => return None,
        })
    }
}

/// Layers of a mixture; one has 22,000.
const LAYERS_MAX: usize = 1 << 20;

impl ModelOpt {
    pub(super) fn read(declared: &Declared<'_>, separate: Option<&Document>) -> ReadResult<Self> {
        let name = declared.name;
        // Older mixtures keep the layers in the separate file alone.
        let separate = separate.map(Document::root);
        let fields = match separate {
            Some(other) if name == "modelopt_mixed" && layers(&declared.fields)?.is_none() => other,
            _ => declared.fields.clone(),
        };
        let nested = fields.object("quantization")?;
        let (inner, list) = match &nested {
            Some(nested) => (nested, "exclude_modules"),
            // MiniMax's checkpoints say `mxfp8` and nothing of ModelOpt.
            None if !fields.is_present("quant_algo") => (&fields, "ignored_layers"),
            None => (&fields, "ignore"),
        };
        let naming = declared.naming;
        let (excluded, wildcards) = excluded(inner, list, &naming)?;
        let algorithm = inner.text("quant_algo")?.unwrap_or("MXFP8");
        let mut group = inner.count("group_size", 1 << 16)?;
        let kind = if name == "modelopt_mixed" {
            let (by_layer, block, of_layers) = mixture(&fields, &naming)?;
            group = group.or(of_layers);
            Kind::Mixed(by_layer, block)
        } else {
            let unknown = || {
                let known = "FP8, FP8_PB_WO, FP8_PER_CHANNEL_PER_TOKEN, MXFP8, NVFP4, W4A16_NVFP4";
                wrong(inner.path("quant_algo"), format!("`{algorithm:.40}`; known: {known}"))
            };
            let known = Algorithm::read(algorithm).ok_or_else(unknown)?;
            Kind::Uniform(if known == Algorithm::Nvfp4 && has_weights_only(&fields)? {
                Algorithm::Nvfp4Weights
            } else {
                known
            })
        };
        let group = u64::from(group.unwrap_or(16));
        let has_cache = match &nested {
            Some(nested) => nested.text("kv_cache_quant_algo")?.is_some(),
            None => match fields.object("kv_cache_scheme").ok().flatten() {
                Some(scheme) => {
                    scheme.text("type")? == Some("float")
                        && scheme.count("num_bits", 64)? == Some(8)
                }
                None => false,
            },
        };
        Ok(Self { name, naming, excluded, wildcards, kind, group, has_cache })
    }

    /// `is_layer_excluded`.
    fn is_excluded(&self, name: &str, effort: &Effort) -> Result<bool, String> {
        if self.excluded.has(name, Some(&self.naming), Mode::Exact, effort)? {
            return Ok(true);
        }
        let is_part = |listed: &String| listed != name && name.contains(listed.as_str());
        Ok(effort.search(self.excluded.names.len()) && self.excluded.names.iter().any(is_part)
            || self.wildcards.iter().any(|pattern| fnmatch(name, pattern, effort)))
    }

    fn algorithm(&self, name: &str, effort: &Effort) -> Result<Option<Algorithm>, String> {
        if self.is_excluded(name, effort)? {
            return Ok(None);
        }
        match &self.kind {
            Kind::Uniform(_)
                if ["vision_tower", "vision_model", "vit_large_projector"]
                    .iter()
                    .any(|part| name.contains(part)) =>
            {
                Ok(None)
            }
            Kind::Uniform(algorithm) => Ok(Some(*algorithm)),
            Kind::Mixed(layers, _) => self.of_layer(layers, name),
        }
    }

    /// `_resolve_quant_algo`: by the module's name, by its parts', by any below it.
    fn of_layer(
        &self,
        layers: &BTreeMap<String, Algorithm>,
        name: &str,
    ) -> Result<Option<Algorithm>, String> {
        let candidates = candidates(name);
        if let Some(found) = candidates.iter().find_map(|name| layers.get(name)) {
            return Ok(Some(*found));
        }
        if self.naming.packed(projection(name)).is_some() {
            let mut found: Option<Algorithm> = None;
            for candidate in &candidates {
                for part in self.naming.parts(candidate).unwrap_or_default() {
                    let Some(&algorithm) = layers.get(&part) else { continue };
                    if found.is_some_and(|found| found != algorithm) {
                        return Err("its parts are quantised by different algorithms".into());
                    }
                    found = Some(algorithm);
                }
            }
            if found.is_some() {
                return Ok(found);
            }
        }
        let below = |parent: &str| {
            let start = format!("{parent}.");
            let next = layers.range(start.clone()..).next();
            next.filter(|(name, _)| name.starts_with(&start)).map(|(_, algorithm)| *algorithm)
        };
        if let Some(found) = candidates.iter().find_map(|name| below(name)) {
            return Ok(Some(found));
        }
        Ok(name.strip_suffix(".experts").and_then(below))
    }
}

/// Other spellings of a name, `_quantized_layer_prefix_candidates`.
fn candidates(name: &str) -> Vec<String> {
    let mut all = vec![name.to_owned()];
    if name.ends_with(".lm_head") {
        all.push("lm_head".into());
    }
    if let Some(rest) = name.strip_prefix("language_model.model.") {
        all.push(format!("model.language_model.{rest}"));
    } else if let Some(rest) = name.strip_prefix("model.language_model.") {
        all.push(format!("language_model.model.{rest}"));
    }
    all
}

fn layers<'a>(fields: &Fields<'a>) -> ReadResult<Option<Fields<'a>>> {
    match fields.object("quantization")? {
        Some(nested) => nested.object("quantized_layers"),
        None => fields.object("quantized_layers"),
    }
}

type Mixture = (BTreeMap<String, Algorithm>, Block, Option<u32>);

/// Algorithms by layer, the block of those with scales by block, the group of those in NVFP4.
fn mixture(fields: &Fields<'_>, naming: &Naming) -> ReadResult<Mixture> {
    let layers = layers(fields)?;
    let Some(layers) = layers.filter(|layers| layers.names().next().is_some()) else {
        let problem = "missing or empty, and a mixture needs it";
        return Err(wrong(fields.path("quantized_layers"), problem));
    };
    if layers.names().count() > LAYERS_MAX {
        let problem = format!("more than {LAYERS_MAX} layers");
        return Err(wrong(fields.path("quantized_layers"), problem));
    }
    let (mut by_layer, mut block, mut group) = (BTreeMap::new(), None, None);
    for name in layers.names() {
        let Some(layer) = layers.object(name)? else { continue };
        let declared = layer.text("quant_algo")?.unwrap_or_default();
        let Some(algorithm) = Algorithm::read(declared) else {
            // vLLM leaves layers of an algorithm it does not know as they are.
            continue;
        };
        let size = layer.count("group_size", 1 << 16)?;
        match algorithm {
            Algorithm::Fp8Block => {
                let size = u64::from(size.unwrap_or(128));
                if *block.get_or_insert(size) != size {
                    let problem = "layers with scales by block differ in their blocks";
                    return Err(wrong(layers.path(name), problem));
                }
            }
            Algorithm::Nvfp4 | Algorithm::Nvfp4Weights => group = group.or(size),
            _ => {}
        }
        by_layer.insert(naming.rename(name), algorithm);
    }
    let block = block.unwrap_or(128);
    Ok((by_layer, (block, block), group))
}

/// Names to search for, and wildcards. `module*` stands for the module and all below it
/// (`apply_vllm_mapper`).
fn excluded(fields: &Fields<'_>, list: &str, naming: &Naming) -> ReadResult<(Skip, Vec<String>)> {
    let (mut names, mut wildcards) = (Vec::new(), Vec::new());
    for listed in fields.texts(list)? {
        let mut add = |listed: &str| {
            let name = naming.rename(listed);
            match name.contains(['*', '?', '[']) {
                true => wildcards.push(name),
                false => names.push(name),
            }
        };
        match listed.strip_suffix('*').filter(|tree| !tree.is_empty() && !tree.ends_with('.')) {
            Some(tree) => {
                add(tree);
                add(&format!("{tree}.*"));
            }
            None => add(listed),
        }
    }
    if names.len().max(wildcards.len()) > SEARCHED_MAX {
        let problem = format!("more than {SEARCHED_MAX} names");
        return Err(wrong(fields.path(list), problem));
    }
    Ok((Skip::new(names), wildcards))
}

/// Says NVFP4, but no group quantises activations.
fn has_weights_only(fields: &Fields<'_>) -> ReadResult<bool> {
    let Some(groups) = fields.object("config_groups").ok().flatten() else { return Ok(false) };
    let mut is_empty = true;
    for name in groups.names() {
        is_empty = false;
        let Some(group) = groups.object(name)? else { return Ok(false) };
        if group.value("input_activations").is_some() {
            return Ok(false);
        }
    }
    Ok(!is_empty)
}

impl Method for ModelOpt {
    fn name(&self) -> &'static str {
        self.name
    }

    fn form(&self, target: &Target<'_>) -> Result<Option<Form>, String> {
        if target.class == Class::Vocabulary {
            return Ok(None);
        }
        let Some(algorithm) = self.algorithm(target.name, target.effort)? else { return Ok(None) };
        let input = target.matrix.input;
        Ok(Some(match algorithm {
            Algorithm::Fp8 => Form::fp8(Grain::Part).input_scale(Per::Part, true),
            Algorithm::Fp8Channel => Form::fp8(Grain::Output),
            Algorithm::Fp8Block => {
                divides(input, 128)?;
                Form::fp8(Grain::Block(128, 128))
            }
            Algorithm::Nvfp4 => {
                divides(input, 16)?;
                Form::nvfp4(self.group, true)
            }
            Algorithm::Nvfp4Weights => {
                divides(input, 16)?;
                // Of PyTorch's default type, and dropped after loading.
                Form::nvfp4(self.group, false).scalar(None, Per::Part, 1)
            }
            Algorithm::Mxfp8 => {
                divides(input, 32)?;
                Form::mxfp8()
            }
        }))
    }

    fn experts(&self, target: &ExpertsTarget<'_>) -> Result<Option<ExpertsForm>, String> {
        let Some(algorithm) = self.algorithm(target.name, target.effort)? else { return Ok(None) };
        let form = match (algorithm, &self.kind) {
            (Algorithm::Fp8Block, Kind::Mixed(_, block)) => {
                return fp8_experts(target, Some(*block), false).map(Some);
            }
            (Algorithm::Fp8Channel, Kind::Mixed(..)) => return Ok(None),
            (Algorithm::Fp8 | Algorithm::Fp8Channel | Algorithm::Fp8Block, _) => {
                Form::fp8(Grain::Part).input_scale(Per::Matrix, true)
            }
            (Algorithm::Nvfp4 | Algorithm::Nvfp4Weights, _) => Form::nvfp4(self.group, true),
            (Algorithm::Mxfp8, _) => {
                divides(target.experts.hidden, 32)?;
                divides(target.inner, 32)?;
                Form::mxfp8()
            }
        };
        Ok(Some(ExpertsForm::from(form).bias(Bias::Always(false))))
    }

    fn cache_scales(&self) -> CacheScales {
        match self.kind {
            Kind::Uniform(_) => CacheScales { latents: true, ..CACHE_SCALES },
            Kind::Mixed(..) if self.has_cache => CACHE_SCALES,
            Kind::Mixed(..) => CacheScales::default(),
        }
    }
}
