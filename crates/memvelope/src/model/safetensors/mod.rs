//! What a local checkpoint holds, read from the headers of its safetensors files.
//!
//! A header is a JSON object behind an 8-byte length, and says of every tensor its type, its shape
//! and where it lies. Headers alone are read, with plain reads of a bounded size: no byte of a
//! tensor is touched, and no file is mapped, so a checkpoint that somebody truncates meanwhile ends
//! in an error rather than a signal.

mod compare;
mod dtype;
mod json;
#[cfg(test)]
mod tests;

pub use compare::{Comparison, Reason};
pub use dtype::StoredDtype;

use crate::error::{Error, Result};
use crate::units::Bytes;
use json::{Entry, Header, Index};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The longest header that the format allows.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Headers and index of one checkpoint together; the largest published one has 60 MB.
const HEADERS_BYTES_MAX: u64 = 1 << 30;
/// Files of one checkpoint.
const FILES_MAX: usize = 1 << 12;
/// Tensors of one checkpoint.
const TENSORS_MAX: usize = 1 << 22;

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// The tensors of a local checkpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Checkpoint {
    /// Its files, as the index names them, in alphabetical order.
    pub files: Vec<PathBuf>,
    /// Bytes of all tensors.
    pub bytes: Bytes,
    /// The same by type.
    pub bytes_by_dtype: BTreeMap<StoredDtype, Bytes>,
    /// Every tensor, in the order of the files and in each by its place.
    pub tensors: Vec<StoredTensor>,
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredTensor {
    /// Its name.
    pub name: String,
    /// The type of an element.
    pub dtype: StoredDtype,
    /// Elements.
    pub elements: u64,
    /// Bytes.
    pub bytes: Bytes,
}

impl Checkpoint {
    /// Reads the headers of a checkpoint's files: those that `model.safetensors.index.json` names,
    /// else `model.safetensors`, else every `*.safetensors` there.
    ///
    /// # Errors
    /// [`Error::ReadFile`] when a file cannot be read; [`Error::ReadCheckpoint`] names the file and
    /// the field, and says what is wrong.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut budget = HEADERS_BYTES_MAX;
        let mut listed = None;
        let mut names = vec![SINGLE.to_owned()];
        let index = folder.join(INDEX);
        if let Some(file) = open(&index, true)? {
            let read = Index::read(&index, file, &mut budget)?;
            names.clone_from(&read.files);
            listed = Some(read);
        } else if open(&folder.join(SINGLE), true)?.is_none() {
            names = files(folder)?;
        }
        let mut checkpoint = Self {
            files: names.iter().map(|name| folder.join(name)).collect(),
            bytes: Bytes(0),
            bytes_by_dtype: BTreeMap::new(),
            tensors: Vec::new(),
        };
        let mut seen = HashSet::new();
        for (at, name) in names.iter().enumerate() {
            let path = folder.join(name);
            let first = checkpoint.tensors.len();
            checkpoint.header(&path, &mut budget)?;
            for tensor in &checkpoint.tensors[first..] {
                if !seen.insert(tensor.name.clone()) {
                    return Err(wrong(
                        &path,
                        &tensor.name,
                        "in another file of the checkpoint too",
                    ));
                }
            }
            if let Some(listed) = &listed {
                let here: HashSet<&str> =
                    checkpoint.tensors[first..].iter().map(|tensor| tensor.name.as_str()).collect();
                let of_file = listed.tensors.get(at).map_or(&[][..], Vec::as_slice);
                if let Some(missing) = of_file.iter().find(|name| !here.contains(name.as_str())) {
                    return Err(wrong(&path, missing, "missing, and the index says it is here"));
                }
            }
        }
        Ok(checkpoint)
    }

    /// `metadata.total_size` of the index, for a checkpoint whose files are not all here. `None`
    /// where there is no index, or it does not say.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn indexed_bytes(folder: &Path) -> Result<Option<Bytes>> {
        #[derive(serde::Deserialize)]
        struct Index {
            metadata: Option<Metadata>,
        }
        #[derive(serde::Deserialize)]
        struct Metadata {
            total_size: Option<serde_json::Number>,
        }
        let path = folder.join(INDEX);
        let Some(mut file) = open(&path, true)? else { return Ok(None) };
        let bytes = file.metadata().map_err(|source| failed(&path, source))?.len();
        let text = bounded(&path, &mut file, bytes, &mut HEADER_BYTES_MAX.clone())?;
        let index: Index = serde_json::from_slice(&text)
            .map_err(|error| wrong(&path, "(document)", error.to_string()))?;
        let size = index.metadata.and_then(|metadata| metadata.total_size);
        Ok(size.and_then(|size| size.as_u64()).filter(|&size| size > 0).map(Bytes))
    }

    /// Whether a folder has files of a checkpoint, or an index of some.
    #[must_use]
    pub fn is_in(folder: &Path) -> bool {
        folder.join(INDEX).exists() || files(folder).is_ok()
    }

    /// Reads one file's header and takes up its tensors.
    fn header(&mut self, path: &Path, budget: &mut u64) -> Result<()> {
        let Some(mut file) = open(path, false)? else {
            return Err(wrong(path, "(file)", "missing"));
        };
        let bytes = file.metadata().map_err(|source| failed(path, source))?.len();
        let mut length = [0; 8];
        if bytes < 8 {
            let problem = format!("{bytes} bytes; a safetensors file begins with a length of 8");
            return Err(wrong(path, "(length)", problem));
        }
        file.read_exact(&mut length).map_err(|source| failed(path, source))?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES_MAX || length > bytes - 8 {
            let problem = format!(
                "a header of {length} bytes in a file of {bytes}; at most {HEADER_BYTES_MAX}"
            );
            return Err(wrong(path, "(length)", problem));
        }
        let text = bounded(path, &mut file, length, budget)?;
        if text.first() != Some(&b'{') {
            return Err(wrong(path, "(header)", "does not begin with `{`"));
        }
        let data = bytes - 8 - length;
        let tensors = Header { path, room: TENSORS_MAX - self.tensors.len() }
            .read(&text)
            .map_err(|problem| wrong(path, "(header)", problem))?;
        self.take(path, tensors, data)
    }

    /// Checks that the tensors lie end to end and fill the file, as the format demands.
    fn take(&mut self, path: &Path, mut tensors: Vec<Entry<'_>>, data: u64) -> Result<()> {
        tensors.sort_by_key(|tensor| tensor.offsets);
        let mut end = 0;
        for tensor in tensors {
            let [from, to] = tensor.offsets;
            let offsets =
                |problem: String| wrong(path, &format!("{}.data_offsets", tensor.name), problem);
            if from > to {
                return Err(offsets(format!("[{from}, {to}] ends before it begins")));
            }
            if to > data {
                let problem = format!("[{from}, {to}] of {data} bytes; the file is truncated");
                return Err(offsets(problem));
            }
            if from != end {
                let what =
                    if from < end { "overlaps the tensor before it" } else { "leaves a gap" };
                return Err(offsets(format!("[{from}, {to}] {what}, which ends at {end}")));
            }
            end = to;
            let bits = tensor.elements.and_then(|count| count.checked_mul(tensor.dtype.bits()));
            let bits = bits.filter(|bits| bits.is_multiple_of(8));
            if bits != Some((to - from).saturating_mul(8)) {
                let problem = format!("does not take the {} bytes it is given", to - from);
                return Err(wrong(path, &format!("{}.shape", tensor.name), problem));
            }
            let bytes = Bytes(to - from);
            self.bytes = self.bytes.saturating_add(bytes);
            let of_dtype = self.bytes_by_dtype.entry(tensor.dtype).or_default();
            *of_dtype = of_dtype.saturating_add(bytes);
            self.tensors.push(StoredTensor {
                name: tensor.name.into_owned(),
                dtype: tensor.dtype,
                elements: tensor.elements.unwrap_or(0),
                bytes,
            });
        }
        if end != data {
            let problem = format!("tensors end at {end} of {data} bytes");
            return Err(wrong(path, "(data)", problem));
        }
        Ok(())
    }
}

/// Opens a file for reading, without waiting for anything; `None` if it is not there and may be.
fn open(path: &Path, may_be_absent: bool) -> Result<Option<File>> {
    let mut options = File::options();
    // A pipe under the name would wait for a writer.
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(source) if may_be_absent && source.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(path, source)),
    };
    // Of what a link leads to: a cache of checkpoints is links to files.
    let metadata = file.metadata().map_err(|source| failed(path, source))?;
    match metadata.is_file() {
        true => Ok(Some(file)),
        false => Err(wrong(path, "(file)", "not a file")),
    }
}

/// Reads so many bytes, of what the whole checkpoint may take.
fn bounded(path: &Path, file: &mut File, length: u64, budget: &mut u64) -> Result<Vec<u8>> {
    let Some(rest) = budget.checked_sub(length) else {
        let problem = format!("headers of more than {HEADERS_BYTES_MAX} bytes in all");
        return Err(wrong(path, "(length)", problem));
    };
    *budget = rest;
    let mut text = Vec::new();
    let read = file.take(length).read_to_end(&mut text);
    let read = read.map_err(|source| failed(path, source))?;
    match u64::try_from(read) {
        Ok(read) if read == length => Ok(text),
        _ => Err(wrong(path, "(length)", format!("{length} bytes, of which {read} are there"))),
    }
}

/// Files of a folder without an index.
fn files(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|source| failed(folder, source))? {
        let name = entry.map_err(|source| failed(folder, source))?.file_name();
        if let Some(name) = name.to_str().filter(|name| name.ends_with(".safetensors")) {
            names.push(name.to_owned());
        }
        if names.len() > FILES_MAX {
            return Err(wrong(folder, "(folder)", format!("more than {FILES_MAX} files")));
        }
    }
    if names.is_empty() {
        let problem = format!("neither {INDEX} nor a *.safetensors is there");
        return Err(wrong(folder, "(folder)", problem));
    }
    names.sort();
    Ok(names)
}

fn failed(path: &Path, source: std::io::Error) -> Error {
    Error::ReadFile { path: path.to_owned(), source }
}

fn wrong(path: &Path, field: &str, problem: impl Into<String>) -> Error {
    // Bounded, whatever the file holds.
    let field = field.chars().take(160).collect();
    Error::ReadCheckpoint { path: path.to_owned(), field, problem: problem.into() }
}
