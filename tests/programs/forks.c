/* Processes that start processes. By argument:
 *   before  forks before cuInit; both use CUDA
 *   after   forks after cuInit; the child idles, then exits by exit()
 *   exec    forks after cuInit; the child becomes this program again, as `leaf`
 *   leaf    uses CUDA a little
 *   many N [M]  starts N leaves, M at a time
 *   daemon  leaves a process behind that outlives it, and writes its pid to standard output */
#include "cuda.h"
#include <sys/wait.h>

enum { MIB = 1 << 20, AT_A_TIME = 4 };

static int awaited(void) {
    int status;
    if (wait(&status) < 0) exit(35);
    if (!WIFEXITED(status)) exit(36);
    return WEXITSTATUS(status);
}

static void become_leaf(const char *self) {
    execl(self, self, "leaf", (char *)0);
    _exit(37);
}

static int daemonize(void) {
    int ready[2];
    char byte;
    if (pipe(ready)) return 38;
    if (fork() == 0) {
        setsid();
        cuda_work(2 * MIB, 10);
        if (write(ready[1], "x", 1) != 1) _exit(39);
        close(0), close(1), close(2);
        sleep(3);
        cuda_launch(cuda_kernel("storm"), 4, 10);
        _exit(0);
    }
    return read(ready[0], &byte, 1) == 1 ? 0 : 40;
}

int main(int count, char **words) {
    const char *how = count > 1 ? words[1] : "";
    if (!strcmp(how, "leaf")) {
        cuda_work(MIB, 10);
        return 3;
    }
    if (!strcmp(how, "before")) {
        if (fork() == 0) {
            cuda_work(2 * MIB, 20);
            exit(9);
        }
        cuda_work(4 * MIB, 40);
        return awaited();
    }
    if (!strcmp(how, "after") || !strcmp(how, "exec")) {
        cuda_work(4 * MIB, 40);
        if (fork() == 0) {
            if (!strcmp(how, "exec")) become_leaf(words[0]);
            usleep(300000);
            exit(9);
        }
        return awaited();
    }
    if (!strcmp(how, "many")) {
        int wanted = atoi(words[2]), code = 0, at_a_time = count > 3 ? atoi(words[3]) : AT_A_TIME;
        for (int i = 0; i < wanted; i++) {
            if (i >= at_a_time) code |= awaited() ^ 3;
            if (fork() == 0) become_leaf(words[0]);
        }
        for (int i = 0; i < (wanted < at_a_time ? wanted : at_a_time); i++) code |= awaited() ^ 3;
        return code;
    }
    return strcmp(how, "daemon") ? 41 : daemonize();
}
