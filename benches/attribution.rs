//! What it takes to find out which library asked for an allocation, from within a driver callback:
//! through frames of CUPTI, the driver and the runtime, as libraries built by the C compiler.
//!
//! `cargo bench -p memvelope --features bench-internals --bench attribution [-- --quick]`

#[path = "pair.rs"]
#[expect(unreachable_pub, reason = "one file, shared by path among the benches")]
mod pair;

use memvelope::runtime::bench::attribution;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The way down, the outermost first: name, and frames. Real ones have some twenty in all.
const WAY: [(&str, usize); 4] =
    [("libasker.so", 3), ("libcudart.so.12", 4), ("libcuda.so.1", 7), ("libcupti.so.13", 7)];

/// Builds the libraries; `None` without a C compiler.
fn libraries(folder: &Path) -> Option<Vec<(PathBuf, usize)>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/programs/frames.c");
    let build = |(name, frames): (&str, usize)| {
        let path = folder.join(name);
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&path).arg(&source);
        let built = cc.status().ok()?.success();
        assert!(built, "{name}");
        Some((path, frames))
    };
    WAY.into_iter().map(build).collect()
}

fn main() {
    if let Err(why) = attribution::start() {
        return println!("ignored: {why}");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(built) = libraries(folder.path()) else {
        return println!("ignored: no C compiler");
    };
    let way: Vec<_> = built.iter().map(|(path, frames)| (path.as_path(), *frames)).collect();
    let mut pairs = Vec::new();
    attribution::call_below(&way, &mut || {
        assert_eq!(attribution::name(attribution::library_here()), "libasker");
        let frames = attribution::by_libgcc("libasker.so");
        assert!(frames > 20, "{frames}");
        let mut subject = |operations: u64| {
            for _ in 0..operations {
                black_box(attribution::library_here());
            }
        };
        let mut peer = |operations: u64| {
            for _ in 0..operations {
                black_box(attribution::by_libgcc("libasker.so"));
            }
        };
        let mut floor = |operations: u64| {
            for _ in 0..operations {
                assert!(black_box(attribution::copy_of_stack()));
            }
        };
        let libgcc = ("_Unwind_Backtrace and dladdr", &mut peer as &mut dyn FnMut(u64));
        pairs.push(pair::measure(("library_here", &mut subject), libgcc, 2_000));
        let copy = ("a copy of the stack", &mut floor as &mut dyn FnMut(u64));
        pairs.push(pair::measure(("library_here", &mut subject), copy, 2_000));
    });
    println!("| subject | ns | peer or floor | ns | ratio |\n|---|---|---|---|---|");
    for pair in &pairs {
        pair.print();
    }
}
