//! Records what this process does on the GPU, and says what it could not see.
//!
//!     cargo run --example 03_record
//!
//! Without a GPU this runs too: the session is then blind, and says why.

use memvelope::config::Config;
use memvelope::event::{Tag, tagged};
use memvelope::runtime::Session;
use memvelope::snapshot::Snapshot;
use std::time::Duration;

fn main() -> memvelope::Result<()> {
    // Unusable MEMVELOPE_* values keep their defaults, and are told.
    let (config, problems) = Config::from_env();
    for problem in problems {
        eprintln!("{problem}");
    }

    // One session a process. No driver is not an error: the snapshot says what is unseen.
    let session = Session::start(&config)?;
    {
        // Driver allocations made by this thread carry the tag. What it launches belongs to the
        // scope, which may say to which distributed trace it belongs (a W3C `traceparent`).
        let _tag = tagged(Tag::Weights);
        let caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().ok();
        let _scope = session.scope("load weights", caller);
        load_weights();
    }

    // Flushes, detaches, ends our threads.
    let snapshot = session.stop(Duration::from_secs(5))?;
    print_snapshot(&snapshot);
    let cost = session.self_cost();
    println!("our own cost: {} ns of CPU, {} bytes", cost.thread_cpu_ns, cost.host_bytes);

    let path = std::env::temp_dir().join("memvelope-03-record.json");
    let trace = session.write_trace(&path, 64 << 20)?;
    println!("{} events in {}: open it in https://ui.perfetto.dev", trace.events, path.display());
    Ok(())
}

/// Stands for the CUDA calls of your program.
fn load_weights() {
    std::thread::sleep(Duration::from_millis(10));
}

fn print_snapshot(snapshot: &Snapshot) {
    if snapshot.simulated {
        println!("SIMULATED");
    }
    for device in &snapshot.devices {
        let vram = &device.totals.vram;
        println!("{}: {} live, {} at most", device.name, vram.live_bytes, vram.peak_bytes);
        // Bytes in use before we looked are an amount, or unknown; never silently zero.
        match device.opening_bytes {
            Some(bytes) => println!("  {bytes} in use before this session"),
            None => println!("  what was in use before this session is unknown"),
        }
    }
    for kernel in snapshot.timeline.kernels.iter().take(5) {
        let it = &kernel.totals;
        println!("{:>6} x {}, p50 {}, p99 {}", it.count, kernel.name, it.p50_ns, it.p99_ns);
    }
    for busy in &snapshot.timeline.busy {
        println!("device {} was busy for {} of {}", busy.device.0, busy.busy_ns, busy.span_ns);
    }
    for (reason, count) in &snapshot.dropped {
        println!("lost: {count} ({reason:?})");
    }
    for gap in &snapshot.unseen {
        println!("unseen: {gap}");
    }
}
