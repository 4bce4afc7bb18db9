// Launch storm: as many launches as the host can make, each of no work, so that what a launch costs
// with and without recording can be told apart.
#include "common.cuh"

// Does nothing.
extern "C" __global__ void launch_empty() {}

// Adds one to `*launches` per launch: tells afterwards that no launch was lost.
extern "C" __global__ void launch_count(u64 *launches) {
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        atomicAdd(launches, 1ull);
    }
}
