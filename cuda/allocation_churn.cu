// Allocation churn: the host allocates and frees; this touches what it got, so that managed and
// lazily backed memory really takes up bytes.
#include "common.cuh"

// Writes `value` to every `stride`-th byte. One thread a byte.
extern "C" __global__ void allocation_touch(unsigned char *buffer, u64 bytes, u64 stride,
                                            u32 value) {
    const u64 at = ((u64)blockIdx.x * THREADS + threadIdx.x) * stride;
    if (at < bytes) {
        buffer[at] = (unsigned char)value;
    }
}
