//! The simulator's own truth: what was really handed out and run, in the units of memvelope's
//! report. memvelope never reads it; tests compare with it.

use crate::world::growth::Growth;
use crate::world::{World, machine_if_made};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

/// Families of memory, as the books list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Family {
    Device,
    Pitch,
    Managed,
    PinnedHost,
    /// Host memory of the program's own, pinned.
    Registered,
    Array,
    /// Used bytes inside pools.
    PoolUsed,
    /// Used bytes inside pools of host memory, and of managed memory.
    PoolHost,
    PoolManaged,
    /// Memory of other processes, charged to them.
    ImportedAddress,
    /// What graphs have allocated and not freed.
    GraphUsed,
    Vmm,
    /// Handles to host memory.
    VmmHost,
    /// Imported handles; their bytes are in nobody's sum.
    ImportedHandle,
    /// Exported descriptors of which a copy is open somewhere.
    Exported,
    /// Multicast objects, which have no memory of their own.
    Multicast,
    /// What is bound to them.
    MulticastBound,
}

/// One family on one device.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct FamilyBooks {
    live_bytes: u64,
    peak_bytes: u64,
    allocations: u64,
    frees: u64,
}

/// A count and a sum of time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Total {
    pub(crate) count: u64,
    pub(crate) total_ns: u64,
}

/// A count, bytes and time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Moved {
    count: u64,
    bytes: u64,
    total_ns: u64,
}

/// What became of graphs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct GraphBooks {
    pub(crate) created: u64,
    pub(crate) captured: u64,
    pub(crate) instantiated: u64,
    pub(crate) launches: u64,
    /// Those that CUPTI sees as a whole.
    pub(crate) launches_as_a_whole: u64,
    /// Nodes that ran.
    pub(crate) nodes: u64,
}

/// Bytes reserved by pools on one device.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Reserved {
    live_bytes: u64,
    peak_bytes: u64,
}

impl Reserved {
    fn add(&mut self, change: i64) {
        self.live_bytes = self.live_bytes.saturating_add_signed(change);
        self.peak_bytes = self.peak_bytes.max(self.live_bytes);
    }
}

/// What the injection contract came to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Injection {
    pub(crate) path: String,
    pub(crate) loaded: bool,
    pub(crate) returned: Option<i32>,
}

/// The running books.
#[derive(Debug, Default)]
pub(crate) struct Books {
    families: BTreeMap<(usize, Family), FamilyBooks>,
    reserved: BTreeMap<usize, Reserved>,
    graph_reserved: BTreeMap<usize, Reserved>,
    /// The same for pools of host memory.
    host_reserved: BTreeMap<usize, Reserved>,
    /// By name id.
    kernels: Vec<Total>,
    copies: BTreeMap<&'static str, Moved>,
    memsets: Moved,
    syncs: BTreeMap<&'static str, Total>,
    pub(crate) graphs: GraphBooks,
    pub(crate) cuda_ooms: u64,
    pub(crate) failed_allocations: u64,
    pub(crate) faults_fired: u64,
    pub(crate) vmm_maps: u64,
    pub(crate) vmm_unmaps: u64,
    pub(crate) injection: Option<Injection>,
}

/// Driver calls so far; outside the lock because every call counts.
pub(crate) static CALLS: AtomicU64 = AtomicU64::new(0);
/// Unwinds caught at a C edge; always a bug of the simulator.
pub(crate) static CAUGHT_PANICS: AtomicU64 = AtomicU64::new(0);

impl Books {
    pub(crate) fn allocated(&mut self, device: usize, family: Family, bytes: u64) {
        let books = self.families.entry((device, family)).or_default();
        books.live_bytes += bytes;
        books.peak_bytes = books.peak_bytes.max(books.live_bytes);
        books.allocations += 1;
    }

    pub(crate) fn freed(&mut self, device: usize, family: Family, bytes: u64) {
        let books = self.families.entry((device, family)).or_default();
        books.live_bytes = books.live_bytes.saturating_sub(bytes);
        books.frees += 1;
    }

    pub(crate) fn pool_reserved(&mut self, device: usize, is_on_device: bool, change: i64) {
        let all = if is_on_device { &mut self.reserved } else { &mut self.host_reserved };
        all.entry(device).or_default().add(change);
    }

    pub(crate) fn graph_reserved(&mut self, device: usize, change: i64) {
        self.graph_reserved.entry(device).or_default().add(change);
    }

    pub(crate) fn kernel(&mut self, name: u32, ns: u64) {
        let index = name as usize;
        if self.kernels.len() <= index {
            self.kernels.resize(index + 1, Total::default());
        }
        self.kernels[index].count += 1;
        self.kernels[index].total_ns += ns;
    }

    pub(crate) fn copy(&mut self, direction: &'static str, bytes: u64, ns: u64) {
        add(self.copies.entry(direction).or_default(), bytes, ns);
    }

    pub(crate) fn memset(&mut self, bytes: u64, ns: u64) {
        add(&mut self.memsets, bytes, ns);
    }

    pub(crate) fn sync(&mut self, kind: &'static str, ns: u64) {
        let total = self.syncs.entry(kind).or_default();
        total.count += 1;
        total.total_ns += ns;
    }
}

fn add(moved: &mut Moved, bytes: u64, ns: u64) {
    moved.count += 1;
    moved.bytes += bytes;
    moved.total_ns += ns;
}

/// One device in the written books.
#[derive(Serialize)]
struct DevicePage<'a> {
    uuid: &'a str,
    name: &'a str,
    total_bytes: u64,
    /// What the driver keeps and attributes to nobody, now.
    internal_bytes: u64,
    /// What NVML calls reserved.
    reserved_bytes: u64,
    context_bytes: u64,
    /// The same by cause.
    growth: Growth,
    /// CUPTI's own buffers.
    cupti_bytes: u64,
    co_tenant_bytes: u64,
    free_bytes: u64,
    /// Allocations in whole pages.
    physical_live_bytes: u64,
    physical_peak_bytes: u64,
    /// Allocations as asked for (pools: what is used in them).
    requested_live_bytes: u64,
    requested_peak_bytes: u64,
    /// What only exported descriptors keep.
    exported_only_bytes: u64,
    pool_reserved: Reserved,
    host_pool_reserved: Reserved,
    /// What graphs hold for what they allocate.
    graph_reserved: Reserved,
    families: BTreeMap<Family, FamilyBooks>,
}

#[derive(Serialize)]
struct ActivityPage {
    /// Records made, by kind.
    made: BTreeMap<&'static str, u64>,
    /// Records that reached a buffer.
    written: u64,
    dropped: u64,
    /// Those that found no place in CUPTI's device buffers.
    without_place: u64,
    buffers_requested: u64,
    buffers_completed: u64,
}

#[derive(Serialize)]
struct ContentsPage {
    not_kept: u64,
    not_kept_bytes: u64,
}

#[derive(Serialize)]
struct Pages<'a> {
    simulator: &'static str,
    simulated: bool,
    cupti: &'a str,
    virtual_start_ns: u64,
    virtual_end_ns: u64,
    driver_calls: u64,
    devices: Vec<DevicePage<'a>>,
    cuda_ooms: u64,
    failed_allocations: u64,
    faults_fired: u64,
    vmm_maps: u64,
    vmm_unmaps: u64,
    kernels: BTreeMap<String, Total>,
    copies: &'a BTreeMap<&'static str, Moved>,
    memsets: Moved,
    syncs: &'a BTreeMap<&'static str, Total>,
    graphs: GraphBooks,
    activity: ActivityPage,
    /// How often each of the scenario's `[cupti_faults]` came true.
    cupti_faults: BTreeMap<&'static str, u64>,
    contents: ContentsPage,
    injection: &'a Option<Injection>,
    caught_panics: u64,
}

impl World {
    /// The books as JSON text.
    pub(crate) fn books_json(&mut self) -> String {
        self.reap_exports();
        let books = &self.books;
        let kernels = books.kernels.iter().enumerate().filter(|(_, total)| total.count > 0);
        let delivery = crate::cupti::buffers::totals();
        let pages = Pages {
            simulator: crate::VERSION_TEXT,
            simulated: true,
            cupti: &self.scenario.cupti.version,
            virtual_start_ns: self.scenario.start_ns,
            virtual_end_ns: self.now,
            driver_calls: CALLS.load(Ordering::Relaxed),
            devices: (0..self.devices.len()).map(|i| self.device_page(i)).collect(),
            cuda_ooms: books.cuda_ooms,
            failed_allocations: books.failed_allocations,
            faults_fired: books.faults_fired,
            vmm_maps: books.vmm_maps,
            vmm_unmaps: books.vmm_unmaps,
            kernels: kernels
                .map(|(id, total)| {
                    let name = u32::try_from(id).map(|id| self.names.text(id)).unwrap_or_default();
                    (name.to_string_lossy().into_owned(), *total)
                })
                .collect(),
            copies: &books.copies,
            memsets: books.memsets,
            syncs: &books.syncs,
            graphs: books.graphs,
            activity: ActivityPage {
                made: self.activity.made(),
                written: delivery.written,
                dropped: delivery.dropped,
                without_place: self.activity.without_place,
                buffers_requested: delivery.requested,
                buffers_completed: delivery.completed,
            },
            cupti_faults: crate::cupti::faults::fired(),
            contents: ContentsPage {
                not_kept: self.contents.not_kept,
                not_kept_bytes: self.contents.not_kept_bytes,
            },
            injection: &books.injection,
            caught_panics: CAUGHT_PANICS.load(Ordering::Relaxed),
        };
        serde_json::to_string_pretty(&pages)
            .unwrap_or_else(|error| format!("{{\"error\":{error:?}}}"))
    }

    fn device_page(&self, index: usize) -> DevicePage<'_> {
        let device = &self.devices[index];
        let families = self.books.families.iter().filter(|((at, _), _)| *at == index);
        DevicePage {
            uuid: &device.uuid_text,
            name: &device.spec.name,
            total_bytes: device.spec.total_bytes,
            internal_bytes: device.hidden(self.elapsed()),
            reserved_bytes: device.spec.reserved_bytes,
            context_bytes: device.context_bytes,
            growth: self.growth(index),
            cupti_bytes: device.cupti_bytes,
            co_tenant_bytes: device.co_tenant_bytes(self.elapsed()).map(|(_, bytes)| bytes).sum(),
            free_bytes: self.free_bytes(index),
            physical_live_bytes: device.physical,
            physical_peak_bytes: device.physical_peak,
            requested_live_bytes: device.requested,
            requested_peak_bytes: device.requested_peak,
            exported_only_bytes: self.vmm.exported_only_bytes(index),
            pool_reserved: self.books.reserved.get(&index).copied().unwrap_or_default(),
            host_pool_reserved: self.books.host_reserved.get(&index).copied().unwrap_or_default(),
            graph_reserved: self.books.graph_reserved.get(&index).copied().unwrap_or_default(),
            families: families.map(|((_, family), books)| (*family, *books)).collect(),
        }
    }
}

/// Arranges that the books are written to `$MEMVELOPE_SIM_BOOKS` when the process exits.
#[expect(unsafe_code, reason = "atexit")]
pub(crate) fn write_at_exit() {
    extern "C" fn write() {
        // A panic must not cross into the C runtime; without books a test fails loudly anyway.
        let _ = std::panic::catch_unwind(write_books);
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: `write` is a plain function that lives as long as the library, and catches
        // unwinds. Registered before any client can register, it runs after all of theirs.
        unsafe { libc::atexit(write) };
    });
}

/// Writes under a temporary name and renames, so that the final name never holds half a book.
fn write_books() {
    if crate::world::is_forked() {
        // The parent's books are the parent's to write.
        return;
    }
    let Some(path) = std::env::var_os("MEMVELOPE_SIM_BOOKS").filter(|path| !path.is_empty()) else {
        return;
    };
    let Some(text) = machine_if_made().map(|mut world| world.books_json()) else { return };
    let path = std::path::PathBuf::from(path);
    // A rename would put a file in the place of a device or a pipe.
    let is_other = std::fs::metadata(&path).is_ok_and(|there| !there.is_file());
    let mut temporary = path.clone().into_os_string();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let written = if is_other {
        std::fs::write(&path, text)
    } else {
        std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &path))
    };
    if let Err(error) = written {
        eprintln!("memvelope-sim: cannot write books {}: {error}", path.display());
    }
}
