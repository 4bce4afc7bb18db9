//! A libcupti that must not be called before the driver answers (13.2: any call crashes), and a
//! driver that calls the injection library from within `cuInit`: both are a few lines of C, because
//! the simulated CUPTI has no such version's symbols.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use common::{Bench, built, run};
use std::process::Command;

const DRIVER: &str = r#"
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
static int inside(void) { return access(getenv("FAKE_INSIDE"), F_OK) == 0; }
int cuInit(unsigned flags) {
    static int once;
    if (once++) return 0;
    close(open(getenv("FAKE_INSIDE"), O_CREAT | O_WRONLY, 0600));
    void *library = dlopen(getenv("CUDA_INJECTION64_PATH"), RTLD_NOW);
    ((int (*)(void))dlsym(library, "InitializeInjection"))();
    usleep(200000);   /* time enough for anybody to do what must not be done */
    unlink(getenv("FAKE_INSIDE"));
    return 0;
}
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuDeviceGetCount(int *count) { if (inside()) return 3; *count = 0; return 0; }
int cuCtxGetCurrent(void **context) { *context = 0; return inside() ? 3 : 0; }
"#;

const CUPTI: &str = r#"
#include <stdlib.h>
#include <unistd.h>
unsigned cuptiGetVersion(unsigned *version) {
    if (access(getenv("FAKE_INSIDE"), F_OK) == 0) abort();
    *version = 130202;
    return 0;
}
unsigned cuptiGetTimestamp(unsigned long long *time) {
    if (access(getenv("FAKE_INSIDE"), F_OK) == 0) abort();
    return 999;
}
unsigned cuptiActivityGetStructSize(void) { abort(); }
"#;

const PROGRAM: &str = r#"
#include <dlfcn.h>
#include <unistd.h>
int main(void) {
    void *cuda = dlopen("libcuda.so.1", RTLD_NOW);
    if (!cuda || ((int (*)(unsigned))dlsym(cuda, "cuInit"))(0)) return 3;
    usleep(400000);
    return 7;
}
"#;

#[test]
fn complaint_10_a_cupti_that_crashes_early_is_attached_once_the_driver_answers() {
    let bench = Bench::new("");
    for (name, text, flags) in [
        ("libcuda.so.1", DRIVER, &["-shared", "-fPIC"][..]),
        ("libcupti.so.13", CUPTI, &["-shared", "-fPIC"]),
        ("program", PROGRAM, &[]),
    ] {
        let source = bench.path(&format!("{name}.c"));
        std::fs::write(&source, text).unwrap();
        // The simulator's link of that name.
        let _ = std::fs::remove_file(bench.path(name));
        let mut cc = Command::new("cc");
        match cc.args(flags).arg("-o").arg(bench.path(name)).arg(&source).arg("-ldl").status() {
            Ok(status) => assert!(status.success(), "{name}"),
            Err(error) => return println!("ignored: no C compiler ({error})"),
        }
    }
    let mut command = bench.command(bench.path("program"));
    command
        .env("FAKE_INSIDE", bench.path("inside"))
        .env("CUDA_INJECTION64_PATH", built("libmemvelope_inject.so"))
        .env("MEMVELOPE_CUPTI_PATH", bench.path("libcupti.so.13"))
        .env("MEMVELOPE_REPORT", bench.path("report.json"))
        .env("MEMVELOPE_POLL_PERIOD_MS", "100");
    let output = run(&mut command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{}: {stderr}", output.status);
    let report = bench.json("report.json");
    let reports = report["load_reports"].as_array().unwrap();
    let cupti = reports.iter().find(|report| report["library"] == "libcupti").unwrap();
    // Asked after all, and found to have nothing more than that.
    assert_eq!(cupti["version"], "13.2 (API 130202)", "{cupti}");
    let why = report["mode"]["polling"].as_str().unwrap_or_default();
    assert!(why.contains("cuptiActivityRegisterCallbacks"), "{}", report["mode"]);
}
