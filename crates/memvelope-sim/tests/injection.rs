//! The injection contract: the driver loads `$CUDA_INJECTION64_PATH` inside the first `cuInit` and
//! calls `InitializeInjection` once, which may itself call the driver and CUPTI.

#![allow(clippy::unwrap_used, reason = "tests end by panicking")]

mod common;

use common::{crashes_with, cu, in_child_with};
use serde_json::json;
use std::path::Path;
use std::process::Command;

const SOURCE: &str = r#"
extern int cuInit(unsigned);
extern int cuptiActivityEnable(int);
extern int cuptiSubscribe(void **, void (*)(void *, int, int, const void *), void *);
static void nothing(void *a, int b, int c, const void *d) { (void)a; (void)b; (void)c; (void)d; }
static int calls;
int InitializeInjection(void) {
    void *subscriber = 0;
    int before = cuptiActivityEnable(49);
    int again = cuInit(0);
    int subscribed = cuptiSubscribe(&subscriber, nothing, 0);
    return 1000 * ++calls + 100 * before + 10 * again + subscribed + 7;
}
"#;

/// Builds `source` into a shared library; `None` without a C compiler.
fn build(dir: &Path, source: &str) -> Option<std::path::PathBuf> {
    let (c, so) = (dir.join("inject.c"), dir.join("libinject.so"));
    std::fs::write(&c, source).unwrap();
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&so).arg(&c).status();
    match status {
        Ok(status) => {
            assert!(status.success());
            Some(so)
        }
        Err(error) => {
            println!("ignored: no C compiler ({error})");
            None
        }
    }
}

fn check(test: &str, source: &str, expected: serde_json::Value) {
    let dir = tempfile::tempdir().unwrap();
    let Some(so) = build(dir.path(), source) else { return };
    // The injected library finds the driver among the loaded objects, as the real one's would.
    let driver = dir.path().join("libcuda.so.1");
    std::os::unix::fs::symlink(common::library(), &driver).unwrap();
    let env = [("CUDA_INJECTION64_PATH", so.as_path()), ("LD_PRELOAD", driver.as_path())];
    let Some(books) = in_child_with(test, "", &env, || {
        assert_eq!((cu::cuInit(0), cu::cuInit(0)), (0, 0));
    }) else {
        return;
    };
    assert_eq!(books["injection"]["path"], json!(so));
    assert_eq!(books["injection"]["loaded"], expected["loaded"]);
    assert_eq!(books["injection"]["returned"], expected["returned"]);
}

#[test]
fn the_injected_library_is_called_once_and_may_call_back() {
    let test = "the_injected_library_is_called_once_and_may_call_back";
    check(test, SOURCE, json!({ "loaded": true, "returned": 1007 }));
}

/// Some versions cannot be called before `cuInit` has returned, not even from here.
#[test]
fn an_injected_library_can_be_too_early_for_cupti() {
    let dir = tempfile::tempdir().unwrap();
    let Some(so) = build(dir.path(), SOURCE) else { return };
    let driver = dir.path().join("libcuda.so.1");
    std::os::unix::fs::symlink(common::library(), &driver).unwrap();
    let env = [("CUDA_INJECTION64_PATH", so.as_path()), ("LD_PRELOAD", driver.as_path())];
    let test = "an_injected_library_can_be_too_early_for_cupti";
    let case = || assert_eq!(cu::cuInit(0), 0);
    let strict = "[cupti_faults]\ncrash_in_injection = true\n";
    let Some(said) = crashes_with(test, strict, &env, case) else { return };
    assert!(said.contains("cuptiActivityEnable before cuInit returned"), "{said}");
    // By itself no version does, 13.2 included: there the driver is ready.
    let books = in_child_with(test, "cupti = \"13.2\"\n", &env, case).unwrap();
    assert_eq!(books["injection"]["returned"], json!(1007));
}

#[test]
fn a_library_without_the_entry_point_is_noted() {
    let test = "a_library_without_the_entry_point_is_noted";
    check(test, "int nothing;", json!({ "loaded": true, "returned": null }));
}

#[test]
fn a_library_that_is_not_there_is_noted() {
    let test = "a_library_that_is_not_there_is_noted";
    let env = [("CUDA_INJECTION64_PATH", Path::new("/nowhere/libinject.so"))];
    let Some(books) = in_child_with(test, "", &env, || assert_eq!(cu::cuInit(0), 0)) else {
        return;
    };
    assert_eq!(books["injection"]["loaded"], json!(false));
}
