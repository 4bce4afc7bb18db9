//! What layers alike keep of a sequence, with the factors that make it up.

use super::plan::GroupPlan;
use crate::engine::generic;
use crate::engine::vllm_0_32::{Role, Spec};
use crate::model::Layout;
use crate::model::cache::{Cache, CacheKind, Reach};
use serde::Serialize;

/// What layers alike keep of a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// How many layers.
    pub layers: u64,
    /// Of which tokens.
    #[serde(flatten)]
    pub kept: Kept,
    /// Bytes of one token (of one sequence, for [`Kept::Sequence`]) over all of them, on one rank.
    pub bytes: u64,
    /// The factors of that, in words.
    pub factors: String,
    /// What it is.
    pub what: &'static str,
}

/// Of which tokens something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "kept", rename_all = "snake_case")]
pub enum Kept {
    /// Every one.
    EveryToken,
    /// The last so many, and those in flight.
    Window {
        /// Tokens looked back on, the current one included.
        tokens: u64,
    },
    /// Those of the current chunk, and those in flight.
    Chunk {
        /// Tokens of a chunk.
        tokens: u64,
    },
    /// Those of an encoder.
    Encoder,
    /// A state of fixed size, whatever the length.
    Sequence {
        /// Pages of it that a sequence holds.
        pages: u64,
    },
}

/// Costs on one rank of the layers of an engine's groups, equal ones once.
pub(super) fn of_engine(layout: &Layout, groups: &[GroupPlan]) -> Vec<Cost> {
    let mut specs: Vec<(&Spec, u64)> = Vec::new();
    for (spec, count) in groups.iter().flat_map(|group| &group.group.specs) {
        match specs.iter_mut().find(|(known, _)| *known == spec) {
            Some((_, layers)) => *layers += count,
            None => specs.push((spec, *count)),
        }
    }
    specs.into_iter().map(|(spec, layers)| of_spec(layout, spec, layers)).collect()
}

fn of_spec(layout: &Layout, spec: &Spec, layers: u64) -> Cost {
    let kept = match spec.role {
        Role::Full | Role::Mla => Kept::EveryToken,
        Role::Window { window } | Role::WindowMla { window } => Kept::Window { tokens: window },
        Role::Chunk { chunk } => Kept::Chunk { tokens: chunk },
        Role::Cross => Kept::Encoder,
        Role::State { bytes, pages } => {
            let page = spec.page_bytes();
            let padded = match page > bytes {
                true => format!(" (state {bytes}, padded to a page)"),
                false => String::new(),
            };
            return Cost {
                layers,
                kept: Kept::Sequence { pages },
                bytes: layers.saturating_mul(pages).saturating_mul(page),
                factors: format!("{} x {pages} x {page} bytes{padded}", count(layers, "layer")),
                what: "states",
            };
        }
    };
    let block = spec.block_size.max(1);
    let bytes = layers.saturating_mul(spec.page_bytes()) / block;
    let mut factors = factors(layout, spec, layers);
    let bare = spec.bare_page_bytes();
    if spec.page_bytes() != bare {
        let page = spec.page_bytes();
        factors.push_str(&format!(", padded from {bare} to {page} a page of {block} tokens"));
    }
    Cost { layers, kept, bytes, factors, what: what(spec) }
}

fn what(spec: &Spec) -> &'static str {
    match spec.role {
        Role::Mla
            if spec.marker == "indexer"
                || spec.tokens_per_state > 1 && spec.content_bytes.is_none() =>
        {
            "indexer keys"
        }
        Role::WindowMla { .. } if spec.content_bytes.is_none() => "compressor rows",
        Role::Mla | Role::WindowMla { .. } => "latents",
        _ => "keys and values",
    }
}

fn factors(layout: &Layout, spec: &Spec, layers: u64) -> String {
    let layers = count(layers, "layer");
    let shared = match spec.tokens_per_state {
        0 | 1 => String::new(),
        tokens => format!(" / {tokens} tokens"),
    };
    let slots = spec.head_slots.unwrap_or(spec.num_kv_heads);
    if let Some(slot) = spec.content_bytes {
        let slots = if slots == 1 { String::new() } else { format!("{slots} slots x ") };
        return format!("{layers} x {slots}{} as packed{shared}", count(slot, "byte"));
    }
    let element = count(spec.dtype.bytes(), "byte");
    if spec.role == Role::Mla || matches!(spec.role, Role::WindowMla { .. }) {
        let latent = layout.caches.iter().find_map(|cache| match &cache.kind {
            CacheKind::Latent(latent)
                if u64::from(latent.lora_rank) + u64::from(latent.rope_dim) == spec.head_size =>
            {
                Some(format!("({} + {})", latent.lora_rank, latent.rope_dim))
            }
            _ => None,
        });
        let width = latent.unwrap_or_else(|| spec.head_size.to_string());
        return format!("{layers} x {width} x {element}{shared}");
    }
    let heads = count(slots, "head");
    let (key, value) = (spec.head_size, spec.head_size_v);
    match key == value {
        true => format!("2 x {layers} x {heads} x {key} x {element}"),
        false => format!("{layers} x {heads} x ({key} + {value}) x {element}"),
    }
}

/// Costs without an engine, on one of `tp` ranks.
pub(super) fn of_layout(layout: &Layout, tp: u32) -> Vec<Cost> {
    let mut kinds: Vec<(&Cache, u64)> = Vec::new();
    for cache in &layout.caches {
        match kinds.iter_mut().find(|(known, _)| known.kind == cache.kind) {
            Some((_, layers)) => *layers += 1,
            None => kinds.push((cache, 1)),
        }
    }
    kinds.into_iter().filter_map(|(cache, layers)| of_kind(layout, cache, layers, tp)).collect()
}

fn of_kind(layout: &Layout, cache: &Cache, layers: u64, tp: u32) -> Option<Cost> {
    let element = count(layout.dtype.bytes(), "byte");
    let named = count(layers, "layer");
    let unit = generic::unit_bytes(&cache.kind, layout.dtype, tp).ok()?;
    let what = match &cache.kind {
        CacheKind::Attention(_) | CacheKind::Cross(_) => "keys and values",
        CacheKind::Latent(_) | CacheKind::Compressed(_) | CacheKind::WindowLatent(_) => "latents",
        CacheKind::Indexer(_) => "indexer keys",
        CacheKind::Compressor(_) => "compressor rows",
        CacheKind::State(_) => "states",
    };
    let (kept, factors) = match &cache.kind {
        CacheKind::Attention(attention) | CacheKind::Cross(attention) => {
            let heads = count(generic::kv_heads(attention, tp), "head");
            let (key, value) = (attention.key_dim, attention.value_dim);
            let kept = match (&cache.kind, attention.reach) {
                (CacheKind::Cross(_), _) => Kept::Encoder,
                (_, Reach::Full) => Kept::EveryToken,
                (_, Reach::Window(window)) => Kept::Window { tokens: window.into() },
                (_, Reach::Chunk(chunk)) => Kept::Chunk { tokens: chunk.into() },
            };
            let factors = match key == value {
                true => format!("2 x {named} x {heads} x {key} x {element}"),
                false => format!("{named} x {heads} x ({key} + {value}) x {element}"),
            };
            (kept, factors)
        }
        CacheKind::Latent(latent) => {
            let (rank, rope) = (latent.lora_rank, latent.rope_dim);
            (Kept::EveryToken, format!("{named} x ({rank} + {rope}) x {element}"))
        }
        CacheKind::Indexer(_) | CacheKind::Compressed(_) => {
            let tokens = generic::tokens_per_state(&cache.kind);
            let shared = if tokens > 1 { format!(" / {tokens} tokens") } else { String::new() };
            (Kept::EveryToken, format!("{named} x {}{shared}", count(unit.0, "byte")))
        }
        CacheKind::WindowLatent(latent) => {
            let kept = Kept::Window { tokens: latent.window.into() };
            (kept, format!("{named} x {}", count(unit.0, "byte")))
        }
        CacheKind::Compressor(compressor) => {
            let kept = Kept::Window { tokens: compressor.window.into() };
            (kept, format!("{named} x {} x 4 bytes", compressor.width))
        }
        CacheKind::State(_) => {
            (Kept::Sequence { pages: 1 }, format!("{named} x {}", count(unit.0, "byte")))
        }
    };
    let bytes = layers.saturating_mul(unit.0) / generic::tokens_per_state(&cache.kind);
    Some(Cost { layers, kept, bytes, factors, what })
}

/// A number with its noun.
pub(super) fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
