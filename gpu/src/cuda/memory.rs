//! Memory beyond plain allocations: handles and mappings, memory shared between processes, and what
//! the driver says about an address.

use super::{Address, Gpu, Handle};
use anyhow::{Result, bail};
use std::ffi::c_void;

/// `CUmemAllocationProp`: type, handle types, location (type, ordinal), a pointer of Windows', flags.
#[repr(C)]
struct Properties {
    kind: u32,
    handle_types: u32,
    location_kind: u32,
    location_id: i32,
    windows: *mut c_void,
    flags: [u64; 1],
}

/// `CU_POINTER_ATTRIBUTE_BUFFER_ID`.
const BUFFER_ID: u32 = 7;
/// `CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID`.
const MEMORY_BLOCK_ID: u32 = 20;
/// `CU_LIMIT_STACK_SIZE`.
const STACK_SIZE: u32 = 0;

/// What the driver calls the memory behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysicalId {
    /// `CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID`; absent where the driver refuses.
    pub block: Option<u64>,
    /// `CU_POINTER_ATTRIBUTE_BUFFER_ID`; likewise.
    pub buffer: Option<u64>,
}

impl Gpu {
    fn properties(&self) -> Properties {
        // CU_MEM_ALLOCATION_TYPE_PINNED, no handle types, CU_MEM_LOCATION_TYPE_DEVICE.
        Properties {
            kind: 1,
            handle_types: 0,
            location_kind: 1,
            location_id: self.device,
            windows: std::ptr::null_mut(),
            flags: [0],
        }
    }

    /// The least unit of `cuMemCreate`.
    ///
    /// # Errors
    /// The driver's code.
    pub fn page_bytes(&self) -> Result<usize> {
        let (mut bytes, properties) = (0, self.properties());
        // SAFETY: an out-pointer to a local, and properties of the C type; 0 is the minimum.
        unsafe { self.cuda.granularity(&raw mut bytes, (&raw const properties).cast(), 0) }?;
        Ok(bytes)
    }

    /// Physical memory behind a handle.
    ///
    /// # Errors
    /// The driver's code.
    pub fn create(&self, bytes: usize) -> Result<u64> {
        let (mut handle, properties) = (0, self.properties());
        // SAFETY: as in `page_bytes`.
        unsafe { self.cuda.mem_create(&raw mut handle, bytes, (&raw const properties).cast(), 0) }?;
        Ok(handle)
    }

    /// Gives a handle back.
    ///
    /// # Errors
    /// The driver's code.
    pub fn release(&self, handle: u64) -> Result<()> {
        // SAFETY: the driver checks the handle.
        unsafe { self.cuda.mem_release(handle) }
    }

    /// A view of a handle at an address of its own.
    ///
    /// # Errors
    /// The driver's code.
    pub fn view(&self, handle: u64, bytes: usize) -> Result<Address> {
        let mut address = 0;
        // SAFETY: an out-pointer to a local; the driver checks the rest.
        unsafe {
            self.cuda.mem_address_reserve(&raw mut address, bytes, 0, 0, 0)?;
            self.cuda.mem_map(address, bytes, 0, handle, 0)?;
        }
        Ok(address)
    }

    /// Ends a view.
    ///
    /// # Errors
    /// The driver's code.
    pub fn end_view(&self, address: Address, bytes: usize) -> Result<()> {
        // SAFETY: the driver checks the address.
        unsafe {
            self.cuda.mem_unmap(address, bytes)?;
            self.cuda.mem_address_free(address, bytes)
        }
    }

    /// Managed memory, which either side may hold.
    ///
    /// # Errors
    /// The driver's code.
    pub fn managed(&self, bytes: usize) -> Result<Address> {
        let mut address = 0;
        // SAFETY: an out-pointer to a local; 1 is CU_MEM_ATTACH_GLOBAL.
        unsafe { self.cuda.mem_alloc_managed(&raw mut address, bytes, 1) }?;
        Ok(address)
    }

    /// Memory from the stream's pool.
    ///
    /// # Errors
    /// The driver's code.
    pub fn from_pool(&self, bytes: usize, stream: Handle) -> Result<Address> {
        let mut address = 0;
        // SAFETY: an out-pointer to a local.
        unsafe { self.cuda.mem_alloc_async(&raw mut address, bytes, stream) }?;
        Ok(address)
    }

    /// Gives it back to the pool.
    ///
    /// # Errors
    /// The driver's code.
    pub fn to_pool(&self, address: Address, stream: Handle) -> Result<()> {
        // SAFETY: the driver checks the address.
        unsafe { self.cuda.mem_free_async(address, stream) }
    }

    /// What the driver calls the memory behind an address.
    #[must_use]
    pub fn physical_id(&self, address: Address) -> PhysicalId {
        let ask = |attribute| {
            let mut id = 0_u64;
            // SAFETY: an out-pointer to a local of eight bytes, which both attributes have.
            let told =
                unsafe { self.cuda.pointer_attribute((&raw mut id).cast(), attribute, address) };
            told.ok().map(|()| id)
        };
        PhysicalId { block: ask(MEMORY_BLOCK_ID), buffer: ask(BUFFER_ID) }
    }

    /// A handle with which another process opens an allocation.
    ///
    /// # Errors
    /// The driver's code.
    pub fn share(&self, address: Address) -> Result<[u8; 64]> {
        let mut handle = [0; 64];
        // SAFETY: an out-pointer to a local of the C type's size.
        unsafe { self.cuda.ipc_get(&raw mut handle, address) }?;
        Ok(handle)
    }

    /// Opens what another process shared.
    ///
    /// # Errors
    /// The driver's code.
    pub fn open_shared(&self, handle: [u8; 64]) -> Result<Address> {
        let mut address = 0;
        // SAFETY: an out-pointer to a local; 1 is CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS.
        unsafe { self.cuda.ipc_open(&raw mut address, handle, 1) }?;
        Ok(address)
    }

    /// Closes it.
    ///
    /// # Errors
    /// The driver's code.
    pub fn close_shared(&self, address: Address) -> Result<()> {
        // SAFETY: the driver checks the address.
        unsafe { self.cuda.ipc_close(address) }
    }

    /// Sets the stack of each thread on the device, for which the context keeps local memory.
    ///
    /// # Errors
    /// The driver's code.
    pub fn set_stack_bytes(&self, bytes: usize) -> Result<()> {
        // SAFETY: takes no pointer.
        unsafe { self.cuda.ctx_set_limit(STACK_SIZE, bytes) }
    }

    /// The most that one plain allocation gets now, to a page; by halving, and given back at once.
    ///
    /// # Errors
    /// The driver's code, where even a free fails.
    pub fn largest_alloc(&self, page: usize) -> Result<u64> {
        if page == 0 {
            bail!("a page has no bytes");
        }
        let (mut fits, mut fails) = (0, usize::try_from(self.free_bytes()?)? / page + 1);
        while fails - fits > 1 {
            let middle = fits + (fails - fits) / 2;
            match self.alloc(middle * page) {
                Ok(address) => {
                    self.free(address)?;
                    fits = middle;
                }
                Err(_) => fails = middle,
            }
        }
        Ok((fits * page) as u64)
    }
}
