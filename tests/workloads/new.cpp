/*
 * new ROUNDS: every form of operator new and delete, called directly, so that an allocator that brings its own
 * operators is exercised. Sizes are multiples of the alignment and never 0, so that what is requested is the same
 * number in every library. A failing new is left out: some libraries allocate an exception on the way.
 */
#include "truth.h"
#include <new>

SITE(new);
SITE(new_array);
SITE(new_nothrow);
SITE(new_array_nothrow);
SITE(new_aligned);
SITE(new_array_aligned);
SITE(new_aligned_nothrow);
SITE(new_array_aligned_nothrow);

static const std::align_val_t alignment{64};
static const size_t held_blocks = 2048;
static uint64_t seed = 7;

NOINLINE static void *site_new(size_t n) { return took(&at_new, operator new(n), n); }
NOINLINE static void *site_new_array(size_t n) { return took(&at_new_array, operator new[](n), n); }
NOINLINE static void *site_new_nothrow(size_t n) { return took(&at_new_nothrow, operator new(n, std::nothrow), n); }
NOINLINE static void *site_new_array_nothrow(size_t n) {
    return took(&at_new_array_nothrow, operator new[](n, std::nothrow), n);
}
NOINLINE static void *site_new_aligned(size_t n) { return took(&at_new_aligned, operator new(n, alignment), n); }
NOINLINE static void *site_new_array_aligned(size_t n) {
    return took(&at_new_array_aligned, operator new[](n, alignment), n);
}
NOINLINE static void *site_new_aligned_nothrow(size_t n) {
    return took(&at_new_aligned_nothrow, operator new(n, alignment, std::nothrow), n);
}
NOINLINE static void *site_new_array_aligned_nothrow(size_t n) {
    return took(&at_new_array_aligned_nothrow, operator new[](n, alignment, std::nothrow), n);
}

struct form {
    site *counts;
    void *(*take)(size_t);
    void (*give)(void *, size_t);
};

static const form forms[] = {
    {&at_new, site_new, [](void *p, size_t) { operator delete(p); }},
    {&at_new, site_new, [](void *p, size_t n) { operator delete(p, n); }},
    {&at_new_array, site_new_array, [](void *p, size_t) { operator delete[](p); }},
    {&at_new_array, site_new_array, [](void *p, size_t n) { operator delete[](p, n); }},
    {&at_new_nothrow, site_new_nothrow, [](void *p, size_t) { operator delete(p, std::nothrow); }},
    {&at_new_array_nothrow, site_new_array_nothrow, [](void *p, size_t) { operator delete[](p, std::nothrow); }},
    {&at_new_aligned, site_new_aligned, [](void *p, size_t) { operator delete(p, alignment); }},
    {&at_new_aligned, site_new_aligned, [](void *p, size_t n) { operator delete(p, n, alignment); }},
    {&at_new_array_aligned, site_new_array_aligned, [](void *p, size_t) { operator delete[](p, alignment); }},
    {&at_new_array_aligned, site_new_array_aligned, [](void *p, size_t n) { operator delete[](p, n, alignment); }},
    {&at_new_aligned_nothrow, site_new_aligned_nothrow,
        [](void *p, size_t) { operator delete(p, alignment, std::nothrow); }},
    {&at_new_array_aligned_nothrow, site_new_array_aligned_nothrow,
        [](void *p, size_t) { operator delete[](p, alignment, std::nothrow); }},
};

struct block {
    void *at;
    size_t size;
    const form *made_by;
};

static void one(block *slot, const form *form) {
    if (slot->at) {
        slot->made_by->give(slot->at, slot->size);
        gave(slot->made_by->counts, slot->size);
    }
    size_t size = 64 * (1 + truth_random(&seed) % 20);
    *slot = block{form->take(size), size, form};
}

int main(int argc, char **argv) {
    static block held[held_blocks];
    long rounds = argc > 1 ? atol(argv[1]) : 1000;
    truth_ready();
    for (long i = 0; i < rounds; i++) {
        for (const form &form : forms) one(&held[truth_random(&seed) % held_blocks], &form);
        operator delete(nullptr);
    }
    truth_report();
    return 0;
}
