//! torchao: one configuration for all matrices, or one by module.
//!
//! vLLM 0.32 (`torchao.py`) leaves the tensors to torchao; their sizes here are those of its layouts.

use super::form::{Form, Grain};
use super::pattern::Regex;
use super::read::Declared;
use super::skip::{SEARCHED_MAX, few_expressions};
use super::{Class, ExpertsForm, ExpertsTarget, Method, Target};
use crate::error::Result as ReadResult;
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Fields, kind, wrong};

#[derive(Debug)]
pub(super) struct TorchAo {
    skipped: Vec<String>,
    named: Vec<(String, Option<Form>)>,
    expressions: Vec<(Regex, Option<Form>)>,
    default: Option<Form>,
}

impl TorchAo {
    pub(super) fn read(declared: &Declared<'_>) -> ReadResult<Self> {
        let fields = &declared.fields;
        let missing = || wrong(fields.path("quant_type.default"), "missing");
        let types = fields.object("quant_type")?.ok_or_else(missing)?;
        let default = types.object("default")?.ok_or_else(missing)?;
        let skipped = fields.texts("modules_to_not_convert")?;
        let mut read = Self {
            skipped: skipped.into_iter().map(str::to_owned).collect(),
            named: Vec::new(),
            expressions: Vec::new(),
            default: None,
        };
        let by_module = match default.text("_type")? {
            Some("ModuleFqnToConfig" | "FqnToConfig") => match default.object("_data")? {
                Some(data) => match data.object("module_fqn_to_config")? {
                    Some(modules) => Some(modules),
                    None => data.object("fqn_to_config")?,
                },
                None => None,
            },
            _ => {
                read.default = Some(form(&default)?);
                None
            }
        };
        let Some(modules) = by_module else { return Ok(read) };
        for name in modules.names() {
            let of = modules.object(name)?.map(|fields| form(&fields)).transpose()?;
            match name.strip_prefix("re:") {
                None if name == "_default" => read.default = of,
                None => read.named.push((declared.naming.rename(name), of)),
                Some(expression) => {
                    let regex = Regex::compile(expression).map_err(|problem| {
                        wrong(modules.path("(name)"), format!("`{name:.60}`: {problem}"))
                    })?;
                    read.expressions.push((regex, of));
                    few_expressions(&modules, "(name)", read.expressions.len())?;
                }
            }
        }
        if read.named.len().max(read.skipped.len()) > SEARCHED_MAX {
            let problem = format!("more than {SEARCHED_MAX} modules");
            return Err(wrong(fields.path("quant_type"), problem));
        }
        Ok(read)
    }
}

/// The form of one configuration.
fn form(fields: &Fields<'_>) -> ReadResult<Form> {
    let name = fields.text("_type")?.unwrap_or_default();
    let data = fields.object("_data")?;
    let group = match &data {
        Some(data) => data.count("group_size", 1 << 24)?,
        None => None,
    };
    let by_group = |default: u32| Grain::Group(group.unwrap_or(default).into());
    Ok(match name {
        "Int8WeightOnlyConfig" | "Int8DynamicActivationInt8WeightConfig" => {
            Form::of(Dtype::Int8, None, Grain::Output)
        }
        "Int4WeightOnlyConfig" => {
            // A scale and a zero point of the model's dtype for each group.
            let form = Form { bits: 4, ..Form::of(Dtype::Uint8, None, by_group(128)) };
            Form { zeros: None, ..form }
        }
        "Int8DynamicActivationInt4WeightConfig" | "Int8DynamicActivationIntxWeightConfig" => {
            Form::of(Dtype::Int8, None, by_group(32))
        }
        "Float8WeightOnlyConfig" | "Float8DynamicActivationFloat8WeightConfig" => {
            Form::fp8(Grain::Output)
        }
        _ => {
            let found = fields.value("_type").map_or("missing".into(), kind);
            let problem = format!("{found}, whose layout this version does not know");
            return Err(wrong(fields.path("_type"), problem));
        }
    })
}

impl Method for TorchAo {
    fn name(&self) -> &'static str {
        "torchao"
    }

    fn form(&self, target: &Target<'_>) -> Result<Option<Form>, String> {
        let name = target.name;
        // Each is put together anew for each module.
        if !target.effort.search(2 * self.skipped.len() + self.named.len()) {
            return Ok(None);
        }
        let is_within = |part: &String| format!(".{name}.").contains(&format!(".{part}."));
        if !matches!(target.class, Class::Linear(_)) || self.skipped.iter().any(is_within) {
            return Ok(None);
        }
        if let Some((_, form)) = self.named.iter().find(|(named, _)| named == name) {
            return Ok(form.clone());
        }
        let by_expression =
            self.expressions.iter().find(|(regex, _)| regex.is_full_match(name, target.effort));
        Ok(by_expression.map_or(&self.default, |(_, form)| form).clone())
    }

    fn experts(&self, _: &ExpertsTarget<'_>) -> Result<Option<ExpertsForm>, String> {
        Ok(None)
    }
}
