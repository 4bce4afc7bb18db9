//! One epoch: ledger, framework, driver and pools of a device, read so that nothing moved meanwhile.
//!
//! **How.** The ledger's sums are noted; then the framework is asked (by the caller's function, if
//! there is one), the driver's free bytes, every pool, graph memory, and the free bytes again. If sums
//! and free bytes are what they were, all of it belongs to one moment, unless a call was under way
//! that takes or gives back memory: what it does shows in the free bytes before the ledger hears of
//! it. If not, all is asked again, [`TRIES`] times; then the epoch is torn, and says by how much. What
//! pools and graphs say goes into the ledger; where that was news, the question is repeated, too: the
//! ledger's sums are then those of the moment before.
//!
//! No lock is held while anything foreign is called. The caller's function may take locks of its
//! own, Python's say.

use super::attach::Links;
use super::lazy;
use super::planes::{Told, seen_of};
use super::poll::{self, PAGE};
use super::state::Inner;
use crate::error::Result;
use crate::event::{AllocKind, Body, DeviceIndex, Event, Seen, SeenBy};
use crate::framework::Framework;
use crate::ledger::{DeviceTotals, Ledger};
use crate::snapshot::Epoch;
use crate::source::cupti;
use crate::source::cupti::{Recorder, State};
use crate::source::driver::{Asked, DeviceInfo, Driver, Reading};
use crate::units::Bytes;
use std::time::{Duration, Instant};

/// How often planes are read before an epoch is called torn.
pub(super) const TRIES: u32 = 8;

/// How long a torn one waits for calls that are under way: more than an allocation takes.
const UNDER_WAY_MAX: Duration = Duration::from_millis(1);

/// Reads the framework plane of a device.
pub(super) type Reader<'a> = dyn FnMut() -> Option<Framework> + 'a;

/// Which context the driver is asked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whence {
    /// The primary one, whoever's thread it is.
    Primary,
    /// The calling thread's current one where it is of that device, else the primary one.
    Here,
}

/// Reads one; `None` where neither driver nor NVML tells what is free. It is kept as the device's
/// last one.
pub(super) fn read(
    inner: &Inner,
    links: &Links,
    device: &DeviceInfo,
    whence: Whence,
    mut reader: Option<&mut Reader<'_>>,
) -> Option<Epoch> {
    let mut last = None;
    // Where the last two tries began: a free is told before the driver does it.
    let mut began = [0; 2];
    for _ in 0..TRIES {
        began = [began[1], turned(&totals_of(inner, device.index))];
        let attempt = attempt(inner, links, device, whence, reader.as_deref_mut())?;
        let is_torn = attempt.is_torn;
        let read = Instant::now();
        let is_told_more = !is_torn && lazy::settle(inner, links, &attempt);
        last = Some((attempt, read));
        if !is_torn && !is_told_more {
            break;
        }
    }
    let (mut epoch, read) = last?;
    if epoch.is_torn {
        let (now, held) = turned_by_now(inner, device.index);
        let turned = now.saturating_sub(began[0]);
        let moved = (turned - turned % PAGE.0).saturating_add(held);
        epoch.moved_bytes = epoch.moved_bytes.max(Bytes(moved));
    }
    inner.planes().note_epoch(device.index, epoch.clone(), read);
    Some(epoch)
}

/// Bytes that were taken and given back so far, those of each call rounded up to nearly a page more:
/// rounded down, a difference is no less than the pages that came and went.
fn turned(totals: &DeviceTotals) -> u64 {
    let kinds = AllocKind::ALL.into_iter().zip(&totals.by_kind);
    let kinds = kinds.filter(|(kind, _)| kind.counts_as_vram()).map(|(_, of_kind)| {
        let count = of_kind.allocated_count.saturating_mul(2).saturating_sub(of_kind.live_count);
        let bytes = of_kind.allocated_bytes.0.saturating_mul(2);
        let bytes = bytes.saturating_sub(of_kind.live_bytes.0);
        bytes.saturating_add(count.saturating_mul(PAGE.0 - 1))
    });
    kinds.fold(0, u64::saturating_add)
}

/// The same, once as many calls have returned as are under way: what they do may be in the free bytes
/// already. And what those may hold that have not returned even then (their threads may have lost the
/// processor in the middle): nobody knows, so twice the mean of all calls so far, each.
fn turned_by_now(inner: &Inner, device: DeviceIndex) -> (u64, u64) {
    let ledger = inner.ledger;
    let before = ledger.vram_and_turnover(device).1;
    let under_way = inner.recorder().map_or(0, Recorder::calls_under_way);
    let deadline = Instant::now() + UNDER_WAY_MAX;
    while ledger.vram_and_turnover(device).1 < before + under_way && Instant::now() < deadline {
        std::thread::yield_now();
    }
    let turned = turned(&totals_of(inner, device));
    let mean = turned.checked_div(ledger.vram_and_turnover(device).1).unwrap_or(0);
    (turned, mean.saturating_mul(2).saturating_mul(under_way))
}

fn attempt(
    inner: &Inner,
    links: &Links,
    device: &DeviceInfo,
    whence: Whence,
    reader: Option<&mut Reader<'_>>,
) -> Option<Epoch> {
    let (index, ledger) = (device.index, inner.ledger);
    cupti::closed_exports(&mut |descriptor| {
        let body = Body::ExportClosed { descriptor };
        ledger.accept(&Event { time: inner.now(), seen_by: SeenBy::Poll, body });
    });
    let before = quiet_moment(inner);
    let totals = totals_of(inner, index);
    let first_free = reader.as_ref().and_then(|_| free_of(inner, links, device, whence));
    let framework = framework(inner, index, reader);
    let segments = framework.as_ref().map(|framework| framework.segments.as_slice());
    let matched = segments.map(|segments| ledger.matched(index, segments)).unwrap_or_default();
    let reading = ask(inner, links, device, whence)?;
    let is_still = before.is_some() && quiet_moment(inner) == before;
    reading.events.iter().for_each(|event| ledger.accept(event));
    let settled = totals_of(inner, index);
    let free_moved = first_free.map_or(Bytes::ZERO, |first| apart(first, reading.free));
    let seen_moved = Bytes(seen_of(&totals).abs_diff(seen_of(&settled)));
    let moved_bytes = reading.moved.max(free_moved).max(seen_moved);
    // What pools and graphs told was known, or it is told again in the next try.
    let is_torn = !is_still || moved_bytes > Bytes::ZERO || settled != totals;
    Some(Epoch {
        time: inner.now(),
        total_bytes: reading.total,
        free_bytes: reading.free,
        totals: settled,
        framework,
        matched,
        is_torn,
        moved_bytes,
        others_bytes: inner.planes().plane(index).others_bytes,
    })
}

/// The framework plane: as the caller's function tells it, or as it was told before while its
/// segments are what they were.
fn framework(
    inner: &Inner,
    device: DeviceIndex,
    reader: Option<&mut Reader<'_>>,
) -> Option<Framework> {
    let mark = inner.ledger.vram_and_turnover(device);
    let Some(read) = reader else {
        let mut planes = inner.planes();
        let told = planes.side(device).told.as_ref();
        return told.filter(|told| told.mark == mark).map(|told| told.framework.clone());
    };
    let framework = read().filter(|told| told.device == device)?;
    let told = Told { framework: framework.clone(), mark };
    inner.planes().side(device).told = Some(told);
    Some(framework)
}

/// A number that is another one once a call of the program's has moved memory; `None` while one is
/// under way. (What our own threads book meanwhile shows in the totals, where it is news.)
fn quiet_moment(inner: &Inner) -> Option<u64> {
    // Without callbacks nobody tells of calls; and once CUPTI is given up, the end of what was under
    // way is not told.
    let is_told = |recorder: &&Recorder| matches!(recorder.state(), State::Recording);
    let moment = inner.recorder().filter(is_told).map_or(0, Recorder::moment);
    (moment & 1 == 0).then_some(moment)
}

fn apart(one: Bytes, other: Bytes) -> Bytes {
    Bytes(one.0.abs_diff(other.0))
}

/// Physical bytes that were seen to be taken so far, and those of pools and graphs that were found.
pub(super) fn seen(inner: &Inner, device: DeviceIndex) -> (Bytes, Bytes) {
    let totals = totals_of(inner, device);
    (Bytes(u64::try_from(seen_of(&totals)).unwrap_or(0)), totals.found_bytes)
}

/// What a ledger has seen to be taken of a device.
pub(super) fn seen_in(ledger: &Ledger, device: DeviceIndex) -> Seen {
    let known = ledger.totals().into_iter().find(|totals| totals.device == device);
    // What pools and graphs hold is told when somebody asks, not when it moves.
    let told = |totals: &DeviceTotals| {
        let graphs = totals.graph_reserved_bytes.unwrap_or(Bytes::ZERO);
        i64::try_from(totals.pool_reserved_bytes.saturating_add(graphs).0).unwrap_or(i64::MAX)
    };
    let bytes = known.map_or(0, |totals| seen_of(&totals).saturating_sub(told(&totals)));
    Seen { bytes, turnover: ledger.vram_and_turnover(device).1 }
}

fn totals_of(inner: &Inner, device: DeviceIndex) -> DeviceTotals {
    let known = inner.ledger.totals().into_iter().find(|totals| totals.device == device);
    known.unwrap_or(DeviceTotals { device, ..DeviceTotals::default() })
}

/// What the driver says; where it has no context to be asked in, what NVML says.
fn ask(inner: &Inner, links: &Links, device: &DeviceInfo, whence: Whence) -> Option<Reading> {
    let driver = links.driver.filter(|_| inner.may_call());
    match driver.map(|driver| ask_driver(driver, links.recorder, device, whence)) {
        Some(Ok(Some(reading))) => {
            reading.problems.iter().for_each(|problem| inner.note_problem(problem));
            return Some(reading);
        }
        Some(Err(error)) => {
            inner.note_problem(&error);
            inner.planes().note_silence(device.index, inner.now(), error.to_string());
            // A device that the driver cannot reach is not described by somebody else.
            return None;
        }
        Some(Ok(None)) | None => {}
    }
    let nvml = links.nvml.as_ref().filter(|_| inner.may_call())?;
    let before = poll::noted(inner, nvml.memory_of(device))??;
    let mut reading = holders(inner, links, device);
    let memory = poll::noted(inner, nvml.memory_of(device))??;
    (reading.total, reading.free) = (memory.used.saturating_add(memory.free), memory.free);
    reading.moved = apart(memory.free, before.free);
    Some(reading)
}

/// What pools and graphs hold, where there is nothing to ask the driver for free bytes in.
fn holders(inner: &Inner, links: &Links, device: &DeviceInfo) -> Reading {
    let Some(driver) = links.driver.filter(|_| inner.may_call()) else { return Reading::default() };
    let reading = poll::noted(inner, driver.holders_of(device.index, asked(links.recorder)));
    let reading = reading.unwrap_or_default();
    reading.problems.iter().for_each(|problem| inner.note_problem(problem));
    reading
}

/// Which pools may be asked.
fn asked(recorder: Option<&'static Recorder>) -> &'static dyn Asked {
    recorder.map_or(&(), |recorder| recorder.pools())
}

fn ask_driver(
    driver: &Driver,
    recorder: Option<&'static Recorder>,
    device: &DeviceInfo,
    whence: Whence,
) -> Result<Option<Reading>> {
    let pools = asked(recorder);
    if whence == Whence::Here
        && let Some(reading) = driver.reading_here(device.index, pools)?
    {
        return Ok(Some(reading));
    }
    driver.reading_of(device.index, pools)
}

/// Free bytes alone, in the way that [`ask`] will ask.
fn free_of(inner: &Inner, links: &Links, device: &DeviceInfo, whence: Whence) -> Option<Bytes> {
    let driver = links.driver.filter(|_| inner.may_call())?;
    let here = match whence {
        Whence::Here => driver.free_here(device.index).ok().flatten(),
        Whence::Primary => None,
    };
    here.or_else(|| driver.free_of(device.index).ok().flatten())
}
