// A convolution of each channel by itself: its rows would hold a bit a tap, so 64 channels are counted side by side. Bit
// o of plane b is bit b of the count of channel o; a word of differences is added to all planes with its carries.
#pragma once
#include "conv/gather.h"

namespace bnn {

// Byte i of BITS[b]: bit i of b.
struct BitTable {
    uint64_t of[256];
    constexpr BitTable() : of() {
        for (unsigned b = 0; b < 256; ++b)
            for (unsigned i = 0; i < 8; ++i) of[b] |= (uint64_t)(b >> i & 1) << 8 * i;
    }
};
constexpr BitTable BITS;

constexpr isize PLANES = 8;                     // counts up to 255

// The weights as words, [taps][words(C)], from the ones of each tap, of which a channel has one or none.
inline void depthwise_weights(const Plan& p, uint64_t* to) {
    const Conv& g = p.g;
    for (isize t = 0; t < g.taps(); ++t)
        for (isize q = 0; q < words(g.c); ++q, ++to) {
            *to = 0;
            for (isize o = 64 * q; o < least(g.c, 64 * (q + 1)); ++o)
                *to |= (uint64_t)p.blob.tap_counts[t * g.o + o] << (o - 64 * q);
        }
}

// Counts output pixel (oy, ox) of image n. As in a row, a tap outside the image holds zeros.
inline void count_depthwise(const Plan& p, isize n, isize oy, isize ox, const uint64_t* weights, uint16_t* counts) {
    const Conv& g = p.g;
    const isize line = words(g.c), y = oy * g.sh - g.ph, x = ox * g.sw - g.pw;
    const Span down = p.row_taps[p.row_class[oy]], across = p.column_taps[p.column_class[ox]];
    const uint64_t* const image = p.activations + n * g.h * g.w * line;
    for (isize q = 0; q < line; ++q) {
        uint64_t plane[PLANES] = {};
        const uint64_t* weight = weights + q;
        isize counted = 0, used = 0;            // taps so far, and planes that may hold a bit of their counts
        for (isize i = 0; i < g.kh; ++i) {
            const bool inside = i >= down.low && i < down.high;
            const uint64_t* const from = image + (inside ? y + i * g.dh : 0) * g.w * line + q;
            for (isize j = 0; j < g.kw; ++j, weight += line) {
                uint64_t carry = *weight;
                if (inside && j >= across.low && j < across.high) carry ^= from[(x + j * g.dw) * line];
                if (++counted >> used) ++used;
                for (isize b = 0; b < used; ++b) {
                    const uint64_t both = plane[b] & carry;
                    plane[b] ^= carry, carry = both;
                }
            }
        }
        for (isize byte = 0; byte < 8; ++byte) {
            uint64_t sums = 0;
            for (isize b = 0; b < used; ++b) sums += BITS.of[plane[b] >> 8 * byte & 255] << b;
            for (isize o = 0; o < 8; ++o) counts[64 * q + 8 * byte + o] = (uint16_t)(sums >> 8 * o & 255);
        }
    }
}

}  // namespace bnn
