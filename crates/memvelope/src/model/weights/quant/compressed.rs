//! compressed-tensors (llm-compressor's format): groups of layers, each with a scheme of weights
//! and activations.
//!
//! vLLM 0.32: `compressed_tensors.py`, its `schemes/` and `compressed_tensors_moe/`.

use super::effort::Effort;
use super::form::{Axis, Form, Grain, Per};
use super::fp8::{Block, block, divides, fp8_experts, mxfp4_experts, whole_blocks};
use super::names::{Naming, projection};
use super::pattern::Regex;
use super::read::Declared;
use super::skip::{all_or_none, few_expressions, listed};
use super::{Bias, CacheScales, Class, ExpertsForm, ExpertsTarget, Method, Target};
use crate::error::Result as ReadResult;
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Fields, wrong};
use std::collections::HashMap;

#[derive(Debug)]
pub(super) struct Compressed {
    naming: Naming,
    ignored: Patterns,
    targets: Vec<(Pattern, usize)>,
    by_name: HashMap<String, usize>,
    schemes: Vec<Scheme>,
    cache_by_head: bool,
}

/// Weights and activations of one group.
#[derive(Clone, Debug)]
struct Scheme {
    weights: Arguments,
    input: Option<Arguments>,
    output: Option<Arguments>,
    format: String,
}

/// `QuantizationArgs` of compressed-tensors, with its defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Arguments {
    bits: u32,
    is_float: bool,
    strategy: Strategy,
    group: u64,
    block: Option<Block>,
    is_symmetric: bool,
    is_dynamic: bool,
    has_byte_scales: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strategy {
    Tensor,
    Channel,
    Group,
    Block,
    Token,
    TensorGroup,
    AttentionHead,
}

/// A name, a class of layers, or an expression.
#[derive(Clone, Debug)]
enum Pattern {
    Name(String),
    Regex(Regex),
}

#[derive(Clone, Debug, Default)]
struct Patterns {
    names: std::collections::HashSet<String>,
    expressions: Vec<Regex>,
}

impl Patterns {
    fn has(&self, name: &str, effort: &Effort) -> bool {
        let is_it = |regex: &Regex| regex.is_match(name, effort);
        self.names.contains(name) || self.expressions.iter().any(is_it)
    }
}

impl Compressed {
    pub(super) fn read(declared: &Declared<'_>) -> ReadResult<Self> {
        let fields = &declared.fields;
        let mut read = Self {
            naming: declared.naming,
            ignored: Patterns::default(),
            targets: Vec::new(),
            by_name: HashMap::new(),
            schemes: Vec::new(),
            cache_by_head: false,
        };
        if let Some(cache) = fields.object("kv_cache_scheme")? {
            let arguments = Arguments::read(&cache)?;
            if (arguments.bits, arguments.is_float) != (8, true) {
                let problem = format!("{} bits; vLLM 0.32 takes 8-bit floats", arguments.bits);
                return Err(wrong(cache.path("num_bits"), problem));
            }
            read.cache_by_head = arguments.strategy == Strategy::AttentionHead;
        }
        let ignored = listed(fields, "ignore")?;
        let mut expressions = 0;
        for listed in ignored {
            match read.pattern(listed, &fields.path("ignore"))? {
                Pattern::Name(name) => drop(read.ignored.names.insert(name)),
                Pattern::Regex(regex) => {
                    expressions += 1;
                    few_expressions(fields, "ignore", expressions)?;
                    read.ignored.expressions.push(regex);
                }
            }
        }
        let default_format = fields.text("format")?.unwrap_or_default();
        let Some(groups) = fields.object("config_groups")? else { return Ok(read) };
        let mut names: Vec<&str> = groups.names().collect();
        // `group_10` comes after `group_9`.
        names.sort_by_key(|name| (name.len(), *name));
        for name in names {
            let Some(group) = groups.object(name)? else { continue };
            let targets = listed(&group, "targets")?;
            if matches!(targets[..], [only] if only.ends_with("Attention")) {
                continue;
            }
            let scheme = Scheme::read(&group, default_format)?;
            for target in targets {
                match read.pattern(target, &group.path("targets"))? {
                    Pattern::Name(name) if name.contains('.') => {
                        read.by_name.insert(name, read.schemes.len());
                    }
                    pattern => {
                        expressions += 1;
                        few_expressions(&group, "targets", expressions)?;
                        read.targets.push((pattern, read.schemes.len()));
                    }
                }
            }
            read.schemes.push(scheme);
        }
        Ok(read)
    }

    fn pattern(&self, listed: &str, field: &str) -> ReadResult<Pattern> {
        if let Some(expression) = listed.strip_prefix("re:") {
            let regex = Regex::compile(expression).map_err(|problem| {
                wrong(field, format!("the expression `{expression:.60}`: {problem}"))
            })?;
            return Ok(Pattern::Regex(regex));
        }
        // Names of classes have no dot and are no paths.
        let is_path = listed.contains('.');
        let name = if is_path { self.naming.rename(listed) } else { listed.to_owned() };
        Ok(Pattern::Name(name))
    }

    fn is_ignored(&self, name: &str, effort: &Effort) -> Result<bool, String> {
        if self.ignored.has(name, effort) {
            return Ok(true);
        }
        all_or_none(name, &self.naming, |part| self.ignored.has(part, effort))
    }

    /// The scheme of a module: by its name, by its parts', by its class.
    fn scheme(&self, name: &str, class: &str, effort: &Effort) -> Result<Option<&Scheme>, String> {
        if self.is_ignored(name, effort)? {
            return Ok(None);
        }
        let named = |name: &str| {
            self.by_name.get(name).copied().or_else(|| {
                effort.search(self.targets.len());
                let is_target = |pattern: &Pattern| match pattern {
                    Pattern::Name(target) => target == name,
                    Pattern::Regex(regex) => regex.is_match(name, effort),
                };
                self.targets.iter().find(|(target, _)| is_target(target)).map(|(_, at)| *at)
            })
        };
        let fused = || {
            let parts: Option<Vec<usize>> = match self.naming.packed(projection(name)) {
                Some(_) => self.naming.parts(name)?.iter().map(|part| named(part)).collect(),
                None => None,
            };
            parts?.first().copied()
        };
        let classed = || {
            let class = class.to_lowercase();
            let is_target = |pattern: &Pattern| match pattern {
                Pattern::Name(target) => class.contains(&target.to_lowercase()),
                Pattern::Regex(regex) => regex.is_match(&class, effort),
            };
            self.targets.iter().find(|(target, _)| is_target(target)).map(|(_, at)| *at)
        };
        let found = named(name).or_else(fused).or_else(classed);
        Ok(found.and_then(|at| self.schemes.get(at)))
    }
}

impl Scheme {
    fn read(group: &Fields<'_>, default_format: &str) -> ReadResult<Self> {
        let Some(weights) = group.object("weights")? else {
            return Err(wrong(group.path("weights"), "missing, and a group is about weights"));
        };
        if let Some(order @ ("group" | "dynamic")) = weights.text("actorder")? {
            let problem = format!("{order}, which vLLM 0.32 no longer serves");
            return Err(wrong(weights.path("actorder"), problem));
        }
        let other = |field: &str| -> ReadResult<Option<Arguments>> {
            group.object(field)?.map(|fields| Arguments::read(&fields)).transpose()
        };
        Ok(Self {
            weights: Arguments::read(&weights)?,
            input: other("input_activations")?,
            output: other("output_activations")?,
            format: group.text("format")?.unwrap_or(default_format).to_owned(),
        })
    }

    /// Formats that quantise activations too (`is_activation_quantization_format`).
    fn has_activations(&self) -> bool {
        matches!(
            self.format.as_str(),
            "naive-quantized" | "int-quantized" | "float-quantized" | "nvfp4-pack-quantized"
        )
    }

    fn is_mxfp4(&self) -> bool {
        let w = &self.weights;
        w.is_float && w.is_symmetric && (w.bits, w.strategy, w.group) == (4, Strategy::Group, 32)
    }

    /// MXFP4 weights, 8-bit activations.
    fn is_mxfp4_by_fp8(&self) -> bool {
        self.is_mxfp4()
            && self.input.as_ref().is_some_and(|input| {
                let by = matches!(input.strategy, Strategy::Token | Strategy::Group);
                by && input.is_float && input.bits == 8 && input.is_dynamic && input.is_symmetric
            })
    }

    fn is_mxfp8(&self) -> bool {
        let w = &self.weights;
        let is_shaped = (w.bits, w.strategy, w.group) == (8, Strategy::Group, 32);
        is_shaped && w.is_float && w.is_symmetric && w.has_byte_scales
    }

    fn is_nvfp4(&self) -> bool {
        self.weights.is_nvfp4()
    }

    /// 8-bit floats in weights, whatever the activations.
    fn is_fp8(&self) -> bool {
        let w = &self.weights;
        w.is_float
            && w.is_symmetric
            && !w.is_dynamic
            && matches!(w.strategy, Strategy::Tensor | Strategy::Channel | Strategy::Block)
    }

    fn is_fp8_by_fp8(&self) -> bool {
        self.is_fp8()
            && self.input.as_ref().is_some_and(|input| {
                let is_plain = input.is_symmetric && input.strategy == Strategy::Tensor;
                input.is_float && (input.is_dynamic || is_plain)
            })
    }

    fn is_int8_by_token(&self) -> bool {
        self.is_int8(|input| input.strategy == Strategy::Token && input.is_dynamic)
    }

    fn is_int8(&self, is_input: impl Fn(&Arguments) -> bool) -> bool {
        let w = &self.weights;
        let by = matches!(w.strategy, Strategy::Tensor | Strategy::Channel);
        by && w.bits == 8
            && w.is_symmetric
            && !w.is_dynamic
            && self.input.as_ref().is_some_and(|input| input.bits == 8 && is_input(input))
    }

    /// 4-bit integers in weights, 8-bit activations by token.
    fn is_int4_by(&self, is_float: bool) -> bool {
        let w = &self.weights;
        let by = match is_float {
            true => w.strategy == Strategy::Group,
            false => matches!(w.strategy, Strategy::Group | Strategy::Channel),
        };
        let input = self.input.as_ref();
        by && !w.is_float
            && w.bits == 4
            && w.is_symmetric
            && !w.is_dynamic
            && input.is_some_and(|input| {
                let is_shaped = input.bits == 8 && input.strategy == Strategy::Token;
                is_shaped
                    && input.is_float == is_float
                    && input.is_dynamic
                    && (!is_float || input.is_symmetric)
            })
    }

    /// Integers by channel or group, fixed.
    fn is_grouped_integer(&self) -> bool {
        let w = &self.weights;
        matches!(w.strategy, Strategy::Channel | Strategy::Group) && !w.is_dynamic
    }

    /// The form of a matrix, in the order in which vLLM asks (`_get_scheme_from_parts`).
    fn form(&self, target: &Target<'_>) -> Result<Form, String> {
        let w = &self.weights;
        if self.is_nvfp4() {
            if self.input.as_ref().is_some_and(|input| !input.is_nvfp4()) {
                return Err("NVFP4 weights with activations of another kind".into());
            }
            return Ok(Form::nvfp4(16, self.input.is_some()));
        }
        if self.is_mxfp4() {
            return Ok(Form::mxfp4());
        }
        if self.is_mxfp8() {
            return Ok(Form::mxfp8());
        }
        if self.is_int4_by(true) && target.hardware.capability == (9, 0) {
            return self.packed(target, true);
        }
        let is_static_int8 = |of: &Option<Arguments>| {
            of.as_ref().is_some_and(|of| {
                let is_plain = of.strategy == Strategy::Tensor && !of.is_dynamic;
                is_plain && !of.is_float && of.bits == 8
            })
        };
        let is_packed = self.format == "pack-quantized";
        let is_integer = self.is_grouped_integer() && !w.is_float;
        let is_static = is_static_int8(&self.input) && is_static_int8(&self.output);
        if is_integer && is_static && (is_packed || self.format == "int-quantized") {
            let form = match is_packed {
                true => self.packed(target, false)?,
                false => Form::of(Dtype::Int8, None, self.grain()),
            };
            return Ok(form.scalar(Dtype::Float32, Per::Matrix, 2));
        }
        let by_integers = self.input.as_ref().is_some_and(|input| {
            let by = matches!(input.strategy, Strategy::Token | Strategy::Group);
            by && !input.is_float && input.is_symmetric && input.is_dynamic
        });
        if is_packed
            && (is_integer && by_integers || self.is_grouped_integer() && self.input.is_none())
        {
            return self.packed(target, true);
        }
        if self.has_activations() {
            if self.is_fp8() && (self.input.is_none() || self.is_fp8_by_fp8()) {
                return self.fp8(target);
            }
            let is_static =
                |input: &Arguments| input.strategy == Strategy::Tensor && !input.is_dynamic;
            if self.is_int8(is_static) {
                let is_symmetric = self.input.as_ref().is_none_or(|input| input.is_symmetric);
                let form = Form::int8(self.grain()).input_scale(Per::Matrix, true);
                return Ok(match is_symmetric {
                    true => form,
                    false => form.scalar(Dtype::Int8, Per::Matrix, 1),
                });
            }
            if self.is_int8_by_token() {
                return Ok(Form::int8(self.grain()));
            }
            if self.is_int4_by(false) {
                return Ok(Form::of(Dtype::Int8, None, self.grain()));
            }
        }
        Err(format!("no scheme of vLLM 0.32 for {} bits in format `{:.40}`", w.bits, self.format))
    }

    fn fp8(&self, target: &Target<'_>) -> Result<Form, String> {
        if let Grain::Block(rows, columns) = self.grain() {
            whole_blocks(target, (rows, columns))?;
        }
        let is_static = self.input.as_ref().is_some_and(|input| !input.is_dynamic);
        Ok(Form::fp8(self.grain()).input_scale(Per::Part, is_static))
    }

    fn grain(&self) -> Grain {
        match (self.weights.strategy, self.weights.block) {
            (Strategy::Tensor | Strategy::TensorGroup | Strategy::AttentionHead, _) => Grain::Part,
            (Strategy::Block, block) => {
                let (rows, columns) = block.unwrap_or((128, 128));
                Grain::Block(rows, columns)
            }
            (Strategy::Group, _) => Grain::Group(self.weights.group),
            (Strategy::Channel | Strategy::Token, _) => Grain::Output,
        }
    }

    /// Integers in 32-bit containers.
    fn packed(&self, target: &Target<'_>, has_shape: bool) -> Result<Form, String> {
        let group = self.group()?;
        if group > 0 {
            divides(target.matrix.input, group)?;
        }
        let form = Form::packed(self.weights.bits.into(), group, Axis::Input);
        let form = form.zeros(!self.weights.is_symmetric);
        Ok(if has_shape { form.scalar(Dtype::Int64, Per::Matrix, 2) } else { form })
    }

    /// Size of a group, 0 for one a channel.
    fn group(&self) -> Result<u64, String> {
        match self.weights.strategy {
            Strategy::Channel => Ok(0),
            _ if self.weights.group > 0 => Ok(self.weights.group),
            _ => Err("a scheme by group without the size of a group".into()),
        }
    }

    /// The form of experts, in vLLM's order (`get_moe_method`).
    fn experts(&self, target: &ExpertsTarget<'_>) -> Result<ExpertsForm, String> {
        let w = &self.weights;
        if self.is_mxfp4_by_fp8() {
            return Ok(mxfp4_experts(target.hardware));
        }
        let plain = |form: Form| Ok(ExpertsForm::from(form).bias(Bias::Always(false)));
        if self.is_mxfp4() {
            return plain(Form::mxfp4());
        }
        if self.is_mxfp8() {
            return plain(Form::mxfp8());
        }
        if self.is_grouped_integer() && self.input.is_none() {
            let group = self.group()?;
            if group > 0 {
                divides(target.experts.hidden, group)?;
                divides(target.inner, group)?;
            } else if target.hardware.capability == (9, 0) {
                // Humming's kernel, which vLLM prefers on Hopper, asserts groups.
                return Err("vLLM 0.32 serves no experts in integers by channel here".into());
            }
            let form = Form::packed(w.bits.into(), group, Axis::Input);
            // Their dimensions, of PyTorch's default type.
            return Ok(form.zeros(!w.is_symmetric).scalar(None, Per::Matrix, 2).into());
        }
        if self.is_nvfp4() {
            return plain(Form::nvfp4(16, true));
        }
        if self.is_fp8_by_fp8() {
            let is_static = self.input.as_ref().is_some_and(|input| !input.is_dynamic);
            let form = match self.grain() {
                Grain::Block(rows, columns) => {
                    divides(target.inner, rows)?;
                    fp8_experts(target, Some((rows, columns)), false)?.form
                }
                grain => Form::fp8(grain).input_scale(Per::Matrix, is_static),
            };
            return plain(form);
        }
        if self.is_int8_by_token() {
            return Ok(Form::int8(Grain::Output).into());
        }
        if self.is_int4_by(true) {
            divides(target.experts.hidden, 256)?;
            divides(target.inner, 256)?;
            let form = Form::packed(4, self.group()?, Axis::Input);
            return plain(form.scalar(None, Per::Matrix, 2));
        }
        if self.is_int4_by(false) {
            let scale = if self.group()? == 0 { Dtype::Float32 } else { Dtype::Bfloat16 };
            return Ok(Form::of(Dtype::Int8, Some(scale), self.grain()).into());
        }
        Err(format!("vLLM 0.32 has no experts of {} bits in format `{:.40}`", w.bits, self.format))
    }
}

impl Arguments {
    fn read(fields: &Fields<'_>) -> ReadResult<Self> {
        let group = match fields.value("group_size").and_then(serde_json::Value::as_i64) {
            Some(-1) => None,
            _ => fields.count("group_size", 1 << 24)?,
        };
        let declared = fields.text("strategy")?;
        let strategy = match declared {
            Some("tensor") => Strategy::Tensor,
            Some("channel") => Strategy::Channel,
            Some("group") => Strategy::Group,
            Some("block") => Strategy::Block,
            Some("token") => Strategy::Token,
            Some("tensor_group") => Strategy::TensorGroup,
            Some("attn_head") => Strategy::AttentionHead,
            Some(other) => {
                let known = "attn_head, block, channel, group, tensor, tensor_group, token";
                let problem = format!("`{other:.40}`; expected one of {known}");
                return Err(wrong(fields.path("strategy"), problem));
            }
            None if group.is_some() => Strategy::Group,
            None if fields.value("group_size").is_some() => Strategy::Channel,
            None => Strategy::Tensor,
        };
        let is_float = match fields.text("type")? {
            Some("float") => true,
            None | Some("int") => false,
            Some(other) => {
                let problem = format!("`{other:.40}`; expected int or float");
                return Err(wrong(fields.path("type"), problem));
            }
        };
        let is_dynamic = match fields.value("dynamic") {
            // Scales of groups made on the way, a global one fixed.
            Some(serde_json::Value::String(text)) => text == "local",
            _ => fields.flag("dynamic", false)?,
        };
        Ok(Self {
            bits: fields.count("num_bits", 32)?.unwrap_or(8),
            is_float,
            strategy,
            group: group.unwrap_or(0).into(),
            block: block(fields, "block_structure")?,
            is_symmetric: fields.flag("symmetric", true)?,
            is_dynamic,
            has_byte_scales: fields
                .text("scale_dtype")?
                .is_some_and(|name| name.ends_with("uint8")),
        })
    }

    fn is_nvfp4(&self) -> bool {
        let is_shaped = (self.bits, self.strategy, self.group) == (4, Strategy::TensorGroup, 16);
        is_shaped && self.is_float && self.is_symmetric
    }
}

impl Method for Compressed {
    fn name(&self) -> &'static str {
        "compressed-tensors"
    }

    fn form(&self, target: &Target<'_>) -> Result<Option<Form>, String> {
        let class = match target.class {
            Class::Linear(class) => class,
            Class::Head => "ParallelLMHead",
            Class::Vocabulary => "VocabParallelEmbedding",
        };
        let Some(scheme) = self.scheme(target.name, class, target.effort)? else { return Ok(None) };
        if target.class == Class::Vocabulary
            && !(scheme.is_grouped_integer() && scheme.input.is_none())
        {
            return Err("vLLM 0.32 serves embeddings in packed integers only".into());
        }
        scheme.form(target).map(Some)
    }

    fn experts(&self, target: &ExpertsTarget<'_>) -> Result<Option<ExpertsForm>, String> {
        let mut found = None;
        for name in self.naming.expert_matrices(target.name) {
            // A class of its own, which `Linear` covers too.
            let scheme = self.scheme(&name, "RoutedExpertsLinear", target.effort)?;
            let key = scheme.map(std::ptr::from_ref);
            if found.is_some_and(|(found, _)| found != key) {
                return Err("matrices of an expert have different schemes".into());
            }
            found = Some((key, scheme));
        }
        let Some((_, Some(scheme))) = found else { return Ok(None) };
        scheme.experts(target).map(Some)
    }

    fn cache_scales(&self) -> CacheScales {
        CacheScales { default: 3, single: 3, by_head: self.cache_by_head, latents: false }
    }
}
