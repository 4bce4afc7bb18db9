//! Where a model is described: a config.json, the directory of a checkpoint, or stdin.

use crate::failure::{Failure, Outcome};
use memvelope::envelope::Stored;
use memvelope::model::{Layout, Partial};
use memvelope::units::Bytes;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A config is read so far and no further, whatever it is a path to: what the library takes for
/// one, and a byte more, so that a longer one is known as such.
const CONFIG_BYTES_MAX: u64 = 16 * Bytes::MIB;

/// A model's description, read.
#[derive(Debug)]
pub(super) struct Source {
    /// What it was read from, for messages.
    name: String,
    config: String,
    quantization: Option<String>,
    /// The checkpoint, where a directory was given.
    folder: Option<PathBuf>,
}

impl Source {
    /// Reads a config, and the `hf_quant_config.json` that is given or lies beside it.
    ///
    /// # Errors
    /// What cannot be read.
    pub(super) fn read(path: &Path, quantization: Option<&Path>) -> Outcome<Self> {
        if path == Path::new("-") {
            let config = bounded(std::io::stdin().lock(), Path::new("stdin"))?;
            let quantization = quantization.map(read).transpose()?;
            return Ok(Self { name: "stdin".to_owned(), config, quantization, folder: None });
        }
        let folder = path.is_dir().then(|| path.to_owned());
        let file = folder.as_ref().map_or_else(|| path.to_owned(), |dir| dir.join("config.json"));
        if folder.is_some() && !file.exists() {
            return Err(Failure::bad(format!(
                "{} has no config.json{}\nhint: give the directory of a checkpoint in the format \
                 of Hugging Face transformers, or a config.json",
                path.display(),
                what_is_there(path)
            )));
        }
        if !file.exists() {
            return Err(Failure::bad(format!(
                "{} is not there, and nothing is downloaded\nhint: give the model's config.json, \
                 or the directory of its checkpoint",
                file.display()
            )));
        }
        let config = read(&file)?;
        let beside = file.with_file_name("hf_quant_config.json");
        // Beside any other name it may belong to another model.
        let is_beside = file.ends_with("config.json") && beside.is_file();
        let quantization = match quantization {
            Some(given) => Some(read(given)?),
            None if is_beside => Some(read(&beside)?),
            None => None,
        };
        Ok(Self { name: file.display().to_string(), config, quantization, folder })
    }

    /// The text of the config.
    pub(super) fn config(&self) -> &str {
        &self.config
    }

    /// The model.
    ///
    /// # Errors
    /// What is wrong with the config.
    pub(super) fn layout(&self) -> memvelope::Result<Layout> {
        Layout::from_configs(&self.config, self.quantization.as_deref())
    }

    /// Why there is no layout; of an unknown architecture, what plain fields say all the same.
    pub(super) fn explain(&self, error: memvelope::Error) -> Failure {
        let is_unknown = matches!(error, memvelope::Error::UnknownModel { .. });
        let mut text = format!("{}: {error}", self.name);
        if let (true, Ok(partial)) = (is_unknown, Partial::from_config(&self.config)) {
            let read: Vec<String> =
                partial.read.iter().map(|(field, value)| format!("{field}={value}")).collect();
            match partial.per_token_bytes {
                Some(bytes) => text.push_str(&format!(
                    "\nhint: --engine generic answers in part, from {}: {} bytes a token, if \
                     every layer keeps keys and values of every token",
                    read.join(", "),
                    bytes.0
                )),
                None => text.push_str(&format!(
                    "\nhint: --engine generic could not answer either: of the plain fields it \
                     found {}, and misses {}",
                    if read.is_empty() { "none".to_owned() } else { read.join(", ") },
                    partial.missing.join(", ")
                )),
            }
        }
        Failure::bad(text)
    }

    /// What the files of the checkpoint hold, where there are any.
    pub(super) fn stored(&self, layout: &Layout, warnings: &mut Vec<String>) -> Option<Stored> {
        let (stored, warning) = Stored::open(self.folder.as_deref()?, layout);
        warnings.extend(warning);
        stored
    }
}

/// A text file of at most [`CONFIG_BYTES_MAX`].
///
/// # Errors
/// It cannot be read, or is longer.
pub(super) fn read(path: &Path) -> Outcome<String> {
    let failed = |source| memvelope::Error::ReadFile { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let data = file.metadata().map_err(failed)?;
    if data.is_dir() {
        return Err(Failure::bad(format!("{} is a directory, not a file", path.display())));
    }
    if data.len() > CONFIG_BYTES_MAX {
        return Err(too_long(path, Some(data.len())));
    }
    bounded(file, path)
}

fn bounded(from: impl Read, path: &Path) -> Outcome<String> {
    let mut bytes = Vec::new();
    from.take(CONFIG_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| memvelope::Error::ReadFile { path: path.to_owned(), source })?;
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        return Err(too_long(path, None));
    }
    String::from_utf8(bytes).map_err(|_| {
        Failure::bad(format!(
            "{} is not text\nhint: give the model's config.json, or the directory it lies in",
            path.display()
        ))
    })
}

fn too_long(path: &Path, bytes: Option<u64>) -> Failure {
    let size = bytes.map_or(String::new(), |bytes| format!("{}, ", Bytes(bytes)));
    Failure::bad(format!(
        "{}: {size}more than a config.json may have ({})\nhint: give the model's config.json, or the \
         directory it lies in, not a file of weights",
        path.display(),
        Bytes(CONFIG_BYTES_MAX)
    ))
}

/// Other descriptions of models that lie in a directory.
fn what_is_there(folder: &Path) -> String {
    const OTHERS: [&str; 4] =
        ["params.json", "model_index.json", "adapter_config.json", "snapshots"];
    let there: Vec<_> = OTHERS.iter().filter(|name| folder.join(name).exists()).copied().collect();
    match there.as_slice() {
        [] => String::new(),
        names => format!(", but {}", names.join(" and ")),
    }
}
