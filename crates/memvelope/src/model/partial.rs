//! What plain fields say of a model whose architecture has no rule here: no guess, a partial answer.

use super::families::limits::{HEAD_DIM_MAX, HEADS_MAX, LAYERS_MAX, WIDTH_MAX};
use super::hf_config::{Document, Fields};
use super::layout::CONFIG_BYTES_MAX;
use crate::error::Result;
use crate::units::Bytes;
use serde::Serialize;
use std::fmt;

/// What the plain fields of a `config.json` say, whatever the architecture.
///
/// Every number is that of a field, or computed from fields as the Hugging Face base class does it
/// (`num_key_value_heads` absent: as many as heads; `head_dim` absent: width over heads), and
/// [`Self::read`] says which. Whether the model keeps more, less, or something else than keys and
/// values of every token, these fields do not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Partial {
    /// First of `architectures`, if any.
    pub architecture: Option<String>,
    /// Fields that were read, by their path, with their value.
    pub read: Vec<(String, u64)>,
    /// Fields that would be needed and are not there.
    pub missing: Vec<String>,
    /// Fields by which a model says that it is no plain one, by their path.
    pub not_plain: Vec<String>,
    /// Layers.
    pub layers: Option<u64>,
    /// KV heads a layer.
    pub kv_heads: Option<u64>,
    /// Elements of a head.
    pub head_dim: Option<u64>,
    /// Bytes of an element: 2 unless the config says float32.
    pub element_bytes: u64,
    /// `2 x layers x kv_heads x head_dim x element_bytes`: what a token takes if every layer keeps
    /// keys and values of every token. Absent where a field is.
    pub per_token_bytes: Option<Bytes>,
}

/// Signs of caches that are not keys and values of every token.
const NOT_PLAIN: &[&str] = &[
    "kv_lora_rank",
    "sliding_window",
    "layer_types",
    "hybrid_override_pattern",
    "mamba_d_state",
    "ssm_state_size",
    "state_size",
    "linear_num_value_heads",
    "attention_chunk_size",
    "num_kv_shared_layers",
    "index_head_dim",
    "conv_kernel",
];

impl Partial {
    /// Reads the plain fields of a `config.json`.
    ///
    /// # Errors
    /// [`crate::Error::ReadModel`] names the field and what is wrong with it.
    pub fn from_config(json: &str) -> Result<Self> {
        let document = Document::parse(json, CONFIG_BYTES_MAX)?;
        let config = document.config()?;
        let architecture = config.root.texts("architectures")?.first().map(|&name| name.into());
        let mut reader = Reader { fields: &config.text, read: Vec::new(), missing: Vec::new() };
        let layers = reader.count(&["num_hidden_layers", "n_layer", "num_layers"], LAYERS_MAX)?;
        let heads = reader.count(&["num_attention_heads", "n_head", "num_heads"], HEADS_MAX)?;
        let kv_heads = reader.optional(&["num_key_value_heads", "multi_query_group_num"])?;
        let head_dim = match reader.optional(&["head_dim", "kv_channels"])? {
            Some(dim) => Some(dim),
            None => {
                let hidden = reader.count(&["hidden_size", "n_embd", "d_model"], WIDTH_MAX)?;
                hidden.zip(heads).filter(|(hidden, heads)| hidden % heads == 0).map(|(h, n)| h / n)
            }
        };
        let Reader { read, missing, .. } = reader;
        let dtype = match config.root.text("dtype")? {
            Some(name) => Some(name),
            None => config.root.text("torch_dtype")?,
        };
        let element_bytes = if dtype.is_some_and(|name| name.ends_with("float32")) { 4 } else { 2 };
        let kv_heads = kv_heads.or(heads);
        let per_token = layers.zip(kv_heads).zip(head_dim).map(|((layers, heads), dim)| {
            Bytes(2 * element_bytes)
                .saturating_mul(layers)
                .saturating_mul(heads)
                .saturating_mul(dim)
        });
        let is_set = |name: &&&str| config.text.value(name).is_some();
        let not_plain =
            NOT_PLAIN.iter().filter(is_set).map(|name| config.text.path(name)).collect();
        Ok(Self {
            architecture,
            read,
            missing,
            not_plain,
            layers,
            kv_heads,
            head_dim,
            element_bytes,
            per_token_bytes: per_token,
        })
    }
}

/// Reads fields and remembers which.
struct Reader<'a> {
    fields: &'a Fields<'a>,
    read: Vec<(String, u64)>,
    missing: Vec<String>,
}

impl Reader<'_> {
    /// A field under one of several names; missing is noted.
    fn count(&mut self, names: &[&str], max: u32) -> Result<Option<u64>> {
        let found = self.find(names, max)?;
        if found.is_none() {
            self.missing.push(self.fields.path(names[0]));
        }
        Ok(found)
    }

    fn optional(&mut self, names: &[&str]) -> Result<Option<u64>> {
        self.find(names, HEADS_MAX.max(HEAD_DIM_MAX))
    }

    fn find(&mut self, names: &[&str], max: u32) -> Result<Option<u64>> {
        for name in names {
            if let Some(found) = self.fields.count(name, max)? {
                self.read.push((self.fields.path(name), found.into()));
                return Ok(Some(found.into()));
            }
        }
        Ok(None)
    }
}

impl fmt::Display for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.architecture.as_deref().unwrap_or("this model");
        writeln!(f, "{name} has no rule here; a partial answer from plain fields alone")?;
        for (field, value) in &self.read {
            writeln!(f, "  read     {field} = {value}")?;
        }
        for field in &self.missing {
            writeln!(f, "  missing  {field}")?;
        }
        for field in &self.not_plain {
            writeln!(f, "  ignored  {field}, which says that some layers keep something else")?;
        }
        match (self.layers, self.kv_heads, self.head_dim, self.per_token_bytes) {
            (Some(layers), Some(heads), Some(dim), Some(bytes)) => write!(
                f,
                "if every layer keeps keys and values of every token, one token takes\n  \
                 2 x {layers} layers x {heads} KV heads x {dim} x {} bytes = {bytes} ({} bytes)",
                self.element_bytes, bytes.0
            ),
            _ => write!(f, "that is not enough for what one token takes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_fields_are_read_and_named() {
        let json = r#"{"architectures": ["Novel"], "num_hidden_layers": 4, "hidden_size": 64,
            "num_attention_heads": 8, "num_key_value_heads": 2, "sliding_window": 128}"#;
        let partial = Partial::from_config(json).unwrap();
        assert_eq!(partial.per_token_bytes, Some(Bytes(2 * 4 * 2 * 8 * 2)));
        assert_eq!(partial.not_plain, ["sliding_window"]);
        let text = partial.to_string();
        assert!(text.contains("num_key_value_heads = 2"), "{text}");
        assert!(text.contains("2 x 4 layers x 2 KV heads x 8 x 2 bytes"), "{text}");
    }

    #[test]
    fn what_is_missing_is_said_and_nothing_guessed() {
        let partial = Partial::from_config(r#"{"architectures": ["Novel"]}"#).unwrap();
        assert_eq!(partial.per_token_bytes, None);
        assert!(partial.missing.contains(&"num_hidden_layers".to_owned()));
        let bad = Partial::from_config(r#"{"num_hidden_layers": "four"}"#).unwrap_err();
        assert!(bad.to_string().contains("num_hidden_layers"), "{bad}");
    }
}
