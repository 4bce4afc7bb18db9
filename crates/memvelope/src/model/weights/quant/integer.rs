//! AWQ and GPTQ: 4- and 8-bit integers in groups, packed in 32 bits.
//!
//! vLLM 0.32: `auto_awq.py`, `auto_gptq.py`, `moe_wna16.py`, `utils/gptq_utils.py`. Where its
//! Marlin kernel cannot take an expert, `moe_wna16` does, in bytes.

use super::effort::Effort;
use super::form::{Axis, Form, Grain};
use super::fp8::divides;
use super::names::{Naming, projection};
use super::pattern::Regex;
use super::read::Declared;
use super::skip::{Mode, SEARCHED_MAX, Skip, all_or_none, few_expressions};
use super::{Bias, Class, ExpertsForm, ExpertsTarget, Method, Target};
use crate::error::Result as ReadResult;
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Fields, kind, wrong};
use serde_json::Value;

/// The form of AWQ's matrices: packed along the output.
pub(super) fn awq(bits: u64, group: u64) -> Form {
    Form::packed(bits, group, Axis::Output).zeros(true)
}

/// The form of GPTQ's matrices: packed along the input; zero points are there even where the
/// values are symmetric.
pub(super) fn gptq(bits: u64, group: u64) -> Form {
    Form::packed(bits, group, Axis::Input).zeros(true)
}

/// A group does not cross the border of a rank; a last one may be short (`marlin.py`).
pub(super) fn whole_groups(target: &Target<'_>, group: u64) -> Result<(), String> {
    match target.divides_input && group > 0 {
        true => divides(target.matrix.input, group),
        false => Ok(()),
    }
}

/// Whether Marlin's kernel takes the experts (`check_moe_marlin_supports_config`).
pub(super) fn fits_marlin(target: &ExpertsTarget<'_>, group: u64, pads: bool) -> bool {
    let of_inner = match pads {
        true => group.max(1),
        false => group.max(64),
    };
    target.experts.hidden.is_multiple_of(128)
        && target.inner.is_multiple_of(of_inner)
        && matches!(group, 0 | 32 | 64 | 128)
}

/// Experts in bytes (`MoeWNA16Method`).
pub(super) fn in_bytes(
    target: &ExpertsTarget<'_>,
    bits: u64,
    group: u64,
    has_zeros: bool,
) -> Result<ExpertsForm, String> {
    let mut size = if group == 0 { target.experts.hidden } else { group };
    while !target.inner.is_multiple_of(size) || !target.experts.hidden.is_multiple_of(size) {
        size /= 2;
        if size < 32 {
            return Err(format!(
                "no group of at least 32 divides the {} of an expert",
                target.inner
            ));
        }
    }
    let form = Form { bits, ..Form::of(Dtype::Uint8, None, Grain::Group(size)) };
    Ok(ExpertsForm::from(form.zeros(has_zeros)).bias(Bias::Always(false)))
}

/// Group size of a config, 0 for one a channel (-1).
fn group(fields: &Fields<'_>, names: &[&str]) -> ReadResult<u64> {
    for name in names {
        match fields.value(name) {
            None => continue,
            Some(value) if value.as_i64() == Some(-1) => return Ok(0),
            Some(_) => return Ok(fields.count(name, 1 << 24)?.unwrap_or(0).into()),
        }
    }
    Err(wrong(fields.path(names[0]), "missing"))
}

fn bits(fields: &Fields<'_>, names: &[&str], served: &[u32]) -> ReadResult<u64> {
    let bits = fields.required(names, 32)?;
    if served.contains(&bits) {
        return Ok(bits.into());
    }
    let problem = format!("{bits}; vLLM 0.32 serves {served:?}");
    Err(wrong(fields.path(names[0]), problem))
}

#[derive(Debug)]
pub(super) struct Awq {
    group: u64,
    has_zeros: bool,
    covers_head: bool,
    skip: Skip,
    naming: Naming,
}

impl Awq {
    pub(super) fn read(declared: &Declared<'_>) -> ReadResult<Self> {
        let fields = &declared.fields;
        bits(fields, &["bits", "w_bit"], &[4])?;
        Ok(Self {
            group: group(fields, &["q_group_size", "group_size"])?,
            has_zeros: fields.flag("zero_point", true)?,
            covers_head: fields.flag("lm_head", false)?,
            skip: Skip::searched(fields, "modules_to_not_convert", &declared.naming)?,
            naming: declared.naming,
        })
    }
}

impl Method for Awq {
    fn name(&self) -> &'static str {
        "auto_awq"
    }

    fn form(&self, target: &Target<'_>) -> Result<Option<Form>, String> {
        let is_covered = match target.class {
            Class::Linear(_) => true,
            Class::Head => self.covers_head,
            Class::Vocabulary => false,
        };
        if !is_covered
            || self.skip.has(target.name, Some(&self.naming), Mode::Substring, target.effort)?
        {
            return Ok(None);
        }
        divides(target.matrix.width, 8)?;
        if self.group > 0 {
            divides(target.matrix.input, self.group)?;
        }
        Ok(Some(awq(4, self.group)))
    }

    fn experts(&self, target: &ExpertsTarget<'_>) -> Result<Option<ExpertsForm>, String> {
        if self.skip.has(target.name, None, Mode::Substring, target.effort)? {
            return Ok(None);
        }
        if !fits_marlin(target, self.group, true) {
            return in_bytes(target, 4, self.group, self.has_zeros).map(Some);
        }
        Ok(Some(ExpertsForm::from(awq(4, self.group)).bias(Bias::Always(false))))
    }
}

#[derive(Debug)]
pub(super) struct Gptq {
    bits: u64,
    group: u64,
    covers_head: bool,
    /// If there are any, only these.
    covered: Vec<String>,
    rules: Vec<Rule>,
    naming: Naming,
}

/// A rule of `dynamic`, for modules whose name matches.
#[derive(Debug)]
struct Rule {
    regex: Regex,
    /// `None`: not quantised at all. Else bits and group, where they differ.
    form: Option<(Option<u64>, Option<u64>)>,
}

impl Gptq {
    pub(super) fn read(declared: &Declared<'_>) -> ReadResult<Self> {
        let fields = &declared.fields;
        let group = group(fields, &["group_size"])?;
        if !fields.flag("sym", true)? {
            return Err(wrong(fields.path("sym"), "false; vLLM 0.32 serves symmetric values only"));
        }
        if fields.flag("desc_act", false)? && group != 0 {
            let problem = "true, which vLLM 0.32 no longer serves for groups";
            return Err(wrong(fields.path("desc_act"), problem));
        }
        let mut covered = Vec::new();
        flatten(fields.items("modules_in_block_to_quantize")?, &mut covered);
        if covered.len() > SEARCHED_MAX {
            let problem = format!("{} names; at most {SEARCHED_MAX} are read", covered.len());
            return Err(wrong(fields.path("modules_in_block_to_quantize"), problem));
        }
        Ok(Self {
            bits: bits(fields, &["bits"], &[4, 8])?,
            group,
            covers_head: fields.flag("lm_head", false)?,
            covered: covered.iter().map(|name| declared.naming.rename(name)).collect(),
            rules: rules(fields)?,
            naming: declared.naming,
        })
    }

    /// Whether `modules_in_block_to_quantize` has the module (`is_layer_gptq_quantized`).
    fn is_covered(&self, name: &str, effort: &Effort) -> Result<bool, String> {
        let has = |name: &str| {
            effort.search(self.covered.len())
                && self.covered.iter().any(|listed| name.contains(listed.as_str()))
        };
        if self.covered.is_empty() {
            return Ok(true);
        }
        match self.naming.packed(projection(name)) {
            Some(_) => all_or_none(name, &self.naming, has),
            None => Ok(has(name)),
        }
    }

    /// Bits and group of a module, `None` where a rule leaves it as it is.
    fn of(&self, name: &str, effort: &Effort) -> Option<(u64, u64)> {
        match self.rules.iter().find(|rule| rule.regex.is_match(name, effort)) {
            None => Some((self.bits, self.group)),
            Some(rule) => rule
                .form
                .map(|(bits, group)| (bits.unwrap_or(self.bits), group.unwrap_or(self.group))),
        }
    }
}

/// Names of a list, or of lists in it.
fn flatten(items: &[Value], names: &mut Vec<String>) {
    for item in items {
        match item {
            Value::String(name) => names.push(name.clone()),
            Value::Array(items) => flatten(items, names),
            _ => {}
        }
    }
}

fn rules(fields: &Fields<'_>) -> ReadResult<Vec<Rule>> {
    let Some(dynamic) = fields.object("dynamic")? else { return Ok(Vec::new()) };
    let mut rules = Vec::new();
    for name in dynamic.names() {
        let (is_left, expression) = match name.strip_prefix("-:") {
            Some(expression) => (true, expression),
            None => (false, name.strip_prefix("+:").unwrap_or(name)),
        };
        let regex = Regex::compile(expression)
            .map_err(|problem| wrong(dynamic.path("(rule)"), format!("`{name:.60}`: {problem}")))?;
        let form = match (is_left, dynamic.value(name)) {
            (true, _) => None,
            (false, Some(Value::Object(_)) | None) => {
                let Some(rule) = dynamic.object(name)? else { continue };
                let of_group = rule.value("group_size").is_some();
                let of_group = of_group.then(|| group(&rule, &["group_size"])).transpose()?;
                let of_bits = rule.value("bits").is_some();
                let of_bits = of_bits.then(|| bits(&rule, &["bits"], &[4, 8])).transpose()?;
                Some((of_bits, of_group))
            }
            (false, Some(other)) => {
                let problem = format!("{}; expected an object", kind(other));
                return Err(wrong(dynamic.path("(rule)"), problem));
            }
        };
        rules.push(Rule { regex, form });
        few_expressions(fields, "dynamic", rules.len())?;
    }
    Ok(rules)
}

impl Method for Gptq {
    fn name(&self) -> &'static str {
        "auto_gptq"
    }

    fn form(&self, target: &Target<'_>) -> Result<Option<Form>, String> {
        let is_covered = match target.class {
            Class::Linear(_) => true,
            Class::Head => self.covers_head,
            Class::Vocabulary => false,
        };
        if !is_covered || !self.is_covered(target.name, target.effort)? {
            return Ok(None);
        }
        let Some((bits, group)) = self.of(target.name, target.effort) else { return Ok(None) };
        whole_groups(target, group)?;
        Ok(Some(gptq(bits, group)))
    }

    fn experts(&self, target: &ExpertsTarget<'_>) -> Result<Option<ExpertsForm>, String> {
        if !fits_marlin(target, self.group, true) {
            return in_bytes(target, self.bits, self.group, false).map(Some);
        }
        let Some((bits, group)) = self.of(target.name, target.effort) else { return Ok(None) };
        // Biases are made whether or not the model has them.
        Ok(Some(ExpertsForm::from(gptq(bits, group)).bias(Bias::Always(true))))
    }
}
