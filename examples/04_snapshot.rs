//! Where the VRAM of this process is, and whether more would fit.
//!
//!     cargo run --example 04_snapshot
//!
//! Without a GPU this runs too, and says what is not known. Of another process, the same is told by
//! `memvelope snapshot --pid PID`.

use memvelope::config::Config;
use memvelope::event::{DeviceIndex, Tag, tagged};
use memvelope::runtime::Session;
use memvelope::snapshot::{Fit, TermName, Via, fit_text};
use memvelope::units::Bytes;
use std::time::Duration;

fn main() -> memvelope::Result<()> {
    let (config, problems) = Config::from_env();
    for problem in problems {
        eprintln!("{problem}");
    }
    let session = Session::start(&config)?;
    {
        // What is allocated here is told apart in the table.
        let _tag = tagged(Tag::Weights);
        load_weights();
    }

    // Asks the planes now, all of a device within one epoch: some microseconds.
    let snapshot = session.snapshot_now();
    print!("{}", snapshot.text(100));

    for device in &snapshot.devices {
        let index = device.totals.device;
        // Every line is counted or measured by itself; only `unaccounted` is what is left.
        if let Some(balance) = &device.balance {
            let sum: i64 = balance.lines.iter().map(|line| line.bytes).sum();
            assert_eq!(i64::try_from(balance.used_bytes.0), Ok(sum));
            let weights = balance.line(TermName::Weights).map(|line| line.bytes);
            println!("\n  {weights:?} bytes of weights on GPU {}", index.0);
            for finding in &balance.findings {
                println!("  {}: {}", finding.text, finding.action);
            }
        }
        say_whether_it_fits(&session, index, Bytes(4 << 30));
    }
    session.stop(Duration::from_secs(5))?;
    Ok(())
}

/// Asks before a large allocation instead of after it has failed.
fn say_whether_it_fits(session: &Session, device: DeviceIndex, bytes: Bytes) {
    // `Via::Framework` would ask PyTorch's allocator, `Via::Pool` a stream-ordered pool.
    let fit = session.would_fit(device, bytes, Via::Driver);
    println!("\n  would {bytes} fit?\n{}", fit_text(&fit, 100));
    match fit {
        Fit::Yes { .. } => {}
        Fit::No { remedies, .. } => println!("  {} things would help", remedies.len()),
        Fit::Unknown { .. } => println!("  so be careful"),
    }
}

/// Stands for the CUDA calls of your program.
fn load_weights() {
    std::thread::sleep(Duration::from_millis(10));
}
