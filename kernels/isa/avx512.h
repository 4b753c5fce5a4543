// AVX-512, two variants: with VPOPCNTDQ (Ice Lake, Zen 4 and later) and with BW alone (Skylake-X and its kin).
#pragma once
#include "isa/avx2.h"

BNN_TARGET_BEGIN("avx512f,avx512bw,avx2,popcnt")
namespace bnn::avx512bw {

// Part of both variants: one comparison makes the mask of 32 channels.
inline void to_bits(const uint16_t* counts, isize counts_stride, isize pixels, const uint16_t* limit, isize channels,
                    uint64_t* to, isize to_stride) {
    for (isize o = 0; o < channels; o += 64) {
        const __m512i low = _mm512_loadu_si512((const void*)(limit + o)),
                      high = _mm512_loadu_si512((const void*)(limit + o + 32));
        for (isize p = 0; p < pixels; ++p) {
            const uint16_t* c = counts + p * counts_stride + o;
            const uint64_t a = _mm512_cmpge_epu16_mask(_mm512_loadu_si512((const void*)c), low);
            const uint64_t b = _mm512_cmpge_epu16_mask(_mm512_loadu_si512((const void*)(c + 32)), high);
            to[p * to_stride + o / 64] = ~(a | b << 32);
        }
    }
}

}  // namespace bnn::avx512bw
BNN_TARGET_END

// With VPOPCNTDQ three instructions (xor, vpopcntd, add) do 512 products. Each 32-bit lane is one output channel, so
// two vectors hold 32 channels. The xor's memory operand broadcasts a word of the row to all lanes. The sums of 8
// pixels x 2 vectors fill 16 of the 32 registers, so a loaded weight vector is used eight times. Each pixel has its own
// pointer, so rows may lie anywhere.
BNN_TARGET_BEGIN("avx512f,avx512bw,avx512vpopcntdq,avx2,popcnt")
namespace bnn::avx512vpopcnt {

using V = __m512i;
constexpr isize WIDTH = 16, BLOCK = 2;

inline isize weight_bytes(isize rows, isize row_bytes) { return round_up(rows, WIDTH) * round_up(row_bytes, 4); }

inline void interleave(const uint8_t* weights, isize stride, isize rows, isize row_bytes, uint8_t* to) {
    const isize padded = round_up(row_bytes, 4);
    fill(to, 0, weight_bytes(rows, row_bytes));
    for (isize first = 0; first < rows; first += BLOCK * WIDTH) {
        const isize lanes = round_up(least(BLOCK * WIDTH, rows - first), WIDTH);
        for (isize o = first; o < least(rows, first + lanes); ++o)
            for (isize k = 0; k < row_bytes; ++k)
                to[first * padded + (k / 4 * lanes + o - first) * 4 + k % 4] = weights[o * stride + k];
    }
}

// Counts P pixels against C vectors of channels, over `lines` lines of n words that are line_stride bytes apart.
template <int P, int C>
void count_block(const uint8_t* const* at, isize line_stride, isize lines, const uint8_t* w, isize n, uint16_t* counts,
                 isize counts_stride) {
    const uint8_t* row[P];
    V sum[P][C];
    BNN_UNROLL for (int p = 0; p < P; ++p) {
        row[p] = at[p];
        BNN_UNROLL for (int c = 0; c < C; ++c) sum[p][c] = _mm512_setzero_si512();
    }
    for (isize i = 0; i < lines; ++i)
        for (isize k = i * line_stride, end = k + 4 * n; k < end; k += 4, w += 64 * C) {
            V weight[C];
            BNN_UNROLL for (int c = 0; c < C; ++c) weight[c] = _mm512_loadu_si512((const void*)(w + 64 * c));
            BNN_UNROLL for (int p = 0; p < P; ++p) {
                int32_t word;
                copy(&word, row[p] + k, 4);
                const V a = _mm512_set1_epi32(word);
                BNN_UNROLL for (int c = 0; c < C; ++c)
                    sum[p][c] = _mm512_add_epi32(sum[p][c], _mm512_popcnt_epi32(_mm512_xor_si512(a, weight[c])));
            }
        }
    const V even = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32,
                                    30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    BNN_UNROLL for (int p = 0; p < P; ++p, counts += counts_stride)
        if (C == 2) _mm512_storeu_si512((void*)counts, _mm512_permutex2var_epi16(sum[p][0], even, sum[p][C - 1]));
        else _mm256_storeu_si256((__m256i*)counts, _mm512_cvtepi32_epi16(sum[p][0]));
}

template <int C>
void count_pixels(const uint8_t* const* at, isize line_stride, isize lines, isize pixels, const uint8_t* w, isize n,
                  uint16_t* counts, isize counts_stride) {
    isize p = 0;
    for (; p + 8 <= pixels; p += 8)
        count_block<8, C>(at + p, line_stride, lines, w, n, counts + p * counts_stride, counts_stride);
    for (; p + 2 <= pixels; p += 2)
        count_block<2, C>(at + p, line_stride, lines, w, n, counts + p * counts_stride, counts_stride);
    if (p < pixels) count_block<1, C>(at + p, line_stride, lines, w, n, counts + p * counts_stride, counts_stride);
}

inline void count_lines(const uint8_t* const* at, isize line_stride, isize line_bytes, isize pixels,
                        const uint8_t* weights, isize row_bytes, isize from, isize to, isize first, isize last,
                        uint16_t* counts, isize counts_stride, uint8_t*) {
    const isize padded = round_up(row_bytes, 4), n = ceil_div(line_bytes, 4), lines = (to - from) / line_bytes;
    for (isize o = first; o < last; o += BLOCK * WIDTH) {
        const isize lanes = round_up(least(BLOCK * WIDTH, last - o), WIDTH);
        const uint8_t* w = weights + o * padded + from * lanes;
        (lanes == WIDTH ? count_pixels<1> : count_pixels<2>)(at, line_stride, lines, pixels, w, n, counts + o - first,
                                                             counts_stride);
    }
}

inline void count(const uint8_t* rows, isize stride, isize pixels, const uint8_t* weights, isize row_bytes, isize from,
                  isize to, isize first, isize last, uint16_t* counts, isize counts_stride, uint8_t*) {
    const uint8_t* at[64];
    for (isize p = 0; p < pixels; p += 64) {
        const isize some = least(64, pixels - p);
        for (isize i = 0; i < some; ++i) at[i] = rows + (p + i) * stride + from;
        count_lines(at, 0, to - from, some, weights, row_bytes, from, to, first, last, counts + p * counts_stride,
                    counts_stride, nullptr);
    }
}

inline isize scratch_bytes(isize, isize) { return 0; }
inline bool supported() { return cpu().avx512vpopcntdq; }

constexpr Variant variant = {"avx512vpopcnt",
                             "AVX-512 F, BW and VPOPCNTDQ",
                             supported,
                             weight_bytes,
                             interleave,
                             count,
                             scratch_bytes,
                             4,
                             count_lines,
                             avx2::plain::to_float,
                             avx2::plain::to_int16,
                             avx2::plain::to_bf16,
                             avx512bw::to_bits,
                             avx2::transpose,
                             avx2::pack_channels,
                             avx2::plain::pack_bf16,
                             avx2::pack_planes};

}  // namespace bnn::avx512vpopcnt
BNN_TARGET_END

// Without VPOPCNTDQ: the pair-table kernel, with 64 channels a vector.
BNN_TARGET_BEGIN("avx512f,avx512bw,avx2,popcnt")
namespace bnn::avx512bw {

constexpr isize WIDTH = 64;
#define BNN_BLOCK 2
using V = __m512i;
inline V v_load(const void* p) { return _mm512_loadu_si512(p); }
inline void v_store(void* p, V v) { _mm512_storeu_si512(p, v); }
inline V v_zero() { return _mm512_setzero_si512(); }
inline V v_set8(char x) { return _mm512_set1_epi8(x); }
inline V v_set16(short x) { return _mm512_set1_epi16(x); }
inline V v_add8(V a, V b) { return _mm512_add_epi8(a, b); }
inline V v_sub8(V a, V b) { return _mm512_sub_epi8(a, b); }
inline V v_add16(V a, V b) { return _mm512_add_epi16(a, b); }
inline V v_and(V a, V b) { return _mm512_and_si512(a, b); }
inline V v_right4(V a) { return _mm512_srli_epi16(a, 4); }
inline V v_left4(V a) { return _mm512_slli_epi16(a, 4); }
inline V v_right8(V a) { return _mm512_srli_epi16(a, 8); }
inline V v_table(const uint8_t* t) { return _mm512_broadcast_i32x4(_mm_load_si128((const __m128i*)t)); }
inline V v_lookup(V table, V at) { return _mm512_shuffle_epi8(table, at); }

#include "isa/pair_table.inl"
#undef BNN_BLOCK

inline bool supported() { return cpu().avx512bw; }

constexpr Variant variant = {"avx512bw",
                             "AVX-512 F and BW",
                             supported,
                             weight_bytes,
                             interleave,
                             count,
                             scratch_bytes,
                             STEP,
                             nullptr,
                             avx2::plain::to_float,
                             avx2::plain::to_int16,
                             avx2::plain::to_bf16,
                             to_bits,
                             avx2::transpose,
                             avx2::pack_channels,
                             avx2::plain::pack_bf16,
                             avx2::pack_planes};

}  // namespace bnn::avx512bw
BNN_TARGET_END
