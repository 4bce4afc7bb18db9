//! The demo's GPU work through cudarc: context, allocations, kernels, one step of the loop.
//!
//! The kernels are those of `cuda/`. One step is: one copy of the tables that changed, one launch
//! per piece of the weights, one write for prompts and one for single tokens, one read of every
//! page in use, between two events. Everything is on one stream, and the host waits for the second
//! event, so tables may be changed between steps.

#![expect(unsafe_code, reason = "kernel launches and raw driver allocations through cudarc")]

use super::kv::{KvCache, Span};
use anyhow::{Context, anyhow};
use cudarc::driver::{DriverError, result, sys};
use memvelope::config::Config;
use memvelope::event::{Tag, tagged};
use memvelope::source::driver::{DeviceInfo, Driver};
use memvelope::units::{Bytes, Nanos};
use std::ffi::{CString, c_void};

/// Threads of a block, and bytes that a block moves: both fixed in `cuda/common.cuh`.
const THREADS: u32 = 256;
const BLOCK_BYTES: u64 = 64 << 10;

/// Every so many steps all pages are verified on the device, and one is recomputed on the host.
const VERIFY_STEPS: u64 = 256;

/// Pages the tables have room for. A table of more would itself be a burden (32 bytes a page, on
/// both sides).
pub(crate) const PAGES_MAX: u64 = 1 << 20;

/// `cuEventElapsedTime_v2`, which cudarc's CUDA 13 bindings call, came with 12.8.
const CUDA_VERSION_MIN: u32 = 12_080;

/// PTX of the kernels, as `cargo xtask kernels` made it.
const MEMORY_STREAM: &str = include_str!("../../../../cuda/memory_stream.ptx");
const PAGED_KV: &str = include_str!("../../../../cuda/paged_kv.ptx");

/// Memory that the driver handed out. Given back with [`Device::free`].
#[derive(Debug)]
#[must_use = "memory that nobody gives back stays taken"]
pub(crate) struct Address(sys::CUdeviceptr);

impl Address {
    /// The device address.
    pub(crate) const fn get(&self) -> u64 {
        self.0
    }
}

/// Why an allocation failed.
#[derive(Debug)]
pub(crate) enum AllocError {
    /// `CUDA_ERROR_OUT_OF_MEMORY`.
    OutOfMemory,
    /// Anything else.
    Other(anyhow::Error),
}

/// What a step does besides reading the sealed pages.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Pages that are not full yet: read after the sealed ones.
    pub(crate) tails: Vec<Span>,
    /// Whole prompts to write.
    pub(crate) prompts: Vec<Span>,
    /// Single tokens to write.
    pub(crate) tokens: Vec<Span>,
}

impl Work {
    /// Forgets everything, keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.tails.clear();
        self.prompts.clear();
        self.tokens.clear();
    }
}

/// What was found when pages were read back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Verified {
    /// Spans of pages verified on the device.
    pub(crate) pages: u64,
    /// Of those, recomputed on the host as well.
    pub(crate) recomputed: u64,
    /// Wrong words found on the device, and wrong sums found on the host.
    pub(crate) mismatches: u64,
}

/// A device with its weights, tables and kernels.
pub(crate) struct Device {
    ordinal: sys::CUdevice,
    stream: sys::CUstream,
    begin: sys::CUevent,
    end: sys::CUevent,
    modules: [sys::CUmodule; 2],
    stream_read: sys::CUfunction,
    kv_write: sys::CUfunction,
    kv_read: sys::CUfunction,
    kv_verify: sys::CUfunction,
    /// Everything kept to the end, with its size; the weights are read in every step.
    kept: Vec<(Address, Bytes, Tag)>,
    tables: Option<Tables>,
    seed: u64,
    steps: u64,
    verified: Verified,
}

/// The workspace: where spans and sums lie on the device, and the pinned copy of the spans.
struct Tables {
    workspace: Address,
    spans: sys::CUdeviceptr,
    checksums: sys::CUdeviceptr,
    mismatches: sys::CUdeviceptr,
    /// Sums over the weights, one word nobody reads.
    sink: sys::CUdeviceptr,
    spans_max: usize,
    staging: *mut Span,
    blocks_per_page: u32,
    blocks_per_token: u32,
}

impl Device {
    /// Makes the device's primary context current on this thread and loads the kernels.
    ///
    /// # Errors
    /// What the driver said.
    pub(crate) fn open(info: &DeviceInfo, seed: u64) -> anyhow::Result<Self> {
        check_version()?;
        let ordinal = i32::try_from(info.index.0).context("a CUDA ordinal fits an int")?;
        let ordinal = result::device::get(ordinal).context("cuDeviceGet failed")?;
        // SAFETY: `ordinal` is a device of this driver; the context is released in `close`.
        let context = unsafe { result::primary_ctx::retain(ordinal) };
        let context = context.context("cuDevicePrimaryCtxRetain failed")?;
        // SAFETY: the context was just retained.
        unsafe { result::ctx::set_current(context) }.context("cuCtxSetCurrent failed")?;
        let streams = load(MEMORY_STREAM, "memory_stream")?;
        let pages = load(PAGED_KV, "paged_kv")?;
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
        Ok(Self {
            ordinal,
            stream: result::stream::create(result::stream::StreamKind::NonBlocking)
                .context("cuStreamCreate failed")?,
            begin: event().context("cuEventCreate failed")?,
            end: event().context("cuEventCreate failed")?,
            stream_read: function(streams, "stream_read")?,
            kv_write: function(pages, "kv_write_pages")?,
            kv_read: function(pages, "kv_read_pages")?,
            kv_verify: function(pages, "kv_verify_pages")?,
            modules: [streams, pages],
            kept: Vec::new(),
            tables: None,
            seed,
            steps: 0,
            verified: Verified::default(),
        })
    }

    /// Free bytes and usable total of the device, as the driver tells.
    ///
    /// # Errors
    /// What the driver said.
    pub(crate) fn memory(&self) -> anyhow::Result<(Bytes, Bytes)> {
        let (free, total) = result::mem_get_info().context("cuMemGetInfo failed")?;
        Ok((Bytes(free as u64), Bytes(total as u64)))
    }

    /// Size of the pages in which the driver hands out memory.
    ///
    /// # Errors
    /// What the driver said.
    pub(crate) fn page_bytes(&self) -> anyhow::Result<Bytes> {
        // SAFETY: a C struct of numbers, enums that have a zero, and a pointer that may be null.
        let mut wanted: sys::CUmemAllocationProp = unsafe { std::mem::zeroed() };
        wanted.type_ = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        wanted.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        wanted.location.id = self.ordinal;
        let flags = sys::CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
        let mut bytes = 0;
        // SAFETY: both pointers are to locals that outlive the call.
        unsafe { sys::cuMemGetAllocationGranularity(&raw mut bytes, &raw const wanted, flags) }
            .result()
            .context("cuMemGetAllocationGranularity failed")?;
        Ok(Bytes(bytes as u64))
    }

    /// Takes memory from the driver.
    ///
    /// # Errors
    /// [`AllocError`].
    pub(crate) fn allocate(&self, bytes: Bytes, tag: Tag) -> Result<Address, AllocError> {
        let bytes = usize::try_from(bytes.0).map_err(|_| AllocError::OutOfMemory)?;
        let _tag = tagged(tag);
        // SAFETY: the context is current on this thread (`open`); nothing is read before a kernel
        // or copy of ours wrote it, except by `stream_read`, which may read anything.
        match unsafe { result::malloc_sync(bytes) } {
            Ok(address) => Ok(Address(address)),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                Err(AllocError::OutOfMemory)
            }
            Err(error) => Err(AllocError::Other(anyhow!(error).context("cuMemAlloc failed"))),
        }
    }

    /// Gives memory back.
    ///
    /// # Errors
    /// What the driver said.
    pub(crate) fn free(&self, address: Address) -> anyhow::Result<()> {
        // SAFETY: `Address` is made by `allocate` alone and consumed here, so it is freed once;
        // every step ended before (the host waits for it).
        unsafe { result::free_sync(address.0) }.context("cuMemFree failed")
    }

    /// Takes memory that stays to the end.
    ///
    /// # Errors
    /// [`AllocError`].
    pub(crate) fn keep(&mut self, bytes: Bytes, tag: Tag) -> Result<(), AllocError> {
        let address = self.allocate(bytes, tag)?;
        self.kept.push((address, bytes, tag));
        Ok(())
    }

    /// Takes the workspace: `activations`, and tables for as many pages of `page` bytes (of
    /// `page_tokens` tokens) as the device could hold.
    ///
    /// # Errors
    /// [`AllocError`].
    pub(crate) fn take_workspace(
        &mut self,
        activations: Bytes,
        page: Bytes,
        page_tokens: u32,
    ) -> Result<(), AllocError> {
        let (_, total) = self.memory().map_err(AllocError::Other)?;
        let pages = (total.0 / page.0.max(1)).clamp(1, PAGES_MAX);
        // In the worst case every page is sealed or a tail, and written as a prompt or a token.
        let spans_max = 2 * pages as usize;
        let span_bytes = (spans_max * size_of::<Span>()) as u64;
        let sum_bytes = spans_max as u64 * 8;
        let bytes = Bytes(activations.0 + span_bytes + 2 * sum_bytes + 16);
        let workspace = self.allocate(bytes.rounded_up_to(2 * Bytes::MIB), Tag::Activations)?;
        // SAFETY: the context is current; the memory is freed in `close`, after the last step.
        let staging = unsafe { result::malloc_host(span_bytes as usize, 0) };
        let staging = staging.context("cuMemHostAlloc failed").map_err(AllocError::Other)?;
        let blocks = |bytes: u64| u32::try_from(bytes.div_ceil(BLOCK_BYTES).max(1)).unwrap_or(1);
        let spans = workspace.0;
        self.tables = Some(Tables {
            spans,
            checksums: spans + span_bytes,
            mismatches: spans + span_bytes + sum_bytes,
            sink: spans + span_bytes + 2 * sum_bytes,
            workspace,
            spans_max,
            staging: staging.cast(),
            blocks_per_page: blocks(page.0),
            blocks_per_token: blocks(page.0 / u64::from(page_tokens.max(1)) + 16),
        });
        Ok(())
    }

    /// One step; returns what it took on the device.
    ///
    /// # Errors
    /// What the driver said.
    pub(crate) fn step(&mut self, kv: &mut KvCache, work: &Work) -> anyhow::Result<Nanos> {
        let is_verified = self.steps.is_multiple_of(VERIFY_STEPS);
        self.steps += 1;
        let tables = self.tables.as_ref().context("the workspace was never taken")?;
        let sealed = kv.sealed();
        let reads = sealed.len() + work.tails.len();
        let prompts_at = reads;
        let tokens_at = prompts_at + work.prompts.len();
        let from = kv.take_dirty();
        self.record(self.begin)?;
        let staged = [&kv.sealed()[from..], &work.tails, &work.prompts, &work.tokens];
        tables.upload(from, staged, self.stream)?;
        if is_verified {
            tables.zero_sums(reads, self.stream)?;
        }
        self.read_weights(tables.sink)?;
        let prompts = (prompts_at, work.prompts.len(), tables.blocks_per_page);
        let tokens = (tokens_at, work.tokens.len(), tables.blocks_per_token);
        for (at, count, blocks_per_span) in [prompts, tokens] {
            self.on_spans(self.kv_write, at, count, blocks_per_span, Some(self.seed), None)?;
        }
        let sums = Some(tables.checksums);
        self.on_spans(self.kv_read, 0, reads, tables.blocks_per_page, None, sums)?;
        if is_verified {
            let (seed, wrong) = (Some(self.seed), Some(tables.mismatches));
            self.on_spans(self.kv_verify, 0, reads, tables.blocks_per_page, seed, wrong)?;
        }
        self.record(self.end)?;
        // SAFETY: the event was created in `open` and recorded just above.
        unsafe { result::event::synchronize(self.end) }.context("cuEventSynchronize failed")?;
        // SAFETY: both events are recorded on the same stream and complete.
        let milliseconds = unsafe { result::event::elapsed(self.begin, self.end) };
        let milliseconds = milliseconds.context("cuEventElapsedTime failed")?;
        if is_verified {
            self.check(kv.sealed(), &work.tails)?;
        }
        Ok(Nanos((f64::from(milliseconds.max(0.0)) * Nanos::MILLI as f64) as u64))
    }

    /// What verification found so far.
    pub(crate) const fn verified(&self) -> Verified {
        self.verified
    }

    /// Gives everything back, the context last.
    ///
    /// # Errors
    /// What the driver said.
    pub(crate) fn close(mut self) -> anyhow::Result<()> {
        for (address, _, _) in std::mem::take(&mut self.kept) {
            self.free(address)?;
        }
        if let Some(tables) = self.tables.take() {
            // SAFETY: allocated in `take_workspace`, freed once, and no copy from it is pending.
            unsafe { result::free_host(tables.staging.cast()) }.context("cuMemFreeHost failed")?;
            self.free(tables.workspace)?;
        }
        // SAFETY: all of these were made in `open`, are used by nothing that is still running, and
        // `self` ends here.
        unsafe {
            result::event::destroy(self.begin).context("cuEventDestroy failed")?;
            result::event::destroy(self.end).context("cuEventDestroy failed")?;
            result::stream::destroy(self.stream).context("cuStreamDestroy failed")?;
            for module in self.modules {
                result::module::unload(module).context("cuModuleUnload failed")?;
            }
            result::primary_ctx::release(self.ordinal)
                .context("cuDevicePrimaryCtxRelease failed")?;
        }
        Ok(())
    }

    fn record(&self, event: sys::CUevent) -> anyhow::Result<()> {
        // SAFETY: event and stream were made in `open` and live as long as `self`.
        unsafe { result::event::record(event, self.stream) }.context("cuEventRecord failed")
    }

    /// What decoding costs in every step whatever the batch: each weight is read once.
    fn read_weights(&self, sink: sys::CUdeviceptr) -> anyhow::Result<()> {
        for (address, bytes, tag) in &self.kept {
            if *tag == Tag::Weights {
                let (mut source, mut length, mut sum) = (address.0, bytes.0, sink);
                let blocks = u32::try_from(length.div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX);
                let mut params = [param(&mut source), param(&mut length), param(&mut sum)];
                self.launch(self.stream_read, blocks, &mut params)?;
            }
        }
        Ok(())
    }

    /// Launches a kernel over `count` spans of the table from `at` on. Their signatures are
    /// `(spans, count, blocks_per_span[, seed][, sums])`.
    fn on_spans(
        &self,
        kernel: sys::CUfunction,
        at: usize,
        count: usize,
        blocks_per_span: u32,
        seed: Option<u64>,
        sums: Option<sys::CUdeviceptr>,
    ) -> anyhow::Result<()> {
        let Some(tables) = self.tables.as_ref().filter(|_| count > 0) else { return Ok(()) };
        let mut spans = tables.spans + (at * size_of::<Span>()) as u64;
        let (mut count, mut blocks_per_span) = (count as u32, blocks_per_span);
        let (mut seed, mut sums) = (seed, sums);
        let mut params = vec_of_params(&mut spans, &mut count, &mut blocks_per_span);
        params.extend(seed.as_mut().map(param));
        params.extend(sums.as_mut().map(param));
        let blocks = count.saturating_mul(blocks_per_span);
        self.launch(kernel, blocks, &mut params)
    }

    fn launch(
        &self,
        kernel: sys::CUfunction,
        blocks: u32,
        params: &mut [*mut c_void],
    ) -> anyhow::Result<()> {
        // SAFETY: the function belongs to a loaded module; `params` point to live values of the
        // types that the kernel's signature names (checked at each caller); the device memory they
        // name is freed only after the step ended.
        let launched = unsafe {
            result::launch_kernel(kernel, (blocks, 1, 1), (THREADS, 1, 1), 0, self.stream, params)
        };
        launched.context("cuLaunchKernel failed")
    }

    /// Reads sums and mismatches back and recomputes one span on the host.
    fn check(&mut self, sealed: &[Span], tails: &[Span]) -> anyhow::Result<()> {
        let Some(tables) = &self.tables else { return Ok(()) };
        let reads = sealed.len() + tails.len();
        let mut wrong = vec![0_u64; reads];
        let mut sums = vec![0_u64; reads];
        // SAFETY: both arrays hold `reads` words of 8 bytes on the device (`spans_max` at least),
        // and the copies are synchronous.
        unsafe {
            result::memcpy_dtoh_sync(&mut wrong, tables.mismatches)
                .context("cuMemcpyDtoH failed")?;
            result::memcpy_dtoh_sync(&mut sums, tables.checksums).context("cuMemcpyDtoH failed")?;
        }
        self.verified.pages += reads as u64;
        self.verified.mismatches += wrong.iter().sum::<u64>();
        // Another span each time, so that a long run meets them all.
        let sample = (self.steps / VERIFY_STEPS) as usize % reads.max(1);
        if let Some(span) = sealed.iter().chain(tails).nth(sample) {
            self.verified.recomputed += 1;
            self.verified.mismatches += u64::from(span.sum(self.seed) != sums[sample]);
        }
        Ok(())
    }
}

impl Tables {
    /// Copies `parts`, one after the other, to the spans from `at` on: one copy.
    fn upload(&self, at: usize, parts: [&[Span]; 4], stream: sys::CUstream) -> anyhow::Result<()> {
        let count: usize = parts.iter().map(|part| part.len()).sum();
        if count == 0 {
            return Ok(());
        }
        anyhow::ensure!(
            at + count <= self.spans_max,
            "a step of {} spans exceeds the tables ({})\nhint: use larger blocks (--block-tokens)",
            at + count,
            self.spans_max
        );
        // SAFETY: `staging` holds `spans_max` spans (`take_workspace`), so the range is inside, and
        // no copy from it is pending: the host waited for the last step.
        let staging = unsafe { std::slice::from_raw_parts_mut(self.staging.add(at), count) };
        let mut rest = &mut *staging;
        for part in parts {
            let (head, tail) = rest.split_at_mut(part.len());
            head.copy_from_slice(part);
            rest = tail;
        }
        let target = self.spans + (at * size_of::<Span>()) as u64;
        // SAFETY: the device table has the same size; `staging` stays as it is until the step ends.
        unsafe { result::memcpy_htod_async(target, staging, stream) }
            .context("cuMemcpyHtoDAsync failed")
    }

    /// Zeroes the first `count` sums of both kinds.
    fn zero_sums(&self, count: usize, stream: sys::CUstream) -> anyhow::Result<()> {
        for sums in [self.checksums, self.mismatches] {
            // SAFETY: both arrays have `spans_max` words, and `upload` held `count` to that.
            unsafe { result::memset_d8_async(sums, 0, count * 8, stream) }
                .context("cuMemsetD8Async failed")?;
        }
        Ok(())
    }
}

fn check_version() -> anyhow::Result<()> {
    let (driver, _) = Driver::load(&Config::from_env().0);
    let version = driver?.version()?;
    anyhow::ensure!(
        version >= CUDA_VERSION_MIN,
        "the driver supports CUDA {}.{}, the demo's kernels need 12.8\n\
         hint: update the driver, or run with --device sim",
        version / 1000,
        version % 1000 / 10
    );
    Ok(())
}

fn load(ptx: &str, name: &str) -> anyhow::Result<sys::CUmodule> {
    let image = CString::new(ptx).with_context(|| format!("{name}.ptx holds a NUL"))?;
    // SAFETY: `image` is PTX text that ends with a NUL and outlives the call.
    unsafe { result::module::load_data(image.as_ptr().cast()) }
        .with_context(|| format!("loading {name}.ptx failed"))
}

fn function(module: sys::CUmodule, name: &str) -> anyhow::Result<sys::CUfunction> {
    let c_name = CString::new(name).context("a kernel's name holds no NUL")?;
    // SAFETY: the module is loaded and stays so until `close`.
    unsafe { result::module::get_function(module, c_name) }
        .with_context(|| format!("there is no kernel {name}"))
}

fn vec_of_params(spans: &mut u64, count: &mut u32, blocks: &mut u32) -> Vec<*mut c_void> {
    let mut params = Vec::with_capacity(5);
    params.extend([param(spans), param(count), param(blocks)]);
    params
}

fn param<T>(value: &mut T) -> *mut c_void {
    std::ptr::from_mut(value).cast()
}
