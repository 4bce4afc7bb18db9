/* Stands for a CUDA runtime library. */
#include <stddef.h>

int cuMemAlloc_v2(unsigned long long *, size_t);

static volatile int sink;

int RUNTIME_MALLOC(unsigned long long *at, size_t bytes) {
    int code = cuMemAlloc_v2(at, bytes);
    sink += code;
    return code;
}
