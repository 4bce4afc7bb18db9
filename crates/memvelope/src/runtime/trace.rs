//! Writing the sampled trace.

use super::TraceStats;
use super::state::{FORKED, Inner};
use crate::error::{Error, Result};
use crate::event::{Body, Event};
use crate::export::chrome::{TraceMeta, TraceWriter};
use crate::export::write_atomically;
use crate::units::Nanos;
use std::path::Path;

/// See [`super::Session::write_trace`].
pub(super) fn write(inner: &Inner, path: &Path, bytes_max: u64) -> Result<TraceStats> {
    if !inner.is_awake() {
        let source = std::io::Error::other(FORKED);
        return Err(Error::WriteFile { path: path.to_owned(), source });
    }
    // Copied out first: no lock is held while writing.
    let (events, seen, stride, window_ns) = {
        let recorded = inner.recorded();
        let sampler = &recorded.sampler;
        (sampler.events().to_vec(), sampler.seen(), sampler.stride(), sampler.window_ns())
    };
    let snapshot = inner.snapshot();
    let history = inner.history();
    let starts = events.iter().map(start_of).chain(history.iter().map(|point| point.time));
    let origin = starts.min().unwrap_or(snapshot.time_ns);
    let last = events.iter().map(|event| event.time).chain(history.iter().map(|p| p.time)).max();
    let meta = TraceMeta {
        events_seen: seen,
        window_stride: stride,
        window_ns,
        dropped: snapshot.dropped.clone(),
    };
    let mut written = crate::export::chrome::Written::default();
    let bytes = write_atomically(path, |out| {
        let mut trace = TraceWriter::new(
            out,
            inner.names,
            inner.scopes,
            origin,
            snapshot.simulated,
            bytes_max,
        )?;
        for device in &snapshot.devices {
            trace.device(device.totals.device, &device.name)?;
        }
        for point in &history {
            trace.vram(point.time, point.device, point.vram_bytes, point.kv_bytes)?;
        }
        // The history is an upper envelope; what is live now closes each curve.
        for device in &snapshot.devices {
            let kv = device.totals.by_tag[crate::event::Tag::KvCache as usize].live_bytes;
            let has_curve = history.iter().any(|point| point.device == device.totals.device);
            if let Some(time) = last.filter(|_| has_curve) {
                trace.vram(time, device.totals.device, device.totals.vram.live_bytes, kv)?;
            }
        }
        for event in &events {
            trace.event(event)?;
        }
        written = trace.finish(&meta)?;
        Ok(())
    })?;
    Ok(TraceStats {
        events: written.events,
        events_seen: seen,
        events_left_out: written.left_out,
        window_stride: stride,
        bytes,
    })
}

fn start_of(event: &Event) -> Nanos {
    match event.body {
        Body::Kernel(kernel) => kernel.start,
        Body::Copy(copy) => copy.start,
        Body::Memset(memset) => memset.start,
        Body::Sync(sync) => sync.start,
        Body::Span(span) => span.start,
        Body::GraphLaunch(graph) => graph.start,
        Body::ApiCall(call) => call.start,
        Body::Overhead(overhead) => overhead.start,
        // The sampler keeps nothing else.
        _ => event.time,
    }
}
