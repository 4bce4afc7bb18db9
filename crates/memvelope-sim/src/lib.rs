//! A simulated libcuda, libcupti and libnvidia-ml in one shared library, with seeded faults.
//!
//! It serves memvelope's own loaders, cudarc and nvml-wrapper, so that the whole pipeline runs on
//! machines without a GPU; never libcudart, the real libcupti or PyTorch, which ask for private
//! tables and an attestation. What is simulated comes from a scenario file (`SCENARIO.md`).
//!
//! * [`scenario`]: what is simulated.
//! * `world`: the machine behind one lock: virtual clock, memory, pools, VMM, streams, contents.
//! * `driver`, `cupti`, `nvml`: the three APIs, each one table of exported functions.
//! * `entry`: what holds for every exported function: faults, host cost, callbacks, caught unwinds.
//! * `books`: the simulator's own truth, which tests compare memvelope's report with.
//!
//! One file under three names is loaded once (one inode), so the three APIs share one state.

mod abi;
mod books;
mod cupti;
mod driver;
mod edge;
mod entry;
mod fault;
mod nvml;
mod pinned;
pub mod scenario;
mod share;
mod thread;
mod world;

pub use cupti::layout::{Field, LAYOUTS, Layout};
pub use cupti::{memvelope_sim_mark, memvelope_sim_range_pop, memvelope_sim_range_push};

use std::ffi::{CStr, c_char};

/// Name and version, as `memvelope_sim_version` and the books state it.
pub(crate) const VERSION_TEXT: &str = concat!("memvelope-sim ", env!("CARGO_PKG_VERSION"));

/// Every exported function of the simulated libcuda, with its CUPTI callback id (0 for none).
pub fn driver_functions() -> impl Iterator<Item = (&'static str, u32)> {
    driver::functions().map(|function| (function.name(), function.cbid))
}

/// Every exported function of the simulated libcupti.
pub const CUPTI_FUNCTIONS: &[&str] = cupti::NAMES;
/// Every exported function of the simulated libnvidia-ml, `nvmlErrorString` aside.
pub const NVML_FUNCTIONS: &[&str] = nvml::NAMES;

/// Whether the simulator exports `name`.
#[must_use]
pub fn exported(name: &str) -> bool {
    driver_functions().any(|(function, _)| function == name)
        || CUPTI_FUNCTIONS.contains(&name)
        || NVML_FUNCTIONS.contains(&name)
}

/// Marks the simulator: loaders look this symbol up to know that nothing here is a real GPU.
#[expect(unsafe_code, reason = "an exported symbol")]
#[unsafe(no_mangle)]
pub extern "C" fn memvelope_sim_version() -> *const c_char {
    const VERSION: &CStr = match CStr::from_bytes_with_nul(
        concat!("memvelope-sim ", env!("CARGO_PKG_VERSION"), "\0").as_bytes(),
    ) {
        Ok(version) => version,
        Err(_) => c"memvelope-sim",
    };
    VERSION.as_ptr()
}

/// Copies the books (JSON, no terminator) into `buffer` if `len` bytes are enough; returns how
/// many are needed, 0 before anything was simulated.
///
/// # Safety
/// `buffer` must be null or have room for `len` bytes.
#[expect(unsafe_code, reason = "an exported symbol")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memvelope_sim_books(buffer: *mut u8, len: usize) -> usize {
    let text = std::panic::catch_unwind(|| world::machine_if_made().map(|mut w| w.books_json()));
    let Ok(Some(text)) = text else { return 0 };
    if text.len() <= len
        && let Ok(room) = edge::host_mut(buffer, text.len())
    {
        room.copy_from_slice(text.as_bytes());
    }
    text.len()
}

/// Lets virtual time pass without work, as when a server waits for requests; returns the new time.
/// The only way for idle time to exist: the virtual clock knows nothing of the real one.
#[expect(unsafe_code, reason = "an exported symbol")]
#[unsafe(no_mangle)]
pub extern "C" fn memvelope_sim_advance(ns: u64) -> u64 {
    let now = std::panic::catch_unwind(|| {
        let mut world = world::machine()?;
        world.now = world.now.saturating_add(ns);
        Some(world.now)
    });
    entry::settle();
    now.ok().flatten().unwrap_or(0)
}
