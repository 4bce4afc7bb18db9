//! Whether a number of bytes would fit, and if not, why. Pure functions of an [`Epoch`].

mod ask;
mod cache;
mod fragmentation;
mod remedies;
mod sentence;

use super::{Epoch, Origin};
use crate::framework::SizeClass;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

pub use ask::would_fit;
pub use fragmentation::fragmentation;

/// Who is asked for the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// The driver: `cuMemAlloc`, `cuMemCreate`.
    Driver,
    /// A stream-ordered pool, by its handle; 0 is the device's current one.
    Pool(u64),
    /// PyTorch's caching allocator on a stream (0: the default one), from its default pool.
    #[default]
    Framework,
    /// The same on another stream, or from another pool.
    FrameworkAt {
        /// The stream, as the driver's handle.
        stream: u64,
        /// The pool, as in [`crate::framework::Space::pool`].
        pool: (u64, u64),
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fits", rename_all = "snake_case")]
pub enum Fit {
    /// It would fit.
    Yes {
        /// Where the bytes come from.
        from: FitSource,
        /// What is taken for it: the request as the allocator rounds it.
        taken_bytes: Bytes,
        /// The most that would fit in the same way.
        largest_fit_bytes: Bytes,
    },
    /// It would not.
    No {
        /// Why, in a sentence: "no, because …".
        because: String,
        /// What would have to be taken: the request as the allocator rounds it.
        needed_bytes: Bytes,
        /// The most that would fit.
        largest_fit_bytes: Bytes,
        /// What would help, the largest recovery first.
        remedies: Vec<Remedy>,
    },
    /// Nobody can tell: what is missing.
    Unknown {
        /// What is missing, in a sentence.
        missing: String,
    },
}

/// Where bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FitSource {
    /// A free block of the allocator's cache.
    Cached,
    /// Free memory of the device.
    Free,
    /// Free memory of the device, after the allocator gave back what it caches: slow, but it does
    /// so by itself.
    AfterRelease,
    /// What a pool holds already.
    Pool,
}

/// Something that would make room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedy {
    /// What to do.
    pub kind: RemedyKind,
    /// Bytes that it makes available to this request.
    pub recovers_bytes: Bytes,
    /// Whether the request would then fit.
    pub is_enough: bool,
    /// The same in a sentence, with what to call or set.
    pub text: String,
}

/// Kinds of remedies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemedyKind {
    /// `torch.cuda.empty_cache()`.
    EmptyCache,
    /// `PYTORCH_ALLOC_CONF=expandable_segments:True`.
    ExpandableSegments,
    /// Waiting for streams: what awaits them comes back.
    Synchronize,
    /// `cuMemPoolTrimTo`.
    TrimPools,
    /// Freeing what carries a tag.
    FreeTag,
    /// A higher limit (`per_process_memory_fraction`).
    RaiseLimit,
    /// Other processes would have to give memory back.
    OtherProcesses,
}

/// How fragmented a device is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fragmentation {
    /// Free on the device and cached by the allocator, together.
    pub available_bytes: Bytes,
    /// The most that one request of the default stream gets.
    pub largest_fit_bytes: Bytes,
    /// External fragmentation: 1 − largest fit / available. 0 where nothing is available.
    pub external: f64,
    /// Internal fragmentation: (allocated − requested) / allocated of the framework plane; `None`
    /// without one.
    pub internal: Option<f64>,
    /// Demand-weighted: the share of recent requests that would find no room although they are no
    /// larger than what is available: those above the largest fit, and those below it that need a
    /// larger segment than is to be had. `None` without recent requests.
    pub demand_weighted: Option<f64>,
    /// Where it comes from that free memory serves a request of any size in whole pages, gaps in
    /// the address space or not: Assumed, until the test on a GPU has decided it.
    pub free_origin: Origin,
    /// By pool, stream and size class.
    pub spaces: Vec<SpaceFragmentation>,
}

/// The same of one space.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpaceFragmentation {
    /// The pool, as in [`crate::framework::Space::pool`].
    pub pool: (u64, u64),
    /// The stream, as the driver's handle.
    pub stream: u64,
    /// The size class.
    pub class: SizeClass,
    /// Cached bytes.
    pub cached_bytes: Bytes,
    /// Cached bytes that stay when the cache is emptied.
    pub stranded_bytes: Bytes,
    /// The most that one request to this space gets.
    pub largest_fit_bytes: Bytes,
    /// As [`Fragmentation::external`], of what is cached here and free on the device.
    pub external: f64,
    /// As [`Fragmentation::demand_weighted`].
    pub demand_weighted: Option<f64>,
}

#[cfg(test)]
mod tests;
