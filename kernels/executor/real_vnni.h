// Matrix products of bytes in the executor, by AVX-512 VNNI: an instruction adds four products to each of 16 sums.
#pragma once
#include "isa/cpu.h"

BNN_TARGET_BEGIN("avx512f,avx512bw,avx512vnni,avx2,fma")
namespace bnn::real_vnni {

using real_avx512::F, real_avx512::PANEL, real_avx512::VECTORS;

// Turns integers into floats as Int8Products::Last says, for F channels.
struct Ending {
    __m512i zero;
    __m512 factor;
    void take(const Int8Products::Last& last, isize row, isize channel) {
        const Quantization q = last.rows[row];
        zero = _mm512_mullo_epi32(_mm512_set1_epi32(q.zero_point), _mm512_loadu_si512(last.sums + channel));
        factor = _mm512_mul_ps(_mm512_set1_ps(q.scale), _mm512_loadu_ps(last.scales + channel));
    }
    __m512 of(__m512i sum) const { return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sum, zero)), factor); }
};

#if !defined(BNN_EMULATE)                               // the emulation multiplies bytes by tiles alone
// R rows of Int8Products::multiply, for one panel.
template <int R>
void multiply_rows(const uint8_t* a, isize lda, const uint8_t* quads, isize n, float* c, isize ldc, bool add,
                   const Int8Products::Last* last, isize first_row) {
    // With few rows, several steps of k have sums of their own: otherwise each addition would wait for the one before.
    constexpr int STEPS = R == 1 ? 4 : R == 2 ? 2 : 1;
    __m512i sum[STEPS][R][VECTORS];
    BNN_UNROLL for (int s = 0; s < STEPS; ++s)
        BNN_UNROLL for (int r = 0; r < R; ++r)
            BNN_UNROLL for (int v = 0; v < VECTORS; ++v)
                sum[s][r][v] = add && s == 0 ? _mm512_loadu_si512(c + r * ldc + v * F) : _mm512_setzero_si512();
    const auto step = [&](int s, isize k) __attribute__((always_inline)) {
        __m512i weight[VECTORS];
        BNN_UNROLL for (int v = 0; v < VECTORS; ++v) weight[v] = _mm512_loadu_si512(quads + k * PANEL + v * F * 4);
        BNN_UNROLL for (int r = 0; r < R; ++r) {
            int32_t four;
            copy(&four, a + r * lda + k, 4);
            const __m512i x = _mm512_set1_epi32(four);
            BNN_UNROLL for (int v = 0; v < VECTORS; ++v) sum[s][r][v] = _mm512_dpbusd_epi32(sum[s][r][v], x, weight[v]);
        }
    };
    isize k = 0;
    for (; k + 4 * STEPS <= n; k += 4 * STEPS) BNN_UNROLL for (int s = 0; s < STEPS; ++s) step(s, k + 4 * s);
    for (; k < n; k += 4) step(0, k);
    Ending ending[VECTORS];
    BNN_UNROLL for (int r = 0; r < R; ++r)
        BNN_UNROLL for (int v = 0; v < VECTORS; ++v) {
            if (last && (r == 0 || !last->one_image)) ending[v].take(*last, first_row + r, v * F);
            __m512i total = sum[0][r][v];
            BNN_UNROLL for (int s = 1; s < STEPS; ++s) total = _mm512_add_epi32(total, sum[s][r][v]);
            float* const to = c + r * ldc + v * F;
            if (last) _mm512_storeu_ps(to, ending[v].of(total));
            else _mm512_storeu_si512((void*)to, total);
        }
}

inline void multiply(const void* left, isize lda, isize rows, const uint8_t* quads, isize n, float* c, isize ldc,
                     bool add, const Int8Products::Last* last) {
    const uint8_t* const a = (const uint8_t*)left;
    constexpr int ROWS = real_avx512::ROWS;
    isize r = 0;
    for (; r + ROWS <= rows; r += ROWS) multiply_rows<ROWS>(a + r * lda, lda, quads, n, c + r * ldc, ldc, add, last, r);
    for (; r + 4 <= rows; r += 4) multiply_rows<4>(a + r * lda, lda, quads, n, c + r * ldc, ldc, add, last, r);
    for (; r + 2 <= rows; r += 2) multiply_rows<2>(a + r * lda, lda, quads, n, c + r * ldc, ldc, add, last, r);
    if (r < rows) multiply_rows<1>(a + r * lda, lda, quads, n, c + r * ldc, ldc, add, last, r);
}

constexpr Int8Products products = {4, 1, real_avx512::quantize<uint8_t>, multiply};
constexpr Real with_products() {
    Real real = real_avx512::real;
    real.int8 = &products;
    return real;
}
constexpr Real real = with_products();
#endif

}  // namespace bnn::real_vnni
BNN_TARGET_END
