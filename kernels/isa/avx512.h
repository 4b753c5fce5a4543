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

inline void store(float* to, __m512 v, bool past_the_caches) {
    if (past_the_caches) _mm512_stream_ps(to, v);
    else _mm512_storeu_ps(to, v);
}

// 16 floats a step, the last ones by a mask.
template <bool SCALE, bool BIAS, bool RESIDUAL>
void floats(const uint16_t* counts, isize counts_stride, const int32_t* const* base, isize pixels, isize channels,
            const float* scale, const float* bias, const float* residual, float* to, isize to_stride, bool stream) {
    for (isize p = 0; p < pixels; ++p, counts += counts_stride, to += to_stride, residual += RESIDUAL ? to_stride : 0) {
        const auto some = [&](isize o, __mmask16 m) {
            const __m512i count = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(counts + o)));
            const __m512i from = _mm512_maskz_loadu_epi32(m, base[p] + o);
            __m512 v = _mm512_cvtepi32_ps(_mm512_sub_epi32(from, _mm512_add_epi32(count, count)));
            if (SCALE) v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(m, scale + o));
            if (BIAS) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(m, bias + o));
            if (RESIDUAL) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(m, residual + o));
            return v;
        };
        isize o = 0;
        for (; o + 16 <= channels; o += 16) store(to + o, some(o, 0xffff), stream);
        const __mmask16 rest = (__mmask16)((1 << (channels - o)) - 1);
        if (rest) _mm512_mask_storeu_ps(to + o, rest, some(o, rest));
    }
}

inline void to_float(const uint16_t* counts, isize counts_stride, const int32_t* const* base, isize pixels,
                     isize channels, const float* scale, const float* bias, const float* residual, float* to,
                     isize to_stride, bool stream) {
    constexpr decltype(&to_float) ways[] = {
        floats<false, false, false>, floats<true, false, false>, floats<false, true, false>, floats<true, true, false>,
        floats<false, false, true>,  floats<true, false, true>,  floats<false, true, true>,  floats<true, true, true>};
    ways[(scale ? 1 : 0) + (bias ? 2 : 0) + (residual ? 4 : 0)](counts, counts_stride, base, pixels, channels, scale,
                                                                bias, residual, to, to_stride, stream);
}

inline void pack_channels(const float* x, isize channels, uint64_t* to) {
    const __m512 zero = _mm512_setzero_ps();
    isize c = 0;
    for (; c + 64 <= channels; c += 64) {
        uint64_t word = 0;
        BNN_UNROLL for (int i = 0; i < 4; ++i)
            word |= (uint64_t)_mm512_cmp_ps_mask(_mm512_loadu_ps(x + c + 16 * i), zero, _CMP_GE_OQ) << (16 * i);
        to[c / 64] = word;
    }
    if (c < channels) avx2::plain::pack_channels(x + c, channels - c, to + c / 64);
}

// As in avx2.h, of 16 N pixels.
template <int N>
void half_words(const float* x, isize stride, isize channels, uint32_t* to) {
    const __m512 zero = _mm512_setzero_ps();
    const __m512i one = _mm512_set1_epi32(1);
    __m512i a[N];
    BNN_UNROLL for (int j = 0; j < N; ++j) a[j] = _mm512_setzero_si512();
    for (isize i = channels; i-- > 0;)
        BNN_UNROLL for (int j = 0; j < N; ++j) {
            const __mmask16 m = _mm512_cmp_ps_mask(_mm512_loadu_ps(x + i * stride + 16 * j), zero, _CMP_GE_OQ);
            const __m512i twice = _mm512_add_epi32(a[j], a[j]);
            a[j] = _mm512_mask_add_epi32(twice, m, twice, one);
        }
    BNN_UNROLL for (int j = 0; j < N; ++j) _mm512_storeu_si512((void*)(to + 16 * j), a[j]);
}

template <int N>
void pack_some_planes(const float* x, isize stride, isize channels, uint64_t* to, isize to_stride) {
    for (isize c = 0; c < channels; c += 64) {
        uint32_t low[16 * N], high[16 * N];
        half_words<N>(x + c * stride, stride, least(32, channels - c), low);
        half_words<N>(x + (c + 32) * stride, stride, most(0, least(32, channels - c - 32)), high);
        for (int i = 0; i < 16 * N; ++i) to[i * to_stride + c / 64] = low[i] | (uint64_t)high[i] << 32;
    }
}

inline void pack_planes(const float* x, isize stride, isize channels, isize pixels, uint64_t* to, isize to_stride) {
    isize p = 0;
    for (; p + 64 <= pixels; p += 64) pack_some_planes<4>(x + p, stride, channels, to + p * to_stride, to_stride);
    for (; p + 16 <= pixels; p += 16) pack_some_planes<1>(x + p, stride, channels, to + p * to_stride, to_stride);
    if (p < pixels) avx2::plain::pack_planes(x + p, stride, channels, pixels - p, to + p * to_stride, to_stride);
}

// Transposes 16 pixels x 4 channels in registers: whole cache lines are written. The rest by AVX2.
inline void transpose(const float* from, isize from_stride, isize pixels, isize channels, float* to, isize to_stride,
                      bool stream) {
    const isize p16 = pixels / 16 * 16, o4 = channels / 4 * 4;
    const auto four = [&](const float* at, float* line) {
        __m512 r[4];                                // of pixels i, i + 4, i + 8 and i + 12, four channels each
        BNN_UNROLL for (int i = 0; i < 4; ++i) {
            const float* row = at + i * from_stride;
            r[i] = _mm512_castps128_ps512(_mm_loadu_ps(row));
            r[i] = _mm512_insertf32x4(r[i], _mm_loadu_ps(row + 4 * from_stride), 1);
            r[i] = _mm512_insertf32x4(r[i], _mm_loadu_ps(row + 8 * from_stride), 2);
            r[i] = _mm512_insertf32x4(r[i], _mm_loadu_ps(row + 12 * from_stride), 3);
        }
        const __m512 a = _mm512_unpacklo_ps(r[0], r[1]), b = _mm512_unpackhi_ps(r[0], r[1]),
                     c = _mm512_unpacklo_ps(r[2], r[3]), d = _mm512_unpackhi_ps(r[2], r[3]);
        store(line, _mm512_shuffle_ps(a, c, 0x44), stream);
        store(line + to_stride, _mm512_shuffle_ps(a, c, 0xee), stream);
        store(line + 2 * to_stride, _mm512_shuffle_ps(b, d, 0x44), stream);
        store(line + 3 * to_stride, _mm512_shuffle_ps(b, d, 0xee), stream);
    };
    for (isize first = 0; first < o4; first += 16)  // a cache line of each pixel is read for all its channels
        for (isize p = 0; p < p16; p += 16)
            for (isize o = first; o < least(o4, first + 16); o += 4)
                four(from + p * from_stride + o, to + o * to_stride + p);
    if (p16 < pixels && o4)
        avx2::transpose(from + p16 * from_stride, from_stride, pixels - p16, o4, to + p16, to_stride, false);
    if (o4 < channels)
        avx2::plain::transpose(from + o4, from_stride, pixels, channels - o4, to + o4 * to_stride, to_stride, false);
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
                             avx512bw::to_float,
                             avx2::plain::to_int16,
                             avx2::plain::to_bf16,
                             avx512bw::to_bits,
                             avx512bw::transpose,
                             avx512bw::pack_channels,
                             avx2::plain::pack_bf16,
                             avx512bw::pack_planes};

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
                             avx512bw::to_float,
                             avx2::plain::to_int16,
                             avx2::plain::to_bf16,
                             to_bits,
                             avx512bw::transpose,
                             avx512bw::pack_channels,
                             avx2::plain::pack_bf16,
                             avx512bw::pack_planes};

}  // namespace bnn::avx512bw
BNN_TARGET_END
