/*
 * storm THREADS ROUNDS: threads that do little but realloc, each on slots of its own.
 */
#include "truth.h"
#include <pthread.h>

#define SLOTS 128
#define THREADS 64

struct slot {
    void *at;
    size_t size;
};

SITE(resize);
SITE(empty);
SITE(fail);

static volatile size_t huge = SIZE_MAX / 4;
static struct slot slots[THREADS][SLOTS];
static struct site *owners[THREADS][SLOTS];
static pthread_barrier_t start, end;
static long rounds;

static void settle(struct slot *slot, struct site **owner, struct site *site, void *at, size_t size) {
    if (slot->at) gave(*owner, slot->size);
    slot->at = took(site, at, size);
    slot->size = size;
    *owner = site;
}

NOINLINE static void site_resize(struct slot *slot, struct site **owner, size_t size) {
    void *at = realloc(slot->at, size);
    if (!at) _exit(5);
    settle(slot, owner, &at_resize, at, size);
}

/* Whether this frees or gives an empty block is the allocator's choice. */
NOINLINE static void site_empty(struct slot *slot, struct site **owner) {
    settle(slot, owner, &at_empty, realloc(slot->at, 0), 0);
}

NOINLINE static void site_fail(struct slot *slot) {
    if (realloc(slot->at, huge)) _exit(5);
    truth_add(&truth_calls, 1);
}

static void *work(void *argument) {
    unsigned me = (unsigned)(uintptr_t)argument;
    uint64_t seed = me + 100;
    pthread_barrier_wait(&start);
    for (long i = 0; i < rounds; i++) {
        uint64_t random = truth_random(&seed);
        unsigned n = (unsigned)(random % SLOTS);
        switch ((random >> 16) % 32) {
        case 0: site_fail(&slots[me][n]); break;
        case 1: if (slots[me][n].at) site_empty(&slots[me][n], &owners[me][n]); break;
        default: site_resize(&slots[me][n], &owners[me][n], 1 + (random >> 32) % 3000);
        }
    }
    pthread_barrier_wait(&end);
    truth_stay();
}

int main(int argc, char **argv) {
    unsigned threads = argc > 1 ? (unsigned)atoi(argv[1]) : 4;
    pthread_t ids[THREADS];
    rounds = argc > 2 ? atol(argv[2]) : 20000;
    if (threads > THREADS) return 2;
    truth_block_go();
    pthread_barrier_init(&start, NULL, threads + 1);
    pthread_barrier_init(&end, NULL, threads + 1);
    for (unsigned i = 0; i < threads; i++)
        if (pthread_create(&ids[i], NULL, work, (void *)(uintptr_t)i) != 0) return 2;
    truth_ready();
    pthread_barrier_wait(&start);
    pthread_barrier_wait(&end);
    truth_report();
    return 0;
}
