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

#include "executor/real_avx2.h"

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
    if (wide && cpu().avx512vnni && cpu().fma) return cpu().avx512bf16 ? real_bf16::real : real_vnni::real;
#endif
    if (wide && cpu().avx512bw && cpu().fma) return real_avx512::real;
    if (vector && cpu().avx2 && cpu().fma) return real_madd::real;
#else
    (void)variant;
#endif
    return real_plain::real;
}

}  // namespace bnn
