/*
 * chain TIMES BLOCKS [INDEX]: takes blocks, then executes itself, TIMES over. Every program of the chain waits
 * for the go, so that the tracer has picked it up.
 */
#include "truth.h"

SITE(link);

NOINLINE static void *site_link(size_t size) { return took(&at_link, malloc(size), size); }

int main(int argc, char **argv) {
    int times = argc > 1 ? atoi(argv[1]) : 3;
    long blocks = argc > 2 ? atol(argv[2]) : 1000;
    char next[16];
    truth_exec = argc > 3 ? atoi(argv[3]) : 0;
    truth_ready();
    for (long i = 0; i < blocks * (truth_exec + 1); i++) {
        void *at = site_link((size_t)(32 + i % 64));
        if (i % 4 != 0) continue;
        free(at);
        gave(&at_link, (size_t)(32 + i % 64));
    }
    truth_report();
    if (truth_exec + 1 >= times) return 0;
    snprintf(next, sizeof next, "%d", truth_exec + 1);
    execv("/proc/self/exe", (char *[]){argv[0], argv[1], argv[2], next, NULL});
    return 1;
}
