/*
 * deep FRAMES: one block from the bottom of a recursion of FRAMES frames.
 */
#include "truth.h"

SITE(bottom);

static volatile int sink;

NOINLINE static void site_bottom(void) { took(&at_bottom, malloc(48), 48); }

NOINLINE static void recurse(int left) {
    if (left > 0) recurse(left - 1);
    else site_bottom();
    sink++;
}

int main(int argc, char **argv) {
    truth_ready();
    recurse(argc > 1 ? atoi(argv[1]) : 100);
    truth_report();
    return 0;
}
