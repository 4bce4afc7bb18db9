//! The JSON of indices and headers, read without keeping more of it than its tensors.

use super::dtype::StoredDtype;
use super::{FILES_MAX, HEADER_BYTES_MAX, TENSORS_MAX, bounded, failed, wrong};
use crate::error::Result;
use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::path::Path;

/// The beginning of a text, short enough for an error line whatever the file holds.
fn brief(text: impl fmt::Display) -> String {
    text.to_string().chars().take(200).collect()
}

/// The files of an index, in alphabetical order, and what it says is in each.
pub(super) struct Index {
    pub(super) files: Vec<String>,
    pub(super) tensors: Vec<Vec<String>>,
}

impl Index {
    pub(super) fn read(path: &Path, mut file: File, budget: &mut u64) -> Result<Self> {
        let bytes = file.metadata().map_err(|source| failed(path, source))?.len();
        if bytes > HEADER_BYTES_MAX {
            let problem = format!("{bytes} bytes; at most {HEADER_BYTES_MAX} are read");
            return Err(wrong(path, "(document)", problem));
        }
        let text = bounded(path, &mut file, bytes, budget)?;
        let map: Document = serde_json::from_slice(&text)
            .map_err(|error| wrong(path, "weight_map", brief(error)))?;
        let Document { weight_map: WeightMap(map) } = map;
        let (files, tensors): (Vec<String>, Vec<Vec<String>>) = map.into_iter().unzip();
        if files.is_empty() {
            return Err(wrong(path, "weight_map", "empty"));
        }
        for file in &files {
            // Nothing outside the checkpoint is read because an index says so.
            if file.contains(['/', '\\']) || !file.ends_with(".safetensors") {
                let problem = format!("`{}` is not the name of a file beside it", brief(file));
                return Err(wrong(path, "weight_map", problem));
            }
        }
        Ok(Self { files, tensors })
    }
}

#[derive(Deserialize)]
struct Document {
    weight_map: WeightMap,
}

/// Tensors by file.
struct WeightMap(BTreeMap<String, Vec<String>>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of file names")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut access: A,
            ) -> std::result::Result<WeightMap, A::Error> {
                let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
                let mut names = HashSet::new();
                while let Some((name, file)) = access.next_entry::<String, String>()? {
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format_args!(
                            "`{}` is there twice",
                            brief(&name)
                        )));
                    }
                    map.entry(file).or_default().push(name);
                    if map.len() > FILES_MAX || names.len() > TENSORS_MAX {
                        return Err(A::Error::custom("more files or tensors than are read"));
                    }
                }
                Ok(WeightMap(map))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// One tensor of a header.
pub(super) struct Entry<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) dtype: StoredDtype,
    /// `None`: more than can be counted.
    pub(super) elements: Option<u64>,
    pub(super) offsets: [u64; 2],
}

/// Reads a header.
pub(super) struct Header<'a> {
    pub(super) path: &'a Path,
    /// Tensors that may still come.
    pub(super) room: usize,
}

impl Header<'_> {
    pub(super) fn read<'de>(self, text: &'de [u8]) -> std::result::Result<Vec<Entry<'de>>, String> {
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let entries = DeserializeSeed::deserialize(self, &mut deserializer);
        let entries = entries.map_err(brief)?;
        deserializer.end().map_err(brief)?;
        Ok(entries)
    }
}

impl<'de> DeserializeSeed<'de> for Header<'_> {
    type Value = Vec<Entry<'de>>;

    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

/// A name, without a copy where it needs no unescaping.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Header<'_> {
    type Value = Vec<Entry<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the header of {}", self.path.display())
    }

    fn visit_map<A: MapAccess<'de>>(
        self,
        mut access: A,
    ) -> std::result::Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        let mut names = HashSet::new();
        while let Some(Name(name)) = access.next_key::<Name<'de>>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format_args!("`{}` is there twice", brief(&name))));
            }
            if name == "__metadata__" {
                access.next_value::<BTreeMap<Cow<'de, str>, IgnoredAny>>()?;
                continue;
            }
            let tensor = access.next_value::<Tensor>().map_err(|error| {
                A::Error::custom(format_args!("`{}`: {}", brief(&name), brief(error)))
            })?;
            if entries.len() >= self.room {
                return Err(A::Error::custom(format_args!("more than {TENSORS_MAX} tensors")));
            }
            let Tensor { dtype: Dtype(dtype), shape: Elements(elements), data_offsets } = tensor;
            entries.push(Entry { name, dtype, elements, offsets: data_offsets });
        }
        Ok(entries)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tensor {
    dtype: Dtype,
    shape: Elements,
    data_offsets: [u64; 2],
}

struct Dtype(StoredDtype);

impl<'de> Deserialize<'de> for Dtype {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let Name(name) = Name::deserialize(deserializer)?;
        let unknown =
            || D::Error::custom(format_args!("dtype `{}` is not of the format", brief(&name)));
        StoredDtype::of(&name).map(Self).ok_or_else(unknown)
    }
}

/// The product of a shape, counted as it comes: a shape of a million ones takes no memory.
struct Elements(Option<u64>);

impl<'de> Deserialize<'de> for Elements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Product;
        impl<'de> Visitor<'de> for Product {
            type Value = Elements;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of whole numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut access: A,
            ) -> std::result::Result<Elements, A::Error> {
                let mut product = Some(1_u64);
                let mut is_empty = false;
                while let Some(size) = access.next_element::<u64>()? {
                    is_empty |= size == 0;
                    product = product.and_then(|product| product.checked_mul(size));
                }
                Ok(Elements(if is_empty { Some(0) } else { product }))
            }
        }
        deserializer.deserialize_seq(Product)
    }
}
