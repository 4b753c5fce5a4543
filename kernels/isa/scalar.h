// Scalar popcount: three instructions (xor, popcnt, add) do 64 products. Eight weight rows are interleaved word by word
// and counted against one pixel, so that their eight counts stay in the sixteen general registers.
#pragma once
#include "isa/cpu.h"
#include "isa/reference.h"

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

constexpr isize BLOCK = 8;

inline isize weight_bytes(isize rows, isize row_bytes) { return round_up(rows, BLOCK) * round_up(row_bytes, 8); }

inline void interleave(const uint8_t* weights, isize stride, isize rows, isize row_bytes, uint8_t* to) {
    const isize padded = round_up(row_bytes, 8);
    fill(to, 0, weight_bytes(rows, row_bytes));
    for (isize o = 0; o < rows; ++o)
        for (isize k = 0; k < row_bytes; ++k)
            to[(o / BLOCK) * BLOCK * padded + (k / 8) * 8 * BLOCK + (o % BLOCK) * 8 + k % 8] = weights[o * stride + k];
}

BNN_TARGET_POPCNT inline void count(const uint8_t* rows, isize stride, isize pixels, const uint8_t* weights,
                                    isize row_bytes, isize from, isize to, isize first, isize last, uint16_t* counts,
                                    isize counts_stride, uint8_t*) {
    const isize padded = round_up(row_bytes, 8), n = ceil_div(to - from, 8);
    for (isize o = first; o < last; o += BLOCK)
        for (isize p = 0; p < pixels; ++p) {
            const uint8_t *w = weights + o * padded + from * BLOCK, *a = rows + p * stride + from;
            uint64_t sum[BLOCK] = {};
            for (isize k = 0; k < n; ++k, w += 8 * BLOCK) {
                const uint64_t word = load64(a + 8 * k);
                BNN_UNROLL for (int i = 0; i < BLOCK; ++i) sum[i] +=
                    (uint64_t)__builtin_popcountll(word ^ load64(w + 8 * i));
            }
            BNN_UNROLL for (int i = 0; i < BLOCK; ++i) counts[p * counts_stride + o - first + i] = (uint16_t)sum[i];
        }
}

inline isize scratch_bytes(isize, isize) { return 0; }

constexpr Variant variant = {"scalar",
                             "POPCNT",
                             supported,
                             weight_bytes,
                             interleave,
                             count,
                             scratch_bytes,
                             8,
                             nullptr,
                             reference::to_float,
                             reference::to_int16,
                             reference::to_bf16,
                             reference::to_bits,
                             reference::transpose,
                             reference::pack_channels,
                             reference::pack_bf16,
                             reference::pack_planes};

}  // namespace bnn::scalar
