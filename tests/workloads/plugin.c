/* What `frames` loads with dlopen: functions whose frames stand between the program's own. */
#include <stdlib.h>

static volatile int sink;

void plugin_idle(void) { sink++; }

__attribute__((noinline)) static void inner(void (*step)(void *), void *argument) {
    volatile char room[300];
    room[0] = 1;
    step(argument);
    sink += room[0];
}

void plugin_through(void (*step)(void *), void *argument) {
    plugin_idle();
    inner(step, argument);
    sink++;
}

/* Allocates by itself: the block's innermost frame lies in an object that was loaded later. */
__attribute__((noinline)) void *site_plugin(size_t size) {
    void *block = malloc(size);
    sink++;
    return block;
}
