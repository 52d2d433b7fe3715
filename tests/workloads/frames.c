/*
 * frames THREADS PLUGIN: every thread goes down a path of its own through frames of many shapes, takes one block at the
 * end, and blocks there for ever.
 *
 * The block's call and the call that blocks are the same instruction, so that a debugger that looks at the blocked
 * thread sees exactly the return addresses that the tracer saw. Thread n takes FIRST_SIZE + n bytes.
 */
#include "truth.h"
#include <alloca.h>
#include <dlfcn.h>
#include <pthread.h>

#define FIRST_SIZE 10000
#define THREADS 256
#define STACK (512 << 10)

SITE(leaf);

struct path {
    uint64_t seed;
    size_t size;
    int depth;
};

typedef void (*step)(struct path *);
typedef void *(*call)(size_t);
static void down(struct path *path);
static void (*through_plugin)(step, struct path *);
static void (*idle)(void);
static pthread_barrier_t start, end;
static volatile int sink;

static void *block_for_ever(size_t size) {
    (void)size;
    pthread_barrier_wait(&end);
    truth_stay();
}

/* Called through a table, so that both calls are one instruction. */
static const call calls[2] = {malloc, block_for_ever};
static volatile int number_of_calls = 2;

NOINLINE static void site_leaf(struct path *path) {
    for (int i = 0; i < number_of_calls; i++) {
        void *at = calls[i](path->size);
        took(&at_leaf, at, path->size);
    }
}

NOINLINE static void plain(struct path *path) {
    down(path);
    sink++;
}

NOINLINE static void wide(struct path *path) {
    volatile char room[2000];
    room[path->depth] = 1;
    down(path);
    sink += room[path->depth];
}

NOINLINE static void dynamic(struct path *path) {
    volatile char *room = alloca(truth_random(&path->seed) % 700 + 1);
    room[0] = 1;
    down(path);
    sink += room[0];
}

/* A frame that realigns its stack: the CFA is found through a saved pointer. */
NOINLINE static void realigned(struct path *path) {
    volatile char room[64] __attribute__((aligned(64)));
    volatile char *more = alloca(truth_random(&path->seed) % 100 + 1);
    room[0] = more[0] = 1;
    down(path);
    sink += room[0] + more[0];
}

NOINLINE static void busy(struct path *path) {
    unsigned long a = path->seed, b = a * 3, c = b ^ a, d = c * 5, e = d + a, f = e ^ b;
    down(path);
    sink += (int)(a + b * c + d * e + f);
}

static int compare(const void *a, const void *b) {
    struct path *path = *(struct path *const *)a;
    (void)b;
    down(path);
    return 0;
}

/* Through frames of libc. */
NOINLINE static void sorted(struct path *path) {
    struct path *both[2] = {path, path};
    qsort(both, 2, sizeof *both, compare);
    sink++;
}

NOINLINE static void plugged(struct path *path) {
    through_plugin(down, path);
    sink++;
}

static void down(struct path *path) {
    static const step steps[] = {plain, wide, dynamic, realigned, busy, sorted, plugged};
    if (path->depth-- <= 0) site_leaf(path);
    else steps[truth_random(&path->seed) % (sizeof steps / sizeof *steps)](path);
    sink++;
}

static __thread struct path *mine;

static void on_signal(int signal) {
    (void)signal;
    down(mine);
}

/* Is interrupted anywhere: in the loop, in a stub of the linkage table, in the kernel's vDSO, in the first or last
 * instruction of a function. */
NOINLINE static void interrupted(void) {
    struct timespec now;
    for (;;) {
        idle();
        clock_gettime(CLOCK_MONOTONIC, &now);
        sink += (int)now.tv_sec + (int)strlen((const char *)&now);
    }
}

static void *work(void *argument) {
    struct path path = *(struct path *)argument;
    mine = &path;
    pthread_barrier_wait(&start);
    if (path.size % 4 == 0) interrupted();
    else if (path.size % 4 == 1) raise(SIGUSR2);
    else down(&path);
    return NULL;
}

int main(int argc, char **argv) {
    static struct path paths[THREADS];
    pthread_t ids[THREADS];
    pthread_attr_t attributes;
    int threads = argc > 2 ? atoi(argv[1]) : 0;
    void *plugin = argc > 2 ? dlopen(argv[2], RTLD_LAZY) : NULL;
    if (threads < 1 || threads > THREADS || !plugin) return 2;
    through_plugin = (void (*)(step, struct path *))dlsym(plugin, "plugin_through");
    idle = (void (*)(void))dlsym(plugin, "plugin_idle");
    if (!through_plugin || !idle) return 2;
    signal(SIGUSR2, on_signal);
    truth_block_go();
    pthread_barrier_init(&start, NULL, (unsigned)threads + 1);
    pthread_barrier_init(&end, NULL, (unsigned)threads + 1);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    for (int i = 0; i < threads; i++) {
        paths[i] = (struct path){(uint64_t)i, FIRST_SIZE + (size_t)i, 3 + i % 76};
        if (pthread_create(&ids[i], &attributes, work, &paths[i]) != 0) return 2;
    }
    truth_ready();
    pthread_barrier_wait(&start);
    for (int i = 0; i < threads; i++) {
        if (paths[i].size % 4 != 0) continue;
        usleep(2000 + (useconds_t)i * 7);
        pthread_kill(ids[i], SIGUSR2);
    }
    pthread_barrier_wait(&end);
    truth_report();
    return 0;
}
