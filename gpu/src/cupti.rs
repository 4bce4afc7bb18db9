//! libcupti for this lane: found, opened, asked. Only after `cuInit` returned 0, or inside
//! `InitializeInjection`.

use anyhow::{Context as _, Result, bail};
use cupti_sys::{Cupti, MissingSymbol, result_name};
use std::ffi::{CStr, CString, c_void};
use std::sync::OnceLock;

/// Environment variable: the libcupti to open where none is loaded yet. `run.sh` finds it.
pub const PATH: &str = "GPU_LANE_CUPTI";

/// The one libcupti of this process.
static OPEN: OnceLock<Library> = OnceLock::new();

/// An open libcupti.
#[derive(Debug)]
pub struct Library {
    /// Its functions.
    pub cupti: Cupti,
    /// The file, as the loader names it.
    pub path: String,
}

fn handle(name: &str, flags: i32) -> Option<*mut c_void> {
    let name = CString::new(name).ok()?;
    // SAFETY: a terminated name; running the constructors of libcupti is what a client does.
    let handle = unsafe { libc::dlopen(name.as_ptr(), flags) };
    (!handle.is_null()).then_some(handle)
}

/// The file that an address belongs to.
fn file_of(address: *const c_void) -> Option<String> {
    // SAFETY: plain data that `dladdr` fills.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: any address may be asked about; the name it yields lives as long as the library,
    // which is never closed.
    unsafe {
        (libc::dladdr(address, &raw mut info) != 0 && !info.dli_fname.is_null())
            .then(|| CStr::from_ptr(info.dli_fname).to_string_lossy().into_owned())
    }
}

/// Opens libcupti, or returns the one that this process has. A loaded one is never joined by a
/// second; otherwise [`PATH`] is taken, then the loader's own search.
///
/// # Errors
/// Where there is none.
pub fn open() -> Result<&'static Library> {
    if let Some(library) = OPEN.get() {
        return Ok(library);
    }
    let loaded = ["libcupti.so.13", "libcupti.so.12"]
        .iter()
        .find_map(|name| handle(name, libc::RTLD_NOW | libc::RTLD_NOLOAD));
    let named = || std::env::var(PATH).ok().filter(|path| !path.is_empty());
    let searched = || match named() {
        Some(path) => handle(&path, libc::RTLD_NOW),
        None => ["libcupti.so.13", "libcupti.so.12"]
            .iter()
            .find_map(|name| handle(name, libc::RTLD_NOW)),
    };
    let handle = loaded.or_else(searched).context("no libcupti can be opened")?;
    // SAFETY: the handle is libcupti's by its name, and is never closed.
    let cupti = unsafe { Cupti::from_handle(handle) };
    let path = cupti.get_version.ok().and_then(|function| file_of(function as *const c_void));
    let path = path.unwrap_or_else(|| "unknown".into());
    Ok(OPEN.get_or_init(|| Library { cupti, path }))
}

/// A function that may be missing.
///
/// # Errors
/// Where it is.
pub fn needed<F>(function: Result<F, MissingSymbol>) -> Result<F> {
    Ok(function?)
}

/// A result code as a result.
///
/// # Errors
/// Where it is not 0.
pub fn check(what: &str, code: u32) -> Result<()> {
    if code != 0 {
        bail!("{what}: {code} {}", result_name(code));
    }
    Ok(())
}

impl Library {
    /// API version: 130000 for 13.0, or a small number before 13.
    ///
    /// # Errors
    /// CUPTI's code.
    pub fn version(&self) -> Result<u32> {
        let mut version = 0;
        // SAFETY: an out-pointer to a local.
        check("cuptiGetVersion", unsafe { needed(self.cupti.get_version)?(&raw mut version) })?;
        Ok(version)
    }

    /// Now, on the clock of the records.
    ///
    /// # Errors
    /// CUPTI's code.
    pub fn now(&self) -> Result<u64> {
        let mut now = 0;
        // SAFETY: an out-pointer to a local.
        check("cuptiGetTimestamp", unsafe { needed(self.cupti.get_timestamp)?(&raw mut now) })?;
        Ok(now)
    }

    /// Switches a kind on; its code otherwise.
    ///
    /// # Errors
    /// CUPTI's code.
    pub fn enable(&self, kind: u32) -> Result<()> {
        // SAFETY: takes no pointer.
        check("cuptiActivityEnable", unsafe { needed(self.cupti.activity_enable)?(kind) })
    }

    /// Switches a kind off.
    ///
    /// # Errors
    /// CUPTI's code.
    pub fn disable(&self, kind: u32) -> Result<()> {
        // SAFETY: takes no pointer.
        check("cuptiActivityDisable", unsafe { needed(self.cupti.activity_disable)?(kind) })
    }

    /// Hands buffers back: the complete ones, or with `is_forced` all.
    ///
    /// # Errors
    /// CUPTI's code.
    pub fn flush(&self, is_forced: bool) -> Result<()> {
        let flush = needed(self.cupti.activity_flush_all)?;
        // SAFETY: takes no pointer, and is not called from a callback.
        check("cuptiActivityFlushAll", unsafe { flush(u32::from(is_forced)) })
    }

    /// Records lost since the last such call, over all contexts.
    ///
    /// # Errors
    /// CUPTI's code.
    pub fn dropped(&self) -> Result<u64> {
        let function = needed(self.cupti.activity_get_num_dropped_records)?;
        let mut dropped = 0;
        // SAFETY: the null context stands for all; an out-pointer to a local.
        check("cuptiActivityGetNumDroppedRecords", unsafe {
            function(std::ptr::null_mut(), 0, &raw mut dropped)
        })?;
        Ok(dropped as u64)
    }

    /// Writes an attribute of `bytes` (1 or 8) width.
    ///
    /// # Errors
    /// CUPTI's code.
    pub fn set(&self, attribute: u32, value: u64, bytes: usize) -> Result<()> {
        let (function, mut size) = (needed(self.cupti.activity_set_attribute)?, bytes);
        let mut value = value.to_le_bytes();
        // SAFETY: eight bytes of ours, of which CUPTI reads the stated number.
        check("cuptiActivitySetAttribute", unsafe {
            function(attribute, &raw mut size, value.as_mut_ptr().cast())
        })
    }

    /// Reads an attribute of `bytes` (1 or 8) width.
    ///
    /// # Errors
    /// CUPTI's code.
    pub fn get(&self, attribute: u32, bytes: usize) -> Result<u64> {
        let (function, mut size) = (needed(self.cupti.activity_get_attribute)?, bytes);
        let mut value = [0_u8; 8];
        // SAFETY: eight bytes of ours, of which CUPTI writes the stated number.
        check("cuptiActivityGetAttribute", unsafe {
            function(attribute, &raw mut size, value.as_mut_ptr().cast())
        })?;
        Ok(u64::from_le_bytes(value))
    }
}
