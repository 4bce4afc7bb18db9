//! Parsing JSON that nobody vouches for.
//!
//! `serde_json` bounds the depth (128). Beside that: no field is named twice, at any depth, since
//! which of the two counts differs among parsers, and what the values take is bounded, since that
//! is many times their text.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::Cell;
use std::fmt;

/// Values of a document, in units of some 40 bytes. Lists of quantised layers are the longest
/// there are: an object of ten values for each matrix of 60 x 384 experts is 1.8 million.
const VALUES_MAX: u32 = 1 << 22;
/// What an array takes beside its values, once it has one.
const OF_ARRAY: u32 = 3;
/// What an object takes beside its values: its first node has room for eleven.
const OF_OBJECT: u32 = 15;

/// The object that a text describes.
pub(super) fn object(text: &str) -> serde_json::Result<Map<String, Value>> {
    let left = Cell::new(VALUES_MAX);
    let mut parser = serde_json::Deserializer::from_str(text);
    let value = parser.deserialize_map(Any { left: &left, expected: "an object" })?;
    parser.end()?;
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(Error::custom("expected an object")),
    }
}

/// Any value, as long as some are left.
#[derive(Clone, Copy)]
struct Any<'a> {
    left: &'a Cell<u32>,
    expected: &'static str,
}

impl<'a> Any<'a> {
    fn inner(self) -> Self {
        Self { expected: "a JSON value", ..self }
    }

    fn take<E: Error>(self, units: u32) -> Result<(), E> {
        let Some(left) = self.left.get().checked_sub(units) else {
            return Err(E::custom("more values than are read (4 million; an object counts 16)"));
        };
        self.left.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Any<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.take(1)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.take(OF_ARRAY)?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self.inner())? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.take(OF_OBJECT)?;
        let mut map = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            if map.contains_key(&name) {
                // Bounded, whatever the file holds.
                let name: String = name.chars().take(80).collect();
                return Err(A::Error::custom(format_args!("field `{name}` is there twice")));
            }
            let value = access.next_value_seed(self.inner())?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}
