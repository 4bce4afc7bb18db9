//! What fits? From a model's `config.json` and a device size to blocks, tokens and sequences.
//! Nothing is asked of any GPU: every number is derived or assumed, and says so.
//!
//! `cargo run -p memvelope --example 01_plan [-- CONFIG.json [GIB]]`

use memvelope::envelope::{Declared, Envelope, TermName};
use memvelope::model::Layout;
use memvelope::units::{Bytes, Tokens};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let layout = match args.next() {
        Some(path) => Layout::from_config(&std::fs::read_to_string(path)?)?,
        None => Layout::builtin_8b(),
    };
    let total = Bytes(args.next().map_or(Ok(80), |gib| gib.parse::<u64>())? * Bytes::GIB);

    // What one more token costs, with its factors.
    let Layout { layers, kv_heads, head_dim, element_bytes, .. } = &layout;
    println!("{}: {} a token", layout.architecture, layout.per_token());
    println!("  = 2 x {layers} layers x {kv_heads} heads x {head_dim} x {element_bytes} bytes\n");

    // The equation, term by term. Declare what you know better than the defaults.
    let declared = Declared::default();
    let envelope = Envelope::plan(total, &layout, &declared)?;
    println!("{envelope}\n");

    // How many sequences run at the same time, each at its full length?
    for length in [1024, 4096, 8192, 32_768] {
        let blocks = envelope.curve.blocks(Tokens(length));
        println!("  {:>5} sequences of {length}", envelope.kv_capacity_blocks.0 / blocks.0);
    }

    // Allocate on demand in slabs like these and the driver never runs out within the budget.
    let slabs = envelope.kv_slab_plan(Bytes(256 * Bytes::MIB));
    println!("\n  {} slabs of {} hold {}", slabs.slabs, slabs.slab_bytes, slabs.blocks);
    let capacity = envelope.term(TermName::KvCapacity).and_then(|term| term.bytes);
    assert!(capacity.is_some_and(|bytes| slabs.slabs * slabs.slab_bytes.0 <= bytes as u64));
    Ok(())
}
