/*
 * damaged FILE...: maps each FILE executable, as a loader would, whatever is in it; then takes blocks.
 */
#include "truth.h"
#include <fcntl.h>
#include <sys/mman.h>

SITE(leak);

NOINLINE static void *site_leak(size_t size) { return took(&at_leak, malloc(size), size); }

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        int file = open(argv[i], O_RDONLY);
        if (file < 0 || mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0) == MAP_FAILED) return 2;
        close(file);
    }
    truth_ready();
    for (int i = 0; i < 100; i++) site_leak(40);
    truth_report();
    return 0;
}
