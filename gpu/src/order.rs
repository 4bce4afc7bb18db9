//! What is so inside `InitializeInjection`: which libraries are there, and what may be called.

use crate::{collector, cupti};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// Asks, and writes the answers after each question: one that crashes leaves those before it.
pub(crate) fn answer(path: &Path) {
    let mut answers = json!({ "loaded_before": loaded() });
    let write = |answers: &Value| {
        if let Err(error) = std::fs::write(path, answers.to_string()) {
            eprintln!("order: writing {} failed: {error}", path.display());
        }
    };
    write(&answers);
    let library = cupti::open();
    answers["cupti_path"] = match &library {
        Ok(library) => library.path.clone().into(),
        Err(error) => format!("{error:#}").into(),
    };
    answers["loaded_after_dlopen"] = loaded().into();
    write(&answers);
    let Ok(library) = library else { return };
    let said = |outcome: anyhow::Result<Value>| match outcome {
        Ok(value) => value,
        Err(error) => format!("{error:#}").into(),
    };
    for (question, ask) in QUESTIONS {
        answers["asking"] = (*question).into();
        write(&answers);
        answers[*question] = said(ask(library));
        write(&answers);
    }
    answers["asking"] = Value::Null;
    write(&answers);
}

type Ask = fn(&cupti::Library) -> anyhow::Result<Value>;

/// The driver's own functions come last: CUPTI's are what a recorder needs here.
const QUESTIONS: &[(&str, Ask)] = &[
    ("cuptiGetVersion", |library| Ok(library.version()?.into())),
    ("cuptiGetTimestamp", |library| Ok(library.now()?.into())),
    ("register_and_enable", |library| {
        collector::begin(library)?;
        Ok("ok".into())
    }),
    ("driver_version", |_| Ok(crate::cuda::Cuda::open()?.version()?.into())),
    ("cuInit_inside", |_| Ok(crate::cuda::Cuda::open()?.start_code().into())),
];

/// The shared objects of this process that have to do with NVIDIA or with us.
fn loaded() -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let files = maps.lines().filter_map(|line| line.split_ascii_whitespace().nth(5));
    let ours = files.filter(|file| {
        let name = file.rsplit('/').next().unwrap_or_default();
        file.contains(".so")
            && ["cuda", "cupti", "nv", "memvelope", "collector", "torch"]
                .iter()
                .any(|word| name.contains(word))
    });
    ours.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
}
