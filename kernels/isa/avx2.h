// AVX2: the pair-table kernel on 32 channels a vector (vpshufb), 8 floats a step elsewhere.
#pragma once
#if !defined(BNN_EMULATE)       // emulation brings its own
#include <immintrin.h>
#endif

#include "isa/cpu.h"
#include "isa/pair_table.h"
#include "isa/variant.h"

BNN_TARGET_BEGIN("avx2,popcnt")
namespace bnn::avx2 {

constexpr isize WIDTH = 32;
#define BNN_BLOCK 4
using V = __m256i;
inline V v_load(const void* p) { return _mm256_loadu_si256((const V*)p); }
inline void v_store(void* p, V v) { _mm256_storeu_si256((V*)p, v); }
inline V v_zero() { return _mm256_setzero_si256(); }
inline V v_set8(char x) { return _mm256_set1_epi8(x); }
inline V v_set16(short x) { return _mm256_set1_epi16(x); }
inline V v_add8(V a, V b) { return _mm256_add_epi8(a, b); }
inline V v_sub8(V a, V b) { return _mm256_sub_epi8(a, b); }
inline V v_add16(V a, V b) { return _mm256_add_epi16(a, b); }
inline V v_and(V a, V b) { return _mm256_and_si256(a, b); }
inline V v_right4(V a) { return _mm256_srli_epi16(a, 4); }
inline V v_left4(V a) { return _mm256_slli_epi16(a, 4); }
inline V v_right8(V a) { return _mm256_srli_epi16(a, 8); }
inline V v_table(const uint8_t* t) { return _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i*)t)); }
inline V v_lookup(V table, V at) { return _mm256_shuffle_epi8(table, at); }

#include "isa/pair_table.inl"
#undef BNN_BLOCK

namespace plain {
#include "isa/plain.inl"
}

inline uint32_t bits_below(const uint16_t* counts, const uint16_t* limit) {      // 32 channels
    // limit - count, saturating at 0, is 0 exactly where the bit is not set
    const V a = _mm256_subs_epu16(v_load(limit), v_load(counts)),
            b = _mm256_subs_epu16(v_load(limit + 16), v_load(counts + 16));
    const V unset = _mm256_packs_epi16(_mm256_cmpeq_epi16(a, v_zero()), _mm256_cmpeq_epi16(b, v_zero()));
    return ~(uint32_t)_mm256_movemask_epi8(_mm256_permute4x64_epi64(unset, 0xd8));
}

inline void to_bits(const uint16_t* counts, isize counts_stride, isize pixels, const uint16_t* limit, isize channels,
                    uint64_t* to, isize to_stride) {
    for (isize p = 0; p < pixels; ++p, counts += counts_stride, to += to_stride)
        for (isize o = 0; o < channels; o += 64)
            to[o / 64] = bits_below(counts + o, limit + o) | (uint64_t)bits_below(counts + o + 32, limit + o + 32)
                                                                 << 32;
}

inline uint32_t signs(const float* x) {                                          // 32 floats
    __m256i m[4];
    for (int i = 0; i < 4; ++i)
        m[i] = _mm256_castps_si256(_mm256_cmp_ps(_mm256_loadu_ps(x + 8 * i), _mm256_setzero_ps(), _CMP_GE_OQ));
    const V bytes = _mm256_packs_epi16(_mm256_packs_epi32(m[0], m[1]), _mm256_packs_epi32(m[2], m[3]));
    return (uint32_t)_mm256_movemask_epi8(
        _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}

inline void pack_channels(const float* x, isize channels, uint64_t* to) {
    isize c = 0;
    for (; c + 64 <= channels; c += 64) to[c / 64] = signs(x + c) | (uint64_t)signs(x + c + 32) << 32;
    if (c < channels) plain::pack_channels(x + c, channels - c, to + c / 64);
}

// Gathers the signs of up to 32 channels of 8 N pixels, one pixel to a 32-bit lane. Each step doubles the lanes and
// adds the next sign, the last channel first. The cache lines of a plane that follow one another are read together,
// since each plane may lie in a page of its own.
template <int N>
void half_words(const float* x, isize stride, isize channels, uint32_t* to) {
    V a[N];
    BNN_UNROLL for (int j = 0; j < N; ++j) a[j] = v_zero();
    for (isize i = channels; i-- > 0;)
        BNN_UNROLL for (int j = 0; j < N; ++j) {
            const __m256 v = _mm256_loadu_ps(x + i * stride + 8 * j);
            const V sign = _mm256_castps_si256(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_GE_OQ));
            a[j] = _mm256_sub_epi32(_mm256_add_epi32(a[j], a[j]), sign);        // true is -1
        }
    BNN_UNROLL for (int j = 0; j < N; ++j) v_store(to + 8 * j, a[j]);
}

template <int N>
void pack_some_planes(const float* x, isize stride, isize channels, uint64_t* to, isize to_stride) {
    for (isize c = 0; c < channels; c += 64) {
        uint32_t low[8 * N], high[8 * N];
        half_words<N>(x + c * stride, stride, least(32, channels - c), low);
        half_words<N>(x + (c + 32) * stride, stride, most(0, least(32, channels - c - 32)), high);
        for (int i = 0; i < 8 * N; ++i) to[i * to_stride + c / 64] = low[i] | (uint64_t)high[i] << 32;
    }
}

inline void pack_planes(const float* x, isize stride, isize channels, isize pixels, uint64_t* to, isize to_stride) {
    isize p = 0;
    for (; p + 64 <= pixels; p += 64) pack_some_planes<8>(x + p, stride, channels, to + p * to_stride, to_stride);
    for (; p + 16 <= pixels; p += 16) pack_some_planes<2>(x + p, stride, channels, to + p * to_stride, to_stride);
    if (p < pixels) plain::pack_planes(x + p, stride, channels, pixels - p, to + p * to_stride, to_stride);
}

// Transposes blocks of 8 x 8 in registers, and the rest by plain loops.
inline void transpose(const float* from, isize from_stride, isize pixels, isize channels, float* to, isize to_stride,
                      bool) {
    const isize p8 = pixels / 8 * 8, o8 = channels / 8 * 8;
    for (isize o = 0; o < o8; o += 8)
        for (isize p = 0; p < p8; p += 8) {
            __m256 r[8], s[8];
            for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(from + (p + i) * from_stride + o);
            for (int i = 0; i < 4; ++i) {
                s[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                s[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            for (int i = 0; i < 2; ++i) {
                r[4 * i] = _mm256_shuffle_ps(s[4 * i], s[4 * i + 2], 0x44),
                      r[4 * i + 1] = _mm256_shuffle_ps(s[4 * i], s[4 * i + 2], 0xee);
                r[4 * i + 2] = _mm256_shuffle_ps(s[4 * i + 1], s[4 * i + 3], 0x44),
                          r[4 * i + 3] = _mm256_shuffle_ps(s[4 * i + 1], s[4 * i + 3], 0xee);
            }
            for (int i = 0; i < 4; ++i) {
                _mm256_storeu_ps(to + (o + i) * to_stride + p, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
                _mm256_storeu_ps(to + (o + i + 4) * to_stride + p, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
            }
        }
    if (p8 < pixels && o8)
        plain::transpose(from + p8 * from_stride, from_stride, pixels - p8, o8, to + p8, to_stride, false);
    if (o8 < channels)
        plain::transpose(from + o8, from_stride, pixels, channels - o8, to + o8 * to_stride, to_stride, false);
}

inline bool supported() { return cpu().avx2; }

constexpr Variant variant = {"avx2",        "AVX2",    supported,     weight_bytes,     interleave,      count,
                             scratch_bytes, STEP,      nullptr,       plain::to_float,  plain::to_int16, plain::to_bf16,
                             to_bits,       transpose, pack_channels, plain::pack_bf16, pack_planes};

}  // namespace bnn::avx2
BNN_TARGET_END
