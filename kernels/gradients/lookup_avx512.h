// Gradients by look-up with AVX-512: tables of six values, in 16-bit integers.
//
// vpermi2w finds 32 sums of six values, one for each channel, in two registers, and vpaddw adds them: two instructions
// for 192 products. A group's table has 64 entries of 16 bits, a word of the index two groups: for each of 32 channels
// 16 bits, bit k for value k.
#pragma once
#include "isa/avx2.h"
#include "gradients/gradient.h"

BNN_TARGET_BEGIN("avx512f,avx512bw")
namespace bnn::lookup_avx512 {

constexpr isize F = 16, H = 32;                         // floats of a vector; channels that are looked up together
constexpr isize GROUP = 6, GROUPS = 2, CHUNK = 16;      // values of a table; tables of a word; words of a chunk
constexpr isize TABLE = 128;                            // bytes
constexpr int ROWS = 4, VECTORS = 4;
constexpr float LARGEST = 32767;

using Floats = __m512;
using Ints = __m512i;
inline __mmask16 inside(isize left) { return (__mmask16)(left < F ? (1 << most(left, 0)) - 1 : 0xffff); }
inline Floats same(float x) { return _mm512_set1_ps(x); }
inline Floats load(const float* from, isize left) {
    return left < F ? _mm512_maskz_loadu_ps(inside(left), from) : _mm512_loadu_ps(from);
}
inline Floats load_bf16(const uint16_t* from, isize left) {
    const __m256i some = left < F ? _mm512_castsi512_si256(_mm512_maskz_loadu_epi16(inside(left), from))
                                  : _mm256_loadu_si256((const __m256i*)from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(some), 16));
}
inline void store(float* to, Floats x) { _mm512_storeu_ps(to, x); }
inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats size(Floats a) { return _mm512_abs_ps(a); }
inline Floats lower(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats power_of_two(Floats a) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7f800000)));
}
inline Floats nan_unless_finite(Floats a, Floats sizes) {
    const __mmask16 finite = _mm512_cmp_ps_mask(sizes, same(__builtin_inff()), _CMP_LT_OQ);
    return _mm512_mask_blend_ps(finite, same(__builtin_nanf("")), a);
}
inline float sum(Floats a) { return _mm512_reduce_add_ps(a); }
inline float first(Floats a) { return _mm512_cvtss_f32(a); }

inline Ints none() { return _mm512_setzero_si512(); }
inline Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Ints subtract(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
inline Ints nearest(Floats a) { return _mm512_cvtps_epi32(a); }
inline int32_t sum(Ints a) { return _mm512_reduce_add_epi32(a); }
inline Ints load16(const int16_t* from) { return _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i*)from)); }
inline void store16(int16_t* to, Ints a) { _mm256_storeu_si256((__m256i*)to, _mm512_cvtepi32_epi16(a)); }
inline void store(int32_t* to, Ints a) { _mm512_storeu_si512(to, a); }

#include "gradients/lookup_words.inl"

// Adds what the tables hold at `at` to the sum. In assembly because compilers take vpermt2w, which overwrites a table
// that the next look-up needs, and because they add in another order, for which there are too few registers.
inline void look_up(__m512i at, __m512i low, __m512i high, __m512i& sum) {
#if defined(BNN_EMULATE)
    sum = _mm512_add_epi16(sum, _mm512_permutex2var_epi16(low, at, high));
#else
    __asm__("vpermi2w %3, %2, %0\n\tvpaddw %0, %1, %1" : "+v"(at), "+v"(sum) : "v"(low), "v"(high));
#endif
}

// Adds steps[c] * step to to[c]. Whole vectors are stored without a mask, since a masked store takes far longer on some
// CPUs.
inline void add(float* to, isize channels, __m512i steps, __m512 step) {
    const __m512 more = _mm512_cvtepi32_ps(steps);
    if (channels >= F) return _mm512_storeu_ps(to, _mm512_fmadd_ps(more, step, _mm512_loadu_ps(to)));
    const __mmask16 those = inside(channels);
    _mm512_mask_storeu_ps(to, those, _mm512_fmadd_ps(more, step, _mm512_maskz_loadu_ps(those, to)));
}

template <int V>
__attribute__((noinline)) void find(const uint8_t* const (&tables)[ROWS], const Head (&heads)[ROWS],
                                    const uint8_t* index, isize stride, isize words, isize channels,
                                    float* const (&to)[ROWS]) {
    __m512i found[ROWS][V];
    BNN_UNROLL for (int r = 0; r < ROWS; ++r)
        BNN_UNROLL for (int v = 0; v < V; ++v) found[r][v] = _mm512_set1_epi16((int16_t)heads[r].start);
    for (isize k = 0; k < words; ++k, index += stride) {
        __m512i at[V];
        BNN_UNROLL for (int v = 0; v < V; ++v) at[v] = _mm512_loadu_si512(index + INDEX * v);
        BNN_UNROLL for (int j = 0; j < GROUPS; ++j) {
            BNN_UNROLL for (int r = 0; r < ROWS; ++r) {
                const uint8_t* const table = tables[r] + (k * GROUPS + j) * TABLE;
                const __m512i low = _mm512_loadu_si512(table), high = _mm512_loadu_si512(table + 64);
                BNN_UNROLL for (int v = 0; v < V; ++v) look_up(at[v], low, high, found[r][v]);
            }
            BNN_UNROLL for (int v = 0; v < V; ++v) at[v] = _mm512_srli_epi16(at[v], GROUP);
        }
    }
    BNN_UNROLL for (int r = 0; r < ROWS; ++r) {
        const __m512 step = _mm512_set1_ps(heads[r].step);
        BNN_UNROLL for (int v = 0; v < V; ++v) {        // low halves are the first 16 channels, see make_word
            const __m512i low = _mm512_srai_epi32(_mm512_slli_epi32(found[r][v], 16), 16),
                          high = _mm512_srai_epi32(found[r][v], 16);
            add(to[r] + v * H, channels - v * H, low, step);
            add(to[r] + v * H + F, channels - v * H - F, high, step);
        }
    }
}

inline void tabulate(const int16_t* values, isize stride, uint8_t* to) {
    constexpr uint32_t set[5] = {0xaaaaaaaa, 0xcccccccc, 0xf0f0f0f0, 0xff00ff00,
                                 0xffff0000};    // of 0 to 31, those with bit i
    __m512i low = _mm512_maskz_set1_epi16(set[0], values[0]);
    BNN_UNROLL for (int i = 1; i < 5; ++i)
        low = _mm512_mask_add_epi16(low, set[i], low, _mm512_set1_epi16(values[i * stride]));
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(values[5 * stride]));
    _mm512_storeu_si512(to, _mm512_add_epi16(low, low));
    _mm512_storeu_si512(to + 64, _mm512_add_epi16(high, high));
}

// make_word() of lookup.inl. Channels k and 16 + k become neighbours.
inline void make_word(const uint64_t* const (&rows)[WORD], isize vectors, uint8_t* to) {
    alignas(64) static constexpr uint16_t order[H] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i interleaved = _mm512_load_si512(order);
    for (isize v = 0; v < vectors; ++v) {
        __m512i word = _mm512_setzero_si512();
        BNN_UNROLL for (int r = 0; r < WORD; ++r) {
            uint32_t signs;
            copy(&signs, (const uint8_t*)rows[r] + 4 * v, 4);
            word = _mm512_mask_add_epi16(word, signs, word, _mm512_set1_epi16(1 << r));
        }
        _mm512_storeu_si512(to + INDEX * v, _mm512_permutexvar_epi16(interleaved, word));
    }
}

#include "gradients/lookup.inl"

}  // namespace bnn::lookup_avx512
BNN_TARGET_END
