use memvelope::admission::{Gate, GateConfig, Growth, Request};
use memvelope::units::{Blocks, CostCurve, Tokens};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let curve = CostCurve::new(16, 0).ok_or("16 tokens a block")?;
    let gate = Gate::new(GateConfig::new(Blocks(1_000), curve, Tokens(8_192)))?;
    let mut lease = gate.try_admit(&Request::new(Tokens(700), Some(Tokens(300))))?;
    if lease.grow(Tokens(1))? == Growth::Wait {
        println!("this sequence pauses for a step"); // others need the room to complete first
    }
    println!("{:?}", gate.usage());
    Ok(()) // the lease drops here and releases its blocks, once
}
