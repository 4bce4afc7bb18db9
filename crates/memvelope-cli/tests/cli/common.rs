//! Running the command and reading what it leaves.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// The command, with an environment in which no `MEMVELOPE_*` key of the caller's is left.
pub(crate) fn memvelope(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memvelope"));
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("MEMVELOPE_") {
            command.env_remove(key);
        }
    }
    command.args(args);
    command
}

/// The same where there is no driver, also on a machine that has one.
pub(crate) fn without_driver(args: &[&str]) -> Command {
    let mut command = memvelope(args);
    command.env("MEMVELOPE_CUDA_PATH", "/nonexistent/libcuda.so.1");
    command
}

/// Runs it and holds it to an exit code.
pub(crate) fn run(command: &mut Command, code: i32) -> Output {
    let output = command.output().expect("the command starts");
    assert_eq!(
        output.status.code(),
        Some(code),
        "{command:?}\n{}\n{}",
        stdout(&output),
        stderr(&output)
    );
    output
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A number in a JSON document, by its path of keys.
pub(crate) fn number(value: &Value, path: &[&str]) -> u64 {
    let found = path.iter().fold(value, |value, key| &value[*key]);
    found.as_u64().unwrap_or_else(|| panic!("{path:?} is {found}"))
}

/// Bad input, and what the error must name: each is refused with exit code 2, and nothing is
/// written to `out`.
pub(crate) fn refused(base: &[&str], cases: &[(&[&str], &[&str])], out: &Path) {
    for (args, named) in cases {
        let output = run(memvelope(base).args(*args), 2);
        let text = stderr(&output);
        for part in *named {
            assert!(text.contains(part), "{args:?}: {part:?} is not in\n{text}");
        }
        assert!(text.contains("error: "), "{args:?}: {text}");
        assert!(!out.exists(), "{args:?} wrote something");
    }
}
