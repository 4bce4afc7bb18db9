//! Which layers share a block table, and what a block of the shared pool takes.
//!
//! Rules of `vllm/v1/core/kv_cache_utils.py` (`get_kv_cache_groups` and what it calls).

use super::spec::{Held, Role, Spec, lcm, rounded_up};
use crate::model::{Refusal, RefusalRule};

/// Layers that share a block table. Specs are those of its layers, in order.
#[derive(Clone, Debug)]
pub(crate) struct LayerGroup {
    pub(crate) specs: Vec<Spec>,
    /// The layers have pages of different sizes; else all specs are equal.
    pub(crate) is_mixed: bool,
}

/// The order of layers and blocks in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolLayout {
    /// Each layer has its own run of blocks.
    LayerOutermost,
    /// Each block has the pages of all layers side by side.
    BlockOutermost,
}

impl LayerGroup {
    fn equal(specs: Vec<Spec>) -> Self {
        Self { specs, is_mixed: false }
    }

    fn mixed(specs: Vec<Spec>) -> Self {
        Self { specs, is_mixed: true }
    }

    /// Bytes of one block of this group.
    pub(crate) fn page_bytes(&self) -> u64 {
        self.specs.iter().fold(0, |sum: u64, spec| sum.saturating_add(spec.page_bytes()))
    }

    /// What a request may hold at once, and whether that is exact: a table has as many blocks as
    /// the layer that needs most. Layers that need different ones at different lengths would not
    /// share a table ([`is_uniform_type`]); if ever they do, this is an upper bound.
    pub(crate) fn held(&self, in_flight: u64, encoder: u64) -> (Held, bool) {
        let mut most = Held::NOTHING;
        let mut is_exact = true;
        for held in self.specs.iter().map(|spec| spec.held(in_flight, encoder)) {
            if !most.covers(held) {
                let covering = most.covering(held);
                is_exact = covering == held;
                most = covering;
            }
        }
        (most, is_exact)
    }

    /// Blocks that a request of `tokens` may hold at once.
    pub(crate) fn blocks(&self, tokens: u64, in_flight: u64, encoder: u64) -> u64 {
        let mut blocks = 0;
        let mut last: Option<&Spec> = None;
        for spec in &self.specs {
            // Layers of a group are mostly equal; look at each kind once.
            if last != Some(spec) {
                blocks = blocks.max(spec.held(in_flight, encoder).blocks(tokens));
                last = Some(spec);
            }
        }
        blocks
    }
}

/// The groups of a model, from the caches of its layers in order.
///
/// # Errors
/// [`Refusal`] when the pages cannot be made equal.
pub(crate) fn group(layers: Vec<Spec>, layout: PoolLayout) -> Result<Vec<LayerGroup>, Refusal> {
    let Some(first) = layers.first() else { return Ok(Vec::new()) };
    if layers.iter().all(|spec| spec == first) {
        return Ok(vec![LayerGroup::equal(layers)]);
    }
    if is_uniform_type(&layers) {
        return Ok(vec![LayerGroup::mixed(layers)]);
    }
    if layout == PoolLayout::BlockOutermost && has_several_pages(&layers) {
        return Ok(super::packed::group(layers));
    }
    match unify_pages(&layers) {
        Ok(layers) => Ok(by_spec(layers)),
        Err(refusal) => promote(layers).map(|group| vec![group]).ok_or(refusal),
    }
}

/// Bytes of one block of the shared pool: what the widest group needs.
pub(crate) fn bytes_per_block(groups: &[LayerGroup], layout: PoolLayout) -> u64 {
    let widest = |of: fn(&Spec) -> u64| {
        let sum = |group: &LayerGroup| {
            group.specs.iter().fold(0, |sum: u64, spec| sum.saturating_add(of(spec)))
        };
        groups.iter().map(sum).max().unwrap_or(0)
    };
    match layout {
        PoolLayout::LayerOutermost => widest(Spec::stride_bytes),
        PoolLayout::BlockOutermost => {
            let alignments = groups.iter().flat_map(|group| &group.specs);
            let alignment = alignments.map(Spec::stride_alignment).fold(1, lcm);
            rounded_up(widest(Spec::page_bytes), alignment)
        }
    }
}

fn has_several_pages(layers: &[Spec]) -> bool {
    layers.windows(2).any(|pair| pair[0].page_bytes() != pair[1].page_bytes())
}

/// Whether all layers need the same number of token slots, whatever their pages.
pub(crate) fn is_uniform_type(layers: &[Spec]) -> bool {
    let Some(first) = layers.first() else { return true };
    let is_alike = |spec: &Spec| match first.role {
        Role::Full | Role::Mla => spec.is_full(),
        // A windowed latent cache is a windowed cache.
        Role::Window { window } => {
            matches!(spec.role, Role::Window { window: other } | Role::WindowMla { window: other }
                if other == window)
        }
        Role::WindowMla { window } => spec.role == Role::WindowMla { window },
        Role::Chunk { chunk } => spec.role == Role::Chunk { chunk },
        Role::State { pages, .. } => {
            matches!(spec.role, Role::State { pages: other, .. } if other == pages)
                && spec.page_bytes() == first.page_bytes()
        }
        Role::Cross => spec.role == Role::Cross,
    };
    layers.iter().all(|spec| spec.block_size == first.block_size && is_alike(spec))
}

/// Makes all pages as large as the largest: by a larger block where that divides, else by padding.
fn unify_pages(layers: &[Spec]) -> Result<Vec<Spec>, Refusal> {
    let largest = layers.iter().map(Spec::page_bytes).max().unwrap_or(0);
    let unify = |spec: &Spec| {
        let page = spec.page_bytes();
        if page == largest {
            return Ok(spec.clone());
        }
        if matches!(spec.role, Role::State { .. }) {
            return Ok(Spec { page_padded: Some(largest), ..spec.clone() });
        }
        if page > 0 && largest.is_multiple_of(page) {
            let block_size = spec.block_size.saturating_mul(largest / page);
            let unified = Spec { block_size, ..spec.clone() };
            if unified.page_bytes() == largest {
                return Ok(unified);
            }
        } else if spec.role != Role::Mla {
            return Ok(Spec { page_padded: Some(largest), ..spec.clone() });
        }
        let reason = format!(
            "the cache pages of the layers differ ({page} and {largest} bytes), and the smaller \
             neither divides the larger nor can be padded"
        );
        Err(Refusal::new(RefusalRule::Pages, reason))
    };
    layers.iter().map(unify).collect()
}

/// Layers with the same cache together, in groups of the same number of layers.
fn by_spec(layers: Vec<Spec>) -> Vec<LayerGroup> {
    let mut buckets: Vec<Vec<Spec>> = Vec::new();
    for spec in layers {
        match buckets.iter_mut().find(|bucket| bucket[0] == spec) {
            Some(bucket) => bucket.push(spec),
            None => buckets.push(vec![spec]),
        }
    }
    let smallest = buckets.iter().map(Vec::len).min().unwrap_or(1);
    let largest = buckets.iter().map(Vec::len).max().unwrap_or(1);
    // A few padded layers are cheaper than another group: up to half as many more.
    let size = if 2 * largest < 3 * smallest { largest } else { smallest };
    let mut groups = Vec::new();
    for bucket in buckets {
        let count = bucket.len().div_ceil(size);
        for index in 0..count {
            let specs = bucket.iter().skip(index).step_by(count).cloned().collect();
            groups.push(LayerGroup::equal(specs));
        }
    }
    groups
}

/// The last resort beside latent layers: windowed layers are given blocks for every token.
fn promote(layers: Vec<Spec>) -> Option<LayerGroup> {
    let is = |wanted: fn(&Role) -> bool| layers.iter().any(|spec| wanted(&spec.role));
    if is(|role| matches!(role, Role::WindowMla { .. } | Role::Chunk { .. }))
        || !is(|role| matches!(role, Role::Mla))
        || !is(|role| matches!(role, Role::Window { .. }))
    {
        return None;
    }
    let mut sizes: Vec<u64> =
        layers.iter().filter(|spec| spec.is_full()).map(|spec| spec.block_size).collect();
    sizes.dedup();
    let promoted: Vec<Spec> = layers
        .into_iter()
        .map(|spec| match spec.role {
            Role::Window { .. } => {
                let block_size = if sizes.len() == 1 { sizes[0] } else { spec.block_size };
                let bare = spec.bare_page_bytes() / spec.block_size.max(1);
                let bare = bare.saturating_mul(block_size);
                let page_padded = spec.page_padded.map(|padded| padded.max(bare));
                Spec { role: Role::Full, block_size, page_padded, ..spec }
            }
            _ => spec,
        })
        .collect();
    is_uniform_type(&promoted).then(|| LayerGroup::mixed(promoted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Dtype;

    fn spec(role: Role, block_size: u64) -> Spec {
        Spec::attention(role, block_size, 1, [64, 64], Dtype::Bfloat16)
    }

    /// Exact where one layer needs most at every length, else never below any.
    #[test]
    fn a_table_has_what_its_neediest_layer_takes() {
        let window = |window| Role::Window { window };
        let state = |pages| Role::State { bytes: 1, pages };
        let cases = [
            (vec![], true),
            (vec![spec(Role::Full, 16), spec(Role::Mla, 16)], true),
            (vec![spec(window(100), 16), spec(window(50), 16)], true),
            (vec![spec(window(50), 32), spec(window(100), 16), spec(Role::Cross, 16)], false),
            (vec![spec(state(1), 16), spec(state(2), 16), spec(window(9), 8)], false),
            (vec![spec(state(1), 16), spec(window(9), 8)], true),
            (vec![spec(Role::Full, 16), spec(window(100), 16)], false),
            (
                vec![
                    spec(Role::Full, 16),
                    spec(window(100), 16),
                    spec(Role::Chunk { chunk: 5 }, 16),
                ],
                false,
            ),
        ];
        for (specs, expected) in cases {
            let group = LayerGroup::mixed(specs);
            let (held, is_exact) = group.held(32, 64);
            assert_eq!(is_exact, expected, "{group:?}");
            for tokens in (1..500).chain([1 << 30, u64::MAX]) {
                let (found, blocks) = (held.blocks(tokens), group.blocks(tokens, 32, 64));
                assert!(found >= blocks, "{tokens}: {found} for {blocks} of {group:?}");
                assert!(!is_exact || found == blocks, "{tokens}: {found}, not {blocks}");
            }
        }
    }
}
