// Host-to-device copies: consumes what was copied, so that a copy which came late, torn or from a
// buffer that was already reused is noticed.
#include "common.cuh"

// Adds the number of words that differ from the pattern of (seed, key) to `*mismatches`.
extern "C" __global__ void copies_verify(const Pair *__restrict__ buffer, u64 bytes, u64 seed,
                                         u64 key, u64 *mismatches) {
    const u64 base = pattern_base(seed, key);
    u64 wrong = 0;
    for_pairs(blockIdx.x, bytes, [&](u64 i) {
        const Pair pair = buffer[i];
        wrong += pair.low != pattern_word(base, 2 * i);
        wrong += pair.high != pattern_word(base, 2 * i + 1);
    });
    block_add(wrong, mismatches);
}
