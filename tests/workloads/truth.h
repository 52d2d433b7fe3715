/*
 * What every truth program shares: sites that count what they hold, and the talk with the harness.
 *
 * A site is one function named `site_…` whose frame stands on the stack of every block it takes. The program
 * prints what each of its sites holds; the harness compares that with the tracer's report. Lines go to
 * standard output, one JSON object each, without any allocation:
 *
 *   {"ready":PID,"exec":N}                      waiting for SIGUSR1, nothing taken yet
 *   {"pid":PID,"exec":N,"site":"site_x",...}    the truth, one line a site
 *   {"done":PID,"exec":N,"calls":N,"ns":N}      all work done; waiting for SIGUSR1 to go on
 */
#ifndef TRUTH_H
#define TRUTH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone))

struct site {
    const char *name;
    unsigned long live_blocks, live_bytes, allocated_blocks, allocated_bytes;
};

/* Declares the counts `at_ID` of the function `site_ID`; all of them stand in one section, so that they can be listed. */
#define SITE(id) \
    static struct site at_##id __attribute__((section("sites"), used, aligned(8))) = {"site_" #id, 0, 0, 0, 0}
extern struct site __start_sites[] __attribute__((visibility("hidden")));
extern struct site __stop_sites[] __attribute__((visibility("hidden")));

/* Which program of an exec chain this is. */
static int truth_exec;
/* Allocator calls made, for the rate. */
static unsigned long truth_calls;
static struct timespec truth_began;

static inline void truth_add(unsigned long *counter, unsigned long by) {
    __atomic_fetch_add(counter, by, __ATOMIC_RELAXED);
}

/* Counts a block that `site` was given; a null pointer is no block. Returns it. */
static inline void *took(struct site *site, void *block, size_t size) {
    truth_add(&truth_calls, 1);
    if (block) {
        truth_add(&site->live_blocks, 1);
        truth_add(&site->live_bytes, size);
        truth_add(&site->allocated_blocks, 1);
        truth_add(&site->allocated_bytes, size);
    }
    return block;
}

/* Counts a block of `site` that was given back. */
static inline void gave(struct site *site, size_t size) {
    truth_add(&truth_calls, 1);
    truth_add(&site->live_blocks, -1UL);
    truth_add(&site->live_bytes, -(unsigned long)size);
}

/* A small generator with a period that no test reaches (Steele and Vigna's splitmix64). */
static inline uint64_t truth_random(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static inline void truth_line(const char *line, int length) {
    if (write(1, line, (size_t)length) != length) _exit(3);
}

/* Waits until the harness sends SIGUSR1. */
static inline void truth_wait(void) {
    sigset_t go;
    int got;
    sigemptyset(&go);
    sigaddset(&go, SIGUSR1);
    while (sigwait(&go, &got) != 0 || got != SIGUSR1) {}
}

/* Must run before the first thread starts, so that all threads leave SIGUSR1 to `truth_wait`. */
static inline void truth_block_go(void) {
    sigset_t go;
    sigemptyset(&go);
    sigaddset(&go, SIGUSR1);
    sigprocmask(SIG_BLOCK, &go, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* Says that the tracer may attach, and waits for the go. */
static inline void truth_ready(void) {
    char line[128];
    truth_block_go();
    truth_line(line, snprintf(line, sizeof line, "{\"ready\":%d,\"exec\":%d}\n", getpid(), truth_exec));
    truth_wait();
    clock_gettime(CLOCK_MONOTONIC, &truth_began);
}

/* Prints what the sites hold, without waiting. */
static inline void truth_print(void) {
    char line[512];
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    for (struct site *site = __start_sites; site < __stop_sites; site++)
        truth_line(line, snprintf(line, sizeof line,
            "{\"pid\":%d,\"exec\":%d,\"site\":\"%s\",\"live_blocks\":%lu,\"live_bytes\":%lu,"
            "\"allocated_blocks\":%lu,\"allocated_bytes\":%lu}\n",
            getpid(), truth_exec, site->name, site->live_blocks, site->live_bytes, site->allocated_blocks,
            site->allocated_bytes));
    long ns = (now.tv_sec - truth_began.tv_sec) * 1000000000L + now.tv_nsec - truth_began.tv_nsec;
    truth_line(line, snprintf(line, sizeof line, "{\"done\":%d,\"exec\":%d,\"calls\":%lu,\"ns\":%ld}\n", getpid(),
        truth_exec, truth_calls, ns));
}

/* Prints what the sites hold, and waits for the end. */
static inline void truth_report(void) {
    truth_print();
    truth_wait();
}

/* The end of a thread's work. It does not return: an ending thread frees what libc keeps for it, which is no site's. */
__attribute__((noreturn, unused)) static void truth_stay(void) {
    for (;;) pause();
}

/* In a forked child: it holds what the parent held, and has taken nothing itself. */
static inline void truth_forked(void) {
    for (struct site *site = __start_sites; site < __stop_sites; site++)
        site->allocated_blocks = site->allocated_bytes = 0;
    truth_calls = 0;
}

#endif
