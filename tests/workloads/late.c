/*
 * late PLUGIN: loads PLUGIN after the go and lets it allocate; then loads an allocator with symbols of its own, if one
 * is named, and uses that.
 */
#include "truth.h"
#include <dlfcn.h>

SITE(plugin);
SITE(private);

NOINLINE static void *site_private(void *(*take)(size_t), size_t size) { return took(&at_private, take(size), size); }

int main(int argc, char **argv) {
    void *plugin, *allocator;
    void *(*site_plugin)(size_t), *(*take)(size_t);
    if (argc < 2) return 2;
    truth_ready();
    plugin = dlopen(argv[1], RTLD_NOW);
    if (!plugin) return 2;
    site_plugin = (void *(*)(size_t))dlsym(plugin, "site_plugin");
    if (!site_plugin) return 2;
    truth_print();
    truth_wait();
    for (int i = 0; i < 100; i++) took(&at_plugin, site_plugin(77), 77);
    allocator = argc > 2 ? dlopen(argv[2], RTLD_NOW | RTLD_LOCAL) : NULL;
    take = allocator ? (void *(*)(size_t))dlsym(allocator, "malloc") : NULL;
    truth_print();
    truth_wait();
    for (int i = 0; take && i < 50; i++) site_private(take, 33);
    truth_report();
    return 0;
}
