//! Reading `config.json` defensively: every field by its type and range, every error by its path.

use super::json;
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::sync::LazyLock;

/// Numbers, objects and names of an array that is not about quantisation: one for each layer, at
/// the most. Some of them are searched for every layer.
const ITEMS_MAX: usize = 1 << 12;

/// A parsed document.
pub(crate) struct Document(Map<String, Value>);

/// A whole description: the document, and the part of it that is the language model.
#[derive(Clone)]
pub(crate) struct Config<'a> {
    /// The document itself.
    pub(crate) root: Fields<'a>,
    /// The language model's part: a nested object of models that are more than that, else `root`.
    pub(crate) text: Fields<'a>,
    /// Where `text` was found; empty if it is the root.
    pub(crate) text_name: &'static str,
}

/// One object of the document.
#[derive(Clone)]
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// Path of the object in the document, empty or with a final dot.
    prefix: String,
    /// Fields that a model around this part decides, whatever the part itself says.
    set: Vec<(&'static str, &'a Value)>,
}

static TRUE: Value = Value::Bool(true);
static FALSE: Value = Value::Bool(false);
static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

/// Where models that are more than a language model describe it, in the order of precedence.
const TEXT_CONFIGS: &[&str] =
    &["text_config", "llm_config", "language_config", "text_model_config"];

impl Document {
    pub(crate) fn parse(json: &str, bytes_max: usize) -> Result<Self> {
        if json.len() > bytes_max {
            let problem = format!("{} bytes; at most {bytes_max} are read", json.len());
            return Err(wrong("(document)", problem));
        }
        json::object(&without_constants(json))
            .map(Self)
            .map_err(|error| wrong("(document)", format!("not a JSON object: {error}")))
    }

    pub(crate) fn root(&self) -> Fields<'_> {
        Fields { map: &self.0, prefix: String::new(), set: Vec::new() }
    }

    pub(crate) fn config(&self) -> Result<Config<'_>> {
        let root = self.root();
        for &name in TEXT_CONFIGS {
            if let Some(text) = root.object(name)? {
                return Ok(Config { text, root, text_name: name });
            }
        }
        Ok(Config { text: root.clone(), root, text_name: "" })
    }
}

/// An object without fields.
static NOTHING: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

impl Fields<'static> {
    /// An object without fields, so that every default applies.
    pub(crate) fn nothing(prefix: &str) -> Self {
        Self { map: &NOTHING, prefix: prefix.to_owned(), set: Vec::new() }
    }
}

impl<'a> Fields<'a> {
    /// A field, `None` if absent or null.
    pub(crate) fn value(&self, name: &str) -> Option<&'a Value> {
        let set = self.set.iter().find(|(field, _)| *field == name);
        set.map(|&(_, value)| value).or_else(|| self.map.get(name)).filter(|value| !value.is_null())
    }

    /// Whether the field is there at all, null or not.
    pub(crate) fn is_present(&self, name: &str) -> bool {
        self.map.contains_key(name) || self.set.iter().any(|(field, _)| *field == name)
    }

    /// The same with one field as the model around it decides.
    pub(crate) fn with_flag(mut self, name: &'static str, flag: bool) -> Self {
        self.set.push((name, if flag { &TRUE } else { &FALSE }));
        self
    }

    /// The same with one field said to be null.
    pub(crate) fn with_null(mut self, name: &'static str) -> Self {
        self.set.push((name, &Value::Null));
        self
    }

    /// A nested object, empty where it is absent.
    pub(crate) fn object_or_empty(&self, name: &str) -> Result<Fields<'a>> {
        Ok(self.object(name)?.unwrap_or_else(|| Fields {
            map: &EMPTY,
            prefix: format!("{}{name}.", self.prefix),
            set: Vec::new(),
        }))
    }

    /// Names of all fields.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.map.keys().map(String::as_str)
    }

    /// A nested object.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Fields<'a>>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                let prefix = format!("{}{name}.", self.prefix);
                Ok(Some(Fields { map, prefix, set: Vec::new() }))
            }
            Some(other) => {
                Err(wrong(self.path(name), format!("{}; expected an object", kind(other))))
            }
        }
    }

    /// Objects of an array; absent is empty.
    pub(crate) fn objects(&self, name: &str) -> Result<Vec<Fields<'a>>> {
        let object = |(index, item): (usize, &'a Value)| match item {
            Value::Object(map) => {
                let prefix = format!("{}{name}[{index}].", self.prefix);
                Ok(Fields { map, prefix, set: Vec::new() })
            }
            other => Err(wrong(
                format!("{}[{index}]", self.path(name)),
                format!("{}; expected an object", kind(other)),
            )),
        };
        self.few_items(name)?.iter().enumerate().map(object).collect()
    }

    /// Entries of an array that is no longer than any list of layers; absent is empty.
    fn few_items(&self, name: &str) -> Result<&'a [Value]> {
        let items = self.items(name)?;
        if items.len() > ITEMS_MAX {
            let problem = format!("an array of {}; at most {ITEMS_MAX} are read", items.len());
            return Err(wrong(self.path(name), problem));
        }
        Ok(items)
    }

    /// Entries of an array; absent is empty.
    pub(crate) fn items(&self, name: &str) -> Result<&'a [Value]> {
        match self.value(name) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(other) => {
                Err(wrong(self.path(name), format!("{}; expected an array", kind(other))))
            }
        }
    }

    /// Whole numbers of an array, each between 0 and `max`; absent is `None`.
    pub(crate) fn counts(&self, name: &str, max: u32) -> Result<Option<Vec<u32>>> {
        if self.value(name).is_none() {
            return Ok(None);
        }
        let count = |(index, item): (usize, &Value)| {
            item.as_u64()
                .filter(|&count| count <= u64::from(max))
                .and_then(|count| u32::try_from(count).ok())
                .ok_or_else(|| {
                    let expected = format!("expected a whole number between 0 and {max}");
                    let field = format!("{}[{index}]", self.path(name));
                    wrong(field, format!("{}; {expected}", kind(item)))
                })
        };
        self.few_items(name)?.iter().enumerate().map(count).collect::<Result<_>>().map(Some)
    }

    /// A number, finite.
    pub(crate) fn number(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value.as_f64().filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(wrong(self.path(name), format!("{}; expected a number", kind(value)))),
        }
    }

    /// A string.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.as_text(name, self.value(name))
    }

    fn as_text(&self, name: &str, value: Option<&'a Value>) -> Result<Option<&'a str>> {
        match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => {
                Err(wrong(self.path(name), format!("{}; expected a string", kind(other))))
            }
        }
    }

    /// Strings of an array; absent is empty.
    pub(crate) fn texts(&self, name: &str) -> Result<Vec<&'a str>> {
        self.few_items(name)?;
        self.many_texts(name)
    }

    /// As [`Self::texts`], of an array whose length the caller looks at.
    pub(crate) fn many_texts(&self, name: &str) -> Result<Vec<&'a str>> {
        let text = |(index, item): (usize, &'a Value)| match item {
            Value::String(text) => Ok(text.as_str()),
            other => Err(wrong(
                format!("{}[{index}]", self.path(name)),
                format!("{}; expected a string", kind(other)),
            )),
        };
        self.items(name)?.iter().enumerate().map(text).collect()
    }

    /// A boolean, or `default` where absent.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.value(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => {
                Err(wrong(self.path(name), format!("{}; expected true or false", kind(other))))
            }
        }
    }

    /// A whole number between 1 and `max`.
    pub(crate) fn count(&self, name: &str, max: u32) -> Result<Option<u32>> {
        self.count_from(name, 1, max)
    }

    /// A whole number between 0 and `max`; absent is 0.
    pub(crate) fn count_or_zero(&self, name: &str, max: u32) -> Result<u32> {
        Ok(self.count_from(name, 0, max)?.unwrap_or(0))
    }

    /// A whole number between 0 and `max`, or `default` where absent.
    pub(crate) fn count_or(&self, name: &str, default: u32, max: u32) -> Result<u32> {
        Ok(self.count_from(name, 0, max)?.unwrap_or(default))
    }

    fn count_from(&self, name: &str, min: u32, max: u32) -> Result<Option<u32>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let count = value.as_u64().filter(|count| (min.into()..=max.into()).contains(count));
        match count.and_then(|count| u32::try_from(count).ok()) {
            Some(count) => Ok(Some(count)),
            None => {
                let problem =
                    format!("{}; expected a whole number between {min} and {max}", kind(value));
                Err(wrong(self.path(name), problem))
            }
        }
    }

    /// The first of several names for the same number that is there.
    pub(crate) fn count_of(&self, names: &[&str], max: u32) -> Result<Option<u32>> {
        for name in names {
            if let Some(count) = self.count(name, max)? {
                return Ok(Some(count));
            }
        }
        Ok(None)
    }

    /// As [`Self::count_of`]; absent is an error.
    pub(crate) fn required(&self, names: &[&str], max: u32) -> Result<u32> {
        self.count_of(names, max)?.ok_or_else(|| {
            wrong(self.path(names[0]), "missing, and its value is not the same for every model")
        })
    }

    /// The field's path in the document.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

pub(crate) fn wrong(field: impl Into<String>, problem: impl Into<String>) -> Error {
    // Bounded, whatever names the file holds.
    let field: String = field.into();
    let field = if field.len() > 200 { field.chars().take(200).collect() } else { field };
    Error::ReadModel { field, problem: problem.into() }
}

/// What a value is, short enough for an error line whatever the file holds.
pub(crate) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(flag) => format!("{flag}"),
        Value::Number(number) => format!("{number}"),
        Value::String(text) if text.chars().count() <= 40 => format!("{text:?}"),
        Value::String(text) => format!("a string of {} bytes", text.len()),
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(map) => format!("an object of {} fields", map.len()),
    }
}

/// Python writes infinities and NaN as bare words, which JSON does not have: they become null.
fn without_constants(json: &str) -> Cow<'_, str> {
    const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    if !WORDS[1..].iter().any(|word| json.contains(word)) {
        return Cow::Borrowed(json);
    }
    let (mut text, mut rest) = (String::with_capacity(json.len()), json);
    let (mut is_string, mut is_escaped) = (false, false);
    while let Some(character) = rest.chars().next() {
        let word = WORDS.iter().find(|&&word| !is_string && rest.starts_with(word));
        if let Some(word) = word {
            text.push_str("null");
            rest = &rest[word.len()..];
            continue;
        }
        is_string ^= character == '"' && !is_escaped;
        is_escaped = is_string && character == '\\' && !is_escaped;
        text.push(character);
        rest = &rest[character.len_utf8()..];
    }
    Cow::Owned(text)
}
