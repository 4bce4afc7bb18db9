//! Which library asked for a driver allocation, in a C program with libraries of every kind, recorded
//! by the injection library on the simulated driver.

#![allow(clippy::unwrap_used, reason = "helpers of tests abort on purpose, as the tests do")]
#![cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]

mod common;

use common::{Bench, built, run};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const UNIT: u64 = 64 << 10;

/// The cases of `tests/programs/who.c`, in its order.
const CASES: [&str; 17] = [
    "by pointer",
    "omitted",
    "kept",
    "one by another",
    "aligned",
    "passed on",
    "small stack",
    "signal",
    "context",
    "late",
    "reused",
    "bare",
    "stripped",
    "runtime",
    "bare runtime",
    "made at run time",
    "passed on by pointer",
];

/// Who asks, and for which cases. In code that was made at run time, and in a runtime library without
/// unwind tables, nobody can tell.
const EXPECTED: &[(&str, &[&str])] = &[
    ("(unknown)", &["bare runtime", "made at run time"]),
    ("(program)", &["by pointer"]),
    (
        "libomitted",
        &["omitted", "one by another", "aligned", "passed on", "small stack", "context"],
    ),
    ("libkept", &["kept", "signal"]),
    ("liblater", &["late"]),
    ("libsecond", &["reused"]),
    ("libbare", &["bare"]),
    ("libstripped", &["stripped", "passed on by pointer"]),
    ("libuser", &["runtime"]),
];

/// A C compiler's run in the bench's folder; `None` without one.
fn cc(bench: &Bench, source: &str, output: &str, flags: &[&str]) -> Option<()> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/programs");
    let mut cc = Command::new("cc");
    cc.current_dir(bench.dir.path()).args(["-Wall", "-Werror", "-Wno-unused", "-O2"]);
    cc.arg("-o").arg(output).arg(sources.join(source)).args(flags);
    match cc.status() {
        Ok(status) => assert!(status.success(), "{output}"),
        Err(error) => {
            println!("ignored: no C compiler ({error})");
            return None;
        }
    }
    Some(())
}

/// The program and its libraries, in a folder with the simulated driver.
fn built_program() -> Option<Bench> {
    const NO_TABLES: &[&str] = &["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    let bench = Bench::new("");
    let signal_bytes = format!("-DSIGNAL_BYTES={}", UNIT << 7);
    let shared = ["-shared", "-fPIC", "-L.", &signal_bytes];
    let driver = ["-l:libcuda.so.1"];
    let library = |name: &str, flags: &[&str]| {
        let defined = format!("-DNAME={name}");
        let flags = [&shared, &[defined.as_str()][..], flags, &driver].concat();
        cc(&bench, "asker.c", &format!("lib{name}.so"), &flags)
    };
    library("omitted", &["-fomit-frame-pointer"])?;
    library("kept", &["-fno-omit-frame-pointer"])?;
    library("bare", &[NO_TABLES, &["-fomit-frame-pointer"]].concat())?;
    library("stripped", &["-s"])?;
    for name in ["later", "first", "second"] {
        library(name, &[])?;
    }
    for (runtime, user, malloc, tables) in [
        ("libcudart.so.12", "libuser.so", "cudaMalloc_with", &[][..]),
        ("libcudart-0a1b2c3d.so.12", "libuser_of_bare.so", "cudaMalloc_without", NO_TABLES),
    ] {
        let defined = format!("-DRUNTIME_MALLOC={malloc}");
        let flags = [&shared, &[defined.as_str()][..], tables, &driver].concat();
        cc(&bench, "runtime.c", runtime, &flags)?;
        let defined = format!("-DcuMemAlloc_v2={malloc}");
        let linked = format!("-l:{runtime}");
        let flags = [&shared, &["-DNAME=user", defined.as_str(), linked.as_str()][..]].concat();
        cc(&bench, "asker.c", user, &flags)?;
    }
    let linked = ["-L.", "-lomitted", "-lkept", "-lbare", "-lstripped", "-l:libcuda.so.1"];
    let flags = [&linked[..], &["-Wl,--no-as-needed", "-ldl", "-lpthread"]].concat();
    cc(&bench, "who.c", "who", &flags)?;
    Some(bench)
}

/// Runs it recorded; the last snapshot, and what it printed.
fn recorded(bench: &Bench, words: &[&str], env: &[(&str, &str)]) -> (Value, String) {
    let mut command = bench.command(bench.path("who"));
    command
        .arg(bench.dir.path())
        .args(words)
        .env("CUDA_INJECTION64_PATH", built("libmemvelope_inject.so"))
        .env("MEMVELOPE_REPORT", bench.path("report.json"))
        .envs(env.iter().copied());
    let output = run(&mut command);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{:?}\n{stderr}", output.status);
    let snapshot = bench.json("report.json")["snapshot"].take();
    (snapshot, String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Live bytes by the library that is said to have asked for them.
fn held(snapshot: &Value) -> BTreeMap<String, u64> {
    let names = snapshot["libraries"].as_array().unwrap();
    let rows = snapshot["devices"][0]["totals"]["libraries"].as_array().unwrap();
    let row = |row: &Value| {
        let name = &names[row["library"].as_u64().unwrap() as usize];
        (name.as_str().unwrap().to_owned(), row["live_bytes"].as_u64().unwrap())
    };
    rows.iter().map(row).collect()
}

fn untold(snapshot: &Value) -> Vec<&str> {
    let unseen = snapshot["unseen"].as_array().unwrap().iter().filter_map(Value::as_str);
    unseen.filter(|text| text.contains("library")).collect()
}

#[test]
fn every_way_of_asking_is_told_or_said_to_be_unknown() {
    let Some(bench) = built_program() else { return };
    let (snapshot, stdout) = recorded(&bench, &[], &[]);
    print!("{stdout}");
    let held = held(&snapshot);
    let told = |name: &str| -> Vec<&str> {
        let units = held.get(name).copied().unwrap_or_default() / UNIT;
        let is_in = |i: &usize| units >> i & 1 == 1;
        (0..CASES.len()).filter(is_in).map(|i| CASES[i]).collect()
    };
    for (name, cases) in EXPECTED {
        assert_eq!(told(name), cases.to_vec(), "{name}: {held:?}\n{:?}", untold(&snapshot));
    }
    assert_eq!(held.get("libfirst"), Some(&(UNIT / 2)));
    let all: u64 = held.values().sum();
    assert_eq!(all, (UNIT << CASES.len()) - UNIT + UNIT / 2, "everything is somebody's");
    let untold = untold(&snapshot);
    assert_eq!(untold.len(), 2, "{untold:?}");
    assert!(untold.iter().all(|text| text.starts_with("1 allocations whose library")));
}

/// Twelve threads that allocate while libraries come and go: nothing crashes, and nothing is wrong.
#[test]
fn threads_allocate_while_libraries_come_and_go() {
    let Some(bench) = built_program() else { return };
    let (snapshot, _) = recorded(&bench, &["storm"], &[]);
    let held = held(&snapshot);
    let own = |name: &str| held.get(name).copied().unwrap_or_default();
    let (mut all, mut told) = (0, 0);
    for (name, cases) in EXPECTED {
        let index = |case: &&str| CASES.iter().position(|known| known == case).unwrap();
        let steady: u64 = cases.iter().map(|case| UNIT << index(case)).sum();
        let more = own(name) - steady;
        all += more;
        match *name {
            "libomitted" | "libkept" | "libbare" | "libstripped" => {
                assert!(more <= 1200 << 10, "{name}: {more}");
                told += more;
            }
            "(unknown)" => {}
            _ => assert_eq!(more, 0, "{name}"),
        }
    }
    assert_eq!(all, 4800 << 10);
    // Where more ask at once than there is room for, somebody is not told.
    assert!(told >= 4700 << 10, "{told} of {all}: {:?}", untold(&snapshot));
}

#[test]
fn it_can_be_switched_off() {
    let Some(bench) = built_program() else { return };
    let (snapshot, _) = recorded(&bench, &[], &[("MEMVELOPE_ATTRIBUTION", "off")]);
    let held = held(&snapshot);
    assert_eq!(held.keys().collect::<Vec<_>>(), ["(unknown)"]);
    let untold = untold(&snapshot);
    assert!(untold.len() == 1 && untold[0].contains("MEMVELOPE_ATTRIBUTION=off"), "{untold:?}");
}
