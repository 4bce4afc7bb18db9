/* Memory of every family: held, partly unmapped, freed or leaked, by argument. */
#include "cuda.h"
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

enum { MIB = 1 << 20, THREADS = 4, TOLD_US = 1300000 };

struct location { int type, id; };
struct vmm_properties {
    int type, handle_types;
    struct location location;
    void *security;
    unsigned char flags[8];
};
struct access_of { struct location location; int flags; };
struct pool_properties {
    int type, handle_types;
    struct location location;
    void *security;
    size_t bytes_max;
    unsigned char rest[56];
};

static int (*cuMemAllocPitch_v2)(devptr *, size_t *, size_t, size_t, unsigned);
static int (*cuMemAllocManaged)(devptr *, size_t, unsigned);
static int (*cuMemHostAlloc)(void **, size_t, unsigned);
static int (*cuMemFreeHost)(void *);
static int (*cuMemAllocAsync)(devptr *, size_t, void *);
static int (*cuMemFreeAsync)(devptr, void *);
static int (*cuMemAllocFromPoolAsync)(devptr *, size_t, void *, void *);
static int (*cuMemPoolCreate)(void **, const struct pool_properties *);
static int (*cuMemPoolDestroy)(void *);
static int (*cuMemCreate)(devptr *, size_t, const struct vmm_properties *, unsigned long long);
static int (*cuMemRelease)(devptr);
static int (*cuMemAddressReserve)(devptr *, size_t, size_t, devptr, unsigned long long);
static int (*cuMemAddressFree)(devptr, size_t);
static int (*cuMemMap)(devptr, size_t, size_t, devptr, unsigned long long);
static int (*cuMemUnmap)(devptr, size_t);
static int (*cuMemSetAccess)(devptr, size_t, const struct access_of *, size_t);
static int (*cuDevicePrimaryCtxRelease_v2)(int);

static void open_all(void) {
    cuda_open();
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    LOAD(cuMemAllocPitch_v2);
    LOAD(cuMemAllocManaged);
    LOAD(cuMemHostAlloc);
    LOAD(cuMemFreeHost);
    LOAD(cuMemAllocAsync);
    LOAD(cuMemFreeAsync);
    LOAD(cuMemAllocFromPoolAsync);
    LOAD(cuMemPoolCreate);
    LOAD(cuMemPoolDestroy);
    LOAD(cuMemCreate);
    LOAD(cuMemRelease);
    LOAD(cuMemAddressReserve);
    LOAD(cuMemAddressFree);
    LOAD(cuMemMap);
    LOAD(cuMemUnmap);
    LOAD(cuMemSetAccess);
    LOAD(cuDevicePrimaryCtxRelease_v2);
}

static struct held {
    devptr plain, small[40], pitched, managed, range, handles[4], pooled[3], own;
    size_t pitch;
    void *pinned, *pool, *stream;
} held;

/* Physical memory behind a range of addresses: mapped twice, and one handle already released. */
static void hold_mappings(void) {
    const struct vmm_properties properties = {1, 1, {1, 0}, 0, {0}};
    const struct access_of access = {{1, 0}, 3};
    MUST(cuMemAddressReserve(&held.range, 64 * MIB, 0, 0, 0));
    for (int i = 0; i < 4; i++) {
        MUST(cuMemCreate(&held.handles[i], 8 * MIB, &properties, 0));
        MUST(cuMemMap(held.range + i * 8 * MIB, 8 * MIB, 0, held.handles[i], 0));
    }
    MUST(cuMemMap(held.range + 32 * MIB, 8 * MIB, 0, held.handles[0], 0));
    MUST(cuMemSetAccess(held.range, 40 * MIB, &access, 1));
    MUST(cuMemRelease(held.handles[1]));
    MUST(cuMemUnmap(held.range + 16 * MIB, 8 * MIB)); /* its handle keeps it */
    MUST(cuMemRelease(held.handles[3]));
    MUST(cuMemUnmap(held.range + 24 * MIB, 8 * MIB)); /* the last of it */
}

static void hold_pools(void) {
    const struct pool_properties properties = {1, 0, {1, 0}, 0, 0, {0}};
    for (int i = 0; i < 3; i++) MUST(cuMemAllocAsync(&held.pooled[i], (9 + i) * MIB, held.stream));
    MUST(cuMemFreeAsync(held.pooled[1], held.stream));
    MUST(cuMemPoolCreate(&held.pool, &properties));
    MUST(cuMemAllocFromPoolAsync(&held.own, 5 * MIB, held.pool, held.stream));
    MUST(cuStreamSynchronize(held.stream));
}

static void hold(void) {
    MUST(cuStreamCreate(&held.stream, 1));
    MUST(cuMemAlloc_v2(&held.plain, 33 * MIB + 12345));
    for (int i = 0; i < 40; i++) MUST(cuMemAlloc_v2(&held.small[i], 1000 + 333 * i));
    MUST(cuMemAllocPitch_v2(&held.pitched, &held.pitch, 1000, 3000, 4));
    MUST(cuMemHostAlloc(&held.pinned, 16 * MIB, 0));
    hold_mappings();
    hold_pools();
    cuda_launch(cuda_kernel("storm"), 4, 100);
    MUST(cuCtxSynchronize());
}

static void let_go(void) {
    MUST(cuMemFree_v2(held.plain));
    for (int i = 0; i < 40; i++) MUST(cuMemFree_v2(held.small[i]));
    MUST(cuMemFree_v2(held.pitched));
    MUST(cuMemFreeHost(held.pinned));
    MUST(cuMemUnmap(held.range, 16 * MIB));
    MUST(cuMemUnmap(held.range + 32 * MIB, 8 * MIB));
    MUST(cuMemRelease(held.handles[0]));
    MUST(cuMemRelease(held.handles[2]));
    MUST(cuMemAddressFree(held.range, 64 * MIB));
    MUST(cuMemFreeAsync(held.pooled[0], held.stream));
    MUST(cuMemFreeAsync(held.pooled[2], held.stream));
    MUST(cuMemFreeAsync(held.own, held.stream));
    MUST(cuStreamSynchronize(held.stream));
    MUST(cuMemPoolDestroy(held.pool));
}

/* Comes and goes, and leaves some behind. */
static void *churn(void *context) {
    devptr kept, gone;
    MUST(cuCtxSetCurrent(context));
    for (int i = 1; i < 200; i++) {
        size_t bytes = (i % 7 + 1) * 300000;
        MUST(cuMemAlloc_v2(&gone, bytes));
        if (i == 100) MUST(cuMemAlloc_v2(&kept, 3 * MIB));
        MUST(cuMemFree_v2(gone));
    }
    return 0;
}

static void from_threads(void *context) {
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], 0, churn, context)) exit(39);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], 0);
}

int main(int count, char **words) {
    const char *how = count > 1 ? words[1] : "held";
    int device;
    void *context;
    open_all();
    MUST(cuInit(0));
    MUST(cuDeviceGet(&device, 0));
    MUST(cuDevicePrimaryCtxRetain(&context, device));
    MUST(cuCtxSetCurrent(context));
    hold();
    if (!strcmp(how, "managed")) MUST(cuMemAllocManaged(&held.managed, 12 * MIB, 1));
    if (!strcmp(how, "threads")) from_threads(context);
    if (!strcmp(how, "fork")) {
        int child = fork();
        if (!child) _exit(0); /* CUDA does not survive fork */
        waitpid(child, 0, 0);
    }
    if (!strcmp(how, "wait")) {
        dprintf(1, "ready %d\n", getpid());
        sleep(30);
        return 38;
    }
    if (!strcmp(how, "freed") || !strcmp(how, "released")) {
        usleep(TOLD_US); /* so that somebody may have looked */
        let_go();
    }
    if (!strcmp(how, "released")) MUST(cuDevicePrimaryCtxRelease_v2(device));
    if (!strcmp(how, "killed")) {
        usleep(TOLD_US);
        kill(getpid(), SIGKILL);
    }
    return 0;
}
