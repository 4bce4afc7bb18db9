/* Memory that ends in an unusual order, by argument. Prints nothing, and ends by itself. */
#include "cuda.h"
#include <sys/wait.h>

enum { MIB = 1 << 20 };

struct location { int type, id; };
struct properties {
    int type, handle_types;
    struct location location;
    void *security;
    size_t rest[8];
};

static int (*cuMemAllocAsync)(devptr *, size_t, void *);
static int (*cuMemFreeAsync)(devptr, void *);
static int (*cuMemAllocFromPoolAsync)(devptr *, size_t, void *, void *);
static int (*cuMemPoolCreate)(void **, const struct properties *);
static int (*cuMemPoolDestroy)(void *);
static int (*cuDeviceGetDefaultMemPool)(void **, int);
static int (*cuMemCreate)(devptr *, size_t, const struct properties *, unsigned long long);
static int (*cuMemRelease)(devptr);
static int (*cuMemExportToShareableHandle)(void *, devptr, int, unsigned long long);
static int (*cuStreamBeginCapture_v2)(void *, int);
static int (*cuStreamEndCapture)(void *, void **);
static int (*cuGraphInstantiateWithFlags)(void **, void *, unsigned long long);
static int (*cuGraphLaunch)(void *, void *);
static int (*cuDevicePrimaryCtxReset_v2)(int);

static void open_all(void) {
    cuda_open();
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    LOAD(cuMemAllocAsync);
    LOAD(cuMemFreeAsync);
    LOAD(cuMemAllocFromPoolAsync);
    LOAD(cuMemPoolCreate);
    LOAD(cuMemPoolDestroy);
    LOAD(cuDeviceGetDefaultMemPool);
    LOAD(cuMemCreate);
    LOAD(cuMemRelease);
    LOAD(cuMemExportToShareableHandle);
    LOAD(cuStreamBeginCapture_v2);
    LOAD(cuStreamEndCapture);
    LOAD(cuGraphInstantiateWithFlags);
    LOAD(cuGraphLaunch);
    LOAD(cuDevicePrimaryCtxReset_v2);
}

static const struct properties on_device = {1, 1, {1, 0}, 0, {0}};
static void *stream;

static void must_fail(int code, const char *what) {
    if (!code) {
        fprintf(stderr, "%s should have failed\n", what);
        exit(40);
    }
}

/* Pools that are destroyed while something is allocated from them, one that cannot be, one twice. */
static void pools(void) {
    void *pool, *own;
    devptr at, gone;
    for (int i = 0; i < 6; i++) {
        MUST(cuMemPoolCreate(&pool, &on_device));
        MUST(cuMemAllocFromPoolAsync(&at, 40 * MIB, pool, stream));
        MUST(cuMemAllocFromPoolAsync(&gone, 20 * MIB, pool, stream));
        MUST(cuMemFreeAsync(gone, stream));
        if (i == 1) MUST(cuStreamSynchronize(stream));
        MUST(cuMemPoolDestroy(pool));
        if (i == 2) must_fail(cuMemPoolDestroy(pool), "a second end");
        if (i >= 4) MUST(cuMemFreeAsync(at, stream));
    }
    MUST(cuMemAllocAsync(&at, 13 * MIB, stream));
    MUST(cuDeviceGetDefaultMemPool(&own, 0));
    must_fail(cuMemPoolDestroy(own), "the end of the default pool");
    MUST(cuMemAllocAsync(&at, 14 * MIB, stream));
}

/* What a graph allocated, freed from outside after each launch; and frees that fail. */
static void frees(void) {
    void *graph, *launched;
    devptr at, plain;
    MUST(cuStreamBeginCapture_v2(stream, 2));
    MUST(cuMemAllocAsync(&at, 20 * MIB, stream));
    MUST(cuStreamEndCapture(stream, &graph));
    MUST(cuGraphInstantiateWithFlags(&launched, graph, 0));
    for (int i = 0; i < 3; i++) {
        MUST(cuGraphLaunch(launched, stream));
        MUST(i == 1 ? cuMemFree_v2(at) : cuMemFreeAsync(at, stream));
    }
    MUST(cuMemAlloc_v2(&plain, 90 * MIB));
    must_fail(cuMemFree_v2(plain + 512), "a free inside");
    MUST(cuMemFree_v2(plain));
    must_fail(cuMemFree_v2(plain), "a second free");
    MUST(cuMemAlloc_v2(&plain, 90 * MIB));
}

/* A context that ends with all that is allocated in it, and is still this thread's. */
static void reset(void) {
    devptr at;
    MUST(cuMemAlloc_v2(&at, 90 * MIB));
    MUST(cuMemAllocAsync(&at, 13 * MIB, stream));
    MUST(cuDevicePrimaryCtxReset_v2(0));
}

/* Memory that a child holds by its copy of a descriptor, when this process holds it no more. */
static void passed_on(void) {
    devptr handle, plain;
    int descriptor, until[2];
    char word;
    if (pipe(until)) exit(41);
    MUST(cuMemCreate(&handle, 90 * MIB, &on_device, 0));
    MUST(cuMemExportToShareableHandle(&descriptor, handle, 1, 0));
    if (!fork()) {
        close(until[1]);
        _exit(read(until[0], &word, 1) != 0); /* until the parent has ended */
    }
    close(descriptor);
    MUST(cuMemRelease(handle));
    MUST(cuMemAlloc_v2(&plain, 3 * MIB));
}

int main(int count, char **words) {
    void (*const all[])(void) = {pools, frees, reset, passed_on};
    const char *const names[] = {"pools", "frees", "reset", "passed_on"};
    open_all();
    MUST(cuInit(0));
    cuda_context();
    MUST(cuStreamCreate(&stream, 1));
    for (int i = 0; count > 1 && i < 4; i++)
        if (!strcmp(words[1], names[i])) {
            all[i]();
            return 0;
        }
    return 42;
}
