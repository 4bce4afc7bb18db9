//! `docs/snapshot-format.md` is made from the types that are serialised: every key has the sentence
//! that stands beside it in the code. `UPDATE_DOCS=1 cargo test -p memvelope-tests --test
//! snapshot_format` rewrites it.

#![allow(clippy::unwrap_used, reason = "helpers of tests abort on purpose, as the tests do")]

use memvelope::snapshot::SCHEMA;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Where the types of a snapshot are; a trailing slash means the folder.
const SOURCES: &[&str] =
    &["snapshot/", "ledger/", "timeline/", "event/", "event.rs", "framework.rs", "units.rs"];

/// What the page begins with: the document around a snapshot, which is no type.
const HEAD: &str = include_str!("snapshot_format_head.md");

/// A type as JSON has it.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    /// A number, a text or a flag; how the page calls it.
    Plain(&'static str),
    /// Another type of the page, by name.
    Named(String),
    OrNull(Box<Shape>),
    /// With what the entries stand for, where their number is fixed.
    List(Box<Shape>, String),
    Tuple(Vec<Shape>),
}

#[derive(Clone, Debug)]
struct Field {
    key: String,
    doc: String,
    shape: Shape,
    is_flat: bool,
}

#[derive(Clone, Debug)]
enum Item {
    /// What stands for the value itself.
    Transparent(Shape),
    Struct {
        doc: String,
        fields: Vec<Field>,
    },
    Enum {
        doc: String,
        tag: Option<String>,
        variants: Vec<Variant>,
    },
}

#[derive(Clone, Debug)]
struct Variant {
    word: String,
    doc: String,
    fields: Vec<Field>,
    /// The shape of an unnamed field.
    holds: Option<Shape>,
}

fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/memvelope/src")
}

fn rust_files(at: &Path, found: &mut Vec<PathBuf>) {
    if at.is_dir() {
        std::fs::read_dir(at).unwrap().flatten().for_each(|e| rust_files(&e.path(), found));
    } else if at.extension().is_some_and(|ending| ending == "rs") {
        found.push(at.to_owned());
    }
}

/// The documentation as one line, without links.
fn doc_of(attributes: &[syn::Attribute]) -> String {
    let line = |attribute: &syn::Attribute| {
        let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
        let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &pair.value else {
            return None;
        };
        pair.path.is_ident("doc").then(|| text.value().trim().to_owned())
    };
    let lines: Vec<_> = attributes.iter().filter_map(line).collect();
    // The first paragraph: what follows is for readers of the code.
    let first = lines.split(|line| line.is_empty()).next().unwrap_or_default().join(" ");
    let text =
        first.replace("[`", "`").replace("`]", "`").replace('|', "\\|").replace("`None`", "`null`");
    let shorter = ["crate::event::", "crate::framework::", "crate::ledger::", "Self::", "super::"];
    shorter.iter().fold(text, |text, prefix| text.replace(prefix, ""))
}

/// The words in a type's or field's `serde` attributes.
fn serde_of(attributes: &[syn::Attribute]) -> String {
    let own = attributes.iter().filter(|attribute| attribute.path().is_ident("serde"));
    let text = |attribute: &syn::Attribute| match &attribute.meta {
        syn::Meta::List(list) => list.tokens.to_string(),
        _ => String::new(),
    };
    own.map(text).collect::<Vec<_>>().join(" , ")
}

fn snake(name: &str) -> String {
    let mut text = String::new();
    for (at, letter) in name.char_indices() {
        if letter.is_uppercase() && at > 0 {
            text.push('_');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

fn shape_of(of: &syn::Type) -> Shape {
    match of {
        syn::Type::Path(path) => {
            let last = path.path.segments.last().unwrap();
            let inner = || match &last.arguments {
                syn::PathArguments::AngleBracketed(all) => match all.args.first().unwrap() {
                    syn::GenericArgument::Type(inner) => Box::new(shape_of(inner)),
                    _ => panic!("{} of something that is no type", last.ident),
                },
                _ => panic!("{} without arguments", last.ident),
            };
            match last.ident.to_string().as_str() {
                "bool" => Shape::Plain("true or false"),
                "String" => Shape::Plain("text"),
                "f64" | "f32" => Shape::Plain("number"),
                "u8" | "u16" | "u32" | "u64" | "usize" => Shape::Plain("whole number"),
                "i8" | "i16" | "i32" | "i64" => Shape::Plain("whole number, with a sign"),
                "Bytes" => Shape::Plain("bytes"),
                "Nanos" => Shape::Plain("ns"),
                "Option" => Shape::OrNull(inner()),
                "Vec" | "Box" => Shape::List(inner(), String::new()),
                name => Shape::Named(name.to_owned()),
            }
        }
        syn::Type::Array(array) => {
            let length = match &array.len {
                syn::Expr::Path(path) => {
                    let of = path.path.segments.iter().rev().nth(1);
                    of.map_or(String::new(), |of| of.ident.to_string())
                }
                _ => String::new(),
            };
            Shape::List(Box::new(shape_of(&array.elem)), length)
        }
        syn::Type::Slice(slice) => shape_of(&slice.elem),
        syn::Type::Tuple(tuple) => Shape::Tuple(tuple.elems.iter().map(shape_of).collect()),
        _ => panic!("a type that is not understood"),
    }
}

fn fields_of(fields: &syn::Fields) -> Vec<Field> {
    let field = |field: &syn::Field| {
        let serde = serde_of(&field.attrs);
        (serde != "skip").then(|| Field {
            key: field.ident.as_ref().unwrap().to_string(),
            doc: doc_of(&field.attrs),
            shape: shape_of(&field.ty),
            is_flat: serde.contains("flatten"),
        })
    };
    fields.iter().filter_map(field).collect()
}

fn unnamed(fields: &syn::Fields) -> Option<Shape> {
    let syn::Fields::Unnamed(all) = fields else { return None };
    assert_eq!(all.unnamed.len(), 1, "a variant or struct of one unnamed field");
    Some(shape_of(&all.unnamed[0].ty))
}

/// The types that are serialised, by name.
fn items() -> BTreeMap<String, Item> {
    let mut files = Vec::new();
    SOURCES.iter().for_each(|source| rust_files(&library().join(source), &mut files));
    let mut found = BTreeMap::new();
    for path in files {
        let file = syn::parse_file(&std::fs::read_to_string(&path).unwrap()).unwrap();
        for item in file.items {
            let (name, item) = match item {
                syn::Item::Struct(item) => {
                    let inner = unnamed(&item.fields);
                    let (doc, name) = (doc_of(&item.attrs), item.ident.to_string());
                    let fields = || Item::Struct { doc, fields: fields_of(&item.fields) };
                    if !is_serialised(&item.attrs) {
                        continue;
                    }
                    let is_transparent = serde_of(&item.attrs).contains("transparent");
                    let inner = inner.or_else(|| {
                        is_transparent.then(|| shape_of(&item.fields.iter().next().unwrap().ty))
                    });
                    (name, inner.map_or_else(fields, Item::Transparent))
                }
                syn::Item::Enum(item) if is_serialised(&item.attrs) => {
                    (item.ident.to_string(), enum_of(&item))
                }
                _ => continue,
            };
            assert!(found.insert(name.clone(), item).is_none(), "two types are called {name}");
        }
    }
    found
}

fn is_serialised(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => {
            list.path.is_ident("derive") && list.tokens.to_string().contains("Serialize")
        }
        _ => false,
    })
}

fn enum_of(item: &syn::ItemEnum) -> Item {
    let serde = serde_of(&item.attrs);
    assert!(serde.contains("snake_case"), "{} is not in snake_case", item.ident);
    let tag = serde.split_once("tag = \"").map(|(_, rest)| rest.split('"').next().unwrap().into());
    let variant = |variant: &syn::Variant| Variant {
        word: snake(&variant.ident.to_string()),
        doc: doc_of(&variant.attrs),
        fields: match &variant.fields {
            syn::Fields::Named(_) => fields_of(&variant.fields),
            _ => Vec::new(),
        },
        holds: unnamed(&variant.fields),
    };
    Item::Enum {
        doc: doc_of(&item.attrs),
        tag,
        variants: item.variants.iter().map(variant).collect(),
    }
}

/// How the page calls a shape; names that it meets are noted.
fn text_of(shape: &Shape, items: &BTreeMap<String, Item>, met: &mut VecDeque<String>) -> String {
    match shape {
        Shape::Plain(text) => (*text).to_owned(),
        Shape::OrNull(inner) => format!("{} or null", text_of(inner, items, met)),
        Shape::List(inner, length) => {
            let inner = text_of(inner, items, met);
            if length.is_empty() {
                return format!("list of {inner}");
            }
            met.push_back(length.clone());
            format!("list of {inner}, one each [{length}](#{})", length.to_lowercase())
        }
        Shape::Tuple(all) => {
            let all: Vec<_> = all.iter().map(|shape| text_of(shape, items, met)).collect();
            format!("list: {}", all.join(", "))
        }
        Shape::Named(name) => match items.get(name) {
            Some(Item::Transparent(inner)) => text_of(&inner.clone(), items, met),
            Some(_) => {
                met.push_back(name.clone());
                format!("[{name}](#{})", name.to_lowercase())
            }
            None => panic!("{name} is in none of SOURCES"),
        },
    }
}

/// The fields with those of flat ones in their place.
fn flat<'a>(fields: &'a [Field], items: &'a BTreeMap<String, Item>) -> Vec<&'a Field> {
    let mut all = Vec::new();
    for field in fields {
        match (&field.shape, field.is_flat) {
            (Shape::Named(name), true) => match &items[name] {
                Item::Struct { fields, .. } => all.extend(flat(fields, items)),
                other => panic!("{name} cannot be flat: {other:?}"),
            },
            _ => all.push(field),
        }
    }
    all
}

fn page() -> String {
    let items = items();
    let mut page = HEAD.replace("SCHEMA_NUMBER", &SCHEMA.to_string());
    let (mut met, mut done) = (VecDeque::from(["Snapshot".to_owned()]), BTreeSet::new());
    let mut last = vec!["Fit".to_owned()];
    while let Some(name) = met.pop_front().or_else(|| last.pop()) {
        if !done.insert(name.clone()) {
            continue;
        }
        let _ = write!(page, "\n## {name}\n\n");
        match &items[&name] {
            Item::Transparent(_) => panic!("{name} has no section"),
            Item::Struct { doc, fields } => {
                let _ = write!(page, "{doc}\n\n| key | value | what |\n|---|---|---|\n");
                for field in flat(fields, &items) {
                    let text = text_of(&field.shape, &items, &mut met);
                    let _ = writeln!(page, "| `{}` | {text} | {} |", field.key, field.doc);
                }
            }
            Item::Enum { doc, tag, variants } => {
                let how = tag.as_ref().map(|tag| format!(" Its `{tag}` says which:"));
                let _ = write!(page, "{doc}{}\n\n", how.unwrap_or_default());
                for variant in variants {
                    let _ = writeln!(page, "* `{}`: {}", variant.word, variant.doc);
                    for field in &variant.fields {
                        let text = text_of(&field.shape, &items, &mut met);
                        let _ = writeln!(page, "  * `{}` ({text}): {}", field.key, field.doc);
                    }
                }
            }
        }
    }
    page
}

#[test]
fn the_page_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/snapshot-format.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == page, "docs/snapshot-format.md is stale; run with UPDATE_DOCS=1");
}

/// Whether a document is what the page says; otherwise where it is not.
fn conforms(value: &Value, shape: &Shape, items: &BTreeMap<String, Item>, at: &str) {
    let is_right = match shape {
        Shape::Plain("text") => value.is_string(),
        Shape::Plain("true or false") => value.is_boolean(),
        Shape::Plain("number") => value.is_number(),
        Shape::Plain("whole number, with a sign") => value.is_i64(),
        Shape::Plain(_) => value.is_u64(),
        Shape::OrNull(inner) => {
            if !value.is_null() {
                conforms(value, inner, items, at);
            }
            true
        }
        Shape::List(inner, _) => {
            let all = value.as_array().unwrap_or_else(|| panic!("{at} is no list: {value}"));
            all.iter().for_each(|entry| conforms(entry, inner, items, &format!("{at}[]")));
            true
        }
        Shape::Tuple(shapes) => {
            let all = value.as_array().unwrap_or_else(|| panic!("{at} is no list: {value}"));
            all.iter().zip(shapes).for_each(|(entry, shape)| conforms(entry, shape, items, at));
            all.len() == shapes.len()
        }
        Shape::Named(name) => match &items[name] {
            Item::Transparent(inner) => {
                conforms(value, inner, items, at);
                true
            }
            Item::Struct { fields, .. } => {
                has_fields(value, &flat(fields, items), &[], items, at);
                true
            }
            Item::Enum { tag: None, variants, .. } => is_variant(value, variants, items, at),
            Item::Enum { tag: Some(tag), variants, .. } => {
                let found = variants.iter().find(|variant| value[tag] == variant.word.as_str());
                let found = found.unwrap_or_else(|| panic!("{at}: {value}"));
                let fields: Vec<_> = found.fields.iter().collect();
                has_fields(value, &fields, &[tag], items, at);
                true
            }
        },
    };
    assert!(is_right, "{at} is not {shape:?}: {value}");
}

fn is_variant(
    value: &Value,
    variants: &[Variant],
    items: &BTreeMap<String, Item>,
    at: &str,
) -> bool {
    let held = value.as_object().and_then(|object| object.iter().next());
    let word = value.as_str().or(held.map(|(word, _)| word.as_str())).unwrap_or_default();
    let Some(variant) = variants.iter().find(|variant| variant.word == word) else { return false };
    if let (Some((_, inner)), Some(shape)) = (held, &variant.holds) {
        conforms(inner, shape, items, at);
    }
    true
}

fn has_fields(
    value: &Value,
    fields: &[&Field],
    extra: &[&str],
    items: &BTreeMap<String, Item>,
    at: &str,
) {
    let object = value.as_object().unwrap_or_else(|| panic!("{at} is no object: {value}"));
    let expect: BTreeSet<&str> = fields.iter().map(|field| field.key.as_str()).collect();
    let found: BTreeSet<&str> =
        object.keys().map(String::as_str).filter(|key| !extra.contains(key)).collect();
    assert_eq!(found, expect, "keys of {at}");
    for field in fields {
        let at = format!("{at}.{}", field.key);
        conforms(&value[field.key.as_str()], &field.shape, items, &at);
    }
}

mod snapshot_format_sample;

/// A snapshot with one of everything, and every kind of answer, are as the page says.
#[test]
fn what_is_serialised_is_what_the_page_says() {
    let items = items();
    let check = |name: &str, value: Value| {
        conforms(&value, &Shape::Named(name.into()), &items, name);
    };
    check("Snapshot", serde_json::to_value(memvelope::snapshot::Snapshot::default()).unwrap());
    let sample = serde_json::to_value(snapshot_format_sample::snapshot()).unwrap();
    nothing_is_empty(&sample, "snapshot");
    check("Snapshot", sample);
    for fit in snapshot_format_sample::fits() {
        check("Fit", serde_json::to_value(fit).unwrap());
    }
}

/// Else the sample would prove nothing about what is in there. (A number may be null: it has nothing
/// inside.)
fn nothing_is_empty(value: &Value, at: &str) {
    const WHOLE: [&str; 5] = ["host", "framework", "balance", "highest", "fragmentation"];
    let is_whole = WHOLE.iter().any(|key| at.ends_with(&format!(".{key}")));
    assert!(!is_whole || value.is_object(), "{at} is null in the sample");
    assert_ne!(*value, serde_json::json!([]), "{at} is empty in the sample");
    for (key, value) in value.as_object().into_iter().flatten() {
        nothing_is_empty(value, &format!("{at}.{key}"));
    }
    for value in value.as_array().into_iter().flatten() {
        nothing_is_empty(value, &format!("{at}[]"));
    }
}
