// Compute-bound tile: c = a * b for square row-major matrices, a 64 x 64 tile of c per block, so
// each value brought from memory is used 64 times.
#include "common.cuh"

constexpr u32 TILE = 64;
constexpr u32 STEP = 16; // columns of a, and rows of b, in shared memory at a time
constexpr u32 EACH = 4;  // a thread computes EACH x EACH values: 16 x 16 threads cover the tile

extern "C" __global__ void compute_tile(const float *__restrict__ a, const float *__restrict__ b,
                                        float *__restrict__ c, u32 n) {
    __shared__ float left[STEP][TILE]; // transposed, so that a thread's EACH values are neighbours
    __shared__ float right[STEP][TILE];
    const u32 row = blockIdx.y * TILE;
    const u32 column = blockIdx.x * TILE;
    const u32 my_row = threadIdx.x / (TILE / EACH) * EACH;
    const u32 my_column = threadIdx.x % (TILE / EACH) * EACH;
    float sum[EACH][EACH] = {};
    for (u32 first = 0; first < n; first += STEP) {
        for (u32 i = threadIdx.x; i < STEP * TILE; i += THREADS) {
            left[i % STEP][i / STEP] = a[(u64)(row + i / STEP) * n + first + i % STEP];
            right[i / TILE][i % TILE] = b[(u64)(first + i / TILE) * n + column + i % TILE];
        }
        __syncthreads();
        for (u32 k = 0; k < STEP; k++) {
            for (u32 y = 0; y < EACH; y++) {
                for (u32 x = 0; x < EACH; x++) {
                    sum[y][x] += left[k][my_row + y] * right[k][my_column + x];
                }
            }
        }
        __syncthreads();
    }
    for (u32 y = 0; y < EACH; y++) {
        for (u32 x = 0; x < EACH; x++) {
            c[(u64)(row + my_row + y) * n + column + my_column + x] = sum[y][x];
        }
    }
}
