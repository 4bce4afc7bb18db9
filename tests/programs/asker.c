/* A library that asks the driver for memory: directly, at the end of a function (which compilers make
 * a jump), through another library, or through the runtime. Built several times, as NAME. */
#include <stddef.h>

typedef unsigned long long devptr;

int cuMemAlloc_v2(devptr *, size_t);

#define JOIN(a, b) a##b
#define NAMED(a, b) JOIN(a, b)

static volatile int sink;

int NAMED(NAME, _ask)(size_t bytes) {
    devptr at = 0;
    int code = cuMemAlloc_v2(&at, bytes);
    sink += code;
    return code;
}

int NAMED(NAME, _pass_on)(devptr *at, size_t bytes) { return cuMemAlloc_v2(at, bytes); }

int NAMED(NAME, _ask_by)(int (*by)(size_t), size_t bytes) {
    int code = by(bytes);
    sink += code;
    return code;
}

/* In a frame that is aligned anew and of a size that is known at run time alone. */
int NAMED(NAME, _ask_aligned)(size_t bytes) {
    devptr at[4] __attribute__((aligned(256))) = {0};
    volatile char room[1 + bytes % 1000];
    room[0] = 0;
    int code = cuMemAlloc_v2(at, bytes);
    sink += code + room[0];
    return code;
}

void NAMED(NAME, _on_signal)(int number) {
    (void)number;
    NAMED(NAME, _ask)((size_t)SIGNAL_BYTES);
}
