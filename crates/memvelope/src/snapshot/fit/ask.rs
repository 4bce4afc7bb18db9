//! The answer.

use super::cache::{Cache, Served};
use super::remedies::{Need, remedies};
use super::sentence::{self, Stop};
use super::{Epoch, Fit, FitSource, Via};
use crate::ledger::PoolTotals;
use crate::units::Bytes;

/// Whether a request of `bytes` would be served now, from where, and if not, why and what would
/// help.
///
/// `page` is what the driver rounds allocations up to (2 MiB on current GPUs). The answer holds for
/// the moment of the epoch: what other threads and processes take meanwhile is not in it. An epoch
/// that is torn answers only what holds whichever way memory moved.
#[must_use]
pub fn would_fit(epoch: &Epoch, bytes: Bytes, via: Via, page: Bytes) -> Fit {
    if epoch.total_bytes == Bytes::ZERO {
        return unknown("the driver told neither total nor free memory of this device");
    }
    let fit = answer(epoch, epoch.free_bytes, bytes, via, page);
    if !epoch.is_torn {
        return fit;
    }
    let moved = epoch.moved_bytes;
    let bounds = [epoch.free_bytes.saturating_sub(moved), epoch.free_bytes.saturating_add(moved)];
    let differs = |free: Bytes| {
        let other = answer(epoch, free, bytes, via, page);
        std::mem::discriminant(&other) != std::mem::discriminant(&fit)
    };
    if bounds.into_iter().any(differs) {
        return Fit::Unknown {
            missing: format!(
                "memory moved while it was read ({moved}), and the answer depends on it: ask again"
            ),
        };
    }
    fit
}

fn unknown(missing: &str) -> Fit {
    Fit::Unknown { missing: missing.into() }
}

fn answer(epoch: &Epoch, free: Bytes, bytes: Bytes, via: Via, page: Bytes) -> Fit {
    let page = page.0.max(1);
    match via {
        Via::Driver => driver(epoch, free, bytes, page),
        Via::Pool(pool) => match find_pool(epoch, pool) {
            Some(found) => from_pool(epoch, found, free, bytes, page),
            None => unknown("this memory pool was not seen, or several could be meant"),
        },
        Via::Framework => cache(epoch, free, bytes, (0, (0, 0)), page),
        Via::FrameworkAt { stream, pool } => cache(epoch, free, bytes, (stream, pool), page),
    }
}

/// From free memory: the driver takes whole pages, wherever they lie.
fn driver(epoch: &Epoch, free: Bytes, bytes: Bytes, page: u64) -> Fit {
    let room = free.0 - free.0 % page;
    let needed = bytes.rounded_up_to(page);
    if needed.0 <= room {
        return Fit::Yes {
            from: FitSource::Free,
            taken_bytes: needed,
            largest_fit_bytes: Bytes(room),
        };
    }
    let need = Need { epoch, free, rounded: bytes.0, needed, page, cache: None, is_limited: false };
    Fit::No {
        because: sentence::because(&need, &Stop::Driver),
        needed_bytes: needed,
        largest_fit_bytes: Bytes(room),
        remedies: remedies(&need),
    }
}

fn find_pool(epoch: &Epoch, pool: u64) -> Option<&PoolTotals> {
    let pools = &epoch.totals.pools;
    let mut pools = pools.iter().filter(|pool| !pool.is_destroyed);
    let named = pools.clone().find(|known| known.pool == pool);
    // The current one is among those that are known by their handle.
    let only = pools.next().filter(|_| pool == 0 && pools.next().is_none());
    named.or(only)
}

/// A pool serves from what it holds, or grows by whole pages. Whether what it holds lies in one
/// piece the driver does not tell.
fn from_pool(epoch: &Epoch, pool: &PoolTotals, free: Bytes, bytes: Bytes, page: u64) -> Fit {
    let idle = idle_of(pool);
    let room = Bytes(free.0 - free.0 % page);
    let needed = bytes.rounded_up_to(page);
    let largest_fit_bytes = room.max(idle);
    if bytes <= idle {
        return Fit::Yes { from: FitSource::Pool, taken_bytes: bytes, largest_fit_bytes };
    }
    if needed <= room {
        return Fit::Yes { from: FitSource::Free, taken_bytes: needed, largest_fit_bytes };
    }
    let need = Need { epoch, free, rounded: bytes.0, needed, page, cache: None, is_limited: false };
    Fit::No {
        because: sentence::because(&need, &Stop::Pool { idle }),
        needed_bytes: needed,
        largest_fit_bytes,
        remedies: remedies(&need),
    }
}

/// What a pool holds and nobody uses; nothing while its reserve is not known, or if nobody can
/// have it any more.
pub(super) fn idle_of(pool: &PoolTotals) -> Bytes {
    if pool.is_destroyed {
        return Bytes::ZERO;
    }
    let requested = pool.by_tag.iter().copied().sum::<Bytes>();
    let used = pool.used_bytes.map_or(requested, |used| used.max(requested));
    pool.reserved_bytes.map_or(Bytes::ZERO, |reserved| reserved.saturating_sub(used))
}

fn cache(epoch: &Epoch, free: Bytes, bytes: Bytes, at: (u64, (u64, u64)), page: u64) -> Fit {
    let Some(framework) = &epoch.framework else {
        return unknown("what torch's allocator holds was not read (memvelope.torch.snapshot())");
    };
    let cache = Cache {
        framework,
        stream: at.0,
        pool: at.1,
        total: epoch.total_bytes.0,
        free: free.0,
        page,
    };
    if bytes == Bytes::ZERO {
        // Nothing is allocated for it.
        let largest_fit_bytes = Bytes(cache.largest_of_all());
        return Fit::Yes { from: FitSource::Cached, taken_bytes: bytes, largest_fit_bytes };
    }
    let served = cache.serve(bytes.0);
    if framework.settings.rounds_otherwise {
        // At most to the next power of two.
        let most = bytes.0.checked_next_power_of_two().unwrap_or(u64::MAX);
        if cache.serve(most).is_served() != served.is_served() {
            return unknown(
                "sizes are rounded up to parts of powers of two (roundup_power2_divisions), and it \
                 depends on that",
            );
        }
    }
    let rounded = super::cache::rounded(bytes.0);
    let largest_fit_bytes = Bytes(cache.largest_of_all());
    let yes = |from, taken| Fit::Yes { from, taken_bytes: Bytes(taken), largest_fit_bytes };
    match served {
        Served::Cached => yes(FitSource::Cached, rounded),
        Served::Free(taken) => yes(FitSource::Free, taken),
        Served::AfterRelease(taken) => yes(FitSource::AfterRelease, taken),
        Served::Not(taken, is_limited) => {
            let needed = Bytes(taken);
            let need = Need { epoch, free, rounded, needed, page, cache: Some(&cache), is_limited };
            let stop = if is_limited { Stop::Limit } else { Stop::Cache };
            Fit::No {
                because: sentence::because(&need, &stop),
                needed_bytes: needed,
                largest_fit_bytes,
                remedies: remedies(&need),
            }
        }
    }
}
