// A program that loads libpython itself and runs a Python program, given as its arguments, in a thread.
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static const char *library;
static char *text;

static void *run(void *unused) {
    void *python = dlopen(library, RTLD_NOW | RTLD_GLOBAL);
    if (!python) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    char *arguments[] = {"python", "-c", text, NULL};
    int (*main_of_python)(int, char **) = (int (*)(int, char **))dlsym(python, "Py_BytesMain");
    exit(main_of_python(3, arguments));
    return unused;
}

int main(int count, char **arguments) {
    pthread_t thread;
    library = arguments[1];
    text = arguments[2];
    if (count < 3 || pthread_create(&thread, NULL, run, NULL))
        return 2;
    pthread_join(thread, NULL);
    return 0;
}
