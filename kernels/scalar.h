// Scalar popcount: 64 products in three instructions (xor, popcnt, add). Four weight rows interleaved word by word, against two
// pixels: eight counts stay in general registers, each loaded word is used twice or four times.
#pragma once
#include "cpu.h"
#include "reference.h"

#if defined(__x86_64__)
#define BNN_TARGET_POPCNT __attribute__((target("popcnt")))
#else
#define BNN_TARGET_POPCNT
#endif

namespace bnn::scalar {

inline bool supported() {
#if defined(__x86_64__)
    return cpu().popcnt;
#else
    return true;
#endif
}

constexpr isize BLOCK = 4;

inline isize weight_bytes(isize rows, isize row_bytes) { return round_up(rows, BLOCK) * round_up(row_bytes, 8); }

inline void interleave(const uint8_t* weights, isize stride, isize rows, isize row_bytes, uint8_t* to) {
    const isize padded = round_up(row_bytes, 8);
    fill(to, 0, weight_bytes(rows, row_bytes));
    for (isize o = 0; o < rows; ++o)
        for (isize k = 0; k < row_bytes; ++k)
            to[(o / BLOCK) * BLOCK * padded + (k / 8) * 8 * BLOCK + (o % BLOCK) * 8 + k % 8] = weights[o * stride + k];
}

template <int P>
BNN_TARGET_POPCNT inline void count_block(const uint8_t* rows, isize stride, const uint8_t* w, isize n, uint16_t* counts,
                                          isize counts_stride) {
    uint64_t sum[P][BLOCK] = {};
    for (isize k = 0; k < n; ++k, w += 8 * BLOCK)
        for (int p = 0; p < P; ++p) {
            const uint64_t a = load64(rows + p * stride + 8 * k);
            for (int i = 0; i < BLOCK; ++i) sum[p][i] += (uint64_t)__builtin_popcountll(a ^ load64(w + 8 * i));
        }
    for (int p = 0; p < P; ++p)
        for (int i = 0; i < BLOCK; ++i) counts[p * counts_stride + i] = (uint16_t)sum[p][i];
}

inline void count(const uint8_t* rows, isize stride, isize pixels, const uint8_t* weights, isize row_bytes, isize from, isize to,
                  isize first, isize last, uint16_t* counts, isize counts_stride, uint8_t*) {
    const isize padded = round_up(row_bytes, 8), n = ceil_div(to - from, 8);
    for (isize o = first; o < last; o += BLOCK) {
        const uint8_t* w = weights + o * padded + from * BLOCK;
        isize p = 0;
        for (; p + 2 <= pixels; p += 2)
            count_block<2>(rows + p * stride + from, stride, w, n, counts + p * counts_stride + o - first, counts_stride);
        if (p < pixels)
            count_block<1>(rows + p * stride + from, stride, w, n, counts + p * counts_stride + o - first, counts_stride);
    }
}

inline isize scratch_bytes(isize, isize) { return 0; }

constexpr Variant variant = {"scalar", "POPCNT", supported, weight_bytes, interleave, count, scratch_bytes, reference::to_float,
                             reference::to_int16, reference::to_bits, reference::transpose, reference::pack_channels,
                             reference::pack_planes};

}  // namespace bnn::scalar
