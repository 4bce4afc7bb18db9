//! An unchanged C program under `CUDA_INJECTION64_PATH`, on the simulated driver: the report has
//! exactly what the program did, and the program does not notice.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use common::{Bench, built, run};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};

/// What the program does is decided by its argument; it always returns 7.
const PROGRAM: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef unsigned long long ptr;
static void *cuda;
static int (*cuInit)(unsigned), (*cuDeviceGet)(int *, int);
static int (*cuDevicePrimaryCtxRetain)(void **, int), (*cuCtxSetCurrent)(void *);
static int (*cuMemAlloc_v2)(ptr *, size_t), (*cuMemFree_v2)(ptr);
static int (*cuModuleLoadData)(void **, const void *);
static int (*cuModuleGetFunction)(void **, void *, const char *);
static int (*cuLaunchKernel)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                             unsigned, void *, void **, void **);
static int (*cuCtxSynchronize)(void), (*cuMemsetD8_v2)(ptr, unsigned char, size_t);
#define LOAD(name) *(void **)&name = dlsym(cuda, #name)
#define MUST(call) do { int code = (call); if (code) { \
    fprintf(stderr, #call ": %d\n", code); exit(3); } } while (0)

#ifdef OLD_COPY
/* A copy of memvelope in the main program, of the first form: a table without functions. */
static struct { unsigned size, version; unsigned long long owner; } table = { 16, 1, 0 };
void *memvelope_session_v1(void) {
    table.owner = (unsigned long long)getpid() << 32 | 2;
    return &table;
}
#endif

static const char ptx[] =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .entry storm(.param .u64 to)\n{\n  ret;\n}\n";

static void work(void) {
    int device; void *context, *module, *storm; ptr a, b, c; void *arguments[] = { &a };
    MUST(cuDeviceGet(&device, 0));
    MUST(cuDevicePrimaryCtxRetain(&context, device));
    MUST(cuCtxSetCurrent(context));
    MUST(cuMemAlloc_v2(&a, 3 << 20));
    MUST(cuMemAlloc_v2(&b, 5 << 20));
    MUST(cuMemAlloc_v2(&c, 7 << 20));
    MUST(cuMemFree_v2(b));
    MUST(cuMemsetD8_v2(a, 0, 3 << 20));
    MUST(cuModuleLoadData(&module, ptx));
    MUST(cuModuleGetFunction(&storm, module, "storm"));
    for (int i = 0; i < 1000; i++)
        MUST(cuLaunchKernel(storm, 4, 1, 1, 128, 1, 1, 0, 0, arguments, 0));
    MUST(cuCtxSynchronize());
}

int main(int count, char **words) {
    const char *how = count > 1 ? words[1] : "";
    cuda = dlopen("libcuda.so.1", RTLD_NOW);
    if (!cuda) { fprintf(stderr, "%s\n", dlerror()); return 4; }
    LOAD(cuInit); LOAD(cuDeviceGet); LOAD(cuDevicePrimaryCtxRetain); LOAD(cuCtxSetCurrent);
    LOAD(cuMemAlloc_v2); LOAD(cuMemFree_v2); LOAD(cuModuleLoadData); LOAD(cuModuleGetFunction);
    LOAD(cuLaunchKernel); LOAD(cuCtxSynchronize); LOAD(cuMemsetD8_v2);
    MUST(cuInit(0));
    MUST(cuInit(0));
    if (!strcmp(how, "twice")) {   /* another copy of the recorder, as a Python module would be */
        void *copy = dlopen(getenv("SECOND_COPY"), RTLD_NOW | RTLD_LOCAL);
        if (!copy) { fprintf(stderr, "%s\n", dlerror()); return 4; }
        setenv("MEMVELOPE_REPORT", getenv("SECOND_REPORT"), 1);
        ((int (*)(void))dlsym(copy, "InitializeInjection"))();
    }
    work();
    if (!strcmp(how, "fork")) {
        int status; pid_t child = fork();
        if (child == 0) exit(9);   /* runs the exit handlers that it inherited */
        waitpid(child, &status, 0);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 9) return 5;
    }
    if (!strcmp(how, "sleep")) usleep(2000000);
    if (!strcmp(how, "_exit") ) { usleep(2000000); _exit(7); }
    if (!strcmp(how, "abort")) { usleep(2000000); abort(); }
    return 7;
}
"#;

/// Compiles the program; `None` without a C compiler.
fn program(bench: &Bench) -> Option<PathBuf> {
    program_with(bench, &[])
}

fn program_with(bench: &Bench, flags: &[&str]) -> Option<PathBuf> {
    let (source, binary) = (bench.path("program.c"), bench.path("program"));
    std::fs::write(&source, PROGRAM).unwrap();
    let mut cc = Command::new("cc");
    match cc.args(flags).arg("-o").arg(&binary).arg(&source).arg("-ldl").status() {
        Ok(status) => {
            assert!(status.success());
            Some(binary)
        }
        Err(error) => {
            println!("ignored: no C compiler ({error})");
            None
        }
    }
}

/// Runs the program recorded, with a report and `env` besides.
fn record(bench: &Bench, how: &str, env: &[(&str, &str)]) -> Option<Output> {
    let program = program(bench)?;
    Some(record_program(bench, program, how, env))
}

fn record_program(bench: &Bench, program: PathBuf, how: &str, env: &[(&str, &str)]) -> Output {
    let mut command = bench.command(program);
    command
        .arg(how)
        .env("CUDA_INJECTION64_PATH", built("libmemvelope_inject.so"))
        .env("MEMVELOPE_REPORT", bench.path("report.json"))
        .env("MEMVELOPE_POLL_PERIOD_MS", "100")
        .envs(env.iter().copied());
    run(&mut command)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The report has what the program did, which the simulator's own books confirm.
fn assert_exact(bench: &Bench, report: &Value) {
    let books = bench.json("books.json");
    assert_eq!(report["simulated"], true);
    assert!(report["mode"]["cupti"]["callbacks"] == true, "{}", report["mode"]);
    let snapshot = &report["snapshot"];
    let device = &snapshot["devices"][0];
    let kind = &device["totals"]["by_kind"][0];
    let own = &books["devices"][0]["families"]["device"];
    for (field, value) in
        [("live_bytes", 10 << 20), ("peak_bytes", 15 << 20), ("allocated_bytes", 15 << 20)]
    {
        assert_eq!(kind[field], value, "{field}: {kind}");
    }
    assert_eq!((&kind["live_count"], &kind["allocated_count"]), (&2.into(), &3.into()));
    assert_eq!(kind["live_bytes"], own["live_bytes"]);
    assert_eq!(kind["peak_bytes"], own["peak_bytes"]);
    assert_eq!(kind["allocated_count"], own["allocations"]);
    assert_eq!(device["uuid"], books["devices"][0]["uuid"]);
    let kernels = snapshot["timeline"]["kernels"].as_array().unwrap();
    assert_eq!(kernels.len(), 1, "{kernels:?}");
    assert_eq!((&kernels[0]["name"], &kernels[0]["count"]), (&"storm".into(), &1000.into()));
    assert_eq!(kernels[0]["total_ns"], books["kernels"]["storm"]["total_ns"]);
    assert_eq!(snapshot["timeline"]["memsets"]["count"], 1);
    assert_eq!(snapshot["dropped"], serde_json::json!([]));
    let findings = &snapshot["findings"];
    for (field, value) in [
        ("untracked_frees", 0),
        ("replaced", 0),
        ("refused", 0),
        ("underflows", 0),
        ("recorded_allocations", 3),
        ("recorded_frees", 1),
    ] {
        assert_eq!(findings[field], value, "{field}: {findings}");
    }
    assert_eq!(books["injection"]["returned"], 1);
    assert_eq!(books["caught_panics"], 0);
    assert_eq!(report["self"]["recorder"]["caught_panics"], 0);
}

/// Records a run that ends by itself and compares.
fn check(how: &str, env: &[(&str, &str)]) {
    let bench = Bench::new("");
    let Some(output) = record(&bench, how, env) else { return };
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "");
    assert_eq!(text(&output.stderr), "");
    let report = bench.json("report.json");
    assert_eq!(report["final"], true);
    assert_exact(&bench, &report);
    let leftovers: Vec<_> = std::fs::read_dir(bench.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".tmp"))
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

#[test]
fn a_short_program_is_recorded_exactly() {
    check("", &[]);
}

#[test]
fn a_program_that_outlives_a_few_periods_is_recorded_exactly() {
    check("sleep", &[]);
}

#[test]
fn a_forked_child_leaves_the_report_alone() {
    check("fork", &[]);
}

#[test]
fn small_buffers_lose_nothing() {
    check("sleep", &[("MEMVELOPE_BUFFER_BYTES", "65536"), ("MEMVELOPE_DRAIN_PERIOD_MS", "1")]);
}

#[test]
fn a_program_that_dies_leaves_its_last_periodic_report() {
    for (how, code) in [("_exit", Some(7)), ("abort", None)] {
        let bench = Bench::new("");
        let Some(output) = record(&bench, how, &[]) else { return };
        assert_eq!(output.status.code(), code, "{}", text(&output.stderr));
        let report = bench.json("report.json");
        assert_eq!(report["final"], false);
        let kind = &report["snapshot"]["devices"][0]["totals"]["by_kind"][0];
        assert_eq!(kind["live_bytes"], 10 << 20);
        assert_eq!(report["snapshot"]["timeline"]["kernels"][0]["count"], 1000);
    }
}

/// Another tool has CUPTI: nothing of it is touched, and the report says who.
#[test]
fn complaint_04_a_busy_subscription_is_respected_and_its_holder_named() {
    let bench = Bench::new("subscriber = \"nsys\"\n");
    let Some(output) = record(&bench, "", &[]) else { return };
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    let report = bench.json("report.json");
    let why = report["mode"]["polling"].as_str().unwrap_or_default();
    assert!(why.contains("nsys"), "{}", report["mode"]);
    assert!(report["snapshot"]["unseen"].to_string().contains("nsys"));
    let device = &report["snapshot"]["devices"][0];
    assert_eq!(device["allocations_unseen"], true);
    assert!(device["nvml_used_bytes"].as_u64().unwrap() > 10 << 20, "{device}");
    assert_eq!(report["snapshot"]["timeline"]["kernels"].as_array().map(Vec::len), Some(0));
    // No kind was on, and no buffer asked for: the holder's records were left alone.
    let books = bench.json("books.json");
    assert_eq!(books["activity"]["buffers_requested"], 0, "{}", books["activity"]);
}

#[test]
fn mistyped_keys_are_said_once_and_change_nothing() {
    let bench = Bench::new("");
    let env = [("MEMVELOPE_BUFFER_BYTES", "lots"), ("MEMVELOPE_RECORD", "poll")];
    let Some(output) = record(&bench, "", &env) else { return };
    assert_eq!(output.status.code(), Some(7));
    let stderr = text(&output.stderr);
    assert_eq!(stderr.matches("MEMVELOPE_BUFFER_BYTES=lots").count(), 1, "{stderr}");
    let report = bench.json("report.json");
    assert!(report["mode"]["polling"].as_str().unwrap().contains("MEMVELOPE_RECORD"));
}

/// Standard error may be a full disk or a pipe without a reader: a complaint that cannot be written
/// must not end the program.
#[test]
fn a_complaint_that_cannot_be_written_harms_nobody() {
    let bench = Bench::new("");
    let Some(program) = program(&bench) else { return };
    let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else {
        return println!("ignored: no /dev/full here");
    };
    let status = bench
        .command(program)
        .env("CUDA_INJECTION64_PATH", built("libmemvelope_inject.so"))
        .env("MEMVELOPE_REPORT", bench.path("report.json"))
        .env("MEMVELOPE_BUFFER_BYTES", "lots")
        .stderr(full)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(7), "{status}");
    assert_eq!(bench.json("report.json")["final"], true);
}

#[test]
fn a_report_that_cannot_be_written_is_said_once() {
    let bench = Bench::new("");
    for (path, complaint) in
        [("/nonexistent/report.json", "writing /nonexistent/report.json"), ("x", "absolute path")]
    {
        let Some(output) = record(&bench, "sleep", &[("MEMVELOPE_REPORT", path)]) else { return };
        assert_eq!(output.status.code(), Some(7));
        let stderr = text(&output.stderr);
        assert_eq!(stderr.matches(complaint).count(), 1, "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

/// The second copy becomes the client of the first: both tell of one recording, and nothing is
/// counted twice.
#[test]
fn a_second_copy_of_us_sees_the_first_ones_recording() {
    let bench = Bench::new("");
    let (copy, report) = (bench.path("copy.so"), bench.path("second.json"));
    std::fs::copy(built("libmemvelope_inject.so"), &copy).unwrap();
    let env =
        [("SECOND_COPY", copy.to_str().unwrap()), ("SECOND_REPORT", report.to_str().unwrap())];
    let Some(output) = record(&bench, "twice", &env) else { return };
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert_exact(&bench, &bench.json("report.json"));
    assert_exact(&bench, &bench.json("second.json"));
}

/// A copy in the main program is found where that exports its table; one that is too old to have
/// clients is left the records, and named.
#[test]
fn an_older_copy_in_the_main_program_is_found_and_left_its_records() {
    let bench = Bench::new("");
    let Some(program) = program_with(&bench, &["-DOLD_COPY", "-rdynamic"]) else { return };
    let output = record_program(&bench, program, "", &[]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    let report = bench.json("report.json");
    let why = report["mode"]["polling"].as_str().unwrap_or_default();
    assert!(why.contains("the main program") && why.contains("too old"), "{}", report["mode"]);
    assert_eq!(bench.json("books.json")["activity"]["buffers_requested"], 0);
}
