//! What a file is called, and what it is to us. Pure, and without allocation: files are met in driver
//! callbacks.

use crate::event::Libraries;

/// What a file on the stack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Between who asks and the driver: the CUDA libraries themselves, and what stands in front of
    /// them.
    Plumbing,
    /// Calls on behalf of whoever called it, whatever that wanted: foreign-function interfaces.
    Transparent,
    /// The program itself, or the interpreter that it is run by.
    Program,
    /// It asks.
    Library(Short),
}

/// A short name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Short {
    bytes: [u8; Libraries::NAME_BYTES_MAX],
    len: usize,
}

impl Short {
    fn of(parts: &[&[u8]]) -> Self {
        let mut short = Self { bytes: [0; Libraries::NAME_BYTES_MAX], len: 0 };
        for byte in parts.iter().copied().flatten() {
            if let Some(place) = short.bytes.get_mut(short.len) {
                *place = *byte;
                short.len += 1;
            }
        }
        short
    }

    /// As text; what is not UTF-8 ends it.
    pub(super) fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.len).unwrap_or_default();
        bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid())
    }
}

impl std::fmt::Debug for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

/// CUDA's own libraries, our simulator of them, and libraries that are preloaded in front of the
/// driver to share a device (HAMi's).
const PLUMBING: &[&str] = &["libcuda", "libcudart", "libcupti", "libmemvelope_sim", "libvgpu"];

/// Python's `ctypes` and what it is made of.
const TRANSPARENT: &[&str] = &["libffi", "_ctypes", "_cffi_backend"];

/// Families of files that are one library to their users, by how their names begin.
const FAMILIES: &[(&str, &str)] = &[
    ("libtorch", "libtorch"),
    ("libc10", "libtorch"),
    ("libcaffe2", "libtorch"),
    ("libaten", "libtorch"),
    ("libATen", "libtorch"),
    ("libcublas", "libcublas"),
    ("libcudnn", "libcudnn"),
    ("libcusolver", "libcusolver"),
    ("libnvinfer", "libnvinfer"),
];

/// The role of the file at `path`, as the dynamic loader has it; empty for the main program.
pub(super) fn role_of(path: &[u8]) -> Role {
    let file = after_last(path, b'/');
    if file.is_empty() {
        return Role::Program;
    }
    let stem = stem_of(file);
    let is_one_of = |names: &[&str]| names.iter().any(|name| name.as_bytes() == stem);
    if stem.starts_with(b"libpython") {
        return Role::Program;
    }
    if is_one_of(PLUMBING) {
        return Role::Plumbing;
    }
    if is_one_of(TRANSPARENT) {
        return Role::Transparent;
    }
    let family = FAMILIES.iter().find(|(start, _)| stem.starts_with(start.as_bytes()));
    if let Some((_, name)) = family {
        return Role::Library(Short::of(&[name.as_bytes()]));
    }
    // Extensions of Python have names like `_C` and `driver`: the package says more.
    match package_of(path).filter(|package| !stem.starts_with(b"lib") && *package != file) {
        Some(b"torch") => Role::Library(Short::of(&[b"libtorch"])),
        Some(package) => Role::Library(Short::of(&[package, b"/", stem])),
        None => Role::Library(Short::of(&[stem])),
    }
}

fn after_last(path: &[u8], separator: u8) -> &[u8] {
    path.rsplit(|byte| *byte == separator).next().unwrap_or_default()
}

/// The name without versions, tags of an interpreter, and the hash that repaired wheels put in
/// (`libcudart-9335f6a2.so.12`).
fn stem_of(file: &[u8]) -> &[u8] {
    let end = if file.starts_with(b"lib") {
        file.windows(3).position(|three| three == b".so")
    } else {
        file.iter().position(|byte| *byte == b'.')
    };
    let stem = file.get(..end.filter(|end| *end > 0).unwrap_or(file.len())).unwrap_or(file);
    match stem.len().checked_sub(9).and_then(|at| stem.split_at_checked(at)) {
        Some((name, [b'-', hash @ ..])) if hash.iter().all(u8::is_ascii_hexdigit) => name,
        _ => stem,
    }
}

/// The first folder below the folder of packages.
fn package_of(path: &[u8]) -> Option<&[u8]> {
    let mut folders = path.split(|byte| *byte == b'/');
    let is_packages = |folder: &[u8]| matches!(folder, b"site-packages" | b"dist-packages");
    folders.by_ref().find(|folder| is_packages(folder))?;
    folders.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: &str) {
        let found = match role_of(path.as_bytes()) {
            Role::Plumbing => "plumbing".to_owned(),
            Role::Transparent => "transparent".to_owned(),
            Role::Program => "program".to_owned(),
            Role::Library(short) => short.as_str().to_owned(),
        };
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn files_have_short_names() {
        for (path, expected) in [
            ("", "program"),
            ("/usr/lib/x86_64-linux-gnu/libcuda.so.1", "plumbing"),
            ("/usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05", "plumbing"),
            ("/x/site-packages/nvidia/cuda_runtime/lib/libcudart.so.12", "plumbing"),
            ("/x/site-packages/torch/lib/libcudart-9335f6a2.so.12", "plumbing"),
            ("libcupti.so.13", "plumbing"),
            ("/usr/lib/libvgpu.so", "plumbing"),
            ("/x/target/debug/libmemvelope_sim.so", "plumbing"),
            ("/usr/lib/x86_64-linux-gnu/libffi.so.8", "transparent"),
            (
                "/usr/lib/python3.11/lib-dynload/_ctypes.cpython-311-x86_64-linux-gnu.so",
                "transparent",
            ),
            ("/usr/lib/libpython3.11.so.1.0", "program"),
            ("/x/site-packages/nvidia/nccl/lib/libnccl.so.2", "libnccl"),
            ("/x/site-packages/nvidia/cublas/lib/libcublasLt.so.12", "libcublas"),
            ("/x/site-packages/nvidia/cublas/lib/libcublas.so.12", "libcublas"),
            ("/x/nvidia/cudnn/lib/libcudnn_engines_precompiled.so.9", "libcudnn"),
            ("/x/site-packages/torch/lib/libtorch_cuda.so", "libtorch"),
            ("/x/site-packages/torch/lib/libc10_cuda.so", "libtorch"),
            ("/x/site-packages/torch/_C.cpython-311-x86_64-linux-gnu.so", "libtorch"),
            ("/x/site-packages/vllm/_C.abi3.so", "vllm/_C"),
            (
                "/x/dist-packages/cupy_backends/cuda/api/driver.cpython-311.so",
                "cupy_backends/driver",
            ),
            ("/x/site-packages/alone.abi3.so", "alone"),
            ("./liba.so", "liba"),
            ("/x/libcuda_helper.so", "libcuda_helper"),
            ("/opt/plugin.so", "plugin"),
            ("/opt/no_extension", "no_extension"),
            ("/opt/.hidden", ".hidden"),
            ("/opt/", "program"),
            ("/opt/lib-12345678.so", "lib"),
            ("/opt/-12345678", ""),
        ] {
            check(path, expected);
        }
    }

    #[test]
    fn names_are_bounded_and_text() {
        let long = format!("/x/lib{}.so", "y".repeat(500));
        check(&long, &format!("lib{}", "y".repeat(45)));
        let role = role_of(b"/x/lib\xff\xfe.so");
        assert!(matches!(role, Role::Library(short) if short.as_str() == "lib"));
    }
}
