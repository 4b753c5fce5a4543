// Matrix products of 8 bits in the executor, by AVX2: activations less their zero point and weights are 16 bits wide
// when they are multiplied, and an instruction adds two products. (AVX2's products of bytes saturate.)
#pragma once
#include "isa/cpu.h"

BNN_TARGET_BEGIN("avx2,fma")
namespace bnn::real_madd {

using real_avx2::F, real_avx2::PANEL, real_avx2::VECTORS;

// R rows of Int8Products::multiply, for one panel.
template <int R>
void multiply_rows(const int16_t* a, isize lda, const uint8_t* pairs, isize n, float* c, isize ldc, bool add,
                   const Int8Products::Last* last, isize first_row) {
    // With few rows, several steps of k have sums of their own: otherwise each addition would wait for the one before.
    constexpr int STEPS = R == 1 ? 4 : R == 2 ? 2 : 1;
    __m256i sum[STEPS][R][VECTORS];
    BNN_UNROLL for (int s = 0; s < STEPS; ++s)
        BNN_UNROLL for (int r = 0; r < R; ++r)
            BNN_UNROLL for (int v = 0; v < VECTORS; ++v)
                sum[s][r][v] = add && s == 0 ? _mm256_loadu_si256((const __m256i*)(c + r * ldc + v * F))
                                             : _mm256_setzero_si256();
    const auto step = [&](int s, isize k) __attribute__((always_inline)) {
        __m256i weight[VECTORS];
        BNN_UNROLL for (int v = 0; v < VECTORS; ++v)
            weight[v] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(pairs + k * PANEL + v * F * 2)));
        BNN_UNROLL for (int r = 0; r < R; ++r) {
            int32_t two;
            copy(&two, a + r * lda + k, 4);
            const __m256i x = _mm256_set1_epi32(two);
            BNN_UNROLL for (int v = 0; v < VECTORS; ++v)
                sum[s][r][v] = _mm256_add_epi32(sum[s][r][v], _mm256_madd_epi16(x, weight[v]));
        }
    };
    isize k = 0;
    for (; k + 2 * STEPS <= n; k += 2 * STEPS) BNN_UNROLL for (int s = 0; s < STEPS; ++s) step(s, k + 2 * s);
    for (; k < n; k += 2) step(0, k);
    __m256 factor[VECTORS];
    BNN_UNROLL for (int r = 0; r < R; ++r)
        BNN_UNROLL for (int v = 0; v < VECTORS; ++v) {
            if (last && (r == 0 || !last->one_image))
                factor[v] = _mm256_mul_ps(_mm256_set1_ps(last->rows[first_row + r].scale),
                                          _mm256_loadu_ps(last->scales + v * F));
            __m256i total = sum[0][r][v];
            BNN_UNROLL for (int s = 1; s < STEPS; ++s) total = _mm256_add_epi32(total, sum[s][r][v]);
            float* const to = c + r * ldc + v * F;
            if (last) _mm256_storeu_ps(to, _mm256_mul_ps(_mm256_cvtepi32_ps(total), factor[v]));
            else _mm256_storeu_si256((__m256i*)to, total);
        }
}

inline void multiply(const void* left, isize lda, isize rows, const uint8_t* pairs, isize n, float* c, isize ldc,
                     bool add, const Int8Products::Last* last) {
    const int16_t* const a = (const int16_t*)left;
    constexpr int ROWS = real_avx2::ROWS;
    isize r = 0;
    for (; r + ROWS <= rows; r += ROWS) multiply_rows<ROWS>(a + r * lda, lda, pairs, n, c + r * ldc, ldc, add, last, r);
    for (; r + 2 <= rows; r += 2) multiply_rows<2>(a + r * lda, lda, pairs, n, c + r * ldc, ldc, add, last, r);
    if (r < rows) multiply_rows<1>(a + r * lda, lda, pairs, n, c + r * ldc, ldc, add, last, r);
}

constexpr Int8Products products = {2, 2, real_avx2::quantize<int16_t>, multiply};
constexpr Real with_products() {
    Real real = real_avx2::real;
    real.int8 = &products;
    return real;
}
constexpr Real real = with_products();

}  // namespace bnn::real_madd
BNN_TARGET_END
