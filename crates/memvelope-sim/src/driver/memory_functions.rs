//! Functions about memory: one more table like that of the module above.

use super::{device, ipc, memory, pointer, pools, ptsz, stream, vmm};
use crate::abi::{
    ArrayDescriptor, FlatArrayDescriptor, MemAllocationProp, MemLocation, MemPoolProps,
    MulticastProp,
};
use crate::entry::driver_functions;
use ipc::IpcHandle;
use vmm::Bound;

driver_functions! {
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize) = 242 Free
        => |call| memory::info(call, free, total);
    cuMemAlloc_v2(dptr: *mut u64, bytesize: usize) = 243 Alloc
        => |call| memory::alloc(call, dptr, bytesize);
    cuMemAllocPitch_v2(dptr: *mut u64, pPitch: *mut usize, WidthInBytes: usize, Height: usize,
        ElementSizeBytes: u32) = 244 Alloc
        => |call| memory::alloc_pitch(call, dptr, pPitch, WidthInBytes, Height, ElementSizeBytes);
    cuMemAllocManaged(dptr: *mut u64, bytesize: usize, flags: u32) = 371 Alloc
        => |call| memory::alloc_managed(call, dptr, bytesize, flags);
    cuMemHostAlloc(pp: *mut u64, bytesize: usize, Flags: u32) = 39 Alloc
        => |call| memory::alloc_host(call, pp, bytesize, Flags);
    cuMemAllocHost_v2(pp: *mut u64, bytesize: usize) = 294 Alloc
        => |call| memory::alloc_host(call, pp, bytesize, 0);
    cuMemFree_v2(dptr: u64) = 245 Release => |call| memory::free(call, dptr);
    cuMemFreeHost(p: u64) = 38 Release => |call| memory::free_host(call, p);
    cuMemHostGetDevicePointer_v2(pdptr: *mut u64, p: u64, _flags: u32) = 247 Call
        => |call| memory::host_device_pointer(call, pdptr, p);
    cuMemHostGetFlags(pFlags: *mut u32, p: u64) = 42 Call
        => |call| memory::host_flags(call, pFlags, p);
    cuMemHostRegister_v2(p: u64, bytesize: usize, Flags: u32) = 379 Alloc
        => |call| memory::register(call, p, bytesize, Flags);
    cuMemHostUnregister(p: u64) = 302 Release => |call| memory::unregister(call, p);
    cuArrayCreate_v2(pHandle: *mut u64, pAllocateArray: *const FlatArrayDescriptor) = 272 Alloc
        => |call| memory::create_flat_array(call, pHandle, pAllocateArray);
    cuArray3DCreate_v2(pHandle: *mut u64, pAllocateArray: *const ArrayDescriptor) = 274 Alloc
        => |call| memory::create_array(call, pHandle, pAllocateArray);
    cuArrayDestroy(hArray: u64) = 89 Release => |call| memory::destroy_array(call, hArray);
    cuPointerGetAttribute(data: *mut u64, attribute: u32, ptr: u64) = 310 Free
        => |call| pointer::get(call, data, attribute, ptr);
    cuPointerGetAttributes(numAttributes: u32, attributes: *const u32, data: *const *mut u64,
        ptr: u64) = 450 Free
        => |call| pointer::get_all(call, numAttributes, attributes, data, ptr);
    cuMemGetAddressRange_v2(pbase: *mut u64, psize: *mut usize, dptr: u64) = 246 Call
        => |call| memory::address_range(call, pbase, psize, dptr);
    cuMemAdvise_v2(_ptr: u64, _count: usize, _advice: u32, _location: u64) = 715 Call
        => |call| device::in_context(call);
    cuMemPrefetchAsync_v2(_ptr: u64, _count: usize, _location: u64, _flags: u32, hStream: u64)
        = 716 Copy => |call| stream::flags(call, hStream, &mut 0);

    cuMemAllocAsync(dptr: *mut u64, bytesize: usize, hStream: u64) = 598 Alloc
        => |call| memory::alloc_async(call, dptr, bytesize, hStream);
    cuMemAllocAsync_ptsz(dptr: *mut u64, bytesize: usize, hStream: u64) = 599 Alloc
        => |call| memory::alloc_async(call, dptr, bytesize, ptsz(hStream));
    cuMemAllocFromPoolAsync(dptr: *mut u64, bytesize: usize, pool: u64, hStream: u64) = 611 Alloc
        => |call| memory::alloc_from_pool(call, dptr, bytesize, pool, hStream);
    cuMemAllocFromPoolAsync_ptsz(dptr: *mut u64, bytesize: usize, pool: u64, hStream: u64)
        = 612 Alloc => |call| memory::alloc_from_pool(call, dptr, bytesize, pool, ptsz(hStream));
    cuMemFreeAsync(dptr: u64, hStream: u64) = 600 Release
        => |call| memory::free_async(call, dptr, hStream);
    cuMemFreeAsync_ptsz(dptr: u64, hStream: u64) = 601 Release
        => |call| memory::free_async(call, dptr, ptsz(hStream));
    cuMemPoolCreate(pool: *mut u64, poolProps: *const MemPoolProps) = 607 Call
        => |call| pools::create(call, pool, poolProps);
    cuMemPoolDestroy(pool: u64) = 608 Call => |call| pools::destroy(call, pool);
    cuMemPoolTrimTo(pool: u64, minBytesToKeep: usize) = 602 Call
        => |call| pools::trim(call, pool, minBytesToKeep);
    cuMemPoolGetAttribute(pool: u64, attr: u32, value: *mut u64) = 604 Free
        => |call| pools::get(call, pool, attr, value);
    cuMemPoolSetAttribute(pool: u64, attr: u32, value: *const u64) = 603 Call
        => |call| pools::set(call, pool, attr, value);

    cuMemPoolSetAccess(pool: u64, map: *const [i32; 3], count: usize) = 605 Call
        => |call| pools::set_access(call, pool, map, count);
    cuMemPoolGetAccess(flags: *mut i32, memPool: u64, location: *const MemLocation) = 617 Call
        => |call| pools::get_access(call, flags, memPool, location);
    cuMemGetDefaultMemPool(pool_out: *mut u64, location: *const MemLocation, kind: i32) = 801 Call
        => |call| pools::of_location(call, pool_out, location, kind, false);
    cuMemGetMemPool(pool: *mut u64, location: *const MemLocation, kind: i32) = 802 Call
        => |call| pools::of_location(call, pool, location, kind, true);
    cuMemSetMemPool(location: *const MemLocation, kind: i32, pool: u64) = 803 Call
        => |call| pools::set_of_location(call, location, kind, pool);
    cuMemPoolExportToShareableHandle(handle_out: *mut i32, pool: u64, handleType: i32,
        flags: u64) = 613 Call
        => |call| pools::export(call, handle_out, pool, handleType, flags);
    cuMemPoolImportFromShareableHandle(pool_out: *mut u64, handle: u64, handleType: i32,
        flags: u64) = 614 Call
        => |call| pools::import(call, pool_out, handle, handleType, flags);
    cuMemPoolExportPointer(shareData_out: *mut [u8; 64], ptr: u64) = 615 Call
        => |call| pools::export_pointer(call, shareData_out, ptr);
    cuMemPoolImportPointer(ptr_out: *mut u64, pool: u64, shareData: *const [u8; 64]) = 616 Call
        => |call| pools::import_pointer(call, ptr_out, pool, shareData);

    cuIpcGetMemHandle(pHandle: *mut IpcHandle, dptr: u64) = 328 Call
        => |call| ipc::get(call, pHandle, dptr);
    cuIpcOpenMemHandle(pdptr: *mut u64, handle: IpcHandle, Flags: u32) = 329 Call
        => |call| ipc::open(call, pdptr, &handle, Flags);
    cuIpcOpenMemHandle_v2(pdptr: *mut u64, handle: IpcHandle, Flags: u32) = 567 Call
        => |call| ipc::open(call, pdptr, &handle, Flags);
    cuIpcCloseMemHandle(dptr: u64) = 330 Call => |call| ipc::close(call, dptr);

    cuMemAddressReserve(ptr: *mut u64, size: usize, alignment: usize, addr: u64, flags: u64)
        = 547 Call => |call| { let _ = (addr, flags); vmm::reserve(call, ptr, size, alignment) };
    cuMemAddressFree(ptr: u64, size: usize) = 548 Call => |call| vmm::unreserve(call, ptr, size);
    cuMemCreate(handle: *mut u64, size: usize, prop: *const MemAllocationProp, flags: u64)
        = 549 Alloc => |call| { let _ = flags; vmm::create(call, handle, size, prop) };
    cuMemRelease(handle: u64) = 550 Release => |call| vmm::release(call, handle);
    cuMemMap(ptr: u64, size: usize, offset: usize, handle: u64, flags: u64) = 551 Call
        => |call| { let _ = flags; vmm::map(call, ptr, size, offset, handle) };
    cuMemUnmap(ptr: u64, size: usize) = 552 Call => |call| vmm::unmap(call, ptr, size);
    cuMemSetAccess(ptr: u64, size: usize, desc: *const [i32; 3], count: usize) = 553 Call
        => |call| vmm::set_access(call, ptr, size, desc, count);
    cuMemRetainAllocationHandle(handle: *mut u64, addr: u64) = 565 Call
        => |call| vmm::retain(call, handle, addr);
    cuMemGetAllocationPropertiesFromHandle(prop: *mut MemAllocationProp, handle: u64) = 557 Call
        => |call| vmm::properties(call, prop, handle);
    cuMemGetAccess(flags: *mut u64, location: *const MemLocation, ptr: u64) = 558 Call
        => |call| vmm::get_access(call, flags, location, ptr);
    cuMemExportToShareableHandle(shareableHandle: *mut i32, handle: u64, handleType: i32,
        flags: u64) = 554 Call
        => |call| vmm::export(call, shareableHandle, handle, handleType, flags);
    cuMemImportFromShareableHandle(handle: *mut u64, osHandle: u64, shHandleType: i32) = 555 Call
        => |call| vmm::import(call, handle, osHandle, shHandleType);
    cuMulticastCreate(mcHandle: *mut u64, prop: *const MulticastProp) = 706 Call
        => |call| vmm::multicast_create(call, mcHandle, prop);
    cuMulticastAddDevice(mcHandle: u64, dev: i32) = 707 Call
        => |call| vmm::multicast_add(call, mcHandle, dev);
    cuMulticastBindMem(mcHandle: u64, mcOffset: usize, memHandle: u64, memOffset: usize,
        size: usize, flags: u64) = 708 Call
        => |call| vmm::multicast_bind(call, (mcHandle, mcOffset), None,
            Bound::Handle(memHandle, memOffset), size, flags);
    cuMulticastBindMem_v2(mcHandle: u64, dev: i32, mcOffset: usize, memHandle: u64,
        memOffset: usize, size: usize, flags: u64) = 820 Call
        => |call| vmm::multicast_bind(call, (mcHandle, mcOffset), Some(dev),
            Bound::Handle(memHandle, memOffset), size, flags);
    cuMulticastBindAddr(mcHandle: u64, mcOffset: usize, memptr: u64, size: usize, flags: u64)
        = 709 Call => |call| vmm::multicast_bind(call, (mcHandle, mcOffset), None,
            Bound::Address(memptr), size, flags);
    cuMulticastBindAddr_v2(mcHandle: u64, dev: i32, mcOffset: usize, memptr: u64, size: usize,
        flags: u64) = 821 Call => |call| vmm::multicast_bind(call, (mcHandle, mcOffset), Some(dev),
            Bound::Address(memptr), size, flags);
    cuMulticastUnbind(mcHandle: u64, dev: i32, mcOffset: usize, size: usize) = 710 Call
        => |call| vmm::multicast_unbind(call, mcHandle, dev, mcOffset, size);
    cuMulticastGetGranularity(granularity: *mut usize, prop: *const MulticastProp, _option: u32)
        = 711 Call => |call| vmm::multicast_granularity(call, granularity, prop);
    cuMemGetAllocationGranularity(granularity: *mut usize, prop: *const MemAllocationProp,
        _option: u32) = 556 Call => |call| vmm::granularity(call, granularity, prop);
    cuMemHostRegister(p: u64, bytesize: usize, Flags: u32) = 301 Alloc
        => |call| memory::register(call, p, bytesize, Flags);
    cuMemAdvise(_ptr: u64, _count: usize, _advice: u32, _device: i32) = 457 Call
        => |call| device::in_context(call);
    cuMemPrefetchAsync(_ptr: u64, _count: usize, _device: i32, hStream: u64) = 467 Copy
        => |call| stream::flags(call, hStream, &mut 0);
    cuMemPrefetchAsync_v2_ptsz(_ptr: u64, _count: usize, _location: u64, _flags: u32,
        hStream: u64) = 717 Copy => |call| stream::flags(call, ptsz(hStream), &mut 0);
}
