/* Asks for memory in as many ways as there are. Case i asks for UNIT << i bytes, so that the sum that
 * a library is said to hold tells which cases were taken for its own.
 *
 * Takes the folder of the libraries that are loaded later, and whether to keep on for a while. */
#define _GNU_SOURCE
#include "cuda.h"
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#define UNIT ((size_t)64 << 10)
#define CASE(i) (UNIT << (i))

enum {
    BY_POINTER, OMITTED, KEPT, ONE_BY_ANOTHER, ALIGNED, PASSED_ON, SMALL_STACK, SIGNAL, CONTEXT, LATER,
    REUSED, BARE, STRIPPED, RUNTIME, BARE_RUNTIME, MADE_AT_RUN_TIME, PASSED_ON_BY_POINTER, CASES
};

int omitted_ask(size_t), kept_ask(size_t), bare_ask(size_t), stripped_ask(size_t);
int kept_ask_by(int (*)(size_t), size_t), omitted_ask_aligned(size_t);
int omitted_pass_on(devptr *, size_t);
void kept_on_signal(int);

static devptr given;
static ucontext_t here, there;
/* In data that begins as zeroes. */
static int (*passes_on)(devptr *, size_t);

__attribute__((noinline)) static int pass_on(size_t bytes) {
    int code = passes_on(&given, bytes);
    given += code;
    return code;
}

static void *opened(const char *folder, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(34);
    }
    return library;
}

static int (*asker(void *library, const char *name))(size_t) {
    int (*found)(size_t);
    *(void **)&found = dlsym(library, name);
    if (!found) exit(35);
    return found;
}

static void *on_small_stack(void *unused) {
    cuda_context();
    MUST(omitted_ask(CASE(SMALL_STACK)));
    return unused;
}

static void on_other_stack(void) { MUST(omitted_ask(CASE(CONTEXT))); }

static void small_stack(void) {
    pthread_attr_t how;
    pthread_t thread;
    pthread_attr_init(&how);
    pthread_attr_setstacksize(&how, 160 << 10);
    MUST(pthread_create(&thread, &how, on_small_stack, 0));
    MUST(pthread_join(thread, 0));
}

static void other_stacks(void) {
    static char stack[256 << 10], signal_stack[256 << 10];
    stack_t alternative = {.ss_sp = signal_stack, .ss_size = sizeof signal_stack};
    struct sigaction action = {.sa_handler = kept_on_signal, .sa_flags = SA_ONSTACK};
    MUST(sigaltstack(&alternative, 0));
    MUST(sigaction(SIGUSR1, &action, 0));
    MUST(raise(SIGUSR1));
    MUST(getcontext(&there));
    there.uc_stack.ss_sp = stack;
    there.uc_stack.ss_size = sizeof stack;
    there.uc_link = &here;
    makecontext(&there, on_other_stack, 0);
    MUST(swapcontext(&here, &there));
}

/* push rbp; mov rbp, rsp; call *rdx; pop rbp; ret */
static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd2, 0x5d, 0xc3};

static void made_at_run_time(void) {
    void *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int (*made)(devptr *, size_t, void *);
    memcpy(page, code, sizeof code);
    MUST(mprotect(page, 4096, PROT_READ | PROT_EXEC));
    *(void **)&made = page;
    MUST(made(&given, CASE(MADE_AT_RUN_TIME), *(void **)&cuMemAlloc_v2));
}

/* Two libraries, one after the other; mostly at the same addresses. */
static void reused(const char *folder) {
    void *first = opened(folder, "libfirst.so");
    int (*ask)(size_t) = asker(first, "first_ask");
    for (int i = 0; i < 4; i++) MUST(ask(UNIT / 8));
    MUST(dlclose(first));
    void *second = opened(folder, "libsecond.so");
    int (*ask_again)(size_t) = asker(second, "second_ask");
    printf("reused %d\n", (void *)ask == (void *)ask_again);
    MUST(ask_again(CASE(REUSED)));
}

static volatile int is_over;

static void *churn(void *folder) {
    cuda_context();
    while (!is_over) {
        void *library = opened(folder, "libfirst.so");
        MUST(asker(library, "first_ask")(64));
        MUST(dlclose(library));
        usleep(200);
    }
    return 0;
}

static void *storm(void *number) {
    int (*ways[])(size_t) = {omitted_ask, kept_ask, bare_ask, stripped_ask};
    cuda_context();
    for (size_t i = 0; i < 400; i++) {
        int (*ask)(size_t) = ways[(i + (size_t)number) % 4];
        MUST(ask(1024));
    }
    return 0;
}

int main(int count, char **words) {
    if (count < 2) return 36;
    cuda_open();
    MUST(cuInit(0));
    cuda_context();
    MUST(cuMemAlloc_v2(&given, CASE(BY_POINTER)));
    MUST(omitted_ask(CASE(OMITTED)));
    MUST(kept_ask(CASE(KEPT)));
    MUST(kept_ask_by(omitted_ask, CASE(ONE_BY_ANOTHER)));
    MUST(omitted_ask_aligned(CASE(ALIGNED)));
    MUST(omitted_pass_on(&given, CASE(PASSED_ON)));
    *(void **)&passes_on = dlsym(RTLD_DEFAULT, "stripped_pass_on");
    MUST(pass_on(CASE(PASSED_ON_BY_POINTER)));
    small_stack();
    other_stacks();
    MUST(asker(opened(words[1], "liblater.so"), "later_ask")(CASE(LATER)));
    reused(words[1]);
    MUST(bare_ask(CASE(BARE)));
    MUST(stripped_ask(CASE(STRIPPED)));
    MUST(asker(opened(words[1], "libuser.so"), "user_ask")(CASE(RUNTIME)));
    MUST(asker(opened(words[1], "libuser_of_bare.so"), "user_ask")(CASE(BARE_RUNTIME)));
    made_at_run_time();
    if (count > 2) {
        pthread_t threads[13];
        for (size_t i = 0; i < 12; i++) MUST(pthread_create(&threads[i], 0, storm, (void *)i));
        MUST(pthread_create(&threads[12], 0, churn, words[1]));
        for (size_t i = 0; i < 12; i++) MUST(pthread_join(threads[i], 0));
        is_over = 1;
        MUST(pthread_join(threads[12], 0));
    }
    return 0;
}
