//! What the device did with its time, and the host with its.

use super::{DeviceIndex, NameId, ScopeId};
use crate::units::{Bytes, Nanos};
use serde::{Deserialize, Serialize};

/// A kernel execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Device.
    pub device: DeviceIndex,
    /// Context id.
    pub context: u32,
    /// Stream id.
    pub stream: u32,
    /// Its (mangled) name in [`super::Names`].
    pub name: NameId,
    /// Ties the execution to the API call that launched it; 0 if unknown.
    pub correlation: u32,
    /// The graph it ran in, 0 for none.
    pub graph: u32,
    /// Its node in that graph, 0 for none.
    pub graph_node: u64,
    /// The scope it was launched in.
    pub scope: ScopeId,
    /// Begin of execution.
    pub start: Nanos,
    /// End of execution.
    pub end: Nanos,
    /// Grid size in blocks: x, y, z.
    pub grid: [u32; 3],
    /// Block size in threads: x, y, z.
    pub block: [u32; 3],
    /// Local memory that each of its threads needs, in bytes.
    pub local_per_thread: u32,
    /// Local memory that its context had on the device when it ran: what the record calls the
    /// kernel's total is what the context keeps for all threads that can run at once.
    pub local_bytes: Bytes,
}

/// Direction of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Direction {
    /// Host to device.
    HostToDevice,
    /// Device to host.
    DeviceToHost,
    /// Within a device.
    DeviceToDevice,
    /// Host to host.
    HostToHost,
    /// Between devices.
    PeerToPeer,
    /// Arrays, and kinds this version does not know.
    Other,
}

impl Direction {
    /// Every direction, in the order of its discriminants.
    pub const ALL: [Self; 6] = [
        Self::HostToDevice,
        Self::DeviceToHost,
        Self::DeviceToDevice,
        Self::HostToHost,
        Self::PeerToPeer,
        Self::Other,
    ];
}

/// A copy execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Device.
    pub device: DeviceIndex,
    /// Stream id.
    pub stream: u32,
    /// From where to where.
    pub direction: Direction,
    /// Bytes moved.
    pub bytes: Bytes,
    /// Correlation id; 0 if unknown.
    pub correlation: u32,
    /// The graph it ran in, 0 for none.
    pub graph: u32,
    /// The scope it was launched in.
    pub scope: ScopeId,
    /// Begin.
    pub start: Nanos,
    /// End.
    pub end: Nanos,
}

/// A memset execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memset {
    /// Device.
    pub device: DeviceIndex,
    /// Stream id.
    pub stream: u32,
    /// Bytes written.
    pub bytes: Bytes,
    /// Correlation id; 0 if unknown.
    pub correlation: u32,
    /// The graph it ran in, 0 for none.
    pub graph: u32,
    /// The scope it was launched in.
    pub scope: ScopeId,
    /// Begin.
    pub start: Nanos,
    /// End.
    pub end: Nanos,
}

/// What a host thread waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum SyncKind {
    /// `cuEventSynchronize`.
    Event,
    /// `cuStreamWaitEvent` (no host wait; counted apart).
    StreamWait,
    /// `cuStreamSynchronize`.
    Stream,
    /// `cuCtxSynchronize`.
    Context,
    /// A kind this version does not know.
    Other,
}

impl SyncKind {
    /// Every kind, in the order of its discriminants.
    pub const ALL: [Self; 5] =
        [Self::Event, Self::StreamWait, Self::Stream, Self::Context, Self::Other];
}

/// A synchronising call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sync {
    /// What was waited for.
    pub kind: SyncKind,
    /// Context id.
    pub context: u32,
    /// Stream id.
    pub stream: u32,
    /// Correlation id; 0 if unknown.
    pub correlation: u32,
    /// Begin of the wait.
    pub start: Nanos,
    /// End of the wait.
    pub end: Nanos,
}

/// A named span of host time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its name in [`super::Names`].
    pub name: NameId,
    /// Who named it, which decides what `thread` is.
    pub origin: SpanOrigin,
    /// [`SpanOrigin::Program`]: a small number of our own; [`SpanOrigin::Nvtx`]: the thread id.
    pub thread: u32,
    /// The scope that it is, or [`ScopeId::NONE`].
    pub scope: ScopeId,
    /// Begin.
    pub start: Nanos,
    /// End.
    pub end: Nanos,
}

/// Who named a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanOrigin {
    /// The program, through our API.
    Program,
    /// The program, with NVTX.
    Nvtx,
}

/// A graph that ran, where graphs are recorded as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphLaunch {
    /// Device.
    pub device: DeviceIndex,
    /// Context id.
    pub context: u32,
    /// Stream id.
    pub stream: u32,
    /// The executable graph's id.
    pub graph: u32,
    /// Correlation id; 0 if unknown.
    pub correlation: u32,
    /// The scope it was launched in.
    pub scope: ScopeId,
    /// Begin of its first node.
    pub start: Nanos,
    /// End of its last node.
    pub end: Nanos,
}

/// A launching call of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiCall {
    /// Callback id: of a driver function, or (`is_runtime`) of a runtime function.
    pub cbid: u32,
    /// Which of the two APIs.
    pub is_runtime: bool,
    /// The calling thread's id.
    pub thread: u32,
    /// Correlation id; 0 if unknown.
    pub correlation: u32,
    /// What it returned (`CUresult` or `cudaError_t`).
    pub result: u32,
    /// Begin of the call.
    pub start: Nanos,
    /// End of the call.
    pub end: Nanos,
}

/// Host time that CUPTI or the driver took for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overhead {
    /// What for.
    pub kind: OverheadKind,
    /// Begin.
    pub start: Nanos,
    /// End.
    pub end: Nanos,
}

/// What overhead is for; CUPTI's `CUpti_ActivityOverheadKind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum OverheadKind {
    /// The driver compiled device code.
    DriverCompiler,
    /// Flushing activity buffers.
    BufferFlush,
    /// CUPTI instrumented device code.
    Instrumentation,
    /// CUPTI made or destroyed resources of its own.
    Resource,
    /// The runtime loaded a module.
    ModuleLoading,
    /// A function was loaded when first used.
    LazyLoading,
    /// The command buffer was full: a launch waited for the device.
    CommandBufferFull,
    /// Asking for an activity buffer.
    BufferRequest,
    /// Unified-memory tracing was set up.
    UvmInit,
    /// A kind this version does not know.
    Other,
}

impl OverheadKind {
    /// Every kind, in the order of its discriminants.
    pub const ALL: [Self; 10] = [
        Self::DriverCompiler,
        Self::BufferFlush,
        Self::Instrumentation,
        Self::Resource,
        Self::ModuleLoading,
        Self::LazyLoading,
        Self::CommandBufferFull,
        Self::BufferRequest,
        Self::UvmInit,
        Self::Other,
    ];
}

/// CUPTI's own record of a change of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolRecord {
    /// Device of the pool.
    pub device: DeviceIndex,
    /// What happened.
    pub change: PoolChange,
    /// The pool, as CUPTI names it.
    pub pool: u64,
    /// Bytes it holds after the change.
    pub reserved: Bytes,
    /// Bytes of it handed out, where this CUPTI says.
    pub used: Bytes,
    /// Correlation id of the call.
    pub correlation: u32,
}

/// What happened to a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum PoolChange {
    /// It was made.
    Created,
    /// It was destroyed.
    Destroyed,
    /// It gave bytes back.
    Trimmed,
    /// A change this version does not know.
    Other,
}

impl PoolChange {
    /// Every change, in the order of its discriminants.
    pub const ALL: [Self; 4] = [Self::Created, Self::Destroyed, Self::Trimmed, Self::Other];
}

/// Host time in an allocation-family driver call, seen by its callbacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverCall {
    /// Which family.
    pub call: CallKind,
    /// Whether the driver said success.
    pub succeeded: bool,
    /// Begin of the call.
    pub start: Nanos,
    /// End of the call.
    pub end: Nanos,
}

/// The allocation-family calls that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum CallKind {
    /// `cuMemAlloc`.
    Alloc,
    /// `cuMemAllocPitch`.
    AllocPitch,
    /// `cuMemAllocManaged`.
    AllocManaged,
    /// `cuMemHostAlloc`, `cuMemAllocHost`.
    AllocPinned,
    /// `cuMemAllocAsync`, `cuMemAllocFromPoolAsync`.
    AllocAsync,
    /// `cuMemCreate`.
    Create,
    /// `cuMemMap`.
    Map,
    /// `cuMemUnmap`.
    Unmap,
    /// `cuMemFree`; it may wait for the device.
    Free,
    /// `cuMemFreeHost`.
    FreePinned,
    /// `cuMemFreeAsync`.
    FreeAsync,
    /// `cuMemRelease`.
    Release,
}

impl CallKind {
    /// Every kind, in the order of its discriminants.
    pub const ALL: [Self; 12] = [
        Self::Alloc,
        Self::AllocPitch,
        Self::AllocManaged,
        Self::AllocPinned,
        Self::AllocAsync,
        Self::Create,
        Self::Map,
        Self::Unmap,
        Self::Free,
        Self::FreePinned,
        Self::FreeAsync,
        Self::Release,
    ];
}
