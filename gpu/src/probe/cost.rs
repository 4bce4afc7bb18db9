//! Small prices: a timestamp, a name by address; the attributes as they are; a clock of our own.

use super::{Bench, field, head, nanos, said, settle, start};
use crate::options::Options;
use anyhow::Result;
use cupti_sys::{activity_attribute, activity_kind, layout};
use gpu_lane_collector::collector;
use gpu_lane_collector::cupti::{check, needed};
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Every attribute's value before anything was set.
pub(crate) fn attributes(_: &Options) -> Result<Value> {
    let (cuda, library) = start()?;
    let mut found = head(cuda, library);
    let mut values = Map::new();
    for (name, attribute) in activity_attribute::ALL {
        // One byte or eight: whichever CUPTI takes. The other is refused.
        let value = library.get(*attribute, 8).or_else(|_| library.get(*attribute, 1));
        let value = value.map_or_else(|error| json!(format!("{error:#}")), |value| json!(value));
        values.insert((*name).to_owned(), value);
    }
    found["attributes"] = values.into();
    Ok(found)
}

static CALLS: AtomicU64 = AtomicU64::new(0);
static CALLS_ELSEWHERE: AtomicU64 = AtomicU64::new(0);
static MAIN_THREAD: AtomicU64 = AtomicU64::new(0);
static SINCE: AtomicU64 = AtomicU64::new(0);
static BEFORE: AtomicU64 = AtomicU64::new(0);
static REVERSED: AtomicU64 = AtomicU64::new(0);
static ZERO: AtomicU64 = AtomicU64::new(0);
static SEEN: AtomicU64 = AtomicU64::new(0);
static LATEST: AtomicU64 = AtomicU64::new(0);

fn thread() -> u64 {
    // SAFETY: takes and gives plain numbers.
    u64::try_from(unsafe { libc::gettid() }).unwrap_or(0)
}

fn monotonic() -> u64 {
    // SAFETY: plain data that the call fills.
    let mut now: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: an out-pointer to a local.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

extern "C" fn our_clock() -> u64 {
    CALLS.fetch_add(1, Ordering::Relaxed);
    if thread() != MAIN_THREAD.load(Ordering::Relaxed) {
        CALLS_ELSEWHERE.fetch_add(1, Ordering::Relaxed);
    }
    monotonic()
}

fn look(kind: u32, record: &[u8]) {
    if kind != activity_kind::CONCURRENT_KERNEL {
        return;
    }
    SEEN.fetch_add(1, Ordering::Relaxed);
    let read = |offset| field(record, offset, 8).unwrap_or(0);
    let (begin, end) = (read(layout::kernel::START), read(layout::kernel::END));
    LATEST.fetch_max(end, Ordering::Relaxed);
    let add = |counter: &AtomicU64, is: bool| counter.fetch_add(u64::from(is), Ordering::Relaxed);
    add(&ZERO, begin == 0 || end == 0);
    add(&REVERSED, end < begin);
    add(&BEFORE, begin != 0 && begin < SINCE.load(Ordering::Relaxed));
}

/// The price of `cuptiGetTimestamp`, and with `--own 1` what a clock of ours does to records:
/// how often it is asked, from where, and whether records lie on it.
pub(crate) fn clock(options: &Options) -> Result<Value> {
    const READS: u32 = 100_000;
    let (cuda, library) = start()?;
    let mut found = head(cuda, library);
    let begin = Instant::now();
    for _ in 0..READS {
        std::hint::black_box(library.now()?);
    }
    found["timestamp_ns_each"] = (nanos(begin) as f64 / f64::from(READS)).into();
    let is_own = options.number("own", 0)? == 1;
    MAIN_THREAD.store(thread(), Ordering::Relaxed);
    if is_own {
        let register = needed(library.cupti.activity_register_timestamp_callback)?;
        // SAFETY: a function of this program.
        let code = unsafe { register(Some(our_clock)) };
        found["registered"] = said(check("cuptiActivityRegisterTimestampCallback", code));
    }
    let now = |is_own: bool| if is_own { Ok(monotonic()) } else { library.now() };
    let bench = Bench::open(cuda, options)?;
    SINCE.store(now(is_own)?, Ordering::Relaxed);
    collector::register(library, Some(look))?;
    library.enable(activity_kind::CONCURRENT_KERNEL)?;
    bench.launches(options.number("launches", 10_000)?)?;
    let asked = CALLS.load(Ordering::Relaxed);
    settle(library)?;
    let until = now(is_own)?;
    let count = |counter: &AtomicU64| Value::from(counter.load(Ordering::Relaxed));
    found["own_clock"] = is_own.into();
    found["kernels"] = count(&SEEN);
    found["clock_calls_before_flush"] = asked.into();
    found["clock_calls"] = count(&CALLS);
    found["clock_calls_on_other_threads"] = count(&CALLS_ELSEWHERE);
    found["starts_before_the_work"] = count(&BEFORE);
    found["ends_before_start"] = count(&REVERSED);
    found["zero_timestamps"] = count(&ZERO);
    found["latest_end_is_past"] = (LATEST.load(Ordering::Relaxed) <= until).into();
    Ok(found)
}

/// The price of reading a name by address as a stranger would: `process_vm_readv` on oneself.
pub(crate) fn name_reads(_: &Options) -> Result<Value> {
    const READS: u32 = 100_000;
    let text = b"void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor>\0";
    let mut prices = Map::new();
    for bytes in [64_usize, 256, 1024] {
        let source = text.iter().copied().cycle().take(bytes).collect::<Vec<u8>>();
        let mut target = vec![0_u8; bytes];
        let begin = Instant::now();
        let mut failed = 0_u32;
        for _ in 0..READS {
            let to = libc::iovec { iov_base: target.as_mut_ptr().cast(), iov_len: bytes };
            let from = libc::iovec { iov_base: source.as_ptr().cast_mut().cast(), iov_len: bytes };
            // SAFETY: both ranges are ours for the length of the call.
            let read = unsafe { libc::process_vm_readv(libc::getpid(), &to, 1, &from, 1, 0) };
            failed += u32::from(usize::try_from(read) != Ok(bytes));
        }
        let ns = nanos(begin) as f64 / f64::from(READS);
        prices.insert(format!("{bytes} bytes"), json!({ "ns_each": ns, "failed": failed }));
    }
    Ok(json!({ "reads": READS, "process_vm_readv": prices }))
}
