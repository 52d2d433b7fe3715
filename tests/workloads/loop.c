/*
 * loop THREADS MS [FRAMES]: a tight malloc and free of 64 bytes in every thread, for MS milliseconds, at the bottom of a
 * recursion of FRAMES frames; again at every go. Prints the nanoseconds of
 * thread CPU time that a pair takes: the median over chunks of PAIRS, of the median thread.
 *
 * CPU time of the thread, not wall time: neighbours on a shared machine do not count.
 */
#include "truth.h"
#include <pthread.h>

#define PAIRS 500
#define CHUNKS 65536
#define THREADS 64

static pthread_barrier_t start, end;
static double wanted_ns;
static int frames;
static volatile int sink;
static double samples[THREADS][CHUNKS];
static double medians[THREADS];

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double thread_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

NOINLINE static void pairs(void) {
    for (int i = 0; i < PAIRS; i++) {
        void *volatile at = malloc(64);
        free(at);
    }
}

static double wall_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* Measures at the bottom of the recursion; gives the number of samples. */
NOINLINE static long measure(long me, int above) {
    double stop;
    long n = 0;
    if (above > 0) {
        n = measure(me, above - 1);
        sink++; /* or this frame would be a jump */
        return n;
    }
    stop = wall_ns() + wanted_ns;
    while (n < CHUNKS && (n < 5 || wall_ns() < stop)) {
        double began = thread_ns();
        pairs();
        samples[me][n++] = (thread_ns() - began) / PAIRS;
    }
    return n;
}

static void *work(void *argument) {
    long me = (long)(intptr_t)argument, n;
    for (;;) {
        pthread_barrier_wait(&start);
        n = measure(me, frames);
        qsort(samples[me], (size_t)n, sizeof **samples, ascending);
        medians[me] = samples[me][n / 2];
        pthread_barrier_wait(&end);
    }
    return NULL;
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    pthread_t ids[THREADS];
    char line[64];
    wanted_ns = (argc > 2 ? atof(argv[2]) : 300) * 1e6;
    frames = argc > 3 ? atoi(argv[3]) : 0;
    if (threads < 1 || threads > THREADS) return 2;
    truth_block_go();
    pthread_barrier_init(&start, NULL, (unsigned)threads + 1);
    pthread_barrier_init(&end, NULL, (unsigned)threads + 1);
    for (int i = 0; i < threads; i++)
        if (pthread_create(&ids[i], NULL, work, (void *)(intptr_t)i) != 0) return 2;
    truth_ready();
    for (;;) {
        pthread_barrier_wait(&start);
        pthread_barrier_wait(&end);
        qsort(medians, (size_t)threads, sizeof *medians, ascending);
        truth_line(line, snprintf(line, sizeof line, "{\"ns_per_pair\":%.1f}\n", medians[threads / 2]));
        truth_wait();
    }
}
