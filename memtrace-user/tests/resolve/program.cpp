// A program with chains of inlined calls; compiled with -O2 -g.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace deep {
template <class T> struct Keeper {
    std::vector<T *> kept;
    __attribute__((always_inline)) T *take(std::size_t count) {
        void *block = std::malloc(count * sizeof(T));
        return static_cast<T *>(block);
    }
    __attribute__((always_inline)) void keep(std::size_t count) {
        for (std::size_t i = 0; i < count; i++)
            kept.push_back(take(i));
    }
};
} // namespace deep

static inline __attribute__((always_inline)) int innermost(int n) {
    return std::puts(n > 3 ? "many" : "few");
}
static inline __attribute__((always_inline)) int middle(int n) {
    return innermost(n) + 1;
}

extern "C" __attribute__((noinline)) int exported(int n) {
    deep::Keeper<std::string> strings;
    strings.keep(n);
    std::map<int, std::string> names;
    for (int i = 0; i < n; i++)
        names[i] = std::to_string(middle(i));
    return names.size() + strings.kept.size();
}

int main(int argc, char **) { return exported(argc) == 0; }
