use memvelope::admission::{Gate, GateConfig};
use memvelope::units::{Blocks, CostCurve, Tokens};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let curve = CostCurve::new(16, 0).ok_or("16 tokens a block")?;
    let gate = Gate::new(GateConfig::new(Blocks(1_000), curve))?;
    let mut lease = gate.try_admit(Tokens(700), Some(Tokens(300)), None)?;
    lease.grow(Tokens(1))?; // one more token decoded
    println!("{:?}", gate.usage());
    Ok(()) // the lease drops here and releases its blocks, once
}
