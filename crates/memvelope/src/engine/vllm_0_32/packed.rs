//! Groups of layers whose pages of different sizes lie side by side in a block.
//!
//! Rules of `vllm/v1/core/kv_cache_utils.py` (`_get_packed_kv_cache_groups`).

use super::groups::{LayerGroup, is_uniform_type};
use super::spec::{Role, Spec};

/// Layers of one kind, by the size of their pages.
struct Bucket {
    specs: Vec<Spec>,
    /// Distinct page sizes in order of appearance, and the layers that have them.
    pages: Vec<(u64, Vec<usize>)>,
}

impl Bucket {
    fn new(specs: Vec<Spec>) -> Self {
        let mut pages: Vec<(u64, Vec<usize>)> = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            let page = spec.page_bytes();
            match pages.iter_mut().find(|(size, _)| *size == page) {
                Some((_, layers)) => layers.push(index),
                None => pages.push((page, vec![index])),
            }
        }
        Self { specs, pages }
    }

    /// One layer of each page size repeats.
    fn is_balanced(&self) -> bool {
        self.pages.windows(2).all(|pair| pair[0].1.len() == pair[1].1.len())
    }

    fn repeats(&self) -> usize {
        self.pages.iter().map(|(_, layers)| layers.len()).max().unwrap_or(0)
    }

    fn groups_of(&self, repeats_per_group: Option<usize>) -> usize {
        match repeats_per_group {
            Some(repeats) if self.is_balanced() => self.repeats().div_ceil(repeats.max(1)),
            _ => 1,
        }
    }

    /// Page bytes of the largest of the `count` groups that this splits into.
    fn widest(&self, count: usize) -> u64 {
        let bytes = |(page, layers): &(u64, Vec<usize>)| {
            page.saturating_mul(u64::try_from(layers.len().div_ceil(count)).unwrap_or(u64::MAX))
        };
        self.pages.iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// May be split to one state a group.
    fn is_state(&self, repeats_per_group: Option<usize>) -> bool {
        match self.specs[0].role {
            Role::State { .. } => true,
            Role::Window { .. } | Role::WindowMla { .. } => repeats_per_group.is_none(),
            _ => false,
        }
    }
}

pub(super) fn group(layers: Vec<Spec>) -> Vec<LayerGroup> {
    let buckets: Vec<Bucket> = buckets(layers).into_iter().map(Bucket::new).collect();
    let repeats = repeats_per_group(&buckets);
    let anchor = |bucket: &Bucket| {
        let count = match bucket.is_state(repeats) {
            true => bucket.specs.len(),
            false => bucket.groups_of(repeats),
        };
        bucket.widest(count)
    };
    let anchor_bytes = buckets.iter().map(anchor).max().unwrap_or(0);
    let mut groups = Vec::new();
    for bucket in buckets {
        let mut count = bucket.groups_of(repeats);
        if anchor_bytes > 0 && bucket.is_state(repeats) {
            // No more states a group than a block already has room for.
            let fit = (anchor_bytes / bucket.specs[0].page_bytes().max(1)).max(1);
            let fit = usize::try_from(fit).unwrap_or(usize::MAX);
            count = count.max(bucket.specs.len().div_ceil(fit));
        }
        split(bucket, count, &mut groups);
    }
    groups
}

/// Greedily, layers that need the same number of token slots.
fn buckets(layers: Vec<Spec>) -> Vec<Vec<Spec>> {
    let mut buckets: Vec<Vec<Spec>> = Vec::new();
    for spec in layers {
        // A bucket is uniform by its first layer.
        let found =
            buckets.iter_mut().find(|bucket| is_uniform_type(&[bucket[0].clone(), spec.clone()]));
        match found {
            Some(bucket) => bucket.push(spec),
            None => buckets.push(vec![spec]),
        }
    }
    buckets
}

/// Repeats of the layer pattern a group, so that little is padded; `None`: nothing repeats.
fn repeats_per_group(buckets: &[Bucket]) -> Option<usize> {
    let balanced = || buckets.iter().filter(|bucket| bucket.is_balanced());
    let floor = balanced().filter(|b| b.pages.len() > 1).map(Bucket::repeats).max()?;
    let values: Vec<usize> = balanced().map(Bucket::repeats).collect();
    let most = values.iter().copied().max()?;
    let padding = |size: usize| {
        values.iter().map(|value| value.next_multiple_of(size) - value).sum::<usize>()
    };
    // Ties go to the larger.
    (floor..=most.max(floor)).rev().min_by_key(|&size| padding(size))
}

fn split(bucket: Bucket, count: usize, groups: &mut Vec<LayerGroup>) {
    if count <= 1 {
        groups.push(LayerGroup { specs: bucket.specs, is_mixed: true });
        return;
    }
    let repeats = bucket.pages.iter().map(|(_, layers)| layers.len()).min().unwrap_or(0);
    for index in 0..count {
        let specs = (index..repeats)
            .step_by(count)
            .flat_map(|repeat| bucket.pages.iter().map(move |(_, layers)| layers[repeat]))
            .map(|layer| bucket.specs[layer].clone())
            .collect();
        groups.push(LayerGroup { specs, is_mixed: true });
    }
}
