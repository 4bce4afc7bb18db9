//! A plan as a person reads it, at most [`COLUMNS`] wide.

use super::plan_cost::{Cost, Kept, count};
use super::table::{bar, signed_text};
use super::{Bound, Plan, Sequences, Term, TermName};
use crate::engine::vllm_0_32::{Resolved, Role};
use crate::engine::{DeviceSource, KvDtype};
use crate::model::RefusalRule;
use crate::units::{Blocks, Bytes, Tokens};
use std::fmt::{self, Formatter, Write as _};

/// Of a terminal that is not very wide.
const COLUMNS: usize = 100;
/// Cells of a term's bar.
const BAR: usize = 12;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.device_source == DeviceSource::Simulated {
            writeln!(f, "SIMULATED: the device is memvelope's simulated driver, not a GPU\n")?;
        }
        let ranks = match self.tensor_parallel_size {
            1 => String::new(),
            ranks => format!(", each of {ranks} tensor-parallel ranks"),
        };
        let head = format!("{}, {}, on {}{ranks}", self.architecture, self.engine, self.device);
        writeln!(f, "{}", wrapped(&head, 0))?;
        self.write_equation(f)?;
        self.write_costs(f)?;
        self.write_groups(f)?;
        self.write_sequences(f)?;
        self.write_decisions(f)?;
        if !self.warnings.is_empty() {
            writeln!(f)?;
        }
        for warning in &self.warnings {
            writeln!(f, "{}", wrapped(&format!("warning: {warning}"), 9))?;
        }
        if let Some(refusal) = &self.refused {
            writeln!(f, "\n{}", wrapped(&format!("refused: {}", refusal.reason), 9))?;
            if let Some(hint) = self.hint() {
                writeln!(f, "{}", wrapped(&format!("hint: {hint}"), 6))?;
            }
        }
        Ok(())
    }
}

impl Plan {
    /// What to change where the engine would not start.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let refusal = self.refused.as_ref()?;
        Some(match refusal.rule {
            RefusalRule::TensorParallel => "choose another --tp, one that divides it".into(),
            RefusalRule::Backend => {
                "choose another --kv-dtype or --block-size, or a device whose kernels serve it"
                    .into()
            }
            RefusalRule::Dtype => {
                "use --kv-dtype auto, or a device that computes in this type".into()
            }
            RefusalRule::BlockSize => "use --block-size auto".into(),
            RefusalRule::Pages => "use --kv-dtype auto, or another --block-size or --tp".into(),
            RefusalRule::Memory => match self.estimated_max_model_len {
                Some(Tokens(tokens)) => format!(
                    "use --max-model-len {tokens}, a larger device, more ranks (--tp), or \
                     --kv-dtype fp8"
                ),
                None => "use a larger device, more ranks (--tp), a quantised checkpoint, or a \
                         larger --gpu-memory-utilization"
                    .into(),
            },
            RefusalRule::UnknownWeights => "give --kv-bytes, e.g. --kv-bytes 40GiB".into(),
            RefusalRule::Parameter => return None,
        })
    }

    fn write_equation(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(equation) = &self.equation else {
            if self.available_kv_bytes.is_some() || self.weight_bytes.is_some() {
                writeln!(f)?;
            }
            if let Some(bytes) = self.available_kv_bytes {
                writeln!(f, "KV cache {} ({bytes} bytes), as given", signed_text(bytes))?;
            }
            if let Some(bytes) = self.weight_bytes {
                writeln!(f, "weights  {bytes} ({} bytes)", bytes.0)?;
            }
            return Ok(());
        };
        let total = equation.term(TermName::Total).and_then(|term| term.bytes).unwrap_or(0);
        writeln!(
            f,
            "\nequation               bytes   share  {:<BAR$}  origin    note",
            "of the total"
        )?;
        let mut absent = Vec::new();
        for term in &equation.terms {
            match term.bytes {
                Some(0) if term.name.is_taken() => {}
                Some(bytes) => write_term(f, term, bytes, total)?,
                None if matches!(
                    term.name,
                    TermName::Recorder | TermName::KvCache | TermName::Unaccounted
                ) => {}
                None => absent.push(term.name.label()),
            }
        }
        if !absent.is_empty() {
            let absent = format!("  absent, so not counted: {}", absent.join(", "));
            writeln!(f, "{}", wrapped(&absent, 4))?;
        }
        Ok(())
    }

    fn write_costs(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(bytes) = self.per_token_bytes else { return Ok(()) };
        let on = if self.tensor_parallel_size > 1 { " on each rank" } else { "" };
        let per_token = Bytes(bytes);
        writeln!(f, "\none more token takes {per_token} ({bytes} bytes){on}")?;
        for cost in &self.costs {
            let (unit, kept) = kept_text(cost, self.resolved.as_ref());
            let (bytes, Cost { factors, what, .. }) = (Bytes(cost.bytes), cost);
            let line = format!("{bytes:>12} {unit} = {factors}: {what} {kept}");
            writeln!(f, "{}", wrapped(&line, 25))?;
        }
        Ok(())
    }

    fn write_groups(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (Some(block), false) = (self.bytes_per_block, self.groups.is_empty()) else {
            return Ok(());
        };
        writeln!(
            f,
            "\n{:<24}{:>8}{:>14}{:>14}  blocks of the longest",
            "groups", "layers", "tokens/block", "page a layer"
        )?;
        let mut rows: Vec<(String, u64)> = Vec::new();
        for plan in &self.groups {
            let group = &plan.group;
            let mut names: Vec<&str> =
                group.specs.iter().map(|(spec, _)| role_text(&spec.role)).collect();
            names.dedup();
            let blocks = plan.blocks_per_request.map_or("absent".into(), |b| b.0.to_string());
            let pages = match group.specs.as_slice() {
                [(spec, _)] => Bytes(spec.page_bytes()).to_string(),
                specs => format!("{} sizes", specs.len()),
            };
            let row = format!(
                "{:<19}{:>8}{:>14}{pages:>14}  {blocks}",
                names.join(", "),
                group.num_layers,
                group.block_size,
            );
            match rows.last_mut() {
                Some((last, times)) if *last == row => *times += 1,
                _ => rows.push((row, 1)),
            }
        }
        for (row, times) in rows {
            let times = if times > 1 { format!("{times} x") } else { String::new() };
            writeln!(f, "{times:>4} {row}")?;
        }
        let pool = match self.num_gpu_blocks {
            Some(Blocks(blocks)) => format!("; {blocks} blocks, one of them the null block"),
            None => String::new(),
        };
        writeln!(f, "  one block of the pool takes {block} ({} bytes){pool}", block.0)
    }

    fn write_sequences(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.sequences.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\n{:<24}{:>8}{:>14}{:>14}  bound by",
            "sequences at once", "count", "blocks each", "bytes each"
        )?;
        for Sequences { tokens, blocks, bytes, count, bound_by } in &self.sequences {
            let longest = if Some(*tokens) == self.max_model_len { " (longest)" } else { "" };
            let count = match count {
                &u64::MAX => "any".to_owned(),
                count => count.to_string(),
            };
            writeln!(
                f,
                "  of {:<19}{count:>8}{:>14}{bytes:>14}  {}",
                format!("{}{longest}", tokens.0),
                blocks.map_or("-".into(), |blocks| blocks.0.to_string()),
                bound_text(*bound_by)
            )?;
        }
        if let (Some(Tokens(tokens)), Some(concurrency), Some(Tokens(longest))) =
            (self.kv_cache_size_tokens, self.max_concurrency, self.max_model_len)
        {
            writeln!(
                f,
                "  vLLM will log: GPU KV cache size: {tokens} tokens, maximum concurrency for \
                 {longest} tokens\n  per request: {concurrency:.2}x"
            )?;
        }
        let Some(worst) = self.worst_case else { return Ok(()) };
        let available = self.available_kv_bytes.and_then(|bytes| u64::try_from(bytes).ok());
        let times = available.filter(|&bytes| bytes > 0).map_or(String::new(), |available| {
            let times = worst.need_bytes.0 as f64 / available as f64;
            format!(", {times:.1} times the cache")
        });
        let each = match worst.tokens_each {
            Some(tokens) if tokens == worst.tokens => "; all of them fit".to_owned(),
            Some(tokens) => format!("; so many fit up to {tokens} each"),
            None => "; so many never fit at once".to_owned(),
        };
        let worst = format!(
            "  worst case: {} of {} need {}{times}{each}",
            count(worst.sequences, "sequence"),
            worst.tokens,
            worst.need_bytes
        );
        writeln!(f, "{}", wrapped(&worst, 4))
    }

    fn write_decisions(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(resolved) = &self.resolved else { return Ok(()) };
        writeln!(f, "\ndecided by {}", self.engine)?;
        let kernels = match resolved.attn_backends.as_slice() {
            [] => "none: no layer attends".to_owned(),
            names => names.join(", "),
        };
        let batch = format!(
            "{} tokens (max_num_batched_tokens), {} sequences (max_num_seqs)",
            resolved.max_num_batched_tokens, resolved.max_num_seqs
        );
        let two = resolved.max_in_flight_tokens > resolved.max_num_batched_tokens;
        let flight = format!(
            "{} tokens{}",
            resolved.max_in_flight_tokens,
            if two { ": two batches, asynchronous scheduling" } else { ": one batch" }
        );
        let longest = match (self.max_model_len, resolved.native_max_model_len) {
            (Some(Tokens(asked)), Some(Tokens(native))) if asked != native => {
                format!("{asked} tokens; the config declares {native}")
            }
            (Some(asked), Some(_)) => format!("{asked}, as the config declares"),
            (Some(asked), None) => format!("{asked}"),
            (None, _) => "absent".to_owned(),
        };
        let dtype = match resolved.kv_cache_dtype {
            KvDtype::Auto => format!("auto: {}, the model's own", self.model_dtype),
            other => other.to_string(),
        };
        let states = match resolved.is_state_aligned {
            true => Some("kept at block boundaries, for prefix caching".to_owned()),
            false => None,
        };
        for (name, value) in [
            ("attention kernels", Some(kernels)),
            ("KV cache dtype", Some(dtype)),
            ("block", Some(format!("{} tokens", resolved.block_size))),
            ("batch", Some(batch)),
            ("in flight", Some(flight)),
            ("longest sequence", Some(longest)),
            ("states", states),
        ] {
            if let Some(value) = value {
                writeln!(f, "{}", wrapped(&format!("  {name:<20}{value}"), 22))?;
            }
        }
        Ok(())
    }
}

fn write_term(f: &mut Formatter<'_>, term: &Term, bytes: i64, total: i64) -> fmt::Result {
    let sign = match term.name {
        TermName::KvCapacity => '=',
        name if name.is_taken() => '-',
        _ => ' ',
    };
    let share = bytes as f64 / (total as f64).max(1.0);
    let line = format!(
        "{sign} {:<15}{:>11}{:>6.1} %  {:<BAR$}  {:<8}  {}",
        term.name.label(),
        signed_text(bytes),
        share * 100.0,
        bar(share, BAR),
        term.origin.label(),
        term.note
    );
    writeln!(f, "{}", wrapped(&line, 62))
}

/// The unit of a cost's bytes, and what is kept.
fn kept_text(cost: &Cost, resolved: Option<&Resolved>) -> (&'static str, String) {
    let flight = resolved.map_or(String::new(), |resolved| {
        format!(" and {} in flight", resolved.max_in_flight_tokens)
    });
    match cost.kept {
        Kept::EveryToken => ("a token", "of every token".into()),
        Kept::Window { tokens } => ("a token", format!("of the last {tokens} tokens{flight}")),
        Kept::Chunk { tokens } => ("a token", format!("of the chunk of {tokens} tokens{flight}")),
        Kept::Encoder => ("a token", "of the encoder's output".into()),
        Kept::Sequence { pages } => {
            ("a seq. ", format!("of fixed size, {} a layer", count(pages, "page")))
        }
    }
}

fn role_text(role: &Role) -> &'static str {
    match role {
        Role::Full => "full attention",
        Role::Mla => "latents",
        Role::Window { .. } => "window",
        Role::WindowMla { .. } => "window of latents",
        Role::Chunk { .. } => "chunk",
        Role::State { .. } => "states",
        Role::Cross => "cross attention",
    }
}

fn bound_text(bound: Bound) -> &'static str {
    match bound {
        Bound::KvCache => "KV cache",
        Bound::MaxNumSeqs => "max_num_seqs",
    }
}

/// A line broken at spaces where it is too long; further lines are indented.
fn wrapped(line: &str, indent: usize) -> String {
    let mut out = String::with_capacity(line.len() + indent);
    let mut column = 0;
    // Columns are made of runs of spaces, which stay as they are.
    for (index, word) in line.split(' ').enumerate() {
        let width = word.chars().count();
        if index > 0 {
            if column + 1 + width > COLUMNS && column > indent && !word.is_empty() {
                out.truncate(out.trim_end().len());
                let _ = write!(out, "\n{:indent$}", "");
                column = indent;
            } else {
                out.push(' ');
                column += 1;
            }
        }
        out.push_str(word);
        column += width;
    }
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_and_columns_kept() {
        assert_eq!(wrapped("a  b   c", 4), "a  b   c");
        let long = format!("head  {}", "word ".repeat(40));
        let text = wrapped(&long, 6);
        assert!(text.starts_with("head  word"));
        assert!(text.lines().count() > 1);
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with("      word")), "{text}");
        assert_eq!(wrapped(&"x".repeat(300), 2).lines().count(), 1);
    }
}
