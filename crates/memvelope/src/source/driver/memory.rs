//! What the driver says of a device's memory.

use super::table::{CuContext, CuDevice, CuMemoryPool, CuResult};
use super::table::{attribute, graph_attribute, pool_attribute};
use super::{Driver, driver_error, is_code, polled};
use crate::error::{Error, Result};
use crate::event::{Body, DeviceIndex, Event};
use crate::units::Bytes;
use std::cell::Cell;
use std::ffi::{c_int, c_void};

/// What a device's memory looks like, asked in one visit.
#[derive(Debug, Default)]
pub struct Reading {
    /// `cuMemGetInfo`, once everything else was asked: total.
    pub total: Bytes,
    /// Free, likewise.
    pub free: Bytes,
    /// By how much free memory moved during the visit, either way.
    pub moved: Bytes,
    /// Pools and graphs, as [`Body::Pool`] and [`Body::GraphMemory`], and [`Body::DeviceMemory`].
    pub events: Vec<Event>,
    /// The device's default pool; 0 without pool support.
    pub default_pool: u64,
    /// What could not be told of pools and graphs.
    pub problems: Vec<Error>,
}

/// Which pools may be asked, apart from the default one, which nobody can destroy.
pub trait Asked {
    /// Runs `ask` while `pool` surely lives; does not run it where nobody can tell.
    fn while_alive(&self, pool: u64, ask: &mut dyn FnMut());

    /// The program's own pools on a device, each a handle.
    fn own_pools(&self, device: DeviceIndex) -> Vec<u64>;
}

/// Asks the default pool alone.
impl Asked for () {
    fn while_alive(&self, _: u64, _: &mut dyn FnMut()) {}

    fn own_pools(&self, _: DeviceIndex) -> Vec<u64> {
        Vec::new()
    }
}

/// Restores the calling thread's capture mode when dropped.
#[derive(Debug)]
pub struct Relaxed<'a> {
    driver: &'a Driver,
    former: u32,
}

impl Drop for Relaxed<'_> {
    fn drop(&mut self) {
        let mut mode = self.former;
        // The driver took the other mode from us a moment ago; there is nobody to tell otherwise.
        let _ = self.driver.exchange_capture_mode(&mut mode);
    }
}

thread_local! {
    // const-initialised, without a destructor: usable in a callback at any time of a thread's life.
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is visiting a context with a question of ours: calls that it makes to get
/// there are not the program's.
pub(crate) fn is_asking() -> bool {
    ASKING.with(Cell::get)
}

/// Says so until it drops.
struct Asking(bool);

impl Asking {
    fn begin() -> Self {
        Self(ASKING.with(|asking| asking.replace(true)))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        ASKING.with(|asking| asking.set(self.0));
    }
}

/// `Ok(None)` where the driver says that it does not support what was asked.
fn supported<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_code(&error, CuResult::NOT_SUPPORTED) => Ok(None),
        Err(Error::MissingSymbol { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `CUmemAllocationProp` of plain device memory, as words: pinned, on a device.
fn plain_memory(ordinal: CuDevice) -> [u64; 4] {
    const PINNED: u64 = 1;
    const ON_DEVICE: u64 = 1;
    [PINNED, ON_DEVICE | u64::from(ordinal.unsigned_abs()) << 32, 0, 0]
}

impl Driver {
    /// Makes the calling thread's questions harmless to stream captures until the guard drops, as
    /// `leave_captures_alone` does for good. `None` where the driver has no captures.
    pub fn relaxed(&self) -> Option<Relaxed<'_>> {
        // CU_STREAM_CAPTURE_MODE_RELAXED
        let mut mode = 2;
        self.exchange_capture_mode(&mut mode).ok()?;
        Some(Relaxed { driver: self, former: mode })
    }

    fn exchange_capture_mode(&self, mode: &mut u32) -> Result<()> {
        let mode: *mut u32 = mode;
        call!(self, thread_exchange_stream_capture_mode = "cuThreadExchangeStreamCaptureMode"(mode))
    }

    /// The page that device memory comes in (`cuMemGetAllocationGranularity`, minimum); `None`
    /// where the driver does not tell.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub fn page_of(&self, device: DeviceIndex) -> Result<Option<Bytes>> {
        const MINIMUM: u32 = 0;
        let ordinal = c_int::try_from(device.0).unwrap_or(c_int::MAX);
        let (properties, mut page) = (plain_memory(ordinal), 0_usize);
        let answer = supported(call!(
            self,
            mem_get_allocation_granularity =
                "cuMemGetAllocationGranularity"(&raw mut page, &raw const properties, MINIMUM)
        ))?;
        Ok(answer.map(|()| Bytes(page as u64)).filter(|page| page.0 > 0))
    }

    /// Everything the driver tells of a device's memory, from any thread: only if its primary
    /// context is active, and without keeping it alive.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub fn reading_of(&self, device: DeviceIndex, pools: &dyn Asked) -> Result<Option<Reading>> {
        self.in_primary_context(device, |ordinal| self.reading(ordinal, device, pools))
    }

    /// The same where the calling thread's current context belongs to the device.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub fn reading_here(&self, device: DeviceIndex, pools: &dyn Asked) -> Result<Option<Reading>> {
        if self.current_device()? != Some(device) {
            return Ok(None);
        }
        let ordinal = c_int::try_from(device.0).unwrap_or(c_int::MAX);
        let mut handle: CuDevice = 0;
        call!(self, device_get = "cuDeviceGet"(&raw mut handle, ordinal))?;
        self.reading(handle, device, pools).map(Some)
    }

    /// Free memory comes first and last: where the two agree, nothing moved in between that pools
    /// and graphs do not tell of.
    fn reading(
        &self,
        ordinal: CuDevice,
        device: DeviceIndex,
        pools: &dyn Asked,
    ) -> Result<Reading> {
        let (_, before) = self.memory_info()?;
        let mut reading = Reading::default();
        self.ask_holders(ordinal, device, pools, &mut reading);
        let (total, free) = self.memory_info()?;
        reading.events.push(polled(Body::DeviceMemory { device, total, free }));
        (reading.total, reading.free) = (total, free);
        reading.moved = Bytes(free.0.abs_diff(before.0));
        Ok(reading)
    }

    /// What pools and graphs hold, where the driver has no context of ours to be asked in (the program
    /// makes its own): neither question names one. Total and free are left to somebody else. A driver
    /// that wants a context all the same says so, and that is among the problems.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub fn holders_of(&self, device: DeviceIndex, pools: &dyn Asked) -> Result<Reading> {
        let ordinal = c_int::try_from(device.0).unwrap_or(c_int::MAX);
        let mut handle: CuDevice = 0;
        call!(self, device_get = "cuDeviceGet"(&raw mut handle, ordinal))?;
        let mut reading = Reading::default();
        self.ask_holders(handle, device, pools, &mut reading);
        Ok(reading)
    }

    fn ask_holders(
        &self,
        ordinal: CuDevice,
        device: DeviceIndex,
        pools: &dyn Asked,
        reading: &mut Reading,
    ) {
        let asked = self.ask_pools(ordinal, device, pools, reading);
        reading.problems.extend(asked.err());
        match self.graph_memory(ordinal, device) {
            Ok(event) => reading.events.extend(event),
            Err(error) => reading.problems.push(error),
        }
    }

    /// The default pool and the program's own. (The current one is among them.)
    fn ask_pools(
        &self,
        ordinal: CuDevice,
        device: DeviceIndex,
        pools: &dyn Asked,
        reading: &mut Reading,
    ) -> Result<()> {
        if !self.has_pools(ordinal)? {
            return Ok(());
        }
        let Some(default) = self.default_pool(ordinal)? else { return Ok(()) };
        reading.default_pool = default as u64;
        reading.events.push(self.pool(device, default)?);
        let others = pools.own_pools(device).into_iter().filter(|pool| *pool != default as u64);
        for pool in others {
            let mut answer = None;
            pools.while_alive(pool, &mut || {
                answer = Some(self.pool(device, pool as CuMemoryPool));
            });
            // One that has no such attributes is none of the device's.
            reading.events.extend(answer.and_then(Result::ok));
        }
        Ok(())
    }

    /// `cuMemGetInfo` in the calling thread's current context, as a [`crate::event::Body::DeviceMemory`]
    /// event; `None` when the thread has no current context.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub fn memory_here(&self) -> Result<Option<Event>> {
        match self.current_device()? {
            Some(device) => self.memory_event(device).map(Some),
            None => Ok(None),
        }
    }

    fn memory_event(&self, device: DeviceIndex) -> Result<Event> {
        let (total, free) = self.memory_info()?;
        Ok(polled(Body::DeviceMemory { device, total, free }))
    }

    /// Total and free of the current context's device.
    fn memory_info(&self) -> Result<(Bytes, Bytes)> {
        let (mut free, mut total) = (0usize, 0usize);
        call!(self, mem_get_info = "cuMemGetInfo_v2"(&raw mut free, &raw mut total))?;
        Ok((Bytes(total as u64), Bytes(free as u64)))
    }

    /// Free bytes alone, where the calling thread's current context belongs to the device.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub fn free_here(&self, device: DeviceIndex) -> Result<Option<Bytes>> {
        if self.current_device()? != Some(device) {
            return Ok(None);
        }
        self.memory_info().map(|(_, free)| Some(free))
    }

    /// Free bytes alone, as [`Self::reading_of`] asks.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub fn free_of(&self, device: DeviceIndex) -> Result<Option<Bytes>> {
        self.in_primary_context(device, |_| self.memory_info().map(|(_, free)| free))
    }

    /// The same for `device` from any thread: only if its primary context is active, and without
    /// keeping it alive.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub fn memory_of(&self, device: DeviceIndex) -> Result<Option<Event>> {
        self.in_primary_context(device, |_| self.memory_event(device))
    }

    /// The pool that each device has from the start; `None` without pool support.
    fn default_pool(&self, ordinal: CuDevice) -> Result<Option<CuMemoryPool>> {
        let mut pool: CuMemoryPool = std::ptr::null_mut();
        supported(call!(
            self,
            device_get_default_mem_pool = "cuDeviceGetDefaultMemPool"(&raw mut pool, ordinal)
        ))
        .map(|known| known.map(|()| pool))
    }

    /// The handle of a device's current pool; 0 if it has none, or the driver does not say. For
    /// callbacks of allocations: it waits for nothing.
    pub(crate) fn current_pool_handle(&self, device: DeviceIndex) -> u64 {
        let ordinal = CuDevice::try_from(device.0).ok();
        let pool = ordinal.and_then(|ordinal| self.current_pool(ordinal).ok().flatten());
        pool.map_or(0, |pool| pool as u64)
    }

    /// What a pool holds. For callbacks, likewise.
    ///
    /// # Errors
    /// [`crate::Error::DriverCall`].
    pub(crate) fn pool_of(&self, device: DeviceIndex, pool: u64) -> Result<Event> {
        self.pool(device, pool as CuMemoryPool)
    }

    /// The handle of the pool that a device has from the start; likewise.
    pub(crate) fn default_pool_handle(&self, device: DeviceIndex) -> u64 {
        let ordinal = CuDevice::try_from(device.0).ok();
        let pool = ordinal.and_then(|ordinal| self.default_pool(ordinal).ok().flatten());
        pool.map_or(0, |pool| pool as u64)
    }

    /// Whether a stream is being captured into a graph. For callbacks, likewise.
    pub(crate) fn is_capturing(&self, stream: u64) -> bool {
        /// `CU_STREAM_CAPTURE_STATUS_ACTIVE`.
        const ACTIVE: u32 = 1;
        let mut status = 0;
        let asked =
            call!(self, stream_is_capturing = "cuStreamIsCapturing"(stream, &raw mut status));
        asked.is_ok() && status == ACTIVE
    }

    /// How large the allocation is that an address belongs to, if the driver says so. For callbacks,
    /// likewise.
    pub(crate) fn range_bytes(&self, address: u64) -> Option<Bytes> {
        let (mut base, mut bytes) = (0, 0);
        let (base_at, bytes_at) = (&raw mut base, &raw mut bytes);
        let asked = call!(
            self,
            mem_get_address_range = "cuMemGetAddressRange_v2"(base_at, bytes_at, address)
        );
        asked.ok().map(|()| Bytes(bytes as u64))
    }

    /// The pool that `cuMemAllocAsync` takes from now.
    fn current_pool(&self, ordinal: CuDevice) -> Result<Option<CuMemoryPool>> {
        let mut pool: CuMemoryPool = std::ptr::null_mut();
        supported(call!(self, device_get_mem_pool = "cuDeviceGetMemPool"(&raw mut pool, ordinal)))
            .map(|known| known.map(|()| pool))
    }

    fn has_pools(&self, ordinal: CuDevice) -> Result<bool> {
        let is_there = self.table.device_get_default_mem_pool.is_some()
            && self.table.mem_pool_get_attribute.is_some();
        Ok(is_there && self.attribute(attribute::MEMORY_POOLS_SUPPORTED, ordinal)? != 0)
    }

    /// Reserved and used bytes of a pool.
    fn pool(&self, device: DeviceIndex, pool: CuMemoryPool) -> Result<Event> {
        let reserved = self.pool_attribute(pool, pool_attribute::RESERVED_CURRENT)?;
        let used = self.pool_attribute(pool, pool_attribute::USED_CURRENT)?;
        Ok(polled(Body::Pool { device, pool: pool as u64, reserved, used }))
    }

    /// What a pool of the calling thread's holds, as [`Body::Pool`]. For callbacks of allocations from
    /// it, likewise.
    pub(crate) fn held_by(&self, device: DeviceIndex, pool: u64) -> Option<Body> {
        self.table.mem_pool_get_attribute?;
        self.pool(device, pool as CuMemoryPool).ok().map(|event| event.body)
    }

    /// What graphs hold on the device; `None` where the driver does not tell.
    fn graph_memory(&self, ordinal: CuDevice, device: DeviceIndex) -> Result<Option<Event>> {
        if self.table.device_get_graph_mem_attribute.is_none() {
            return Ok(None);
        }
        let ask = |attribute| {
            let mut value: u64 = 0;
            let answer = call!(
                self,
                device_get_graph_mem_attribute =
                    "cuDeviceGetGraphMemAttribute"(ordinal, attribute, (&raw mut value).cast())
            );
            Ok(supported(answer)?.map(|()| Bytes(value)))
        };
        let reserved = ask(graph_attribute::RESERVED_CURRENT)?;
        let used = ask(graph_attribute::USED_CURRENT)?;
        Ok(reserved
            .zip(used)
            .map(|(reserved, used)| polled(Body::GraphMemory { device, reserved, used })))
    }

    fn pool_attribute(&self, pool: *mut c_void, attribute: u32) -> Result<Bytes> {
        let mut value: u64 = 0;
        call!(
            self,
            mem_pool_get_attribute =
                "cuMemPoolGetAttribute"(pool, attribute, (&raw mut value).cast())
        )?;
        Ok(Bytes(value))
    }

    /// Runs `ask` with the device's primary context current, if it is active; the context neither
    /// starts nor outlives anything because of us. (Should its last owner let go between the look
    /// and our retain, we start and end it again: a cost, not an error, and not to be helped.)
    fn in_primary_context<T>(
        &self,
        device: DeviceIndex,
        ask: impl FnOnce(CuDevice) -> Result<T>,
    ) -> Result<Option<T>> {
        let ordinal = c_int::try_from(device.0).unwrap_or(c_int::MAX);
        let mut handle: CuDevice = 0;
        call!(self, device_get = "cuDeviceGet"(&raw mut handle, ordinal))?;
        let (mut flags, mut active): (u32, c_int) = (0, 0);
        call!(
            self,
            primary_ctx_get_state =
                "cuDevicePrimaryCtxGetState"(handle, &raw mut flags, &raw mut active)
        )?;
        if active == 0 {
            return Ok(None);
        }
        let _asking = Asking::begin();
        let mut context: CuContext = std::ptr::null_mut();
        call!(self, primary_ctx_retain = "cuDevicePrimaryCtxRetain"(&raw mut context, handle))?;
        let answer = match call!(self, ctx_push_current = "cuCtxPushCurrent_v2"(context)) {
            Ok(()) => {
                let answer = ask(handle);
                let mut popped: CuContext = std::ptr::null_mut();
                let pop = call!(self, ctx_pop_current = "cuCtxPopCurrent_v2"(&raw mut popped));
                answer.and_then(|value| pop.map(|()| value))
            }
            Err(error) => Err(error),
        };
        let release = call!(self, primary_ctx_release = "cuDevicePrimaryCtxRelease_v2"(handle));
        answer.and_then(|value| release.map(|()| Some(value)))
    }
}
