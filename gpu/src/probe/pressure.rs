//! What becomes of records when CUPTI's device buffers run out.

use super::{Bench, counts, field, head, said, settle, start};
use crate::options::Options;
use anyhow::Result;
use cupti_sys::{activity_attribute, activity_kind, layout};
use gpu_lane_collector::{collector, nvml};
use serde_json::Value;
use std::sync::atomic::{AtomicU64, Ordering};

static ZERO: AtomicU64 = AtomicU64::new(0);
static REVERSED: AtomicU64 = AtomicU64::new(0);
static FIRST_ZERO: AtomicU64 = AtomicU64::new(u64::MAX);
static SEEN: AtomicU64 = AtomicU64::new(0);

fn look(kind: u32, record: &[u8]) {
    if kind != activity_kind::CONCURRENT_KERNEL {
        return;
    }
    let turn = SEEN.fetch_add(1, Ordering::Relaxed);
    let read = |offset| field(record, offset, 8).unwrap_or(0);
    let (begin, end) = (read(layout::kernel::START), read(layout::kernel::END));
    if begin == 0 || end == 0 {
        ZERO.fetch_add(1, Ordering::Relaxed);
        FIRST_ZERO.fetch_min(turn, Ordering::Relaxed);
    }
    REVERSED.fetch_add(u64::from(end < begin), Ordering::Relaxed);
}

/// `--limit N` device buffers of `--bytes N` (0 leaves the defaults), `--launches N` that are
/// waited for every thousand, and never flushed before the end.
pub(crate) fn pressure(options: &Options) -> Result<Value> {
    let (cuda, library) = start()?;
    let mut found = head(cuda, library);
    let (limit, bytes) = (options.number("limit", 1)?, options.number("bytes", 0)?);
    if bytes > 0 {
        found["size_set"] = said(library.set(activity_attribute::DEVICE_BUFFER_SIZE, bytes, 8));
    }
    if limit > 0 {
        let attribute = activity_attribute::DEVICE_BUFFER_POOL_LIMIT;
        found["limit_set"] = said(library.set(attribute, limit, 8));
    }
    collector::register(library, Some(look))?;
    library.enable(activity_kind::CONCURRENT_KERNEL)?;
    let bench = Bench::open(cuda, options)?;
    let launches = options.number("launches", 1_000_000)?;
    let before = nvml::used_bytes();
    bench.launches(launches)?;
    found["nvml_used_bytes_before"] = before.into();
    found["nvml_used_bytes_after"] = nvml::used_bytes().into();
    settle(library)?;
    let first = FIRST_ZERO.load(Ordering::Relaxed);
    found["limit"] = limit.into();
    found["bytes"] = bytes.into();
    found["launches"] = launches.into();
    found["kernels"] = SEEN.load(Ordering::Relaxed).into();
    found["zero_timestamps"] = ZERO.load(Ordering::Relaxed).into();
    found["first_zero_at_record"] = (first != u64::MAX).then_some(first).into();
    found["ends_before_start"] = REVERSED.load(Ordering::Relaxed).into();
    found["dropped"] = library.dropped().ok().into();
    found["collected"] = counts();
    Ok(found)
}
