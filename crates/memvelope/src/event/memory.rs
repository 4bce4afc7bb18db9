//! Memory: allocations, frees, and what a driver says of its pools.

use super::{DeviceIndex, LibraryId, Tag};
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes handed out by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Device that holds the bytes (also for pinned memory: the current device of the call).
    pub device: DeviceIndex,
    /// CUPTI's context id of the call, 0 if unknown.
    pub context: u32,
    /// Which family.
    pub kind: AllocKind,
    /// Address; for [`AllocKind::Vmm`] the handle.
    pub address: u64,
    /// Requested size. Rounding by the driver is a term of its own.
    pub bytes: Bytes,
    /// Stream or 0.
    pub stream: u64,
    /// Pool handle for [`AllocKind::PoolUsed`], else 0.
    pub pool: u64,
    /// What the allocating code said it was for.
    pub tag: Tag,
    /// The library that asked for it, as its return address tells; [`LibraryId::UNKNOWN`] where
    /// nobody looked.
    pub library: LibraryId,
}

/// An allocation call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocationFailure {
    /// Device of the call.
    pub device: DeviceIndex,
    /// Which family.
    pub kind: AllocKind,
    /// Requested size.
    pub bytes: Bytes,
    /// The driver's result code (`CUresult`); 2 is out of memory.
    pub result: u32,
    /// What the allocating code said it was for.
    pub tag: Tag,
}

/// Families of driver allocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum AllocKind {
    /// `cuMemAlloc`.
    Device,
    /// `cuMemAllocPitch`.
    Pitch,
    /// `cuMemAllocManaged`: may live on either side, and the driver does not tell on which.
    Managed,
    /// `cuMemHostAlloc`, `cuMemAllocHost`: host plane.
    PinnedHost,
    /// `cuMemAllocAsync`, `cuMemAllocFromPoolAsync`: inside a pool's reserve, never added to it.
    PoolUsed,
    /// `cuMemCreate`: physical bytes behind a handle.
    Vmm,
    /// `cuMemHostRegister`: host memory of the program's own, pinned. Host plane.
    Registered,
    /// `cuIpcOpenMemHandle`, `cuMemPoolImportPointer`: a view of another process's bytes, charged
    /// to it. The address is the view's; opening again what is open gives the same one.
    ImportedAddress,
    /// `cuMemImportFromShareableHandle`: a handle to bytes that are charged to whoever made them.
    ImportedHandle,
    /// `cuMemAllocAsync` while its stream is captured, or a graph's allocation node: inside what
    /// graphs hold ([`super::Body::GraphMemory`]), and taken anew by each launch.
    GraphNode,
    /// `cuMulticastCreate`: an object without bytes of its own, to which allocations are bound.
    Multicast,
    /// `cuMemCreate` in host memory. Host plane.
    VmmHost,
}

impl AllocKind {
    /// How many kinds there are.
    pub const COUNT: usize = 12;

    /// Every kind, in the order of its discriminants.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Device,
        Self::Pitch,
        Self::Managed,
        Self::PinnedHost,
        Self::PoolUsed,
        Self::Vmm,
        Self::Registered,
        Self::ImportedAddress,
        Self::ImportedHandle,
        Self::GraphNode,
        Self::Multicast,
        Self::VmmHost,
    ];

    /// As shown and serialised.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Pitch => "pitch",
            Self::Managed => "managed",
            Self::PinnedHost => "pinned_host",
            Self::PoolUsed => "pool_used",
            Self::Vmm => "vmm",
            Self::Registered => "registered",
            Self::ImportedAddress => "imported_address",
            Self::ImportedHandle => "imported_handle",
            Self::GraphNode => "graph_node",
            Self::Multicast => "multicast",
            Self::VmmHost => "vmm_host",
        }
    }

    /// Whether live bytes of this kind are physical VRAM to be summed. What pools and graphs hand
    /// out is inside a reserve that is counted once by itself; pinned and registered memory is host
    /// RAM; imports are charged to the exporter; managed memory is where it was last touched.
    #[must_use]
    pub const fn counts_as_vram(self) -> bool {
        match self {
            Self::Device | Self::Pitch | Self::Vmm => true,
            Self::Managed
            | Self::PinnedHost
            | Self::PoolUsed
            | Self::Registered
            | Self::ImportedAddress
            | Self::ImportedHandle
            | Self::GraphNode
            | Self::Multicast
            | Self::VmmHost => false,
        }
    }

    /// Whether it is named by a handle of the VMM calls rather than by an address.
    #[must_use]
    pub const fn is_handle(self) -> bool {
        matches!(self, Self::Vmm | Self::VmmHost | Self::ImportedHandle | Self::Multicast)
    }
}

/// Families of free calls; an address and a VMM handle may be the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FreeKind {
    /// `cuMemFree`.
    Device,
    /// `cuMemFreeHost`.
    PinnedHost,
    /// `cuMemFreeAsync`.
    PoolUsed,
    /// `cuMemRelease`: one reference to the handle is dropped; the bytes go with the last mapping.
    Vmm,
    /// `cuMemHostUnregister`.
    Registered,
    /// `cuIpcCloseMemHandle`.
    ImportedAddress,
}

/// CUPTI's own record of a memory operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRecord {
    /// Device.
    pub device: DeviceIndex,
    /// Whether bytes were released rather than allocated.
    pub is_free: bool,
    /// `CUpti_ActivityMemoryKind`: 3 device, 4 array, 5 managed, 2 pinned.
    pub memory_kind: u32,
    /// Address.
    pub address: u64,
    /// Size.
    pub bytes: Bytes,
    /// Correlation id of the call.
    pub correlation: u32,
    /// The pool's handle, 0 if it is of none.
    pub pool: u64,
    /// Physical bytes that the pool had then.
    pub pool_bytes: Option<Bytes>,
}

/// Bytes that a context took for itself, or gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// The device.
    pub device: DeviceIndex,
    /// CUPTI's context id, 0 if unknown.
    pub context: u32,
    /// What made it grow.
    pub cause: GrowthCause,
    /// By how much, signed: modules are unloaded, too.
    pub bytes: i64,
    /// How far off that may be: what moved on the device meanwhile and was not ours.
    pub error: Bytes,
}

/// What makes a context grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum GrowthCause {
    /// The context itself was made, or is gone with all that it took.
    Context,
    /// A module or library was loaded or unloaded by a call.
    Module,
    /// Modules were loaded lazily, at a first launch.
    LazyModule,
    /// A limit of the context was changed by a call: stack, printf buffer, heap.
    Limit,
    /// A kernel needed more local memory than the context had.
    LocalMemory,
}

impl GrowthCause {
    /// How many causes there are.
    pub const COUNT: usize = 5;

    /// Every cause, in the order of its discriminants.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Context, Self::Module, Self::LazyModule, Self::Limit, Self::LocalMemory];
}
