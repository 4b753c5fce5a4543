// AVX-512 by SIMDe, and what SIMDe lacks of it.
#pragma once
#define SIMDE_ENABLE_NATIVE_ALIASES
#define SIMDE_NO_NATIVE
#include <simde/x86/avx512.h>
#include <simde/x86/gfni.h>

#include <cmath>
#include <cstring>

using __mmask16 = simde__mmask16;

// A vector of N lanes of T, by its bytes.
template <class T, int N>
struct Emulated {
    T lane[N];
    template <class V>
    explicit Emulated(V v) { static_assert(sizeof v == sizeof lane, ""); std::memcpy(lane, &v, sizeof lane); }
    Emulated() : lane() {}
    template <class V>
    V as() const { V v; static_assert(sizeof v == sizeof lane, ""); return std::memcpy(&v, lane, sizeof lane), v; }
};

#define BNN_EMULATED(result, name, parameters, to, n, value)   \
    static inline result emulated_##name parameters {          \
        Emulated<to, n> to_;                                   \
        for (int i = 0; i < n; ++i) to_.lane[i] = value;       \
        return to_.as<result>();                               \
    }
#define BNN_LANE(type, n, v) (Emulated<type, n>(v).lane[i])
BNN_EMULATED(__m256i, cvtepi32_epi16, (__m512i a), int16_t, 16, (int16_t)BNN_LANE(int32_t, 16, a))
BNN_EMULATED(__m512i, cvtepi16_epi32, (__m256i a), int32_t, 16, BNN_LANE(int16_t, 16, a))
BNN_EMULATED(__m512i, cvtepu16_epi32, (__m256i a), int32_t, 16, BNN_LANE(uint16_t, 16, a))
BNN_EMULATED(__m512, cvtepi32_ps, (__m512i a), float, 16, (float)BNN_LANE(int32_t, 16, a))
BNN_EMULATED(__m512i, cvtps_epi32, (__m512 a), int32_t, 16, (int32_t)std::nearbyint(BNN_LANE(float, 16, a)))
BNN_EMULATED(__m512i, srai_epi32, (__m512i a, int by), int32_t, 16, BNN_LANE(int32_t, 16, a) >> by)
BNN_EMULATED(__m512, maskz_loadu_ps, (__mmask16 m, const void* p), float, 16, m >> i & 1 ? ((const float*)p)[i] : 0)
BNN_EMULATED(__m512i, maskz_loadu_epi32, (__mmask16 m, const void* p), int32_t, 16, m >> i & 1 ? ((const int*)p)[i] : 0)
BNN_EMULATED(__m512i, maskz_loadu_epi16, (uint32_t m, const void* p), int16_t, 32, (int16_t)(m >> i & 1 ? ((const int16_t*)p)[i] : 0))
static inline void emulated_mask_storeu_ps(void* p, __mmask16 m, __m512 a) {
    for (int i = 0; i < 16; ++i) if (m >> i & 1) ((float*)p)[i] = BNN_LANE(float, 16, a);
}
static inline void emulated_mask_storeu_epi8(void* p, uint64_t m, __m512i a) {
    for (int i = 0; i < 64; ++i) if (m >> i & 1) ((uint8_t*)p)[i] = BNN_LANE(uint8_t, 64, a);
}
static inline float emulated_reduce_add_ps(__m512 a) {
    float sum = 0;
    for (int i = 0; i < 16; ++i) sum += BNN_LANE(float, 16, a);
    return sum;
}
static inline int32_t emulated_reduce_add_epi32(__m512i a) {
    int32_t sum = 0;
    for (int i = 0; i < 16; ++i) sum += BNN_LANE(int32_t, 16, a);
    return sum;
}
static inline float emulated_cvtss_f32(__m512 a) { return Emulated<float, 16>(a).lane[0]; }

#define _mm512_stream_ps _mm512_store_ps
#define _mm512_cvtepi32_epi16 emulated_cvtepi32_epi16
#define _mm512_cvtepi16_epi32 emulated_cvtepi16_epi32
#define _mm512_cvtepu16_epi32 emulated_cvtepu16_epi32
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
#define _mm512_cvtps_epi32 emulated_cvtps_epi32
#define _mm512_srai_epi32 emulated_srai_epi32
#define _mm512_maskz_loadu_ps emulated_maskz_loadu_ps
#define _mm512_maskz_loadu_epi32 emulated_maskz_loadu_epi32
#define _mm512_maskz_loadu_epi16 emulated_maskz_loadu_epi16
#define _mm512_mask_storeu_ps emulated_mask_storeu_ps
#define _mm512_mask_storeu_epi8 emulated_mask_storeu_epi8
#define _mm512_reduce_add_ps emulated_reduce_add_ps
#define _mm512_reduce_add_epi32 emulated_reduce_add_epi32
#define _mm512_cvtss_f32 emulated_cvtss_f32
