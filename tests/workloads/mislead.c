/* For `hostile.py`: allocates while a word of the interpreter's has another value, and sets it right again. */

#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

static void *volatile kept[1 << 16];
static unsigned next;

/* `value` 1: the word is left as it is. Each case has a function of its own, so that stacks tell them apart. */
#define CASE(name)                                                                       \
	void mislead_##name(uint64_t *place, uint64_t value, size_t size, int blocks)    \
	{                                                                                \
		static const char *volatile which;                                       \
		uint64_t right = *place;                                                 \
                                                                                         \
		which = #name;                                                           \
		(void)which;                                                             \
		if (value != 1)                                                          \
			*(volatile uint64_t *)place = value;                             \
		for (int i = 0; i < blocks; i++)                                         \
			kept[next++ & 0xffff] = malloc(size);                            \
		*(volatile uint64_t *)place = right;                                     \
	}

CASE(null)
CASE(small)
CASE(wild)
CASE(kernel)
CASE(unmapped)
CASE(edge)
CASE(zeroes)
CASE(askew)
CASE(loop)
CASE(wild_code)
CASE(no_code)
CASE(honest)

int readable(const void *address, size_t size)
{
	char bytes[64];
	struct iovec here = { bytes, size }, there = { (void *)address, size };

	return process_vm_readv(getpid(), &here, 1, &there, 1, 0) == (ssize_t)size;
}

void unmap(void *address, size_t size)
{
	munmap(address, size);
}

/* The last 16 bytes before memory that is not there. */
uint64_t edge(void)
{
	char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	munmap(pages + 4096, 4096);
	return (uint64_t)pages + 4096 - 16;
}

/* Memory that is there and says nothing. */
uint64_t zeroes(void)
{
	char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	memset(pages, 0, 8192);
	return (uint64_t)pages;
}
