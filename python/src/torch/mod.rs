//! What `memvelope.torch` is made of: reads PyTorch's snapshots, and remembers tags of blocks.
//!
//! It asks PyTorch nothing: `memvelope/torch.py` does, and hands over what came.

mod epoch;
mod floor;
mod snapshot;
mod stats;
mod walk;

pub(crate) use epoch::{_torch_accept, _torch_epoch};
pub(crate) use floor::_torch_builder_ns;

use crate::convert::plain;
use crate::errors::{guarded, raised};
use memvelope::event::{DeviceIndex, Tag};
use memvelope::framework;
use memvelope::source::torch::{Builder, Reading, TagScope, TaggedBlocks};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyDictMethods};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// What the caching allocator of PyTorch holds on one device, and what of it is in use.
///
/// requested <= allocated <= active <= reserved, all in bytes: between the first two lies rounding,
/// then what was freed but awaits a stream, then what is cached.
#[pyclass(frozen, module = "memvelope.torch", name = "Framework")]
pub(crate) struct Framework {
    inner: framework::Framework,
}

impl Framework {
    /// The plane itself.
    pub(crate) const fn plane(&self) -> &framework::Framework {
        &self.inner
    }
}

#[pymethods]
impl Framework {
    /// The device's index.
    #[getter]
    const fn device(&self) -> u32 {
        self.inner.device.0
    }
    /// Operations of the allocator so far: where two are equal, it did nothing in between.
    #[getter]
    const fn turnover(&self) -> u64 {
        self.inner.turnover
    }
    /// Bytes that were asked for and not freed.
    #[getter]
    const fn requested_bytes(&self) -> u64 {
        self.inner.requested_bytes.0
    }
    /// The same, rounded.
    #[getter]
    const fn allocated_bytes(&self) -> u64 {
        self.inner.allocated_bytes.0
    }
    /// The same, and what was freed but awaits a stream.
    #[getter]
    const fn active_bytes(&self) -> u64 {
        self.inner.active_bytes.0
    }
    /// Bytes of all segments.
    #[getter]
    const fn reserved_bytes(&self) -> u64 {
        self.inner.reserved_bytes.0
    }
    /// Bytes in no block that is in use or awaits a stream.
    #[getter]
    fn cached_bytes(&self) -> u64 {
        self.inner.cached_bytes().0
    }
    /// Of the cached bytes, those that `torch.cuda.empty_cache()` gives back.
    #[getter]
    const fn releasable_bytes(&self) -> u64 {
        self.inner.releasable_bytes.0
    }
    /// Of the cached bytes, those that stay when the cache is emptied.
    #[getter]
    fn stranded_bytes(&self) -> u64 {
        self.inner.cached_bytes().saturating_sub(self.inner.releasable_bytes).0
    }
    /// Blocks, in use or not.
    #[getter]
    const fn blocks(&self) -> u64 {
        self.inner.blocks
    }
    /// What somebody should know who relies on the numbers.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.inner.notes.clone()
    }
    /// Requested bytes by tag.
    #[getter]
    fn by_tag<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        guarded(|| {
            let dict = PyDict::new(py);
            for (tag, bytes) in Tag::ALL.into_iter().zip(self.inner.by_tag) {
                dict.set_item(tag.name(), bytes.0)?;
            }
            Ok(dict)
        })
    }
    /// By pool, stream and size class; a request is served from one of them.
    #[getter]
    fn spaces<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &self.inner.spaces))
    }
    /// The allocator's settings, as far as it tells them.
    #[getter]
    fn settings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &self.inner.settings))
    }

    /// Everything, as it stands in a snapshot. `segments=False` leaves the list of segments out.
    #[pyo3(signature = (*, segments=true))]
    fn as_dict<'py>(&self, py: Python<'py>, segments: bool) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| {
            if segments {
                return plain(py, &self.inner);
            }
            plain(py, &framework::Framework { segments: Vec::new(), ..self.inner.clone() })
        })
    }

    fn __repr__(&self) -> String {
        let it = &self.inner;
        format!(
            "<memvelope.torch.Framework device {}: {} reserved, {} active, {} requested>",
            it.device.0, it.reserved_bytes, it.active_bytes, it.requested_bytes
        )
    }
}

/// The blocks with a tag, by device. Held for a copy or a change of the map alone, never while
/// anything of Python's is looked at.
static TAGGED: LazyLock<Mutex<HashMap<u32, Arc<TaggedBlocks>>>> = LazyLock::new(Mutex::default);

fn tagged() -> MutexGuard<'static, HashMap<u32, Arc<TaggedBlocks>>> {
    // Every statement leaves the map consistent.
    TAGGED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A snapshot's segments: of the whole dict, or the list that `memory_snapshot()` returns.
fn segments_of<'py>(snapshot: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    match snapshot.cast::<PyDict>() {
        Ok(dict) => dict.get_item("segments")?.ok_or_else(|| {
            let hint = "hint: pass what torch.cuda.memory._snapshot() returned";
            PyValueError::new_err(format!("snapshot: no key \"segments\"\n{hint}"))
        }),
        Err(_) => Ok(snapshot.clone()),
    }
}

fn settings_of<'py>(snapshot: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    snapshot.cast::<PyDict>().map_or(Ok(None), |dict| dict.get_item("allocator_settings"))
}

/// What is read of a snapshot.
struct Wanted<'a, 'py> {
    segments: &'a Bound<'py, PyAny>,
    settings: framework::Settings,
    stats: Option<&'a Bound<'py, PyAny>>,
    notes: Vec<String>,
    device: u32,
    with_live: bool,
}

/// Reads a device of a snapshot. The interpreter is held while it is walked, and not while what came
/// of it is summed up.
fn read(py: Python<'_>, wanted: Wanted<'_, '_>) -> PyResult<Reading> {
    let known = tagged().get(&wanted.device).cloned().unwrap_or_default();
    let mut builder = Builder::new(DeviceIndex(wanted.device)).with_tags(&known);
    if wanted.with_live {
        builder = builder.with_live();
    }
    builder.settings(wanted.settings);
    if let Some(told) = wanted.stats {
        builder.stats(stats::stats(told));
    }
    wanted.notes.into_iter().for_each(|note| builder.note(note));
    let walked = snapshot::segments(wanted.segments, wanted.device, &mut builder);
    walked.map_err(|error| raised(py, &error))?;
    let reading = py.detach(|| builder.finish()).map_err(|error| raised(py, &error))?;
    if !reading.gone.is_empty()
        && let Some(blocks) = tagged().get_mut(&wanted.device)
    {
        Arc::make_mut(blocks).forget(&reading.gone);
    }
    Ok(reading)
}

/// The allocator's plane of a device, from what PyTorch told.
#[pyfunction]
#[pyo3(signature = (snapshot, stats=None, device=None, limit_bytes=None, notes=Vec::new()))]
pub(crate) fn _torch_ingest(
    py: Python<'_>,
    snapshot: &Bound<'_, PyAny>,
    stats: Option<&Bound<'_, PyAny>>,
    device: Option<u32>,
    limit_bytes: Option<u64>,
    notes: Vec<String>,
) -> PyResult<Framework> {
    guarded(|| {
        let segments = segments_of(snapshot)?;
        let device = device.map_or_else(|| only_device(py, &segments), Ok)?;
        let told = settings_of(snapshot)?;
        let mut settings = snapshot::settings(told.as_ref(), limit_bytes);
        if told.is_none() {
            // The statistics know this one, too.
            let dict = stats.and_then(|stats| stats.cast::<PyDict>().ok());
            let size = dict.and_then(|dict| dict.get_item("max_split_size").ok().flatten());
            settings.max_split_size = size.and_then(|size| snapshot::max_split_size(&size));
        }
        let wanted =
            Wanted { segments: &segments, settings, stats, notes, device, with_live: false };
        Ok(Framework { inner: read(py, wanted)?.framework })
    })
}

fn only_device(py: Python<'_>, segments: &Bound<'_, PyAny>) -> PyResult<u32> {
    let devices = snapshot::devices(segments).map_err(|error| raised(py, &error))?;
    let mut all = devices.iter();
    match (all.next(), all.next()) {
        (None, _) => Ok(0),
        (Some(device), None) => u32::try_from(*device)
            .map_err(|_| PyValueError::new_err(format!("snapshot: {device} is no device"))),
        _ => Err(PyValueError::new_err(format!(
            "snapshot: it is of the devices {devices:?}\nhint: say which one: device=0"
        ))),
    }
}

/// A number that changes with whatever the allocator does.
#[pyfunction]
pub(crate) fn _torch_turnover(stats: &Bound<'_, PyAny>) -> PyResult<u64> {
    guarded(|| Ok(stats::turnover(stats)))
}

/// A scope in which blocks are tagged, from what was in use when it began.
#[pyclass(frozen, module = "memvelope._native", name = "_BlockScope")]
pub(crate) struct BlockScope {
    by_device: BTreeMap<u64, TagScope>,
    /// Of devices on which there was nothing.
    empty: TagScope,
}

/// What is in use now, by device.
fn live(
    py: Python<'_>,
    snapshot: Option<&Bound<'_, PyAny>>,
    device: Option<u32>,
) -> PyResult<BTreeMap<u64, Reading>> {
    let Some(snapshot) = snapshot else { return Ok(BTreeMap::new()) };
    let segments = segments_of(snapshot)?;
    let devices = snapshot::devices(&segments).map_err(|error| raised(py, &error))?;
    let mine =
        devices.into_iter().filter(|its| device.is_none_or(|wanted| *its == u64::from(wanted)));
    let read = |number: u64| {
        let device = u32::try_from(number).unwrap_or(u32::MAX);
        let settings = framework::Settings::default();
        let (stats, notes) = (None, Vec::new());
        let wanted =
            Wanted { segments: &segments, settings, stats, notes, device, with_live: true };
        read(py, wanted).map(|reading| (number, reading))
    };
    mine.map(read).collect()
}

#[pymethods]
impl BlockScope {
    /// It begins. `snapshot` is `None` where PyTorch holds nothing yet; without `device`, all count.
    #[new]
    #[pyo3(signature = (snapshot=None, device=None))]
    fn new(
        py: Python<'_>,
        snapshot: Option<&Bound<'_, PyAny>>,
        device: Option<u32>,
    ) -> PyResult<Self> {
        guarded(|| {
            let found = live(py, snapshot, device)?;
            let begin =
                |(device, reading): (u64, Reading)| (device, TaggedBlocks::begin(reading.live));
            Ok(Self {
                by_device: found.into_iter().map(begin).collect(),
                empty: TaggedBlocks::begin(Vec::new()),
            })
        })
    }

    /// It is over; returns how many blocks have the tag since.
    #[pyo3(signature = (tag, snapshot=None, device=None))]
    fn end(
        &self,
        py: Python<'_>,
        tag: u8,
        snapshot: Option<&Bound<'_, PyAny>>,
        device: Option<u32>,
    ) -> PyResult<u64> {
        guarded(|| {
            let tag = Tag::ALL.get(usize::from(tag)).copied().unwrap_or_default();
            let mut count = 0;
            for (number, reading) in live(py, snapshot, device)? {
                let scope = self.by_device.get(&number).unwrap_or(&self.empty);
                let key = u32::try_from(number).unwrap_or(u32::MAX);
                let mut all = tagged();
                let blocks = Arc::make_mut(all.entry(key).or_default());
                count += blocks.end(scope, reading.live, tag);
            }
            Ok(count)
        })
    }
}
