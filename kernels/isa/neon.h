// NEON (every 64-bit ARM): eor, cnt, add do 128 products. A byte of the row is broadcast against the same byte of 16 output
// channels a vector; 4 pixels x 4 vectors of 8-bit sums stay in registers for at most 31 bytes (31 x 8 = 248), then widen.
#pragma once
#include <arm_neon.h>

#include "isa/cpu.h"
#include "isa/variant.h"

namespace bnn::neon {

#include "isa/plain.inl"

constexpr isize WIDTH = 16, BLOCK = 4, STRETCH = 31;

inline isize weight_bytes(isize rows, isize row_bytes) { return round_up(rows, WIDTH) * row_bytes; }

inline void interleave(const uint8_t* weights, isize stride, isize rows, isize row_bytes, uint8_t* to) {
    fill(to, 0, weight_bytes(rows, row_bytes));
    for (isize first = 0; first < rows; first += BLOCK * WIDTH) {
        const isize lanes = round_up(least(BLOCK * WIDTH, rows - first), WIDTH);
        for (isize o = first; o < least(rows, first + lanes); ++o)
            for (isize k = 0; k < row_bytes; ++k) to[first * row_bytes + k * lanes + o - first] = weights[o * stride + k];
    }
}

inline void add_counts(uint16_t* to, uint16x8_t v, bool store) { vst1q_u16(to, store ? v : vaddq_u16(vld1q_u16(to), v)); }

template <int P, int C>
void count_block(const uint8_t* rows, isize stride, const uint8_t* w, isize n, uint16_t* counts, isize counts_stride, bool store) {
    uint8x16_t sum[P][C];
    BNN_UNROLL for (int p = 0; p < P; ++p)
        BNN_UNROLL for (int c = 0; c < C; ++c) sum[p][c] = vdupq_n_u8(0);
    for (isize k = 0; k < n; ++k, w += WIDTH * C) {
        uint8x16_t weight[C];
        BNN_UNROLL for (int c = 0; c < C; ++c) weight[c] = vld1q_u8(w + WIDTH * c);
        BNN_UNROLL for (int p = 0; p < P; ++p) {
            const uint8x16_t a = vld1q_dup_u8(rows + p * stride + k);
            BNN_UNROLL for (int c = 0; c < C; ++c) sum[p][c] = vaddq_u8(sum[p][c], vcntq_u8(veorq_u8(a, weight[c])));
        }
    }
    BNN_UNROLL for (int p = 0; p < P; ++p)
        BNN_UNROLL for (int c = 0; c < C; ++c) {
            uint16_t* to = counts + p * counts_stride + WIDTH * c;
            add_counts(to, vmovl_u8(vget_low_u8(sum[p][c])), store);
            add_counts(to + 8, vmovl_u8(vget_high_u8(sum[p][c])), store);
        }
}

template <int C>
void count_pixels(const uint8_t* rows, isize stride, isize pixels, const uint8_t* w, isize n, uint16_t* counts, isize counts_stride,
                  bool store) {
    isize p = 0;
    for (; p + 4 <= pixels; p += 4) count_block<4, C>(rows + p * stride, stride, w, n, counts + p * counts_stride, counts_stride, store);
    for (; p < pixels; ++p) count_block<1, C>(rows + p * stride, stride, w, n, counts + p * counts_stride, counts_stride, store);
}

inline void count(const uint8_t* rows, isize stride, isize pixels, const uint8_t* weights, isize row_bytes, isize from, isize to,
                  isize first, isize last, uint16_t* counts, isize counts_stride, uint8_t*) {
    for (isize o = first; o < last; o += BLOCK * WIDTH) {
        const isize vectors = ceil_div(least(BLOCK * WIDTH, last - o), WIDTH);
        const auto pixel_loop = vectors == 1 ? count_pixels<1> : vectors == 2 ? count_pixels<2> : vectors == 3 ? count_pixels<3> : count_pixels<4>;
        for (isize k = from; k < to; k += STRETCH)
            pixel_loop(rows + k, stride, pixels, weights + o * row_bytes + k * vectors * WIDTH, least(STRETCH, to - k),
                       counts + o - first, counts_stride, k == from);
    }
}

inline isize scratch_bytes(isize, isize) { return 0; }
inline bool supported() { return true; }

constexpr Variant variant = {"neon", "NEON", supported, weight_bytes, interleave, count, scratch_bytes, 1, nullptr, to_float, to_int16,
                             to_bf16, to_bits, transpose, pack_channels, pack_bf16, pack_planes};

}  // namespace bnn::neon
