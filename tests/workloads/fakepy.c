/* Not a Python, but it looks like one: the section, the symbols, and data that makes no sense. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef COOKIE
#define COOKIE "xdebugpy"
#endif
#ifndef VERSION
#define VERSION 0x030d00f0
#endif
#ifndef FILL
#define FILL 0x4141414141414141
#endif

struct head {
	char cookie[8];
	uint64_t version;
	uint64_t free_threaded;
	uint64_t rest[253];
};

__attribute__((section(".PyRuntime"), used)) struct head _PyRuntime = {
	COOKIE, VERSION, 0, { [0 ... 252] = FILL },
};

const unsigned long Py_Version = VERSION;
void *PyCode_Type[64] = { PyCode_Type, PyCode_Type, NULL, "code", (void *)200, (void *)8 };

__attribute__((noinline)) void *_PyEval_EvalFrameDefault(void *state, void *frame, int size)
{
	void *block = malloc(size);

	if (block == NULL)
		printf("%p %p\n", state, frame);
	return block;
}

int main(void)
{
	char line[16];

	PyCode_Type[6] = (void *)_PyEval_EvalFrameDefault;
	puts("ready");
	fflush(stdout);
	if (fgets(line, sizeof line, stdin) == NULL)
		return 1;
	for (int i = 0; i < 100; i++)
		_PyEval_EvalFrameDefault(NULL, NULL, 700);
	puts("done");
	fflush(stdout);
	if (fgets(line, sizeof line, stdin) == NULL)
		return 1;
	return 0;
}
