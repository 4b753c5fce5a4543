// What one core can do at most: loops that touch registers only, for each way to multiply and add that this CPU has. The unit is
// products (one multiply-add, or one xor and count) in a second. Used by the benchmark and the chapter, not by the kernels.
#pragma once
#include "isa/cpu.h"
#include "measure/measured.h"
#include "isa/reference.h"
#if defined(__x86_64__)
#include "isa/avx512.h"
#endif

namespace bnn {

inline bool always() { return true; }

// A chain of dependent additions, one a cycle: not a limit, but the clock. Returns cycles.
inline double clock_chain(isize rounds) {
#if defined(__x86_64__)
    uint64_t x = 0;
    for (isize i = 0; i < rounds; ++i)
        __asm__ volatile("add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0" : "+r"(x));
#elif defined(__aarch64__)
    uint64_t x = 0;
    for (isize i = 0; i < rounds; ++i)
        __asm__ volatile("add %0, %0, #1\n add %0, %0, #1\n add %0, %0, #1\n add %0, %0, #1\n add %0, %0, #1\n add %0, %0, #1\n"
                         "add %0, %0, #1\n add %0, %0, #1" : "+r"(x));
#endif
    return 8.0 * (double)rounds;
}

#if defined(__x86_64__) && !defined(BNN_EMULATE)

// Twelve independent sums hide every latency; the empty asm keeps them in registers and the compiler from folding them.
#define BNN_LIMIT(function, features, vector, zero, products, step)                                                        \
    BNN_TARGET_BEGIN(features)                                                                                             \
    inline double function(isize rounds) {                                                                                 \
        vector a = zero, b = zero, s0 = zero, s1 = a, s2 = a, s3 = a, s4 = a, s5 = a, s6 = a, s7 = a, s8 = a, s9 = a, s10 = a, s11 = a; \
        const auto one = [&](vector& s) __attribute__((always_inline)) {                                                   \
            step;                                                                                                          \
            __asm__ volatile("" : "+v"(s));                                                                                \
        };                                                                                                                 \
        for (isize r = 0; r < rounds; ++r) {                                                                               \
            __asm__ volatile("" : "+v"(a), "+v"(b));                                                                       \
            one(s0), one(s1), one(s2), one(s3), one(s4), one(s5), one(s6), one(s7), one(s8), one(s9), one(s10), one(s11);  \
        }                                                                                                                  \
        return 12.0 * (products) * (double)rounds;                                                                         \
    }                                                                                                                      \
    BNN_TARGET_END

BNN_LIMIT(fma_avx2, "avx2,fma", __m256, _mm256_setzero_ps(), 8, s = _mm256_fmadd_ps(a, b, s))
BNN_LIMIT(int8_avx2, "avx2", __m256i, _mm256_setzero_si256(), 32,
          s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(a, s), b)))
// The usual shuffle popcount: 8 instructions for 256 products.
BNN_LIMIT(shuffle_popcount_avx2, "avx2", __m256i, _mm256_setzero_si256(), 256,
          __m256i x = _mm256_xor_si256(a, s);
          s = _mm256_add_epi8(s, _mm256_add_epi8(_mm256_shuffle_epi8(b, _mm256_and_si256(x, b)),
                                                 _mm256_shuffle_epi8(b, _mm256_and_si256(_mm256_srli_epi16(x, 4), b)))))
// Ours (pair_table.inl): 9 instructions for 768 products.
BNN_LIMIT(pair_table_avx2, "avx2", __m256i, _mm256_setzero_si256(), 768,
          __m256i t = _mm256_add_epi8(_mm256_add_epi8(_mm256_shuffle_epi8(a, s), _mm256_shuffle_epi8(b, s)), _mm256_shuffle_epi8(a, b));
          __asm__ volatile("" : "+v"(a));
          s = _mm256_add_epi8(_mm256_add_epi8(s, t), _mm256_and_si256(_mm256_srli_epi16(t, 4), b)))
BNN_LIMIT(fma_avx512, "avx512f", __m512, _mm512_setzero_ps(), 16, s = _mm512_fmadd_ps(a, b, s))
BNN_LIMIT(vpopcnt_avx512, "avx512f,avx512vpopcntdq", __m512i, _mm512_setzero_si512(), 512,
          s = _mm512_add_epi32(s, _mm512_popcnt_epi32(_mm512_xor_si512(a, s))))
// The gradients' (lookup.h): 2 instructions for 192 products of a sign and a value; 10 for 256.
BNN_LIMIT(tables_of_six, "avx512f,avx512bw", __m512i, _mm512_setzero_si512(), 192,
          __m512i t = s;
          __asm__("vpermi2w %2, %1, %0" : "+v"(t) : "v"(a), "v"(b));
          s = _mm512_add_epi16(s, t))
BNN_LIMIT(tables_of_four, "avx2", __m256i, _mm256_setzero_si256(), 256,
          __m256i both = _mm256_add_epi8(_mm256_shuffle_epi8(a, s), _mm256_shuffle_epi8(b, s));
          __asm__ volatile("" : "+v"(a), "+v"(both));
          s = _mm256_add_epi16(_mm256_add_epi16(s, both), _mm256_srli_epi16(both, 8));
          s = _mm256_add_epi8(_mm256_add_epi8(s, _mm256_shuffle_epi8(a, b)), _mm256_shuffle_epi8(b, a)))
BNN_LIMIT(vnni_avx512, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), 64, s = _mm512_dpbusd_epi32(s, a, b))
BNN_LIMIT(bf16_avx512, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(), 32, s = _mm512_dpbf16_ps(s, (__m512bh)a, (__m512bh)b))

BNN_TARGET_BEGIN("popcnt")
inline double scalar_popcount(isize rounds) {
    uint64_t a = 1, b = 2, s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    const auto one = [&](uint64_t& s) __attribute__((always_inline)) {
        __asm__ volatile("" : "+r"(a));
        s += (uint64_t)__builtin_popcountll(a ^ b);
        __asm__ volatile("" : "+r"(s));
    };
    for (isize r = 0; r < rounds; ++r) {
        __asm__ volatile("" : "+r"(b));
        one(s0), one(s1), one(s2), one(s3), one(s0), one(s1), one(s2), one(s3);
    }
    return 8.0 * 64 * (double)rounds;
}
BNN_TARGET_END

const Limit limits[] = {
    {"fma-avx2", "float32, fused multiply-add, AVX2", [] { return cpu().avx2 && cpu().fma; }, fma_avx2},
    {"fma-avx512", "float32, fused multiply-add, AVX-512", [] { return cpu().avx512bw; }, fma_avx512},
    {"bf16-avx512", "bfloat16, vdpbf16ps", [] { return cpu().avx512bf16; }, bf16_avx512},
    {"lookup-avx512", "a sign and 16 bits, tables of six, vpermi2w + vpaddw, AVX-512", [] { return cpu().avx512bw; }, tables_of_six},
    {"lookup-avx2", "a sign and 15 bits, tables of four, 4 vpshufb + 6 for their sums, AVX2", [] { return cpu().avx2; }, tables_of_four},
    {"int8-avx2", "int8, vpmaddubsw + vpmaddwd + vpaddd, AVX2", [] { return cpu().avx2; }, int8_avx2},
    {"int8-avx512", "int8, vpdpbusd, AVX-512", [] { return cpu().avx512vnni; }, vnni_avx512},
    {"popcount-scalar", "1 bit, xor + popcnt + add, 64-bit words", [] { return cpu().popcnt; }, scalar_popcount},
    {"popcount-avx2", "1 bit, shuffle popcount, AVX2", [] { return cpu().avx2; }, shuffle_popcount_avx2},
    {"pair-table-avx2", "1 bit, pair tables, AVX2", [] { return cpu().avx2; }, pair_table_avx2},
    {"popcount-avx512", "1 bit, xor + vpopcntd + vpaddd, AVX-512", [] { return cpu().avx512vpopcntdq; }, vpopcnt_avx512},
    {"clock", "cycles: a chain of dependent additions", always, clock_chain},
    {},
};

#else

const Limit limits[] = {{"clock", "cycles: a chain of dependent additions", always, clock_chain}, {}};

#endif

}  // namespace bnn
