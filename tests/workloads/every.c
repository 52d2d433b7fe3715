/*
 * every ROUNDS: every function of the allocator in every case, in one thread.
 *
 * Functions that the allocator at hand does not have itself are left out: glibc's pvalloc must not feed
 * another allocator's free.
 */
#include "truth.h"
#include <dlfcn.h>
#include <errno.h>

#define HELD 4096

struct block {
    void *at;
    size_t size;
    struct site *site;
};

void *aligned_alloc(size_t, size_t) __attribute__((weak));
void *memalign(size_t, size_t) __attribute__((weak));
void *valloc(size_t) __attribute__((weak));
void *pvalloc(size_t) __attribute__((weak));
void *reallocarray(void *, size_t, size_t) __attribute__((weak));
void free_sized(void *, size_t) __attribute__((weak));
void free_aligned_sized(void *, size_t, size_t) __attribute__((weak));

SITE(malloc);
SITE(malloc_zero);
SITE(malloc_huge);
SITE(calloc);
SITE(calloc_overflow);
SITE(realloc_null);
SITE(realloc_grow);
SITE(realloc_shrink);
SITE(realloc_same);
SITE(realloc_zero);
SITE(realloc_huge);
SITE(reallocarray);
SITE(reallocarray_overflow);
SITE(posix_memalign);
SITE(posix_memalign_invalid);
SITE(aligned_alloc);
SITE(memalign);
SITE(valloc);
SITE(pvalloc);
SITE(strdup);

/* More than any allocator gives; kept from the compiler, which would warn. */
static volatile size_t huge = SIZE_MAX / 4;
static uint64_t seed = 1;
static struct block held[HELD];

static struct block made(struct site *site, void *at, size_t size) {
    return (struct block){took(site, at, size), size, site};
}

/* Counts what realloc made of a block; the block belongs to the caller of realloc from then on. */
static void remade(struct block *block, struct site *site, void *at, size_t size) {
    if (!at && size) {
        truth_add(&truth_calls, 1);
        return;
    }
    gave(block->site, block->size);
    *block = made(site, at, size);
}

NOINLINE static struct block site_malloc(size_t size) { return made(&at_malloc, malloc(size), size); }
NOINLINE static struct block site_malloc_zero(void) { return made(&at_malloc_zero, malloc(0), 0); }
NOINLINE static struct block site_malloc_huge(void) { return made(&at_malloc_huge, malloc(huge), huge); }
NOINLINE static struct block site_calloc(size_t n, size_t each) { return made(&at_calloc, calloc(n, each), n * each); }
NOINLINE static struct block site_calloc_overflow(void) { return made(&at_calloc_overflow, calloc(huge, 8), 0); }
NOINLINE static struct block site_realloc_null(size_t size) {
    return made(&at_realloc_null, realloc(NULL, size), size);
}
NOINLINE static void site_realloc_grow(struct block *b, size_t size) {
    remade(b, &at_realloc_grow, realloc(b->at, size), size);
}
NOINLINE static void site_realloc_shrink(struct block *b, size_t size) {
    remade(b, &at_realloc_shrink, realloc(b->at, size), size);
}
NOINLINE static void site_realloc_same(struct block *b) {
    remade(b, &at_realloc_same, realloc(b->at, b->size), b->size);
}
NOINLINE static void site_realloc_zero(struct block *b) { remade(b, &at_realloc_zero, realloc(b->at, 0), 0); }
NOINLINE static void site_realloc_huge(struct block *b) { remade(b, &at_realloc_huge, realloc(b->at, huge), huge); }
NOINLINE static void site_reallocarray(struct block *b, size_t n, size_t each) {
    remade(b, &at_reallocarray, reallocarray(b->at, n, each), n * each);
}
NOINLINE static void site_reallocarray_overflow(struct block *b) {
    remade(b, &at_reallocarray_overflow, reallocarray(b->at, huge, 8), huge);
}
NOINLINE static struct block site_posix_memalign(size_t alignment, size_t size) {
    void *at = NULL;
    if (posix_memalign(&at, alignment, size) != 0) at = NULL;
    return made(&at_posix_memalign, at, size);
}
NOINLINE static struct block site_posix_memalign_invalid(void) {
    void *at = NULL;
    if (posix_memalign(&at, 3, 100) != EINVAL) _exit(4);
    return made(&at_posix_memalign_invalid, NULL, 100);
}
NOINLINE static struct block site_aligned_alloc(size_t alignment, size_t size) {
    return made(&at_aligned_alloc, aligned_alloc(alignment, size), size);
}
NOINLINE static struct block site_memalign(size_t alignment, size_t size) {
    return made(&at_memalign, memalign(alignment, size), size);
}
NOINLINE static struct block site_valloc(size_t size) { return made(&at_valloc, valloc(size), size); }
NOINLINE static struct block site_pvalloc(size_t size) { return made(&at_pvalloc, pvalloc(size), size); }
NOINLINE static struct block site_strdup(const char *text) {
    return made(&at_strdup, strdup(text), strlen(text) + 1);
}

static void release(struct block *block) {
    if (!block->at) return;
    switch (truth_random(&seed) % 2) {
    case 0:
        if (free_sized && block->site == &at_malloc) {
            free_sized(block->at, block->size);
            break;
        }
        /* fall through */
    default:
        free(block->at);
    }
    gave(block->site, block->size);
    block->at = NULL;
}

/* Keeps a block in place of an older one. */
static void hold(struct block block) {
    struct block *slot = &held[truth_random(&seed) % HELD];
    release(slot);
    *slot = block;
}

/* Whether the allocator that serves malloc has this function too. A static program has one allocator only. */
static int ours(void *function) {
    Dl_info mine, its;
    if (!function) return 0;
    if (!dladdr((void *)malloc, &mine) || !dladdr(function, &its)) return 1;
    return mine.dli_fbase == its.dli_fbase;
}

static void reallocations(size_t size) {
    struct block b = site_malloc(size), wall = site_malloc(size);
    site_realloc_grow(&b, size * 40); /* cannot grow in place: `wall` stands behind it */
    hold(b);
    release(&wall);
    b = site_malloc(size);
    site_realloc_same(&b);
    hold(b);
    b = site_calloc(4, size);
    site_realloc_shrink(&b, size / 2 + 1);
    hold(b);
    b = site_realloc_null(size);
    site_realloc_huge(&b);
    hold(b);
    b = site_malloc(size);
    site_realloc_zero(&b);
    hold(b);
    if (reallocarray) {
        b = site_malloc(size);
        site_reallocarray(&b, 7, size);
        site_reallocarray_overflow(&b);
        hold(b);
    }
}

static void round_of_all(size_t size) {
    static const char text[] = "the quick brown fox jumps over the lazy dog";
    hold(site_malloc(size));
    hold(site_malloc_zero());
    hold(site_malloc_huge());
    hold(site_calloc(3, size));
    hold(site_calloc_overflow());
    reallocations(size);
    hold(site_posix_memalign(64, size));
    hold(site_posix_memalign_invalid());
    if (ours((void *)aligned_alloc)) hold(site_aligned_alloc(32, (size + 31) / 32 * 32));
    if (ours((void *)memalign)) hold(site_memalign(256, size));
    if (ours((void *)valloc)) hold(site_valloc(size));
    if (ours((void *)pvalloc)) hold(site_pvalloc(size));
    hold(site_strdup(text + size % 20));
    free(NULL);
}

int main(int argc, char **argv) {
    long rounds = argc > 1 ? atol(argv[1]) : 1000;
    truth_ready();
    for (long i = 0; i < rounds; i++) round_of_all(1 + truth_random(&seed) % 900);
    truth_report();
    return 0;
}
