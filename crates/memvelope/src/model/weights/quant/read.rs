//! Which method a config declares.

use super::compressed::Compressed;
use super::fp8::{Fp8, Mxfp4};
use super::inc::Inc;
use super::integer::{Awq, Gptq};
use super::modelopt::ModelOpt;
use super::names::Naming;
use super::quark::Quark;
use super::torchao::TorchAo;
use super::{CacheDtype, Method, Quantization};
use crate::error::Result;
use crate::model::hf_config::{Config, Document, Fields, kind, wrong};
use std::sync::Arc;

/// Where a config holds its quantisation, and which method that is.
pub(super) struct Declared<'a> {
    pub(super) fields: Fields<'a>,
    pub(super) config: &'a Config<'a>,
    pub(super) naming: Naming,
    /// vLLM's name of the method, as resolved.
    pub(super) name: &'static str,
}

impl Declared<'_> {
    /// A model type of the document, nested or not.
    pub(super) fn is_model_type(&self, name: &str) -> Result<bool> {
        Ok(self.config.root.text("model_type")? == Some(name))
    }
}

pub(super) fn read(config: &Config<'_>, separate: Option<&Document>) -> Result<Quantization> {
    let root = match config.root.object("quantization_config")? {
        Some(fields) => Some(fields),
        None => separate.map(Document::root),
    };
    let cache = root.as_ref().map(cache_dtype).transpose()?.flatten();
    let nested = match config.text_name {
        "text_config" => config.text.object("quantization_config")?,
        _ => None,
    };
    let fields = match root.or(nested) {
        Some(fields) => Some(fields),
        None => config.root.object("compression_config")?,
    };
    let Some(fields) = fields else { return Ok(Quantization::default()) };
    let architectures = config.root.texts("architectures")?;
    let naming = Naming::of(architectures.first().copied().unwrap_or_default());
    let Some(name) = name(&fields, config)? else { return Ok(Quantization::default()) };
    let declared = Declared { fields, config, naming, name };
    let method: Arc<dyn Method> = match name {
        "fp8" | "deepseek_v4_fp8" => Arc::new(Fp8::read(&declared)?),
        "mxfp4" | "gpt_oss_mxfp4" => Arc::new(Mxfp4::new(name)),
        "modelopt" | "modelopt_fp4" | "modelopt_mxfp8" | "mxfp8" | "modelopt_mixed" => {
            Arc::new(ModelOpt::read(&declared, separate)?)
        }
        "compressed-tensors" => Arc::new(Compressed::read(&declared)?),
        "auto_awq" => Arc::new(Awq::read(&declared)?),
        "auto_gptq" => Arc::new(Gptq::read(&declared)?),
        "inc" => Arc::new(Inc::read(&declared)?),
        "quark" => Arc::new(Quark::read(&declared)?),
        "torchao" => Arc::new(TorchAo::read(&declared)?),
        _ => Arc::new(AsModel),
    };
    let cache = cache.or(match name {
        // `attention.py`: taken up where a layer of attention is built.
        "compressed-tensors" if declared.fields.object("kv_cache_scheme")?.is_some() => {
            Some(CacheDtype { name: "fp8", plain_only: true })
        }
        _ => None,
    });
    Ok(Quantization { method: Some(method), cache, ..Quantization::default() })
}

/// Quantised on the way in, from tensors as the model has them: `experts_int8`.
#[derive(Debug)]
struct AsModel;

impl Method for AsModel {
    fn name(&self) -> &'static str {
        "experts_int8"
    }
    fn form(&self, _: &super::Target<'_>) -> std::result::Result<Option<super::Form>, String> {
        Ok(None)
    }
    fn experts(
        &self,
        _: &super::ExpertsTarget<'_>,
    ) -> std::result::Result<Option<super::ExpertsForm>, String> {
        Ok(None)
    }
}

/// vLLM's name of the method: `_normalize_quantization_config`, then the overrides of
/// `_verify_quantization` (`config/model.py`). `None`: a description that names none, which vLLM
/// serves unquantised.
fn name(fields: &Fields<'_>, config: &Config<'_>) -> Result<Option<&'static str>> {
    let nested = match fields.value("quantization") {
        Some(serde_json::Value::Object(_)) => fields.object("quantization")?,
        _ => None,
    };
    let algorithm = match &nested {
        Some(nested) => nested.text("quant_algo")?,
        None => fields.text("quant_algo")?,
    };
    let algorithm = algorithm.unwrap_or_default().to_uppercase();
    let mut declared = fields.text("quant_method")?.unwrap_or_default().to_lowercase();
    let producer = match fields.value("producer") {
        Some(serde_json::Value::Object(_)) => fields.object("producer")?,
        _ => None,
    };
    let is_modelopt = producer.map(|producer| producer.text("name")).transpose()?.flatten();
    if is_modelopt == Some("modelopt") && nested.is_some() && !algorithm.is_empty() {
        declared = match algorithm.as_str() {
            "FP8" | "FP8_PER_CHANNEL_PER_TOKEN" | "FP8_PB_WO" => "modelopt".into(),
            "NVFP4" => "modelopt_fp4".into(),
            _ => {
                let field = fields.path("quantization.quant_algo");
                return Err(wrong(field, format!("`{algorithm:.40}`, which vLLM refuses there")));
            }
        };
    }
    let model_type = config.root.text("model_type")?.unwrap_or_default();
    let is_v4 = matches!(
        model_type,
        "deepseek_v4" | "deepseek_v4_text" | "deepseek_v41" | "deepseek_v41_text"
    );
    // `KimiK3ForConditionalGenerationConfig` (`models/config.py`) takes another method for these.
    let is_packed = fields.text("format")? == Some("mxfp4-pack-quantized");
    let is_k3 = config.root.texts("architectures")?.contains(&"KimiK3ForConditionalGeneration");
    Ok(Some(match declared.replace("compressed_tensors", "compressed-tensors").as_str() {
        "" => return Ok(None),
        "gptq" | "gptq_marlin" | "auto_gptq" => "auto_gptq",
        "awq" | "awq_marlin" | "auto_awq" => "auto_awq",
        "auto-round" | "inc" => "inc",
        method if method.starts_with("modelopt") => match algorithm.as_str() {
            "FP8" => "modelopt",
            "MIXED_PRECISION" => "modelopt_mixed",
            "MXFP8" => "modelopt_mxfp8",
            algorithm if algorithm.contains("FP4") => "modelopt_fp4",
            _ if method == "modelopt" => "modelopt",
            _ => return Err(unknown(fields)),
        },
        "mxfp8" => "mxfp8",
        "mxfp4" | "gpt_oss_mxfp4" if model_type == "gpt_oss" => "gpt_oss_mxfp4",
        "mxfp4" => "mxfp4",
        "fp8" | "deepseek_v4_fp8" if is_v4 => "deepseek_v4_fp8",
        "fp8" => "fp8",
        "compressed-tensors" if is_k3 && is_packed => "mxfp4",
        "compressed-tensors" => "compressed-tensors",
        "quark" => "quark",
        "torchao" => "torchao",
        "experts_int8" => "experts_int8",
        _ => return Err(unknown(fields)),
    }))
}

fn unknown(fields: &Fields<'_>) -> crate::error::Error {
    let found = fields.value("quant_method").map_or("nothing".into(), kind);
    let known = "auto-round, awq, compressed-tensors, experts_int8, fp8, gptq, modelopt, mxfp4, \
                 mxfp8, quark, torchao";
    wrong(fields.path("quant_method"), format!("{found}, which vLLM 0.32 does not serve; {known}"))
}

/// `get_kv_cache_quant_algo_string` of vLLM 0.32 (`torch_utils.py`).
fn cache_dtype(fields: &Fields<'_>) -> Result<Option<CacheDtype>> {
    let method = fields.text("quant_method")?.unwrap_or_default().to_lowercase();
    let producer = fields.object("producer").ok().flatten();
    let is_modelopt = producer.is_some_and(|p| p.text("name").ok().flatten() == Some("modelopt"))
        && fields.is_present("quantization");
    if !method.starts_with("modelopt") && !is_modelopt {
        return Ok(None);
    }
    let nested = fields.object("quantization").ok().flatten();
    let inner = nested.as_ref().unwrap_or(fields);
    let name = |name: &str| match name {
        "fp8" => Some("fp8_e4m3"),
        "nvfp4" => Some("nvfp4"),
        _ => None,
    };
    for (fields, field) in [
        (inner, "kv_cache_scheme"),
        (fields, "kv_cache_scheme"),
        (inner, "kv_cache_quant_algo"),
        (fields, "kv_cache_quant_algo"),
    ] {
        let found = match fields.value(field) {
            None => continue,
            Some(serde_json::Value::Object(map)) if map.is_empty() => continue,
            Some(serde_json::Value::String(text)) if text.is_empty() => continue,
            Some(serde_json::Value::String(text)) => name(&text.to_lowercase()),
            Some(_) => {
                let Some(scheme) = fields.object(field)? else { continue };
                let bits = scheme.count("num_bits", 64)?;
                match (bits, scheme.text("type")?, scheme.flag("dynamic", true)?) {
                    (Some(8), Some("float"), false) => name("fp8"),
                    (Some(4), Some("float"), _) => name("nvfp4"),
                    _ => None,
                }
            }
        };
        return Ok(found.map(|name| CacheDtype { name, plain_only: false }));
    }
    Ok(None)
}
