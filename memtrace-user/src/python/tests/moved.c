// A loop whose rare part the compiler moves away, as it does in an interpreter that it has a profile of.
#include <stdio.h>

__attribute__((cold, noinline)) int rare(int *state) { return printf("%d\n", (*state)++); }
__attribute__((noinline)) int usual(int value) { return value * 7 + getc(stdin); }
__attribute__((noinline)) int other(int value) {
    int place[16] = {value};
    return __builtin_expect(value == 77, 0) ? rare(place) + usual(place[usual(1) & 15]) : usual(value);
}

int loop(const unsigned char *code, int count) {
    int state[32] = {count};
    int top = usual(count);
    while (count-- > 0) {
        switch (*code++) {
        case 0: top += usual(top); break;
        case 1: if (__builtin_expect(top > 1000, 0)) { rare(&top); state[top & 31] = rare(state); } break;
        case 2: state[top & 31]++; break;
        case 3: if (__builtin_expect(!state[top & 31], 0)) { top ^= rare(state + 3); rare(state); } break;
        case 4: top -= state[usual(top) & 31]; break;
        case 5: return other(top);
        }
    }
    return other(state[top & 31]);
}

int main(int count, char **code) { return loop((unsigned char *)code[0], count); }
