// Memory-bound stream: each block moves 64 KiB and computes next to nothing. `stream_read` over
// the weights is what decoding costs a server in every step.
#include "common.cuh"

// Writes the pattern of (seed, key).
extern "C" __global__ void stream_fill(Pair *target, u64 bytes, u64 seed, u64 key) {
    const u64 base = pattern_base(seed, key);
    for_pairs(blockIdx.x, bytes, [&](u64 i) {
        Pair pair;
        pair.low = pattern_word(base, 2 * i);
        pair.high = pattern_word(base, 2 * i + 1);
        target[i] = pair;
    });
}

// Reads and writes each byte once.
extern "C" __global__ void stream_copy(const Pair *__restrict__ source, Pair *__restrict__ target,
                                       u64 bytes) {
    for_pairs(blockIdx.x, bytes, [&](u64 i) { target[i] = source[i]; });
}

// Reads each byte once and adds the sum of all words to `*checksum`.
extern "C" __global__ void stream_read(const Pair *__restrict__ source, u64 bytes, u64 *checksum) {
    u64 sum = 0;
    for_pairs(blockIdx.x, bytes, [&](u64 i) {
        const Pair pair = source[i];
        sum += pair.low + pair.high;
    });
    block_add(sum, checksum);
}
