//! `cargo xtask kernels [--check]`: the PTX of `cuda/*.cu`, with a pinned nvcc that needs no
//! toolkit, no GPU and no driver.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::pip;

/// What the PTX is made for. Turing is the oldest that CUDA 13 knows, and the kernels use nothing
/// newer; every driver compiles it for the device at hand (T4, A10, L4, H100, H200, B200).
const ARCH: &str = "compute_75";

/// The PTX version that we declare instead of the compiler's own. A driver refuses PTX newer than
/// itself: nvcc 13.0 writes 9.0, which needs driver 580. Nothing in these kernels is younger than
/// 7.0 (CUDA 11.0, driver 450), and ptxas checks that claim below.
const PTX_VERSION: &str = "7.0";

/// For these ptxas must accept the PTX: T4, A100, A10, L4,
/// H100 and H200, B200, and consumer Blackwell.
const ASSEMBLE_FOR: &[&str] = &["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"];

/// Rebuilds every PTX file; with `check`, compares with the committed ones instead.
///
/// # Errors
/// Where a tool cannot be had or fails, or where a committed file is stale.
pub(crate) fn kernels(check: bool) -> Result<()> {
    let toolkit = pip::wheels("nvcc", pip::NVCC)?.join("nvidia/cu13");
    for source in sources()? {
        let ptx = compile(&toolkit, &source)?;
        assemble(&toolkit, &source, &ptx)?;
        let committed = source.with_extension("ptx");
        pip::settle(check, &committed, &ptx, "run `cargo xtask kernels` and commit its output")?;
    }
    println!("ptxas accepts every kernel for {}", ASSEMBLE_FOR.join(", "));
    Ok(())
}

/// `cuda/*.cu`, in order of name.
fn sources() -> Result<Vec<PathBuf>> {
    let folder = pip::root().join("cuda");
    let mut found = Vec::new();
    for entry in
        fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            found.push(path);
        }
    }
    ensure!(!found.is_empty(), "no workload in {}", folder.display());
    found.sort();
    Ok(found)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn compile(toolkit: &Path, source: &Path) -> Result<String> {
    let made = pip::cache().join(name(source)).with_extension("ptx");
    pip::run(
        Command::new(toolkit.join("bin/nvcc"))
            .args(["-ptx", "-std=c++17", "-O3", "-arch", ARCH, "-Werror", "all-warnings", "-o"])
            .args([&made, source]),
    )?;
    let raw =
        fs::read_to_string(&made).with_context(|| format!("cannot read {}", made.display()))?;
    let nvcc = pip::NVCC[0].version;
    let mut text = format!(
        "// Made by `cargo xtask kernels` from {} with nvcc {nvcc}. Do not edit.\n",
        name(source)
    );
    for line in raw.lines().skip_while(|line| line.starts_with("//")) {
        match line.strip_prefix(".version ") {
            Some(_) => text.push_str(&format!(".version {PTX_VERSION}")),
            None => text.push_str(line.trim_end()),
        }
        text.push('\n');
    }
    ensure!(text.contains(".visible .entry "), "{} has no kernel", source.display());
    let paths = text.lines().skip(1).any(|line| line.contains('/') && !line.contains("// "));
    ensure!(!paths && !text.contains(".file"), "a path got into the PTX of {}", source.display());
    Ok(text)
}

fn assemble(toolkit: &Path, source: &Path, ptx: &str) -> Result<()> {
    let input = pip::cache().join(name(source)).with_extension("ptx");
    fs::write(&input, ptx).with_context(|| format!("cannot write {}", input.display()))?;
    for arch in ASSEMBLE_FOR {
        pip::run(
            Command::new(toolkit.join("bin/ptxas"))
                .args(["-arch", arch, "-o"])
                .args([&input.with_extension("cubin"), &input]),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;

    fn entries(ptx: &str) -> Vec<&str> {
        let names = ptx.lines().filter_map(|line| line.strip_prefix(".visible .entry "));
        names.map(|rest| rest.trim_end_matches(['(', ')'])).collect()
    }

    /// Every workload has its PTX, and every kernel is described where its callers look.
    #[test]
    fn every_kernel_is_built_and_described() {
        let readme = fs::read_to_string(pip::root().join("cuda/README.md")).unwrap();
        for source in sources().unwrap() {
            let code = fs::read_to_string(&source).unwrap();
            let ptx = fs::read_to_string(source.with_extension("ptx")).unwrap();
            let declared = code.matches("extern \"C\" __global__").count();
            assert_eq!(entries(&ptx).len(), declared, "kernels in {}", name(&source));
            for kernel in entries(&ptx) {
                assert!(readme.contains(&format!("`{kernel}(")), "{kernel} is not in the README");
            }
        }
    }

    /// The sources of the kernels, compiled for the host, do what the README says, and its worked
    /// example is theirs.
    #[test]
    fn kernels_compute_what_the_readme_says() {
        let compiler = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        if Command::new(&compiler).arg("--version").output().is_err() {
            println!("ignored: no C++ compiler ({compiler})");
            return;
        }
        let cuda = pip::root().join("cuda");
        fs::create_dir_all(pip::cache()).unwrap();
        let program = pip::cache().join("host_check");
        pip::run(
            Command::new(&compiler)
                .args(["-std=c++20", "-O1", "-pthread", "-o"])
                .args([&program, &cuda.join("host_check.cpp")]),
        )
        .unwrap();
        let output = pip::run(&mut Command::new(&program)).unwrap();
        let readme = fs::read_to_string(cuda.join("README.md")).unwrap();
        let example: Vec<&str> =
            output.lines().filter(|line| !line.ends_with("failures")).collect();
        assert_eq!(example.len(), 9, "{output}");
        assert!(readme.contains(&example.join("\n")), "the README's example is not:\n{output}");
    }
}
