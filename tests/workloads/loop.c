/*
 * loop THREADS CHUNKS: a tight malloc and free of 64 bytes in every thread. Prints the nanoseconds of thread CPU
 * time that a pair takes: the median over CHUNKS chunks of about a millisecond, of the median thread.
 *
 * CPU time of the thread, not wall time: neighbours on a shared machine do not count.
 */
#include "truth.h"
#include <pthread.h>

#define PAIRS 2000
#define THREADS 64

static pthread_barrier_t start, end;
static long chunks;
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

static void *work(void *argument) {
    double *each = argument;
    pthread_barrier_wait(&start);
    for (long i = 0; i < chunks; i++) {
        double began = thread_ns();
        pairs();
        each[i] = (thread_ns() - began) / PAIRS;
    }
    pthread_barrier_wait(&end);
    truth_stay();
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    pthread_t ids[THREADS];
    double *each[THREADS];
    char line[64];
    chunks = argc > 2 ? atol(argv[2]) : 40;
    if (threads < 1 || threads > THREADS || chunks < 1) return 2;
    truth_block_go();
    pthread_barrier_init(&start, NULL, (unsigned)threads + 1);
    pthread_barrier_init(&end, NULL, (unsigned)threads + 1);
    for (int i = 0; i < threads; i++) {
        each[i] = calloc((size_t)chunks, sizeof **each);
        if (!each[i] || pthread_create(&ids[i], NULL, work, each[i]) != 0) return 2;
    }
    truth_ready();
    pthread_barrier_wait(&start);
    pthread_barrier_wait(&end);
    for (int i = 0; i < threads; i++) {
        qsort(each[i], (size_t)chunks, sizeof **each, ascending);
        medians[i] = each[i][chunks / 2];
    }
    qsort(medians, (size_t)threads, sizeof *medians, ascending);
    truth_line(line, snprintf(line, sizeof line, "{\"ns_per_pair\":%.1f}\n", medians[threads / 2]));
    return 0;
}
