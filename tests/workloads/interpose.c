/*
 * An interposer for LD_PRELOAD: it puts a header before every block and calls the next allocator inside. The
 * program's own call is the one that counts; the calls in here are nested.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct header {
    void *base;
    size_t size;
};

static void *(*next_malloc)(size_t);
static void (*next_free)(void *);

/* dlsym may allocate before the next allocator is known; it gets memory that is never freed. */
static _Alignas(16) char early[4096];
static size_t early_used;

static int is_early(void *at) { return (char *)at >= early && (char *)at < early + sizeof early; }

static void *early_block(size_t size) {
    size_t from = early_used;
    early_used += (size + 15) & ~(size_t)15;
    return early_used <= sizeof early ? early + from : NULL;
}

static int find_next(void) {
    static int finding;
    if (next_free) return 1;
    if (finding) return 0;
    finding = 1;
    next_malloc = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
    next_free = (void (*)(void *))dlsym(RTLD_NEXT, "free");
    return 1;
}

static struct header *header_of(void *at) { return (struct header *)at - 1; }

static void *aligned(size_t alignment, size_t size) {
    char *base, *at;
    if (!find_next()) return early_block(size);
    if (size > PTRDIFF_MAX) {
        errno = ENOMEM;
        return NULL;
    }
    base = next_malloc(size + alignment + sizeof(struct header));
    if (!base) return NULL;
    at = (char *)(((uintptr_t)base + sizeof(struct header) + alignment - 1) & ~(uintptr_t)(alignment - 1));
    *header_of(at) = (struct header){base, size};
    return at;
}

void *malloc(size_t size) { return aligned(16, size); }

void free(void *at) {
    if (at && !is_early(at)) next_free(header_of(at)->base);
}

void *calloc(size_t n, size_t each) {
    size_t size;
    void *at;
    if (__builtin_mul_overflow(n, each, &size)) {
        errno = ENOMEM;
        return NULL;
    }
    at = aligned(16, size);
    if (at && !is_early(at)) memset(at, 0, size);
    return at;
}

void *realloc(void *old, size_t size) {
    void *at;
    if (old && size == 0) {
        free(old);
        return NULL;
    }
    at = malloc(size);
    if (at && old) {
        size_t had = is_early(old) ? size : header_of(old)->size;
        memcpy(at, old, had < size ? had : size);
        free(old);
    }
    return at;
}

int posix_memalign(void **out, size_t alignment, size_t size) {
    void *at;
    if (alignment < sizeof(void *) || (alignment & (alignment - 1))) return EINVAL;
    at = aligned(alignment < 16 ? 16 : alignment, size);
    if (!at) return ENOMEM;
    *out = at;
    return 0;
}

void *aligned_alloc(size_t alignment, size_t size) { return aligned(alignment < 16 ? 16 : alignment, size); }
void *memalign(size_t alignment, size_t size) { return aligned_alloc(alignment, size); }
