// Gradients by look-up with AVX2: tables of four values, in 15-bit integers.
//
// vpshufb finds 32 bytes, one for each channel, in a table of 16. A sum of four values has 15 bits here: the lower 7 in
// one table, the upper 8 in another. The sums of the upper bytes may overflow, which takes away multiples of 2^15 that
// the whole cannot reach. Those of the lower must not: two together still fit a byte, and then bytes are added as
// 16-bit numbers twice, as they are and shifted to the right by 8, from which the even and the odd ones follow. Ten
// instructions for 256 products; multiplying float32 takes 32.
//
// A group's table has 16 lower bytes, then 16 upper ones. A word of the index is two groups: for each of 32 channels a
// byte, bit k for value k, then the same of the second group.
#pragma once
#include "isa/avx2.h"
#include "gradients/gradient.h"

BNN_TARGET_BEGIN("avx2,fma")
namespace bnn::lookup_avx2 {

constexpr isize F = 8, H = 32;                          // as in lookup_avx512.h
constexpr isize GROUP = 4, GROUPS = 2, CHUNK = 16;
constexpr isize TABLE = 32;
constexpr int ROWS = 4, VECTORS = 2;
constexpr float LARGEST = 16383;

using Floats = __m256;
using Ints = __m256i;
inline Floats same(float x) { return _mm256_set1_ps(x); }
inline Floats load(const float* from, isize left) {
    if (left >= F) return _mm256_loadu_ps(from);
    float some[F] = {};
    copy(some, from, most(left, 0) * 4);
    return _mm256_loadu_ps(some);
}
inline Floats load_bf16(const uint16_t* from, isize left) {
    uint16_t some[F] = {};
    if (left < F) copy(some, from, most(left, 0) * 2), from = some;
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)from)), 16));
}
inline void store(float* to, Floats x) { _mm256_storeu_ps(to, x); }
inline Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats size(Floats a) { return _mm256_andnot_ps(same(-0.0f), a); }
inline Floats lower(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline Floats power_of_two(Floats a) { return _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x7f800000))); }
inline Floats nan_unless_finite(Floats a, Floats sizes) {
    return _mm256_blendv_ps(same(__builtin_nanf("")), a, _mm256_cmp_ps(sizes, same(__builtin_inff()), _CMP_LT_OQ));
}
inline float sum(Floats a) {
    alignas(32) float each[F];
    _mm256_store_ps(each, a);
    return ((each[0] + each[4]) + (each[2] + each[6])) + ((each[1] + each[5]) + (each[3] + each[7]));
}
inline float first(Floats a) { return _mm256_cvtss_f32(a); }

inline Ints none() { return _mm256_setzero_si256(); }
inline Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
inline Ints subtract(Ints a, Ints b) { return _mm256_sub_epi32(a, b); }
inline Ints nearest(Floats a) { return _mm256_cvtps_epi32(a); }
inline int32_t sum(Ints a) {
    alignas(32) int32_t each[F];
    _mm256_store_si256((__m256i*)each, a);
    return each[0] + each[1] + each[2] + each[3] + each[4] + each[5] + each[6] + each[7];
}
inline Ints load16(const int16_t* from) { return _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i*)from)); }
inline void store16(int16_t* to, Ints a) {
    _mm_storeu_si128((__m128i*)to, _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)));
}
inline void store(int32_t* to, Ints a) { _mm256_storeu_si256((__m256i*)to, a); }

#include "gradients/lookup_words.inl"

inline __m256i table(const uint8_t* at) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)at)); }

// Adds twice[c] * half to to[c], for 8 channels, or `channels` where these are fewer.
inline void add(float* to, isize channels, __m128i twice, __m256 half) {
    const __m256 more = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(twice));
    if (channels >= F) return _mm256_storeu_ps(to, _mm256_fmadd_ps(more, half, _mm256_loadu_ps(to)));
    float each[F];
    _mm256_storeu_ps(each, _mm256_fmadd_ps(more, half, load(to, channels)));
    copy(to, each, most(channels, 0) * 4);
}

// Adds what the tables a and b of two groups hold for a word of the index: of the lower bytes, to two sums; below, of
// the upper bytes, to one. In assembly because compilers use more registers than there are.
inline void look_up(__m256i a, __m256i b, const __m256i* at, __m256i& sum, __m256i& odd) {
#if defined(BNN_EMULATE)
    const __m256i both = _mm256_add_epi8(_mm256_shuffle_epi8(a, at[0]), _mm256_shuffle_epi8(b, at[1]));
    sum = _mm256_add_epi16(sum, both), odd = _mm256_add_epi16(odd, _mm256_srli_epi16(both, 8));
#else
    __m256i both, second;
    __asm__(
        "vpshufb %6, %4, %2\n\tvpshufb %7, %5, %3\n\tvpaddb %3, %2, %2\n\tvpaddw %2, %0, %0\n\tvpsrlw $8, %2, "
        "%2\n\tvpaddw %2, %1, %1"
        : "+x"(sum), "+x"(odd), "=&x"(both), "=&x"(second)
        : "x"(a), "x"(b), "m"(at[0]), "m"(at[1]));
#endif
}
inline void look_up(__m256i a, __m256i b, const __m256i* at, __m256i& sum) {
#if defined(BNN_EMULATE)
    sum = _mm256_add_epi8(sum, _mm256_add_epi8(_mm256_shuffle_epi8(a, at[0]), _mm256_shuffle_epi8(b, at[1])));
#else
    __m256i both, second;
    __asm__("vpshufb %5, %3, %1\n\tvpshufb %6, %4, %2\n\tvpaddb %1, %0, %0\n\tvpaddb %2, %0, %0"
            : "+x"(sum), "=&x"(both), "=&x"(second) : "x"(a), "x"(b), "m"(at[0]), "m"(at[1]));
#endif
}

// find() of lookup.inl. Takes two rows at a time: there are registers for the sums of no more.
template <int V>
__attribute__((noinline)) void find(const uint8_t* const (&tables)[ROWS], const Head (&heads)[ROWS],
                                    const uint8_t* index, isize stride, isize words, isize channels,
                                    float* const (&to)[ROWS]) {
    constexpr int PAIR = 2;
    for (int first = 0; first < ROWS; first += PAIR) {
        __m256i lower[PAIR][V], odd[PAIR][V], upper[PAIR][V];
        BNN_UNROLL for (int r = 0; r < PAIR; ++r)
            BNN_UNROLL for (int v = 0; v < V; ++v) lower[r][v] = odd[r][v] = upper[r][v] = none();
        const uint8_t* row[PAIR] = {tables[first], tables[first + 1]};
        const uint8_t* word = index;
        for (isize k = 0; k < words; ++k, word += stride) {
            BNN_UNROLL for (int r = 0; r < PAIR; ++r) {
                const __m256i* const at = (const __m256i*)word;
                __m256i a = table(row[r]), b = table(row[r] + TABLE);
                BNN_UNROLL for (int v = 0; v < V; ++v) look_up(a, b, at + 2 * v, lower[r][v], odd[r][v]);
                a = table(row[r] + 16), b = table(row[r] + TABLE + 16);
                BNN_UNROLL for (int v = 0; v < V; ++v) look_up(a, b, at + 2 * v, upper[r][v]);
                row[r] += GROUPS * TABLE;
            }
        }
        BNN_UNROLL for (int r = 0; r < PAIR; ++r) {
            const __m256 half = same(heads[first + r].step * 0.5f);
            const __m256i start = _mm256_set1_epi16((int16_t)(2 * heads[first + r].start));
            BNN_UNROLL for (int v = 0; v < V;
                            ++v) {    // even bytes are the first 16 channels, see make_word; 16 bits hold twice a sum
                const __m256i even = _mm256_sub_epi16(lower[r][v], _mm256_slli_epi16(odd[r][v], 8));
                const __m256i high = upper[r][v], low16 = _mm256_add_epi16(_mm256_slli_epi16(high, 8), start);
                const __m256i high16 =
                    _mm256_add_epi16(_mm256_and_si256(high, _mm256_set1_epi16((int16_t)0xff00)), start);
                const __m256i a = _mm256_add_epi16(low16, _mm256_add_epi16(even, even));
                const __m256i b = _mm256_add_epi16(high16, _mm256_add_epi16(odd[r][v], odd[r][v]));
                float* const at = to[first + r] + v * H;
                const isize left = channels - v * H;
                add(at, left, _mm256_castsi256_si128(a), half);
                add(at + 8, left - 8, _mm256_extracti128_si256(a, 1), half);
                add(at + 16, left - 16, _mm256_castsi256_si128(b), half);
                add(at + 24, left - 24, _mm256_extracti128_si256(b, 1), half);
            }
        }
    }
}

// tabulate() of lookup.inl.
inline void tabulate(const int16_t* values, isize stride, uint8_t* to) {
    alignas(32) static constexpr uint16_t set[GROUP][16] = {            // of 0 to 15, those with bit i
        {0, 0xffff, 0, 0xffff, 0, 0xffff, 0, 0xffff, 0, 0xffff, 0, 0xffff, 0, 0xffff, 0, 0xffff},
        {0, 0, 0xffff, 0xffff, 0, 0, 0xffff, 0xffff, 0, 0, 0xffff, 0xffff, 0, 0, 0xffff, 0xffff},
        {0, 0, 0, 0, 0xffff, 0xffff, 0xffff, 0xffff, 0, 0, 0, 0, 0xffff, 0xffff, 0xffff, 0xffff},
        {0, 0, 0, 0, 0, 0, 0, 0, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff}};
    __m256i sum = none();
    BNN_UNROLL for (int i = 0; i < GROUP; ++i) sum = _mm256_add_epi16(
        sum, _mm256_and_si256(_mm256_set1_epi16(values[i * stride]), _mm256_load_si256((const __m256i*)set[i])));
    sum = _mm256_add_epi16(sum, sum);
    const __m256i lower = _mm256_and_si256(sum, _mm256_set1_epi16(127));
    const __m256i upper = _mm256_and_si256(_mm256_srli_epi16(sum, 7), _mm256_set1_epi16(255));
    _mm256_storeu_si256((__m256i*)to, _mm256_permute4x64_epi64(_mm256_packus_epi16(lower, upper), 0xd8));
}

// make_word() of lookup.inl. Channels k and 16 + k become neighbours.
inline void make_word(const uint64_t* const (&rows)[WORD], isize vectors, uint8_t* to) {
    const __m256i order = _mm256_setr_epi8(0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3,
                                           1, 3, 1, 3, 1, 3);
    const __m256i bits = _mm256_setr_epi8(1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32, 64, 64, -128, -128, 1, 1, 2, 2, 4, 4,
                                          8, 8, 16, 16, 32, 32, 64, 64, -128, -128);
    for (isize v = 0; v < vectors; ++v)
        BNN_UNROLL for (int j = 0; j < GROUPS; ++j) {
            __m256i half = none();
            BNN_UNROLL for (int i = 0; i < GROUP; ++i) {
                int32_t signs;
                copy(&signs, (const uint8_t*)rows[j * GROUP + i] + 4 * v, 4);
                const __m256i spread = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(signs), order), bits);
                half = _mm256_or_si256(
                    half, _mm256_and_si256(_mm256_cmpeq_epi8(spread, bits), _mm256_set1_epi8((char)(1 << i))));
            }
            _mm256_storeu_si256((__m256i*)(to + INDEX * v) + j, half);
        }
}

#include "gradients/lookup.inl"

}  // namespace bnn::lookup_avx2
BNN_TARGET_END
