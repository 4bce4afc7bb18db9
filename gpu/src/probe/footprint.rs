//! What does CUPTI itself take, of the device and of the host, and when?

use super::{Bench, head, said, settle, start, status_bytes};
use crate::options::Options;
use anyhow::{Result, bail};
use cupti_sys::activity_attribute;
use gpu_lane_collector::collector;
use gpu_lane_collector::cupti::Library;
use gpu_lane_collector::nvml;
use serde_json::{Value, json};

/// `--attach none|before|after` (the context), `--limit N` (device buffers; 0 leaves the default),
/// `--pinned 0|1`, `--launches N`, `--contexts N`.
pub(crate) fn footprint(options: &Options) -> Result<Value> {
    let (cuda, library) = start()?;
    let mut found = head(cuda, library);
    let attach = options.text("attach").unwrap_or("before");
    let mut steps = Vec::new();
    let mut set = |library: &Library| -> Result<()> {
        set_attributes(library, options, &mut found)?;
        collector::begin(library)
    };
    match attach {
        "none" | "after" => {}
        "before" => set(library)?,
        other => bail!("--attach {other}: expected none, before or after"),
    }
    let mut benches = vec![Bench::open(cuda, options)?];
    let mut note = |step: String, bench: &Bench| -> Result<()> {
        steps.push(json!({
            "step": step,
            "free_bytes": bench.gpu.free_bytes()?,
            "nvml_used_bytes": nvml::used_bytes(),
            "rss_bytes": status_bytes("VmRSS").ok(),
            "virtual_bytes": status_bytes("VmSize").ok(),
        }));
        Ok(())
    };
    note("context".into(), &benches[0])?;
    if attach == "after" {
        set(library)?;
        note("attached".into(), &benches[0])?;
    }
    let launches = options.number("launches", 300_000)?;
    let contexts = options.number("contexts", 2)?;
    for context in 0..contexts.max(1) {
        if context > 0 {
            let gpu = benches[0].gpu.another()?;
            benches.push(Bench::of(gpu, options)?);
        }
        let bench = &benches[benches.len() - 1];
        bench.gpu.enter()?;
        note(format!("context {context}: made"), bench)?;
        for (upto, more) in [(1, 1), (launches / 3, launches / 3), (launches, launches / 3 * 2)] {
            bench.launches(more)?;
            note(format!("context {context}: {upto} launches, not flushed"), bench)?;
        }
        if attach != "none" {
            settle(library)?;
            note(format!("context {context}: flushed"), bench)?;
        }
    }
    found["attach"] = attach.into();
    found["steps"] = steps.into();
    found["collected"] = collector::counts();
    found["dropped"] = library.dropped().ok().into();
    Ok(found)
}

fn set_attributes(library: &Library, options: &Options, found: &mut Value) -> Result<()> {
    let limit = options.number("limit", 0)?;
    if limit > 0 {
        let attribute = activity_attribute::DEVICE_BUFFER_POOL_LIMIT;
        found["limit"] = limit.into();
        found["limit_set"] = said(library.set(attribute, limit, 8));
    }
    if options.number("pinned", 0)? == 1 {
        let attribute = activity_attribute::MEM_ALLOCATION_TYPE_HOST_PINNED;
        found["pinned_set"] = said(library.set(attribute, 1, 1));
    }
    Ok(())
}
