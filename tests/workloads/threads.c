/*
 * threads THREADS ROUNDS: at full speed, threads take blocks and free each other's.
 *
 * A block is published in one of a few slots; whoever publishes next into that slot frees it. Each block says
 * in its first bytes which site took it and how big it is.
 */
#include "truth.h"
#include <pthread.h>

#define SLOTS 1024
#define THREADS 64

struct note {
    struct site *site;
    size_t size;
};

SITE(malloc);
SITE(calloc);
SITE(realloc);
SITE(aligned);

static struct note *slots[SLOTS];
static pthread_barrier_t start, end;
static long rounds;

static struct note *noted(struct site *site, void *at, size_t size) {
    struct note *note = took(site, at, size);
    if (!note) _exit(5);
    *note = (struct note){site, size};
    return note;
}

NOINLINE static struct note *site_malloc(size_t size) { return noted(&at_malloc, malloc(size), size); }
NOINLINE static struct note *site_calloc(size_t size) { return noted(&at_calloc, calloc(1, size), size); }
NOINLINE static struct note *site_realloc(size_t size) { return noted(&at_realloc, realloc(NULL, size), size); }
NOINLINE static struct note *site_aligned(size_t size) {
    void *at = NULL;
    if (posix_memalign(&at, 64, size) != 0) _exit(5);
    return noted(&at_aligned, at, size);
}

static struct note *any(uint64_t random) {
    size_t size = sizeof(struct note) + (random >> 32) % 500;
    switch (random % 8) {
    case 0: return site_calloc(size);
    case 1: return site_realloc(size);
    case 2: return site_aligned(size);
    default: return site_malloc(size);
    }
}

static void *work(void *argument) {
    uint64_t seed = (uintptr_t)argument;
    pthread_barrier_wait(&start);
    for (long i = 0; i < rounds; i++) {
        struct note *mine = any(truth_random(&seed));
        struct note **slot = &slots[truth_random(&seed) % SLOTS];
        struct note *other = __atomic_exchange_n(slot, mine, __ATOMIC_ACQ_REL);
        if (other) {
            gave(other->site, other->size);
            free(other);
        }
    }
    pthread_barrier_wait(&end);
    truth_stay();
}

int main(int argc, char **argv) {
    unsigned threads = argc > 1 ? (unsigned)atoi(argv[1]) : 8;
    pthread_t ids[THREADS];
    rounds = argc > 2 ? atol(argv[2]) : 20000;
    if (threads > THREADS) return 2;
    truth_block_go();
    pthread_barrier_init(&start, NULL, threads + 1);
    pthread_barrier_init(&end, NULL, threads + 1);
    for (unsigned i = 0; i < threads; i++)
        if (pthread_create(&ids[i], NULL, work, (void *)(uintptr_t)(i + 1)) != 0) return 2;
    truth_ready();
    pthread_barrier_wait(&start);
    pthread_barrier_wait(&end);
    truth_report();
    return 0;
}
