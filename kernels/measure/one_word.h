// The plain popcount loop that other implementations use, written anew to be measured against: one word at a time,
// straight from the definition, with the POPCNT instruction but without blocking and interleaving, and without using a
// loaded word twice.
#pragma once
#include "isa/cpu.h"
#include "measure/measured.h"
#include "isa/scalar.h"

namespace bnn {

// rows: [O][taps][words(C)] words; counts valid taps only, so zero padding is exact. to: [N][OH][OW][O] float32. groups
// = 1.
BNN_TARGET_POPCNT inline void one_word_conv(const Conv& g, const uint64_t* bits, const uint64_t* rows, float* to) {
    const isize words_c = words(g.c);
    for (isize n = 0; n < g.n; ++n)
        for (isize o = 0; o < g.o; ++o)
            for (isize y = 0; y < g.oh(); ++y)
                for (isize x = 0; x < g.ow(); ++x) {
                    isize differ = 0, products = 0;
                    for (isize i = 0; i < g.kh; ++i)
                        for (isize j = 0; j < g.kw; ++j) {
                            const isize yy = y * g.sh - g.ph + i * g.dh, xx = x * g.sw - g.pw + j * g.dw;
                            if (yy < 0 || yy >= g.h || xx < 0 || xx >= g.w) continue;
                            products += g.c;
                            for (isize k = 0; k < words_c; ++k)
                                differ += __builtin_popcountll(bits[((n * g.h + yy) * g.w + xx) * words_c + k] ^
                                                               rows[(o * g.taps() + i * g.kw + j) * words_c + k]);
                        }
                    to[((n * g.oh() + y) * g.ow() + x) * g.o + o] = (float)(products - 2 * differ);
                }
}

}  // namespace bnn
