//! What is recorded of graphs, and what switching GRAPH_TRACE on and off changes.

use super::{Bench, counts, head, said, settle, start};
use crate::options::Options;
use anyhow::{Result, bail};
use cupti_sys::activity_kind;
use gpu_lane_collector::collector;
use serde_json::{Value, json};

/// `--trace never|before|after|off-again`: when GRAPH_TRACE comes on, relative to instantiation;
/// `off-again` switches it off after some launches. `--late 1` attaches after instantiation.
pub(crate) fn graphs(options: &Options) -> Result<Value> {
    let (cuda, library) = start()?;
    let mut found = head(cuda, library);
    let bench = Bench::open(cuda, options)?;
    if !bench.gpu.has_graphs() {
        found["skipped"] = "this driver has no graphs".into();
        return Ok(found);
    }
    let trace = options.text("trace").unwrap_or("never");
    if !["never", "before", "after", "off-again"].contains(&trace) {
        bail!("--trace {trace}");
    }
    let is_late = options.number("late", 0)? == 1;
    let buffer = bench.gpu.alloc(1 << 20)?;
    let capture = || {
        bench.gpu.capture(bench.stream, || {
            bench.gpu.zero(buffer, 1 << 19, bench.stream)?;
            bench.gpu.copy(buffer + (1 << 19), buffer, 1 << 19, bench.stream)?;
            (0..3).try_for_each(|_| bench.gpu.launch(bench.empty, 1, bench.stream, &[]))
        })
    };
    let early = if is_late { Some(capture()?) } else { None };
    collector::begin(library)?;
    let graph_trace = activity_kind::GRAPH_TRACE;
    if ["before", "off-again"].contains(&trace) {
        found["enable"] = said(library.enable(graph_trace));
    }
    let exec = early.map_or_else(capture, Ok)?;
    if trace == "after" {
        found["enable"] = said(library.enable(graph_trace));
    }
    let mut steps = Vec::new();
    let mut launch = |step: &str, exec| -> Result<()> {
        (0..5).try_for_each(|_| bench.gpu.launch_graph(exec, bench.stream))?;
        bench.gpu.wait(bench.stream)?;
        settle(library)?;
        steps.push(json!({ "after": step, "counts_so_far": counts() }));
        Ok(())
    };
    launch("5 launches", exec)?;
    if trace == "off-again" {
        found["disable"] = said(library.disable(graph_trace));
        launch("GRAPH_TRACE off, 5 launches", exec)?;
        launch("GRAPH_TRACE off, 5 launches of a new graph", capture()?)?;
    }
    found["trace"] = trace.into();
    found["attached_after_instantiation"] = is_late.into();
    found["graph"] = "memset, copy, 3 kernels".into();
    found["steps"] = steps.into();
    Ok(found)
}
