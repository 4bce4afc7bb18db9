/* Frames of a library between who asks and a callback: each with some registers saved and some room
 * of its own. Built several times, under the names of libraries. */
struct link {
    int (*go)(const struct link *);
    const struct link *next;
    int depth;
};

static volatile int sink;

__attribute__((noinline)) static int deeper(const struct link *link, int depth, int a, int b) {
    volatile char room[160];
    room[a & 127] = (char)b;
    int below = depth ? deeper(link, depth - 1, a + b, b) : link->next->go(link->next);
    sink += below + a;
    return below + room[a & 127] + b;
}

int frames_go(const struct link *link) {
    int below = deeper(link, link->depth, 1, 2);
    sink += below;
    return below;
}
