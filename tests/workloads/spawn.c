/*
 * spawn PROGRAM ARG: takes blocks, then starts PROGRAM ARG once by vfork and exec and once by posix_spawn, and
 * takes blocks again.
 */
#include "truth.h"
#include <spawn.h>
#include <sys/wait.h>

#define BLOCKS 1000

SITE(before);
SITE(after);

NOINLINE static void *site_before(size_t size) { return took(&at_before, malloc(size), size); }
NOINLINE static void *site_after(size_t size) { return took(&at_after, malloc(size), size); }

int main(int argc, char **argv) {
    static void *held[BLOCKS];
    pid_t child;
    if (argc < 3) return 2;
    truth_ready();
    for (int i = 0; i < BLOCKS; i++) held[i] = site_before(100);
    child = vfork();
    if (child == 0) {
        execv(argv[1], argv + 1);
        _exit(9);
    }
    if (posix_spawn(&child, argv[1], NULL, NULL, argv + 1, environ) != 0) return 2;
    for (int i = 0; i < BLOCKS; i++) {
        site_after(50);
        if (i % 2) continue;
        free(held[i]);
        gave(&at_before, 100);
    }
    truth_report();
    while (wait(NULL) > 0) {}
    return 0;
}
