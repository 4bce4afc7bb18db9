/* More kernels than a report has room for, with long names; goes on for a while, so that the report
 * is renewed often. */
#include "cuda.h"

enum { NAMES = 3000, NAME_BYTES = 120, AGAIN = 100 };

int main(void) {
    char *text = malloc((size_t)NAMES * (NAME_BYTES + 64) + 256), *end = text;
    char name[NAME_BYTES + 1];
    void *module, *first = 0;
    cuda_open();
    MUST(cuInit(0));
    cuda_context();
    end += sprintf(end, ".version 7.0\n.target sm_70\n.address_size 64\n");
    for (int i = 0; i < NAMES; i++) {
        memset(name, 'n', NAME_BYTES);
        name[NAME_BYTES] = 0;
        sprintf(name + NAME_BYTES - 6, "_%05d", i);
        end += sprintf(end, ".visible .entry %s(.param .u64 to)\n{\n  ret;\n}\n", name);
    }
    MUST(cuModuleLoadData(&module, text));
    for (int i = 0; i < NAMES; i++) {
        void *kernel;
        sprintf(name + NAME_BYTES - 6, "_%05d", i);
        MUST(cuModuleGetFunction(&kernel, module, name));
        cuda_launch(kernel, 1, 2);
        first = first ? first : kernel;
    }
    for (int i = 0; i < AGAIN; i++) {
        cuda_launch(first, 1, 1);
        MUST(cuCtxSynchronize());
        usleep(10000);
    }
    return 0;
}
