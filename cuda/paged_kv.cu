// Paged KV cache: the host names spans of pages by address, as a serving engine's block table does.
// What a span holds depends on its key (which page of which sequence this is), so a page that two
// sequences were given, or that was freed while in use, does not verify.
#include "common.cuh"

// Four words in the host's table. Addresses and byte counts are multiples of 16.
struct Span {
    u64 page;  // device address of the page
    u64 key;   // what the page is: goes into the pattern
    u64 begin; // first byte of the span, from the start of the page
    u64 bytes; // length of the span
};

// Calls `visit(pairs of the page, pair index within the page)` for this thread's share. Blocks
// `blocks_per_span * s` and following work on span `s`; those beyond its end find nothing to do.
template <typename Visit>
__device__ __forceinline__ void for_span(const Span &span, u32 blocks_per_span, Visit visit) {
    Pair *pairs = reinterpret_cast<Pair *>(span.page);
    const u64 first = span.begin / sizeof(Pair);
    for_pairs(blockIdx.x % blocks_per_span, span.bytes, [&](u64 i) { visit(pairs, first + i); });
}

// Writes the pattern: a prefill's whole pages, or the one token that a decode step adds.
extern "C" __global__ void kv_write_pages(const Span *__restrict__ spans, u32 n_spans,
                                          u32 blocks_per_span, u64 seed) {
    const u32 s = blockIdx.x / blocks_per_span;
    if (s >= n_spans) {
        return;
    }
    const Span span = spans[s];
    const u64 base = pattern_base(seed, span.key);
    for_span(span, blocks_per_span, [&](Pair *pairs, u64 i) {
        Pair pair;
        pair.low = pattern_word(base, 2 * i);
        pair.high = pattern_word(base, 2 * i + 1);
        pairs[i] = pair;
    });
}

// Reads every span once, as attention does, and adds the sum of span s's words to `checksums[s]`.
extern "C" __global__ void kv_read_pages(const Span *__restrict__ spans, u32 n_spans,
                                         u32 blocks_per_span, u64 *checksums) {
    const u32 s = blockIdx.x / blocks_per_span;
    if (s >= n_spans) {
        return;
    }
    u64 sum = 0;
    for_span(spans[s], blocks_per_span, [&](const Pair *pairs, u64 i) {
        const Pair pair = pairs[i];
        sum += pair.low + pair.high;
    });
    block_add(sum, &checksums[s]);
}

// Reads every span once and adds the number of its wrong words to `mismatches[s]`. The host need
// not recompute anything: all zero is right.
extern "C" __global__ void kv_verify_pages(const Span *__restrict__ spans, u32 n_spans,
                                           u32 blocks_per_span, u64 seed, u64 *mismatches) {
    const u32 s = blockIdx.x / blocks_per_span;
    if (s >= n_spans) {
        return;
    }
    const Span span = spans[s];
    const u64 base = pattern_base(seed, span.key);
    u64 wrong = 0;
    for_span(span, blocks_per_span, [&](const Pair *pairs, u64 i) {
        const Pair pair = pairs[i];
        wrong += pair.low != pattern_word(base, 2 * i);
        wrong += pair.high != pattern_word(base, 2 * i + 1);
    });
    block_add(wrong, &mismatches[s]);
}
