//! PyTorch's snapshot, handed to the builder segment by segment.

use super::walk::{Names, Value};
use memvelope::framework::{Settings, SizeClass};
use memvelope::source::torch::{Block, BlockState, Builder, SegmentHead};
use memvelope::units::Bytes;
use memvelope::{Error, Result};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyDictMethods, PyString};
use std::collections::BTreeSet;
use std::ffi::CStr;

const SEGMENT_KEYS: &[&CStr] = &[
    c"device",
    c"address",
    c"total_size",
    c"allocated_size",
    c"active_size",
    c"stream",
    c"segment_type",
    c"segment_pool_id",
    c"is_expandable",
    c"blocks",
];
/// PyTorch's segments begin with it.
const DEVICE_KEY: &[&CStr] = &[c"device"];
type SegmentFields<'w, 'py> = [Option<Value<'w, 'py>>; 10];
const TYPES: &[&CStr] = &[c"small", c"large"];
const BLOCK_KEYS: &[&CStr] = &[c"address", c"size", c"requested_size", c"state"];
const STATES: &[&CStr] =
    &[c"active_allocated", c"active_awaiting_free", c"active_pending_free", c"inactive"];

/// The strings of one snapshot.
struct Strings<'py> {
    segment: Names<'py>,
    kinds: Names<'py>,
    block: Names<'py>,
    states: Names<'py>,
}

/// Hands the segments of a device to the builder. `segments` is what `memory_snapshot()` returns.
pub(super) fn segments(
    segments: &Bound<'_, PyAny>,
    device: u32,
    builder: &mut Builder<'_>,
) -> Result<()> {
    let mut strings = Strings {
        segment: Names::new(SEGMENT_KEYS),
        kinds: Names::new(TYPES),
        block: Names::new(BLOCK_KEYS),
        states: Names::new(STATES),
    };
    let root = Value::of(segments);
    let Some(items) = root.items() else {
        return Err(failed("segments".into(), format!("no list but {}", root.type_name())));
    };
    for (index, item) in items.enumerate() {
        let at = || format!("segment {index}");
        let Some(fields): Option<SegmentFields<'_, '_>> = item.fields(&mut strings.segment) else {
            return Err(failed(at(), format!("no dict but {}", item.type_name())));
        };
        // Versions that do not tell it have one device.
        let its_device = optional(fields[0], "device").map_err(|why| failed(at(), why))?;
        if its_device.is_some_and(|its| its != u64::from(device)) {
            continue;
        }
        let head = head(&fields, &mut strings).map_err(|why| failed(at(), why))?;
        builder.segment(head)?;
        blocks(fields[9], &mut strings, builder)?;
    }
    Ok(())
}

/// The devices that segments of a snapshot are on.
pub(super) fn devices(segments: &Bound<'_, PyAny>) -> Result<BTreeSet<u64>> {
    let root = Value::of(segments);
    let Some(items) = root.items() else {
        return Err(failed("segments".into(), format!("no list but {}", root.type_name())));
    };
    let mut names = Names::new(DEVICE_KEY);
    let mut found = BTreeSet::new();
    let mut last = None;
    for (index, item) in items.enumerate() {
        let at = || format!("segment {index}");
        let Some([device]) = item.fields(&mut names) else {
            return Err(failed(at(), format!("no dict but {}", item.type_name())));
        };
        let device = optional(device, "device").map_err(|why| failed(at(), why))?.unwrap_or(0);
        if last.replace(device) != Some(device) {
            found.insert(device);
        }
    }
    Ok(found)
}

fn head<'py>(
    fields: &SegmentFields<'_, 'py>,
    strings: &mut Strings<'py>,
) -> std::result::Result<SegmentHead, String> {
    let [_, address, bytes, allocated, active, stream, kind, pool, is_expandable, _] = *fields;
    let kind = kind.ok_or("segment_type is missing")?;
    let class = match kind.name(&mut strings.kinds) {
        Some(0) => SizeClass::Small,
        Some(_) => SizeClass::Large,
        None => return Err("segment_type is neither 'small' nor 'large'".into()),
    };
    Ok(SegmentHead {
        address: required(address, "address")?,
        bytes: required(bytes, "total_size")?,
        allocated_bytes: optional(allocated, "allocated_size")?,
        active_bytes: optional(active, "active_size")?,
        stream: optional(stream, "stream")?.unwrap_or(0),
        class,
        pool: pool.map_or(Ok((0, 0)), pool_id)?,
        is_expandable: optional(is_expandable, "is_expandable")?.unwrap_or(0) != 0,
    })
}

fn pool_id(value: Value<'_, '_>) -> std::result::Result<(u64, u64), String> {
    let mut parts = value.items().ok_or("segment_pool_id is no pair")?;
    match (parts.next(), parts.next(), parts.next()) {
        (Some(first), Some(second), None) => {
            let number =
                |part: Value<'_, '_>| part.number().map_err(|why| format!("segment_pool_id {why}"));
            Ok((number(first)?, number(second)?))
        }
        _ => Err("segment_pool_id is no pair".into()),
    }
}

fn blocks<'py>(
    list: Option<Value<'_, 'py>>,
    strings: &mut Strings<'py>,
    builder: &mut Builder<'_>,
) -> Result<()> {
    let items = match list.map(|list| (list, list.items())) {
        Some((_, Some(items))) => items,
        Some((list, None)) => {
            return Err(failed(builder.place(), format!("blocks is {}", list.type_name())));
        }
        None => return Err(failed(builder.place(), "blocks is missing".into())),
    };
    for item in items {
        match block(item, strings) {
            Ok(block) => builder.block(&block)?,
            Err(why) => return Err(failed(builder.place(), why)),
        }
    }
    Ok(())
}

#[inline]
fn block<'py>(
    item: Value<'_, 'py>,
    strings: &mut Strings<'py>,
) -> std::result::Result<Block, String> {
    let Some([address, bytes, requested, state]) = item.fields::<4>(&mut strings.block) else {
        return Err(format!("it is no dict but {}", item.type_name()));
    };
    let state = match state.ok_or("state is missing")?.name(&mut strings.states) {
        Some(0) => BlockState::Allocated,
        Some(1 | 2) => BlockState::AwaitingFree,
        Some(_) => BlockState::Inactive,
        None => return Err("state is none that is known".into()),
    };
    Ok(Block {
        address: optional(address, "address")?,
        bytes: required(bytes, "size")?,
        // Of a block in no use it is whatever was there before.
        requested_bytes: match state {
            BlockState::Inactive => None,
            _ => optional(requested, "requested_size")?,
        },
        state,
    })
}

#[inline]
fn required(value: Option<Value<'_, '_>>, name: &'static str) -> std::result::Result<u64, String> {
    match value {
        Some(value) => value.number().map_err(|why| format!("{name} {why}")),
        None => Err(format!("{name} is missing")),
    }
}

#[inline]
fn optional(
    value: Option<Value<'_, '_>>,
    name: &'static str,
) -> std::result::Result<Option<u64>, String> {
    value.map(|value| value.number().map_err(|why| format!("{name} {why}"))).transpose()
}

fn failed(place: String, problem: String) -> Error {
    Error::ReadAllocator { place, problem }
}

/// How the allocator is configured, from `allocator_settings` of a whole snapshot. What is not told,
/// or told in a way that is not known, is `None`.
pub(super) fn settings(told: Option<&Bound<'_, PyAny>>, limit_bytes: Option<u64>) -> Settings {
    let mut settings = Settings { limit_bytes: limit_bytes.map(Bytes), ..Settings::default() };
    let Some(told) = told.and_then(|told| told.cast::<PyDict>().ok()) else { return settings };
    let get = |name: &str| told.get_item(name).ok().flatten();
    settings.expandable_segments =
        get("expandable_segments").and_then(|told| told.extract::<bool>().ok());
    settings.max_split_size = get("max_split_size").and_then(|told| max_split_size(&told));
    let divisions = get("roundup_power2_divisions");
    let divisions = divisions.and_then(|told| told.cast_into::<PyDict>().ok());
    // Keys are size classes, values divisions of them; 0 and 1 divide nothing.
    settings.rounds_otherwise = divisions.is_some_and(|told| {
        told.values().iter().any(|value| value.extract::<u64>().is_ok_and(|parts| parts > 1))
    });
    // The variable's former name and its present one.
    let conf = get("PYTORCH_CUDA_ALLOC_CONF").or_else(|| get("PYTORCH_ALLOC_CONF"));
    let conf = conf.and_then(|told| told.cast_into::<PyString>().ok());
    settings.large_segment_bytes =
        conf.and_then(|text| large_segment_bytes(&text.to_string_lossy()));
    settings
}

/// `None` is without limit: PyTorch then has the largest number, or -1 for it.
pub(super) fn max_split_size(told: &Bound<'_, PyAny>) -> Option<Bytes> {
    told.extract::<u64>().ok().filter(|bytes| *bytes < i64::MAX as u64).map(Bytes)
}

fn large_segment_bytes(conf: &str) -> Option<Bytes> {
    let values = conf.split(',').filter_map(|part| part.split_once(':'));
    let mut wanted = values.filter(|(name, _)| name.trim() == "large_segment_size_mb");
    let mib: u64 = wanted.next_back()?.1.trim().parse().ok()?;
    mib.checked_mul(1 << 20).map(Bytes).filter(|bytes| bytes.0 > 0)
}
