/*
 * jit: calls malloc from generated code, which has no unwind information: `sub rsp,8; call rax; add rsp,8; ret`.
 */
#include "truth.h"
#include <sys/mman.h>

SITE(thunk);

NOINLINE static void *site_thunk(void *(*thunk)(size_t), size_t size) { return took(&at_thunk, thunk(size), size); }

int main(void) {
    static const unsigned char before[] = {0x48, 0x83, 0xec, 0x08, 0x48, 0xb8}; /* sub rsp,8; mov rax, imm64 */
    static const unsigned char after[] = {0xff, 0xd0, 0x48, 0x83, 0xc4, 0x08, 0xc3};
    void *(*target)(size_t) = malloc;
    unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED) return 2;
    memcpy(code, before, sizeof before);
    memcpy(code + sizeof before, &target, sizeof target);
    memcpy(code + sizeof before + sizeof target, after, sizeof after);
    truth_ready();
    for (int i = 0; i < 10; i++) site_thunk((void *(*)(size_t))code, 123);
    truth_report();
    return 0;
}
