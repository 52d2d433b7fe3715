/*
 * flood CHILDREN BLOCKS: makes CHILDREN children that end at once, then one that stays, which takes BLOCKS blocks.
 */
#include "truth.h"
#include <sys/wait.h>

SITE(late);

NOINLINE static void *site_late(size_t size) { return took(&at_late, malloc(size), size); }

int main(int argc, char **argv) {
    long children = argc > 1 ? atol(argv[1]) : 100, blocks = argc > 2 ? atol(argv[2]) : 100;
    truth_ready();
    for (long i = 0; i < children; i++) {
        pid_t child = vfork();
        if (child == 0) _exit(0);
        if (waitpid(child, NULL, 0) != child) return 2;
    }
    if (fork() != 0) {
        wait(NULL);
        return 0;
    }
    truth_forked();
    truth_ready();
    for (long i = 0; i < blocks; i++) site_late(32);
    truth_report();
    return 0;
}
