/*
 * leak BLOCKS SIZE [PAUSE_US]: takes BLOCKS blocks of SIZE bytes and keeps them, with a pause after each; with
 * BLOCKS 0 it goes on until it is killed. With PAUSE_US `now` it does not wait for the go, and ends at once with status 7.
 */
#include "truth.h"

SITE(leak);

NOINLINE static void *site_leak(size_t size) { return took(&at_leak, malloc(size), size); }

int main(int argc, char **argv) {
    long blocks = argc > 1 ? atol(argv[1]) : 100;
    size_t size = argc > 2 ? (size_t)atol(argv[2]) : 64;
    int now = argc > 3 && strcmp(argv[3], "now") == 0;
    useconds_t pause_us = argc > 3 && !now ? (useconds_t)atol(argv[3]) : 0;
    if (!now) truth_ready();
    for (long i = 0; blocks == 0 || i < blocks; i++) {
        site_leak(size);
        if (pause_us) usleep(pause_us);
    }
    if (now) return 7;
    truth_report();
    return 0;
}
