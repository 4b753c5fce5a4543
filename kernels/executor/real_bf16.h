// Matrix products of the executor on CPUs that multiply bf16: weights of bf16 times activations rounded to it, summed
// in float32. An instruction multiplies pairs of k, so these lie side by side.
#pragma once
#include "executor/real_vnni.h"
#include "isa/tiles_bf16.h"

BNN_TARGET_BEGIN("avx512f,avx512bw,avx512bf16,avx2,fma")
namespace bnn::real_bf16 {

using real_avx512::F, real_avx512::PANEL, real_avx512::VECTORS;
constexpr isize DEPTH = BF16_DEPTH;
static_assert(2 * F == DEPTH, "a row is filled up to whole vectors of bf16");

// Rounds F floats to bf16.
inline void to_bf16(const float* from, uint16_t* to) {
#if defined(BNN_EMULATE)
    bf16_tiles::store_bf16(from, to);
#else
    _mm256_storeu_si256((__m256i*)to, as<__m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(from))));
#endif
}

// Rounds n floats, and writes 0 up to a multiple of DEPTH.
inline void round_row(const float* from, isize n, uint16_t* to) {
    isize k = 0;
    for (; k + F <= n; k += F) to_bf16(from + k, to + k);
    if (k < n) {
        alignas(64) float some[F] = {};
        copy(some, from + k, (n - k) * 4);
        to_bf16(some, to + k), k += F;
    }
    if (k % DEPTH) fill(to + k, 0, F * 2);
}

// F weights, in the high halves of words.
inline __m512i words_of(const uint8_t* from) {
    return _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from)), 16);
}

// Makes pairs [n / 2][PANEL] of b[n][PANEL], and pairs of 0 up to a multiple of DEPTH.
inline void pair(const uint8_t* b, isize n, uint16_t* to) {
    for (isize k = 0; k < round_up(n, DEPTH); k += 2, to += 2 * PANEL)
        for (isize i = 0; i < PANEL; i += F) {
            const __m512i first = k < n ? words_of(b + (k * PANEL + i) * 2) : _mm512_setzero_si512();
            const __m512i second = k + 1 < n ? words_of(b + ((k + 1) * PANEL + i) * 2) : _mm512_setzero_si512();
            _mm512_storeu_si512((void*)(to + 2 * i), _mm512_or_si512(_mm512_srli_epi32(first, 16), second));
        }
}

// The functions of AVX-512 with other matrix products.
constexpr Real with(decltype(Real::gemm) gemm, const Bf16Products& bf16, const Int8Products& int8) {
    Real real = real_avx512::real;
    real.gemm = gemm, real.bf16 = &bf16, real.int8 = &int8;
    return real;
}

#if !defined(BNN_EMULATE)                               // the emulation multiplies bf16 by tiles alone
// c[R][ldc] (+)= a[R] pairs, for one panel.
template <int R>
void multiply_rows(const uint16_t* a, isize lda, const uint16_t* pairs, isize n, float* c, isize ldc, bool add) {
    __m512 sum[R][VECTORS];
    BNN_UNROLL for (int r = 0; r < R; ++r)
        BNN_UNROLL for (int v = 0; v < VECTORS; ++v)
            sum[r][v] = add ? _mm512_loadu_ps(c + r * ldc + v * F) : _mm512_setzero_ps();
    for (isize k = 0; k < n; k += 2, pairs += 2 * PANEL) {
        __m512i weight[VECTORS];
        BNN_UNROLL for (int v = 0; v < VECTORS; ++v) weight[v] = _mm512_loadu_si512(pairs + 2 * v * F);
        BNN_UNROLL for (int r = 0; r < R; ++r) {
            int32_t both;
            copy(&both, a + r * lda + k, 4);
            const __m512bh x = as<__m512bh>(_mm512_set1_epi32(both));
            BNN_UNROLL for (int v = 0; v < VECTORS; ++v)
                sum[r][v] = _mm512_dpbf16_ps(sum[r][v], as<__m512bh>(weight[v]), x);
        }
    }
    BNN_UNROLL for (int r = 0; r < R; ++r)
        BNN_UNROLL for (int v = 0; v < VECTORS; ++v) _mm512_storeu_ps(c + r * ldc + v * F, sum[r][v]);
}

inline void multiply(const uint16_t* a, isize lda, isize rows, const uint16_t* pairs, isize n, float* c, isize ldc,
                     bool add) {
    constexpr int ROWS = real_avx512::ROWS;
    isize r = 0;
    for (; r + ROWS <= rows; r += ROWS) multiply_rows<ROWS>(a + r * lda, lda, pairs, n, c + r * ldc, ldc, add);
    for (; r + 4 <= rows; r += 4) multiply_rows<4>(a + r * lda, lda, pairs, n, c + r * ldc, ldc, add);
    for (; r < rows; ++r) multiply_rows<1>(a + r * lda, lda, pairs, n, c + r * ldc, ldc, add);
}

// For fewer rows than make pairs worth while; rounded too, since an image's result must not depend on how many there
// are.
inline void gemm(const float* a, isize lda, isize rows, const uint8_t* b, Weights w, isize n, float* c, isize ldc,
                 bool add, float* scratch) {
    constexpr isize SOME = real_avx512::KBLOCK_REAL;
    if (w != Weights::bfloat16) return real_avx512::gemm(a, lda, rows, b, w, n, c, ldc, add, scratch);
    float rounded[3][SOME];
    for (isize from = 0, some; from < n; from += some) {
        some = least(SOME, n - from);
        for (isize r = 0; r < rows; ++r)
            for (isize k = 0; k < some; k += F) {
                const __mmask16 inside = (__mmask16)(some - k < F ? (1u << (some - k)) - 1 : ~0u);
                const __m256i halves =
                    as<__m256i>(_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(inside, a + r * lda + from + k)));
                _mm512_storeu_si512(rounded[r] + k, _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
            }
        real_avx512::gemm(rounded[0], SOME, rows, b + from * PANEL * 2, w, some, c, ldc, add || from, scratch);
    }
}

constexpr Bf16Products products = {round_row, pair, multiply};
constexpr Real real = with(gemm, products, real_vnni::products);
#endif

}  // namespace bnn::real_bf16
BNN_TARGET_END
