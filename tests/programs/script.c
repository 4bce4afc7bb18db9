/* A script of known counts and bytes; says on standard output, as JSON, what it did. */
#include "cuda.h"

enum { MIB = 1 << 20, STORMS = 1000, CALMS = 50, UPS = 7, DOWNS = 5, MOVES = 3, FILLS = 4 };

static char host[MIB];

int main(void) {
    devptr a, b, c;
    void *storm, *calm, *stream;
    cuda_open();
    MUST(cuInit(0));
    cuda_context();
    MUST(cuMemAlloc_v2(&a, 3 * MIB));
    MUST(cuMemAlloc_v2(&b, 5 * MIB));
    MUST(cuMemAlloc_v2(&c, 7 * MIB));
    MUST(cuMemFree_v2(b));
    storm = cuda_kernel("storm");
    calm = cuda_kernel("calm");
    cuda_launch(storm, 4, STORMS);
    cuda_launch(calm, 40, CALMS);
    for (int i = 0; i < UPS; i++) MUST(cuMemcpyHtoD_v2(a, host, MIB));
    for (int i = 0; i < DOWNS; i++) MUST(cuMemcpyDtoH_v2(host, a, 1000));
    for (int i = 0; i < MOVES; i++) MUST(cuMemcpyDtoD_v2(c, a, 2 * MIB));
    for (int i = 0; i < FILLS; i++) MUST(cuMemsetD8_v2(c, 1, 6 * MIB));
    MUST(cuStreamCreate(&stream, 1));
    MUST(cuStreamSynchronize(stream));
    MUST(cuCtxSynchronize());
    MUST(cuCtxSynchronize());
    printf("{\"live_bytes\":%d,\"peak_bytes\":%d,\"allocations\":3,"
           "\"kernels\":{\"storm\":%d,\"calm\":%d},"
           "\"copies\":{\"host_to_device\":[%d,%d],\"device_to_host\":[%d,%d],"
           "\"device_to_device\":[%d,%d]},\"memsets\":%d}\n",
           10 * MIB, 15 * MIB, STORMS, CALMS, UPS, UPS * MIB, DOWNS, DOWNS * 1000, MOVES,
           MOVES * 2 * MIB, FILLS);
    return 7;
}
