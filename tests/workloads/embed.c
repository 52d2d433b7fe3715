/* Runs a Python inside: linked, or (with a path) loaded when told to. Leaks 100 blocks of 6 500 bytes in a Python function.
 * Prints `ready`, waits for a line, starts the Python and prints `done`, waits for another line. */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static const char program[] =
	"kept = [None] * 100\n"
	"def embedded_leak():\n"
	"    for place in range(100):\n"
	"        kept[place] = bytes(6500)\n"
	"import time\n"
	"time.sleep(PAUSE)\n"
	"embedded_leak()\n";

#ifdef LINKED
void Py_Initialize(void);
int PyRun_SimpleString(const char *);
#endif

static void wait_for_line(const char *word)
{
	char line[16];

	puts(word);
	fflush(stdout);
	if (fgets(line, sizeof line, stdin) == NULL)
		exit(1);
}

int main(int argc, char **argv)
{
	void (*initialize)(void) = NULL;
	int (*run)(const char *) = NULL;

	wait_for_line("ready");
#ifdef LINKED
	(void)argc;
	(void)argv;
	initialize = Py_Initialize;
	run = PyRun_SimpleString;
#else
	void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) : NULL;

	if (library == NULL) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	initialize = (void (*)(void))dlsym(library, "Py_Initialize");
	run = (int (*)(const char *))dlsym(library, "PyRun_SimpleString");
#endif
	initialize();
	if (run("PAUSE = 1.5\n") != 0 || run(program) != 0)
		return 1;
	wait_for_line("done");
	return 0;
}
