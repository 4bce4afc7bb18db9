/* The few driver functions that the test programs call, looked up as any program does that links
 * nothing: by dlopen, then dlsym. */
#ifndef TEST_CUDA_H
#define TEST_CUDA_H

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long long devptr;

static int (*cuInit)(unsigned);
static int (*cuDeviceGet)(int *, int);
static int (*cuDevicePrimaryCtxRetain)(void **, int);
static int (*cuCtxSetCurrent)(void *);
static int (*cuCtxSynchronize)(void);
static int (*cuMemAlloc_v2)(devptr *, size_t);
static int (*cuMemFree_v2)(devptr);
static int (*cuMemcpyHtoD_v2)(devptr, const void *, size_t);
static int (*cuMemcpyDtoH_v2)(void *, devptr, size_t);
static int (*cuMemcpyDtoD_v2)(devptr, devptr, size_t);
static int (*cuMemsetD8_v2)(devptr, unsigned char, size_t);
static int (*cuModuleLoadData)(void **, const void *);
static int (*cuModuleGetFunction)(void **, void *, const char *);
static int (*cuStreamCreate)(void **, unsigned);
static int (*cuStreamSynchronize)(void *);
static int (*cuLaunchKernel)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                             unsigned, void *, void **, void **);

#define MUST(call)                                                                                 \
    do {                                                                                           \
        int code = (call);                                                                         \
        if (code) {                                                                                \
            fprintf(stderr, #call ": %d\n", code);                                                 \
            exit(33);                                                                              \
        }                                                                                          \
    } while (0)

static const char ptx[] = ".version 7.0\n.target sm_70\n.address_size 64\n"
                          ".visible .entry storm(.param .u64 to)\n{\n  ret;\n}\n"
                          ".visible .entry calm(.param .u64 to)\n{\n  ret;\n}\n";

/* Opens the driver; does not initialise it. */
static void cuda_open(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(34);
    }
#define LOAD(name) *(void **)&name = dlsym(library, #name)
    LOAD(cuInit);
    LOAD(cuDeviceGet);
    LOAD(cuDevicePrimaryCtxRetain);
    LOAD(cuCtxSetCurrent);
    LOAD(cuCtxSynchronize);
    LOAD(cuMemAlloc_v2);
    LOAD(cuMemFree_v2);
    LOAD(cuMemcpyHtoD_v2);
    LOAD(cuMemcpyDtoH_v2);
    LOAD(cuMemcpyDtoD_v2);
    LOAD(cuMemsetD8_v2);
    LOAD(cuModuleLoadData);
    LOAD(cuModuleGetFunction);
    LOAD(cuStreamCreate);
    LOAD(cuStreamSynchronize);
    LOAD(cuLaunchKernel);
}

/* The primary context of the first device, on this thread. */
static void cuda_context(void) {
    int device;
    void *context;
    MUST(cuDeviceGet(&device, 0));
    MUST(cuDevicePrimaryCtxRetain(&context, device));
    MUST(cuCtxSetCurrent(context));
}

/* A kernel of the module above. */
static void *cuda_kernel(const char *name) {
    void *module, *kernel;
    MUST(cuModuleLoadData(&module, ptx));
    MUST(cuModuleGetFunction(&kernel, module, name));
    return kernel;
}

static void cuda_launch(void *kernel, unsigned blocks, int times) {
    devptr to = 0;
    void *arguments[] = {&to};
    for (int i = 0; i < times; i++)
        MUST(cuLaunchKernel(kernel, blocks, 1, 1, 128, 1, 1, 0, 0, arguments, 0));
}

/* All of it: opens, initialises, holds `bytes` and runs `storm` so many times. */
__attribute__((unused)) static void cuda_work(size_t bytes, int launches) {
    devptr held;
    cuda_open();
    MUST(cuInit(0));
    cuda_context();
    MUST(cuMemAlloc_v2(&held, bytes));
    cuda_launch(cuda_kernel("storm"), 4, launches);
    MUST(cuCtxSynchronize());
}

#endif
