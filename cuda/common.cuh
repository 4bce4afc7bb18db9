// What the workloads share: the unit of work, the pattern, and sums that do not depend on order.
//
// No header is included, so the PTX depends on nothing but these files and the pinned compiler, and
// host_check.cpp can compile the same code for the host.
#pragma once

typedef unsigned long long u64;
typedef unsigned int u32;

// Every kernel is launched with blocks of this many threads (compute_tile and the launch storm
// included): eight warps hide latency well and fit every device.
constexpr u32 THREADS = 256;

// Bytes that one block moves. The grid grows with the bytes, so time on the device does too, and
// the host can predict it from a bandwidth.
constexpr u64 BLOCK_BYTES = 64 * 1024;

// Widest access that a thread can make in one instruction.
struct __align__(16) Pair {
    u64 low;
    u64 high;
};

// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): a bijection on 64 bits in which every
// input bit reaches every output bit, so a misplaced word never looks right by accident.
__device__ __forceinline__ u64 mix(u64 x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

// What every word of a page or buffer is derived from.
__device__ __forceinline__ u64 pattern_base(u64 seed, u64 key) {
    return mix(seed ^ mix(key));
}

// The word at `index` (in 8-byte words from the start of the page or buffer).
__device__ __forceinline__ u64 pattern_word(u64 base, u64 index) {
    return mix(base + index);
}

// Adds one value per thread of this block to `*total`, modulo 2^64: any order gives the same sum.
__device__ __forceinline__ void block_add(u64 value, u64 *total) {
    __shared__ u64 partial[THREADS];
    partial[threadIdx.x] = value;
    __syncthreads();
    for (u32 width = THREADS / 2; width > 0; width /= 2) {
        if (threadIdx.x < width) {
            partial[threadIdx.x] += partial[threadIdx.x + width];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        atomicAdd(total, partial[0]);
    }
}

// Calls `visit(pair index)` for this thread's share of one block's bytes: pairs `begin` to `end`
// of the whole, neighbouring threads on neighbouring pairs.
template <typename Visit>
__device__ __forceinline__ void for_pairs(u64 block, u64 bytes, Visit visit) {
    constexpr u64 PAIRS = BLOCK_BYTES / sizeof(Pair);
    const u64 begin = block * PAIRS;
    const u64 left = bytes / sizeof(Pair) > begin ? bytes / sizeof(Pair) - begin : 0;
    const u64 count = left < PAIRS ? left : PAIRS;
    for (u64 i = threadIdx.x; i < count; i += THREADS) {
        visit(begin + i);
    }
}
