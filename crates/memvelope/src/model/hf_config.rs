//! Reading `config.json` defensively: every field by its type and range, every error by its path.

use crate::error::{Error, Result};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// A parsed document. Depth is bounded by the parser (128), size by the caller.
pub(super) struct Document(Map<String, Value>);

/// The object that describes the language model, with its path in the document.
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// The outer object, when `map` is nested in it.
    outer: Option<&'a Map<String, Value>>,
}

/// The nested object of models that are more than a language model.
const TEXT_CONFIG: &str = "text_config";

impl Document {
    pub(super) fn parse(json: &str, bytes_max: usize) -> Result<Self> {
        if json.len() > bytes_max {
            let problem = format!("{} bytes; at most {bytes_max} are read", json.len());
            return Err(wrong("(document)", problem));
        }
        let Object(map) = serde_json::from_str(json)
            .map_err(|error| wrong("(document)", format!("not a JSON object: {error}")))?;
        Ok(Self(map))
    }

    /// The language model's part: the document itself, or its `text_config`.
    pub(super) fn fields(&self) -> Result<Fields<'_>> {
        match self.0.get(TEXT_CONFIG) {
            None | Some(Value::Null) => Ok(Fields { map: &self.0, outer: None }),
            Some(Value::Object(map)) => Ok(Fields { map, outer: Some(&self.0) }),
            Some(other) => Err(wrong(TEXT_CONFIG, format!("{}; expected an object", kind(other)))),
        }
    }
}

impl<'a> Fields<'a> {
    /// A field, `None` if absent or null. In a nested description the outer object may repeat a
    /// field, or hold it alone, but not contradict it.
    pub(super) fn value(&self, name: &str) -> Result<Option<&'a Value>> {
        let own = self.map.get(name);
        let outer = self.outer.and_then(|outer| outer.get(name)).filter(|value| !value.is_null());
        match (own, outer) {
            (Some(Value::Null), _) => Ok(None),
            (None, outer) => Ok(outer),
            (Some(own), Some(outer)) if own != outer => {
                Err(wrong(name, format!("contradicts {}, which says otherwise", self.path(name))))
            }
            (Some(own), _) => Ok(Some(own)),
        }
    }

    /// Whether the field is there at all, null or not.
    pub(super) fn is_present(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// A string of the outer object, where there is one.
    pub(super) fn outer_text(&self, name: &str) -> Result<Option<&'a str>> {
        self.as_text(name, self.outer.and_then(|outer| outer.get(name)))
    }

    /// A string of the language model's own object.
    pub(super) fn own_text(&self, name: &str) -> Result<Option<&'a str>> {
        self.as_text(name, self.map.get(name))
    }

    /// A string.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.as_text(name, self.value(name)?)
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
    pub(super) fn texts(&self, name: &str) -> Result<Vec<&'a str>> {
        let items = match self.value(name)? {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(other) => {
                let problem = format!("{}; expected an array of strings", kind(other));
                return Err(wrong(self.path(name), problem));
            }
        };
        let text = |(index, item): (usize, &'a Value)| match item {
            Value::String(text) => Ok(text.as_str()),
            other => Err(wrong(
                format!("{}[{index}]", self.path(name)),
                format!("{}; expected a string", kind(other)),
            )),
        };
        items.iter().enumerate().map(text).collect()
    }

    /// A boolean, or `default` where absent.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.value(name)? {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => {
                Err(wrong(self.path(name), format!("{}; expected true or false", kind(other))))
            }
        }
    }

    /// A whole number between 1 and `max`.
    pub(super) fn count(&self, name: &str, max: u32) -> Result<Option<u32>> {
        let Some(value) = self.value(name)? else { return Ok(None) };
        let count = value.as_u64().filter(|count| (1..=u64::from(max)).contains(count));
        match count.and_then(|count| u32::try_from(count).ok()) {
            Some(count) => Ok(Some(count)),
            None => {
                let problem =
                    format!("{}; expected a whole number between 1 and {max}", kind(value));
                Err(wrong(self.path(name), problem))
            }
        }
    }

    /// The first of several names for the same number that is there.
    pub(super) fn count_of(&self, names: &[&str], max: u32) -> Result<Option<u32>> {
        for name in names {
            if let Some(count) = self.count(name, max)? {
                return Ok(Some(count));
            }
        }
        Ok(None)
    }

    /// As [`Self::count_of`]; absent is an error.
    pub(super) fn required(&self, names: &[&str], max: u32) -> Result<u32> {
        self.count_of(names, max)?.ok_or_else(|| {
            wrong(self.path(names[0]), "missing, and its value is not the same for every model")
        })
    }

    /// The field's path in the document.
    pub(super) fn path(&self, name: &str) -> String {
        let is_outer_only = !self.map.contains_key(name);
        match self.outer {
            Some(outer) if is_outer_only && outer.contains_key(name) => name.into(),
            Some(_) => format!("{TEXT_CONFIG}.{name}"),
            None => name.into(),
        }
    }
}

pub(super) fn wrong(field: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::ReadModel { field: field.into(), problem: problem.into() }
}

/// What a value is, short enough for an error line whatever the file holds.
pub(super) fn kind(value: &Value) -> String {
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

/// A JSON object in which no field is named twice: `serde_json` would keep the last one silently.
struct Object(Map<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Map<String, Value>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut access: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                let mut map = Map::new();
                while let Some(name) = access.next_key::<String>()? {
                    if map.contains_key(&name) {
                        // Bounded, whatever the file holds.
                        let name: String = name.chars().take(80).collect();
                        return Err(A::Error::custom(format_args!(
                            "field `{name}` is there twice"
                        )));
                    }
                    map.insert(name, access.next_value()?);
                }
                Ok(map)
            }
        }
        deserializer.deserialize_map(Fields).map(Object)
    }
}
