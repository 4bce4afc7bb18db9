/* A server as the stories of docs/where-did-my-vram-go.md have it: 16 GiB by itself, and 2,448 MiB by
 * a library beside it (this file, too, with LIBRARY defined). Ends when its input does. */
#include "cuda.h"

int nccl_take(size_t bytes);

#ifdef LIBRARY
int nccl_take(size_t bytes) {
    devptr taken;
    cuda_open();
    int code = cuMemAlloc_v2(&taken, bytes);
    return code + (taken == 0);
}
#else
int main(void) {
    devptr own;
    cuda_open();
    MUST(cuInit(0));
    cuda_context();
    MUST(cuMemAlloc_v2(&own, (size_t)16 << 30));
    MUST(nccl_take((size_t)2448 << 20));
    printf("ready %d\n", (int)getpid());
    fflush(stdout);
    while (getchar() != EOF) {}
    return 0;
}
#endif
