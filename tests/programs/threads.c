/* Eight threads, each with work of its own. With an argument the first thread does not wait for
 * them but leaves. */
#include "cuda.h"
#include <pthread.h>

enum { THREADS = 8, LAUNCHES = 500, KIB = 1 << 10 };

static void *storm;

static void *run(void *number) {
    devptr held, given;
    cuda_context();
    MUST(cuMemAlloc_v2(&held, 64 * KIB * (1 + (size_t)number)));
    for (int i = 0; i < 20; i++) {
        MUST(cuMemAlloc_v2(&given, 4 * KIB));
        cuda_launch(storm, 2, LAUNCHES / 20);
        MUST(cuMemFree_v2(given));
    }
    if (!number) usleep(400000);
    MUST(cuCtxSynchronize());
    return 0;
}

int main(int count, char **words) {
    (void)words;
    pthread_t threads[THREADS];
    cuda_open();
    MUST(cuInit(0));
    cuda_context();
    storm = cuda_kernel("storm");
    for (size_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], 0, run, (void *)i)) return 35;
    if (count > 1) pthread_exit(0);
    for (size_t i = 0; i < THREADS; i++) pthread_join(threads[i], 0);
    return 0;
}
