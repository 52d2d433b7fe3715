/*
 * tree DEPTH BLOCKS: a tree of forks, two children each. A process takes blocks, forks, and waits; a child frees
 * some of what it inherited and takes blocks of its own.
 *
 * Each process waits for its own SIGUSR1, so that the tracer has picked it up before it allocates.
 */
#include "truth.h"
#include <sys/wait.h>

#define LEVELS 8

SITE(parent);
SITE(child);

static void **inherited, **own;
static long blocks;

NOINLINE static void *site_parent(size_t size) { return took(&at_parent, malloc(size), size); }
NOINLINE static void *site_child(size_t size) { return took(&at_child, malloc(size), size); }

static size_t size_of(long i) { return (size_t)(16 + i % 200); }

static void take(int root) {
    for (long i = 0; i < blocks; i++) own[i] = root ? site_parent(size_of(i)) : site_child(size_of(i));
}

/* Frees every third block that the parent took. */
static void give_inherited(int from_root) {
    for (long i = 0; i < blocks; i += 3) {
        free(inherited[i]);
        gave(from_root ? &at_parent : &at_child, size_of(i));
    }
}

static void grow(int depth, int level) {
    for (int i = 0; depth > 0 && i < 2; i++) {
        if (fork() != 0) continue;
        truth_forked();
        /* What the parent took is now inherited; what it inherited itself stays as it is. */
        memcpy(inherited, own, (size_t)blocks * sizeof *own);
        truth_ready();
        give_inherited(level == 0);
        take(0);
        grow(depth - 1, level + 1);
        return;
    }
    truth_print();
    truth_wait();
    while (wait(NULL) > 0) {}
}

int main(int argc, char **argv) {
    int depth = argc > 1 ? atoi(argv[1]) : 2;
    blocks = argc > 2 ? atol(argv[2]) : 3000;
    if (depth > LEVELS) return 2;
    inherited = calloc((size_t)blocks, sizeof *inherited);
    own = calloc((size_t)blocks, sizeof *own);
    if (!inherited || !own) return 2;
    truth_ready();
    take(1);
    grow(depth, 0);
    return 0;
}
