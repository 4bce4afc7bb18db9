//! Does a device fragment? Filled with blocks of a page, every second one given back: if physical
//! memory had to lie in one piece, nothing above a page could be had; if pages are mapped wherever
//! they are, one allocation gets nearly all that is free.

use crate::options::Options;
use anyhow::{Result, bail};
use gpu_lane_collector::cuda::{Cuda, Gpu};
use serde_json::{Value, json};

/// A block: an address, or a handle with its view.
#[derive(Clone, Copy)]
enum Block {
    Plain(u64),
    Viewed { handle: u64, address: u64, bytes: usize },
    Handle(u64),
}

impl Block {
    fn make(gpu: &Gpu, way: &str, bytes: usize) -> Result<Self> {
        Ok(match way {
            "alloc" => Self::Plain(gpu.alloc(bytes)?),
            "create" => Self::Handle(gpu.create(bytes)?),
            "map" => {
                let handle = gpu.create(bytes)?;
                match gpu.view(handle, bytes) {
                    Ok(address) => Self::Viewed { handle, address, bytes },
                    Err(error) => {
                        gpu.release(handle)?;
                        return Err(error);
                    }
                }
            }
            other => bail!("--by {other}: expected alloc, create or map"),
        })
    }

    fn give_back(self, gpu: &Gpu) -> Result<()> {
        match self {
            Self::Plain(address) => gpu.free(address),
            Self::Handle(handle) => gpu.release(handle),
            Self::Viewed { handle, address, bytes } => {
                gpu.end_view(address, bytes)?;
                gpu.release(handle)
            }
        }
    }
}

/// `--by alloc|create|map`, `--pages N` a block, `--keep-bytes N` left free while filling, `--blocks
/// N` at most (0: until the device is full).
pub(crate) fn fragments(options: &Options) -> Result<Value> {
    let cuda = Cuda::open()?;
    cuda.start()?;
    let gpu = Gpu::primary(cuda)?;
    let page = gpu.page_bytes()?;
    let by = options.text("by").unwrap_or("alloc");
    let block = page * usize::try_from(options.number("pages", 1)?.max(1))?;
    let keep = options.number("keep-bytes", 64 << 20)?;
    let most = match options.number("blocks", 0)? {
        0 => u64::MAX,
        most => most,
    };
    let before = gpu.free_bytes()?;
    let mut blocks = Vec::new();
    while (blocks.len() as u64) < most && gpu.free_bytes()? >= keep + block as u64 {
        match Block::make(&gpu, by, block) {
            Ok(made) => blocks.push(made),
            Err(_) => break,
        }
    }
    let full = gpu.free_bytes()?;
    let largest_when_full = gpu.largest_alloc(page)?;
    let mut kept = Vec::with_capacity(blocks.len() / 2 + 1);
    let mut given_back = 0_u64;
    for (at, made) in blocks.into_iter().enumerate() {
        if at % 2 == 0 {
            made.give_back(&gpu)?;
            given_back += block as u64;
        } else {
            kept.push(made);
        }
    }
    let free = gpu.free_bytes()?;
    let largest = gpu.largest_alloc(page)?;
    let whole = gpu.create(usize::try_from(free)? / page * page);
    let found = json!({
        "simulated": cuda.is_simulated,
        "driver_api": cuda.version().ok(),
        "gpu": gpu.name().ok(),
        "by": by,
        "page_bytes": page,
        "block_bytes": block,
        "blocks": kept.len() as u64 + given_back / block as u64,
        "free_before_bytes": before,
        "free_when_full_bytes": full,
        "largest_when_full_bytes": largest_when_full,
        "given_back_bytes": given_back,
        "free_bytes": free,
        "largest_alloc_bytes": largest,
        "largest_to_free": largest as f64 / (free as f64).max(1.0),
        "all_by_one_handle": whole.is_ok(),
    });
    if let Ok(handle) = whole {
        gpu.release(handle)?;
    }
    for made in kept {
        made.give_back(&gpu)?;
    }
    Ok(found)
}
