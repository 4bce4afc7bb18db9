//! What the driver takes for what was asked, for contexts and modules, and by which name it knows
//! the memory behind an address.

use super::Bench;
use crate::options::Options;
use anyhow::{Context as _, Result, bail};
use gpu_lane_collector::cuda::{Cuda, Gpu, PhysicalId};
use gpu_lane_collector::nvml;
use serde_json::{Value, json};
use std::process::{Command, Stdio};

fn start() -> Result<&'static Cuda> {
    let cuda = Cuda::open()?;
    cuda.start()?;
    Ok(cuda)
}

/// How much is free before and after each of `--count N` allocations of each of some sizes, and
/// after all were given back.
pub(crate) fn rounding(options: &Options) -> Result<Value> {
    let cuda = start()?;
    let gpu = Gpu::primary(cuda)?;
    let page = gpu.page_bytes()?;
    let count = options.number("count", 64)?;
    let mut sizes = Vec::new();
    for bytes in [
        1,
        512,
        4096,
        65_536,
        page / 4,
        page / 2 - 1,
        page / 2,
        page / 2 + 1,
        page - 1,
        page,
        page + 1,
        3 * page / 2,
        5 * page + 1,
    ] {
        let before = gpu.free_bytes()?;
        let mut held = Vec::new();
        let mut taken = Vec::new();
        for _ in 0..count {
            held.push(gpu.alloc(bytes)?);
            taken.push(before.saturating_sub(gpu.free_bytes()?));
        }
        for address in held {
            gpu.free(address)?;
        }
        let kept = before.saturating_sub(gpu.free_bytes()?);
        sizes.push(json!({
            "bytes": bytes,
            "first_takes_bytes": taken.first(),
            "all_take_bytes": taken.last(),
            "kept_when_freed_bytes": kept,
        }));
    }
    Ok(json!({
        "simulated": cuda.is_simulated,
        "driver_api": cuda.version().ok(),
        "page_bytes": page,
        "count": count,
        "sizes": sizes,
    }))
}

/// What a context takes, and what makes it grow: modules by call, a first launch, the stack, a
/// second context. By what is free where a context is current, by NVML before.
pub(crate) fn context_size(options: &Options) -> Result<Value> {
    let cuda = start()?;
    let mut steps = Vec::new();
    let mut note = |step: &str, gpu: Option<&Gpu>| -> Result<()> {
        let free = gpu.map(Gpu::free_bytes).transpose()?;
        steps.push(json!({
            "step": step, "free_bytes": free, "nvml_used_bytes": nvml::used_bytes(),
        }));
        Ok(())
    };
    note("cuInit", None)?;
    let gpu = Gpu::primary(cuda)?;
    note("primary context", Some(&gpu))?;
    let bench = Bench::of(gpu, options)?;
    note("a module", Some(&gpu))?;
    bench.launches(1)?;
    note("its first launch", Some(&gpu))?;
    bench.launches(1000)?;
    note("a thousand more", Some(&gpu))?;
    gpu.kernel(&options.ptx("memory_stream.ptx")?, "stream_copy")?;
    note("another module", Some(&gpu))?;
    for stack in [2048, 16_384] {
        match gpu.set_stack_bytes(stack) {
            Ok(()) => note(&format!("stack of {stack}"), Some(&gpu))?,
            Err(error) => note(&format!("stack of {stack}: {error}"), Some(&gpu))?,
        }
        bench.launches(1)?;
        note(&format!("a launch with a stack of {stack}"), Some(&gpu))?;
    }
    let second = gpu.another()?;
    note("second context", Some(&second))?;
    second.destroy()?;
    gpu.enter()?;
    note("second context destroyed", Some(&gpu))?;
    Ok(json!({
        "simulated": cuda.is_simulated,
        "driver_api": cuda.version().ok(),
        "gpu": gpu.name().ok(),
        "module_loading": std::env::var("CUDA_MODULE_LOADING").ok(),
        "steps": steps,
    }))
}

fn id(found: PhysicalId) -> Value {
    json!({ "memory_block_id": found.block, "buffer_id": found.buffer })
}

/// By which id the driver knows the memory behind addresses of every family, two views of one handle
/// among them, and, in a second process, memory that is shared with it.
pub(crate) fn block_ids(options: &Options) -> Result<Value> {
    let cuda = start()?;
    let gpu = Gpu::primary(cuda)?;
    if let Some(handle) = options.text("open") {
        return opened(&gpu, handle);
    }
    let page = gpu.page_bytes()?;
    let stream = gpu.stream()?;
    let plain = gpu.alloc(2 * page)?;
    let (small, small_too) = (gpu.alloc(4096)?, gpu.alloc(4096)?);
    let handle = gpu.create(page)?;
    let views = (gpu.view(handle, page)?, gpu.view(handle, page)?);
    let (pooled, pooled_too) = (gpu.from_pool(4096, stream)?, gpu.from_pool(4096, stream)?);
    let managed = gpu.managed(page)?;
    let mut found = json!({
        "simulated": cuda.is_simulated,
        "driver_api": cuda.version().ok(),
        "plain": id(gpu.physical_id(plain)),
        "plain_second_page": id(gpu.physical_id(plain + page as u64)),
        "small": id(gpu.physical_id(small)),
        "small_beside_it": id(gpu.physical_id(small_too)),
        "view": id(gpu.physical_id(views.0)),
        "second_view_of_it": id(gpu.physical_id(views.1)),
        "pooled": id(gpu.physical_id(pooled)),
        "pooled_beside_it": id(gpu.physical_id(pooled_too)),
        "managed": id(gpu.physical_id(managed)),
    });
    found["shared"] = match gpu.share(plain) {
        Ok(handle) => in_another_process(&handle)
            .unwrap_or_else(|error| json!({ "failed": format!("{error:#}") })),
        Err(error) => json!({ "failed": format!("{error:#}") }),
    };
    gpu.to_pool(pooled, stream)?;
    gpu.to_pool(pooled_too, stream)?;
    gpu.end_view(views.0, page)?;
    gpu.end_view(views.1, page)?;
    gpu.release(handle)?;
    for address in [plain, small, small_too, managed] {
        gpu.free(address)?;
    }
    Ok(found)
}

/// This probe once more, as a process that opens `handle`.
fn in_another_process(handle: &[u8; 64]) -> Result<Value> {
    let text: String = handle.iter().map(|byte| format!("{byte:02x}")).collect();
    let output = Command::new(std::env::current_exe()?)
        .args(["probe", "block-ids", "--open", &text])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("the second process: {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("what the second process said")
}

/// What memory of another process looks like here: opened twice, and what it takes.
fn opened(gpu: &Gpu, text: &str) -> Result<Value> {
    let mut handle = [0; 64];
    for (at, byte) in handle.iter_mut().enumerate() {
        let digits = text.get(2 * at..2 * at + 2).context("--open is too short")?;
        *byte = u8::from_str_radix(digits, 16)?;
    }
    let before = gpu.free_bytes()?;
    let first = gpu.open_shared(handle)?;
    let second = gpu.open_shared(handle);
    let mut found = json!({
        "id": id(gpu.physical_id(first)),
        "takes_bytes": before.saturating_sub(gpu.free_bytes()?),
        "opened_again_at_the_same_address": second.as_ref().ok().map(|again| *again == first),
        "opened_again": second.as_ref().err().map(|error| format!("{error:#}")),
    });
    if second.is_ok() {
        found["closed_once"] = super::said(gpu.close_shared(first));
        found["still_there"] = id(gpu.physical_id(first));
    }
    found["closed"] = super::said(gpu.close_shared(first));
    Ok(found)
}
