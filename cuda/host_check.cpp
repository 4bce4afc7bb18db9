// The kernels' own sources compiled for the host, each block run by real threads with a real
// barrier, and held against the formulas of README.md written a second time, plainly. It proves
// the arithmetic and the indexing, not the speed, and needs no GPU: `cargo test -p xtask`.
#include <atomic>
#include <barrier>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __align__(bytes) alignas(bytes)

struct Index {
    unsigned x, y;
};
static thread_local Index threadIdx, blockIdx;
static std::unique_ptr<std::barrier<>> block_barrier;

static void __syncthreads() { block_barrier->arrive_and_wait(); }
static void atomicAdd(unsigned long long *at, unsigned long long value) {
    __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}

#include "allocation_churn.cu"
#include "compute_tile.cu"
#include "copies.cu"
#include "launch_storm.cu"
#include "memory_stream.cu"
#include "paged_kv.cu"

static int failures = 0;

static void check(const char *what, uint64_t found, uint64_t expected) {
    if (found != expected) {
        std::printf("FAILED %s: %llu, not %llu\n", what, (unsigned long long)found,
                    (unsigned long long)expected);
        failures++;
    }
}

// Runs blocks one after another, the threads of a block at the same time.
static void launch(unsigned grid_x, unsigned grid_y, const std::function<void()> &kernel) {
    block_barrier = std::make_unique<std::barrier<>>(THREADS);
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < THREADS; t++) {
        threads.emplace_back([&, t] {
            threadIdx = {t, 0};
            for (unsigned y = 0; y < grid_y; y++) {
                for (unsigned x = 0; x < grid_x; x++) {
                    blockIdx = {x, y};
                    kernel();
                    block_barrier->arrive_and_wait(); // shared memory is reused by the next block
                }
            }
        });
    }
    for (auto &thread : threads) {
        thread.join();
    }
}

static unsigned blocks(uint64_t bytes) { return (bytes + 65535) / 65536; }

// README.md's formulas again, from nothing but <cstdint>.
static uint64_t plain_mix(uint64_t x) {
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    x ^= x >> 31;
    return x;
}
static uint64_t plain_word(uint64_t seed, uint64_t key, uint64_t index) {
    return plain_mix(plain_mix(seed ^ plain_mix(key)) + index);
}

static void worked_example() {
    uint64_t words[8] = {}, sum = 0;
    for (int i = 0; i < 8; i++) {
        words[i] = plain_word(42, 7, i);
        sum += words[i];
    }
    alignas(16) uint64_t page[8] = {};
    Span span = {(u64)(uintptr_t)page, 7, 0, 64};
    u64 checksum = 0, wrong = 0;
    launch(1, 1, [&] { kv_write_pages(&span, 1, 1, 42); });
    launch(1, 1, [&] { kv_read_pages(&span, 1, 1, &checksum); });
    launch(1, 1, [&] { kv_verify_pages(&span, 1, 1, 42, &wrong); });
    check("worked example, page", std::memcmp(words, page, sizeof page), 0);
    check("worked example, checksum", checksum, sum);
    check("worked example, mismatches", wrong, 0);
    for (int i = 0; i < 8; i++) {
        std::printf("word %d %016llx\n", i, (unsigned long long)page[i]);
    }
    std::printf("checksum %016llx\n", (unsigned long long)checksum);
}

// Two pages longer than a block's share, a token in the middle of a third, a stranger in the last.
static void paged_kv() {
    const uint64_t page_bytes = 65536 + 4096;
    std::vector<Pair> slab(4 * page_bytes / 16, Pair{1, 1});
    auto page = [&](int p) { return (u64)(uintptr_t)slab.data() + p * page_bytes; };
    std::vector<Span> spans = {
        {page(0), 10, 0, page_bytes}, {page(1), 11, 0, page_bytes}, {page(2), 12, 4096, 512}};
    launch(3 * 2, 1, [&] { kv_write_pages(spans.data(), 3, 2, 99); });
    auto *words = reinterpret_cast<uint64_t *>(slab.data());
    const uint64_t page_words = page_bytes / 8;
    uint64_t sums[3] = {}, outside = 0;
    for (uint64_t w = 0; w < 4 * page_words; w++) {
        const uint64_t p = w / page_words, i = w % page_words;
        const bool inside = p < 2 || (p == 2 && i >= 512 && i < 512 + 64);
        if (inside) {
            check("kv word", words[w], plain_word(99, 10 + p, i));
            sums[p] += words[w];
        } else {
            outside += words[w] != 1;
        }
    }
    check("kv words written outside their span", outside, 0);
    u64 checksums[4] = {}, wrong[4] = {};
    // One more block than the table needs: it must find nothing to do.
    launch(3 * 2 + 1, 1, [&] { kv_read_pages(spans.data(), 3, 2, checksums); });
    for (int s = 0; s < 3; s++) {
        check("kv checksum", checksums[s], sums[s]);
    }
    check("kv checksum beyond the table", checksums[3], 0);
    spans.push_back({page(1), 13, 0, page_bytes}); // a second owner of page 1
    words[page_words / 2] ^= 1;                    // one bit of page 0
    launch(4 * 2, 1, [&] { kv_verify_pages(spans.data(), 4, 2, 99, wrong); });
    check("kv mismatches, one bit", wrong[0], 1);
    check("kv mismatches, intact", wrong[1] + wrong[2], 0);
    check("kv mismatches, two owners", wrong[3], page_words);
}

static void stream_and_copies() {
    const uint64_t bytes = 3 * 65536 + 1040, words = bytes / 8;
    std::vector<Pair> source(bytes / 16 + 1, Pair{5, 5}), target(bytes / 16 + 1, Pair{5, 5});
    launch(blocks(bytes), 1, [&] { stream_fill(source.data(), bytes, 3, 4); });
    launch(blocks(bytes), 1, [&] { stream_copy(source.data(), target.data(), bytes); });
    auto *copied = reinterpret_cast<uint64_t *>(target.data());
    uint64_t sum = 0;
    for (uint64_t i = 0; i < words; i++) {
        check("stream word", copied[i], plain_word(3, 4, i));
        sum += copied[i];
    }
    check("stream past the end", copied[words], 5);
    u64 checksum = 0, wrong = 0;
    launch(blocks(bytes), 1, [&] { stream_read(target.data(), bytes, &checksum); });
    check("stream checksum", checksum, sum);
    copied[words - 1]++;
    launch(blocks(bytes), 1, [&] { copies_verify(target.data(), bytes, 3, 4, &wrong); });
    check("copies mismatches", wrong, 1);
}

static void tile() {
    const u32 n = 128;
    std::vector<float> a(n * n), b(n * n), c(n * n);
    for (u32 i = 0; i < n * n; i++) {
        a[i] = (float)(i * 7 % 13) - 6; // small integers: every sum is exact in a float
        b[i] = (float)(i * 5 % 11) - 5;
    }
    launch(n / 64, n / 64, [&] { compute_tile(a.data(), b.data(), c.data(), n); });
    for (u32 y = 0; y < n; y++) {
        for (u32 x = 0; x < n; x++) {
            long sum = 0;
            for (u32 k = 0; k < n; k++) {
                sum += (long)a[y * n + k] * (long)b[k * n + x];
            }
            check("tile", (uint64_t)(long)c[y * n + x], (uint64_t)sum);
        }
    }
}

static void storm_and_churn() {
    u64 launches = 0;
    for (int i = 0; i < 5; i++) {
        launch(2, 1, [&] { launch_empty(); });
        launch(2, 1, [&] { launch_count(&launches); });
    }
    check("launches", launches, 5);
    std::vector<unsigned char> buffer(300 * 64 + 1, 0);
    launch(2, 1, [&] { allocation_touch(buffer.data(), buffer.size() - 1, 64, 0x1a5); });
    for (size_t i = 0; i < buffer.size(); i++) {
        check("touched", buffer[i], i % 64 == 0 && i + 1 < buffer.size() ? 0xa5 : 0);
    }
}

int main() {
    worked_example();
    paged_kv();
    stream_and_copies();
    tile();
    storm_and_churn();
    std::printf("%d failures\n", failures);
    return failures != 0;
}
