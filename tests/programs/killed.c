/* Ways to end, and things done to a process, by argument. Uses CUDA, waits so that what it did is
 * told, and then ends as asked. */
#include "cuda.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

enum { MIB = 1 << 20, TOLD_US = 700000, TRACED_US = 11500000 };

static void *leave(void *code) {
    exit((int)(long)code);
}

static void on_signal(int signal) {
    (void)signal;
    static const char text[] = "got it\n";
    if (write(1, text, sizeof text - 1) < 0) _exit(35);
    exit(12);
}

static void close_all(void) {
    for (int fd = 3; fd < 1024; fd++) close(fd);
}

static void limit(int what, rlim_t value) {
    struct rlimit limit = {value, value};
    if (setrlimit(what, &limit)) exit(36);
}

static void block_all(void) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, 0);
}

/* What must not change the recording, done before it begins or after. */
static void disturb(const char *how) {
    if (!strcmp(how, "fds")) close_all();
    if (!strcmp(how, "chdir") && chdir("/")) exit(37);
    if (!strcmp(how, "env")) clearenv();
    if (!strcmp(how, "signals")) block_all();
    if (!strcmp(how, "fsize")) limit(RLIMIT_FSIZE, 0);
    if (!strcmp(how, "nofile")) limit(RLIMIT_NOFILE, 3);
}

int main(int count, char **words) {
    const char *how = count > 1 ? words[1] : "";
    int code = count > 2 ? atoi(words[2]) : 0;
    if (!strcmp(how, "again")) how = "exit"; /* what `exec` becomes */
    cuda_work(10 * MIB, 100);
    if (!strcmp(how, "fds-wait")) {
        disturb("fds");
        how = "wait";
    }
    disturb(how);
    if (!strcmp(how, "exit")) exit(code);
    if (!strcmp(how, "wait") || !strcmp(how, "handler")) {
        if (!strcmp(how, "handler")) signal(SIGTERM, on_signal);
        /* Not by stdio: the handler's exit would write once more what is being flushed. */
        dprintf(1, "ready %d\n", getpid());
        sleep(20);
        return 38;
    }
    usleep(strcmp(how, "later") ? TOLD_US : TRACED_US);
    if (!strcmp(how, "later") || !strcmp(how, "sigkill")) kill(getpid(), SIGKILL);
    if (!strcmp(how, "_exit")) _exit(code);
    if (!strcmp(how, "abort")) abort();
    if (!strcmp(how, "segv")) raise(SIGSEGV);
    if (!strcmp(how, "exec")) execl(words[0], words[0], "again", "5", (char *)0);
    if (!strcmp(how, "thread")) {
        pthread_t thread;
        if (pthread_create(&thread, 0, leave, (void *)(long)code)) return 39;
        pthread_join(thread, 0);
    }
    if (!strcmp(how, "signals")) { /* still blocked, by nobody else */
        sigset_t now, empty;
        sigemptyset(&empty);
        pthread_sigmask(SIG_SETMASK, 0, &now);
        return sigismember(&now, SIGTERM) ? code : 40;
    }
    return code;
}
