// The functions of real.h for each instruction set. One unit of a program includes them.
#pragma once
#if defined(__x86_64__) && !defined(BNN_EMULATE)       // emulation brings its own
#include <immintrin.h>
#endif

#include "isa/cpu.h"
#include "executor/real.h"

namespace bnn {

// The same bits as another type of vector.
template <class To, class From>
__attribute__((always_inline)) inline To as(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "the same size");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}

namespace real_plain {
typedef float VF __attribute__((vector_size(16)));
constexpr isize F = 4, KBLOCK_REAL = 256;
constexpr int ROWS = 4, VECTORS = 2;
#define FUSED 0
inline VF f_fma(VF a, VF b, VF c) { return a * b + c; }
inline VF v_bfloat16(const uint8_t* p) {
    VF v;
    for (int i = 0; i < 4; ++i) {
        uint16_t half;
        copy(&half, p + 2 * i, 2);
        const uint32_t bits = (uint32_t)half << 16;
        float x;
        copy(&x, &bits, 4);
        v[i] = x;
    }
    return v;
}
inline VF v_int8(const uint8_t* p) {
    return VF{(float)(int8_t)p[0], (float)(int8_t)p[1], (float)(int8_t)p[2], (float)(int8_t)p[3]};
}
inline void sign_bits(const float* x, const float* low, const float* high, isize n, uint64_t* to) {
    for (isize c = 0; c < n; c += 64) {
        uint64_t word = 0;
        for (isize i = 0; i < least(64, n - c); ++i)
            word |= (uint64_t)(x[c + i] >= low[c + i] && (!high || x[c + i] <= high[c + i])) << i;
        to[c / 64] = word;
    }
}
#include "executor/real.inl"
#undef FUSED
}  // namespace real_plain

}  // namespace bnn

#if defined(__x86_64__)
BNN_TARGET_BEGIN("avx2,fma")
namespace bnn::real_avx2 {
typedef float VF __attribute__((vector_size(32)));
constexpr isize F = 8, KBLOCK_REAL = 256;
constexpr int ROWS = 6, VECTORS = 2;
#define FUSED 1
inline VF f_fma(VF a, VF b, VF c) { return as<VF>(_mm256_fmadd_ps(as<__m256>(a), as<__m256>(b), as<__m256>(c))); }
inline VF v_bfloat16(const uint8_t* p) {
    return as<VF>(
        _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16)));
}
inline VF v_int8(const uint8_t* p) {
    return as<VF>(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p))));
}
inline void sign_bits(const float* x, const float* low, const float* high, isize n, uint64_t* to) {
    for (isize c = 0; c < n; c += 64) {
        uint64_t word = 0;
        isize i = 0;
        for (; i + 8 <= least(64, n - c); i += 8) {
            const __m256 v = _mm256_loadu_ps(x + c + i);
            __m256 inside = _mm256_cmp_ps(v, _mm256_loadu_ps(low + c + i), _CMP_GE_OQ);
            if (high) inside = _mm256_and_ps(inside, _mm256_cmp_ps(v, _mm256_loadu_ps(high + c + i), _CMP_LE_OQ));
            word |= (uint64_t)(uint32_t)_mm256_movemask_ps(inside) << i;
        }
        for (; i < least(64, n - c); ++i)
            word |= (uint64_t)(x[c + i] >= low[c + i] && (!high || x[c + i] <= high[c + i])) << i;
        to[c / 64] = word;
    }
}
#include "executor/real.inl"
#undef FUSED
}  // namespace bnn::real_avx2
BNN_TARGET_END

BNN_TARGET_BEGIN("avx512f,avx512bw,avx2,fma")
namespace bnn::real_avx512 {
typedef float VF __attribute__((vector_size(64)));
constexpr isize F = 16, KBLOCK_REAL = 128;
constexpr int ROWS = 12, VECTORS = 2;
#define FUSED 1
inline VF f_fma(VF a, VF b, VF c) { return as<VF>(_mm512_fmadd_ps(as<__m512>(a), as<__m512>(b), as<__m512>(c))); }
inline VF v_bfloat16(const uint8_t* p) {
    return as<VF>(
        _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16)));
}
inline VF v_int8(const uint8_t* p) {
    return as<VF>(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p))));
}
inline void sign_bits(const float* x, const float* low, const float* high, isize n, uint64_t* to) {
    for (isize c = 0; c < n; c += 64) {
        uint64_t word = 0;
        for (isize i = 0; i < least(64, n - c); i += 16) {
            const isize left = n - c - i;
            const __mmask16 there = (__mmask16)(left >= 16 ? 0xffff : (1 << left) - 1);
            const __m512 v = _mm512_maskz_loadu_ps(there, x + c + i);
            __mmask16 inside =
                _mm512_mask_cmp_ps_mask(there, v, _mm512_maskz_loadu_ps(there, low + c + i), _CMP_GE_OQ);
            if (high)
                inside = _mm512_mask_cmp_ps_mask(inside, v, _mm512_maskz_loadu_ps(there, high + c + i), _CMP_LE_OQ);
            word |= (uint64_t)inside << i;
        }
        to[c / 64] = word;
    }
}
#include "executor/real.inl"
#undef FUSED
}  // namespace bnn::real_avx512
BNN_TARGET_END

#if !defined(BNN_EMULATE)                               // the emulation has no bf16
// For CPUs that multiply bf16, twice as many products a cycle: weights of bf16, or of int8, which is exact in bf16,
// times activations rounded to bf16, summed in float32. An instruction does two products of k at once, so pairs of k
// lie side by side.
BNN_TARGET_BEGIN("avx512f,avx512bw,avx512bf16,avx2,fma")
namespace bnn::real_avx512 {

constexpr isize PAIRS = KBLOCK_REAL / 2;

template <int R>
void pairs_block(const uint32_t (*a)[PAIRS], const float* b, isize pairs, float* c, isize ldc, bool add) {
    __m512 sum[R][VECTORS];
    BNN_UNROLL for (int r = 0; r < R; ++r)
        BNN_UNROLL for (int v = 0; v < VECTORS; ++v)
            sum[r][v] = add ? _mm512_loadu_ps(c + r * ldc + v * F) : _mm512_setzero_ps();
    for (isize k = 0; k < pairs; ++k) {
        __m512i weight[VECTORS];
        BNN_UNROLL for (int v = 0; v < VECTORS; ++v) weight[v] = _mm512_loadu_si512(b + k * PANEL + v * F);
        BNN_UNROLL for (int r = 0; r < R; ++r) {
            const __m512bh x = as<__m512bh>(_mm512_set1_epi32((int)a[r][k]));
            BNN_UNROLL for (int v = 0; v < VECTORS; ++v)
                sum[r][v] = _mm512_dpbf16_ps(sum[r][v], as<__m512bh>(weight[v]), x);
        }
    }
    BNN_UNROLL for (int r = 0; r < R; ++r)
        BNN_UNROLL for (int v = 0; v < VECTORS; ++v) _mm512_storeu_ps(c + r * ldc + v * F, sum[r][v]);
}

// Multiplies R rows of floats, rounded to pairs of bf16; an odd n ends with a zero.
template <int R>
void pairs_rows(const float* a, isize lda, isize n, const float* b, float* c, isize ldc, bool add) {
    alignas(64) uint32_t pairs[R][PAIRS];
    for (int r = 0; r < R; ++r)
        for (isize k = 0; k < n; k += 2 * F) {
            const uint32_t inside = n - k < 2 * F ? (1u << (n - k)) - 1 : ~0u;
            const __m512 low = _mm512_maskz_loadu_ps((__mmask16)inside, a + r * lda + k);
            const __m512 high = _mm512_maskz_loadu_ps((__mmask16)(inside >> F), a + r * lda + k + F);
            _mm512_store_si512(pairs[r] + k / 2, as<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
        }
    pairs_block<R>(pairs, b, ceil_div(n, 2), c, ldc, add);
}

template <Weights W>
void pairs_weights(const uint8_t* b, isize n, float* to) {
    constexpr isize SIZE = W == Weights::bfloat16 ? 2 : 1;
    for (isize k = 0; k < n; k += 2)
        for (isize i = 0; i < PANEL; i += F) {
            const __m512i first = as<__m512i>(f_weights<W>(b + (k * PANEL + i) * SIZE));
            const __m512i second =
                k + 1 < n ? as<__m512i>(f_weights<W>(b + ((k + 1) * PANEL + i) * SIZE)) : _mm512_setzero_si512();
            _mm512_storeu_si512(to + k / 2 * PANEL + i, _mm512_or_si512(_mm512_srli_epi32(first, 16), second));
        }
}

inline void gemm_bf16(const float* a, isize lda, isize rows, const uint8_t* b, Weights w, isize n, float* c, isize ldc,
                      bool add, float* scratch) {
    if (w == Weights::float32) return gemm(a, lda, rows, b, w, n, c, ldc, add, scratch);
    if (rows < 4) {  // rounded too: an image's result must not depend on how many there are
        float rounded[3][KBLOCK_REAL];
        for (isize from = 0, some; from < n; from += some) {
            some = least(KBLOCK_REAL, n - from);
            for (isize r = 0; r < rows; ++r)
                for (isize k = 0; k < some; k += F) {
                    const __mmask16 inside = (__mmask16)(some - k < F ? (1u << (some - k)) - 1 : ~0u);
                    const __m256i halves =
                        as<__m256i>(_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(inside, a + r * lda + from + k)));
                    _mm512_storeu_si512(rounded[r] + k, _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
                }
            gemm(rounded[0], KBLOCK_REAL, rows, b + from * PANEL * (w == Weights::bfloat16 ? 2 : 1), w, some, c, ldc,
                 add || from, scratch);
        }
        return;
    }
    (w == Weights::int8 ? pairs_weights<Weights::int8> : pairs_weights<Weights::bfloat16>)(b, n, scratch);
    isize r = 0;
    for (; r + ROWS <= rows; r += ROWS) pairs_rows<ROWS>(a + r * lda, lda, n, scratch, c + r * ldc, ldc, add);
    for (; r + 4 <= rows; r += 4) pairs_rows<4>(a + r * lda, lda, n, scratch, c + r * ldc, ldc, add);
    for (; r < rows; ++r) pairs_rows<1>(a + r * lda, lda, n, scratch, c + r * ldc, ldc, add);
}

constexpr Real real_bf16 = {PANEL,  KBLOCK_REAL, gemm_bf16, stage,       steps,     add,
                            larger, divide,      combine,   convert_add, sign_bits, nullptr};

}  // namespace bnn::real_avx512
BNN_TARGET_END
#endif
#endif

#if defined(BNN_EMULATE)
namespace bnn::real_amx {
constexpr auto without_tiles = real_avx512::gemm;
}
#elif defined(BNN_AMX)
namespace bnn::real_amx {
constexpr auto without_tiles = real_avx512::gemm_bf16;
}
#endif
#if defined(__x86_64__)
#include "executor/real_amx.h"
#endif

namespace bnn {

const Real& real_for(const char* variant) {
#if defined(__x86_64__)
    const bool wide = !__builtin_strncmp(variant, "avx512", 6) || !__builtin_strcmp(variant, "amx"),
               vector = wide || !__builtin_strcmp(variant, "avx2");
#if defined(BNN_AMX)
    if (!__builtin_strcmp(variant, "amx") && real_amx::supported()) return real_amx::real;
#endif
#if !defined(BNN_EMULATE)
    if (wide && cpu().avx512bf16 && cpu().fma) return real_avx512::real_bf16;
#endif
    if (wide && cpu().avx512bw && cpu().fma) return real_avx512::real;
    if (vector && cpu().avx2 && cpu().fma) return real_avx2::real;
#else
    (void)variant;
#endif
    return real_plain::real;
}

}  // namespace bnn
