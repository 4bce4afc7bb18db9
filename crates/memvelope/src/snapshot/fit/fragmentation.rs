//! How fragmented what is free is, so that it predicts which requests will fail.

use super::cache::{Cache, class_of, rounded};
use super::{Fragmentation, Origin, SpaceFragmentation};
use crate::framework::{Demand, Space};
use crate::snapshot::Epoch;
use crate::units::Bytes;

/// What the driver takes at a time: the granularity of its VMM calls on current GPUs.
const PAGE: u64 = 2 << 20;

/// How fragmented a device is, for requests as they came lately.
///
/// With a framework plane the requests are PyTorch's, on the default stream and from the default
/// pool ([`Fragmentation::spaces`] has the others). Without, they go to the driver, to which free
/// memory is pages that lie anywhere: gaps in the address space are no fragmentation.
#[must_use]
pub fn fragmentation(epoch: &Epoch, demand: &Demand) -> Fragmentation {
    let free = epoch.free_bytes;
    let Some(framework) = &epoch.framework else {
        let largest = Bytes(free.0 - free.0 % PAGE);
        return Fragmentation {
            available_bytes: free,
            largest_fit_bytes: largest,
            external: external(largest, free),
            demand_weighted: weighted(demand, free, |bytes| bytes <= largest.0),
            free_origin: Origin::Assumed,
            ..Fragmentation::default()
        };
    };
    let cache_at = |stream, pool| Cache {
        framework,
        stream,
        pool,
        total: epoch.total_bytes.0,
        free: free.0,
        page: PAGE,
    };
    let cache = cache_at(0, (0, 0));
    let available = free.saturating_add(framework.cached_bytes());
    let largest = Bytes(cache.largest_of_all()).min(available);
    let allocated = framework.allocated_bytes;
    let rounding = allocated.saturating_sub(framework.requested_bytes);
    let of_space = |space: &Space| {
        let cache = cache_at(space.stream, space.pool);
        let available = free.saturating_add(space.cached_bytes());
        let largest = Bytes(cache.largest(space.class));
        let is_of_class = |bytes: u64| class_of(rounded(bytes)) == space.class;
        let mut of_class = Demand::new();
        for (size, count) in demand.sizes().filter(|(size, _)| is_of_class(size.0)) {
            of_class.note(size, count);
        }
        SpaceFragmentation {
            pool: space.pool,
            stream: space.stream,
            class: space.class,
            cached_bytes: space.cached_bytes(),
            stranded_bytes: space.stranded_bytes(),
            largest_fit_bytes: largest,
            external: external(largest, available),
            demand_weighted: weighted(&of_class, available, |bytes| served(&cache, bytes)),
        }
    };
    Fragmentation {
        available_bytes: available,
        largest_fit_bytes: largest,
        external: external(largest, available),
        internal: (allocated.0 > 0).then(|| rounding.0 as f64 / allocated.0 as f64),
        demand_weighted: weighted(demand, available, |bytes| served(&cache, bytes)),
        free_origin: Origin::Assumed,
        spaces: framework.spaces.iter().map(of_space).collect(),
    }
}

fn served(cache: &Cache<'_>, bytes: u64) -> bool {
    cache.serve(bytes).is_served()
}

/// 1 − largest fit / available; 0 where nothing is available, or where more fits than that (other
/// spaces' caches are given back for it).
fn external(largest: Bytes, available: Bytes) -> f64 {
    if available.0 == 0 {
        return 0.0;
    }
    (1.0 - largest.0 as f64 / available.0 as f64).max(0.0)
}

/// The share of requests that find no room although they are no larger than what is available.
fn weighted(demand: &Demand, available: Bytes, fits: impl Fn(u64) -> bool) -> Option<f64> {
    let total = demand.total();
    if total == 0 {
        return None;
    }
    let failing = demand.sizes().filter(|(size, _)| *size <= available && !fits(size.0));
    let failing: u64 = failing.map(|(_, count)| u64::from(count)).sum();
    Some(failing as f64 / total as f64)
}
