"""The stand-in for PyTorch with its segments taken from the (simulated) driver: what it holds is then
in both planes, as a real torch's would be."""

import ctypes
import sys

import torch_fake


class Allocator(torch_fake.Allocator):
    """Takes segments by `cuMemAlloc` and gives them back by `cuMemFree`."""

    def __init__(self):
        super().__init__()
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self._call("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)

    def _call(self, name, *arguments):
        code = getattr(self.cuda, name)(*arguments)
        if code != 0:
            raise torch_fake.OutOfMemoryError(f"{name}: {code}")

    def _take(self, key, size):
        found = super()._take(key, size)
        address = ctypes.c_uint64()
        total = ctypes.c_size_t(found[0]["total_size"])
        self._call("cuMemAlloc_v2", ctypes.byref(address), total)
        found[0]["address"] = address.value
        return found

    def empty_cache(self):
        for segment in list(self.segments):
            if all(block["state"] == "inactive" for block in segment["blocks"]):
                self._call("cuMemFree_v2", ctypes.c_uint64(segment["address"]))
                self.segments.remove(segment)


class Tensor:
    """Bytes on the device, given back with the last reference."""

    def __init__(self, allocator, nbytes):
        self.allocator = allocator
        self.address = allocator.allocate(nbytes)

    def __del__(self):
        if hasattr(self, "address"):
            self.allocator.free(self.address)


def install():
    """The stand-in under the name of torch; returns its allocator."""
    allocator = Allocator()
    torch = torch_fake.module(allocator)
    torch.cuda.device_count = lambda: 1
    torch.cuda.memory_reserved = allocator.reserved
    torch.cuda.empty_cache = allocator.empty_cache
    torch.cuda.is_available = lambda: True
    torch.uint8 = object()
    torch.empty = lambda nbytes, **_: Tensor(allocator, nbytes)
    sys.modules["torch"] = torch
    return allocator
