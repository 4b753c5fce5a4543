// The most that one core can do: loops that use registers only, for each way to multiply and add that this CPU has. A
// product is one multiply-add, or one xor and count; the benchmark divides by seconds. The benchmark and a chapter use
// this, the kernels do not.
#pragma once
#include "isa/cpu.h"
#include "measure/measured.h"
#include "isa/reference.h"
#if defined(__x86_64__)
#include "isa/avx512.h"
#endif
#if defined(__x86_64__) && !defined(BNN_EMULATE)
#include <cpuid.h>
#endif

namespace bnn {

inline bool always() { return true; }

// The clock is no limit, but figures per cycle need it. Each of these functions runs a chain in which every instruction
// waits for the one before it, and returns its cycles. The chains consist of instructions that no CPU folds at rename:
// Intel's cores since Golden Cove execute a chain of additions of constants four at a time. A 64-bit imul of two
// registers takes 3 cycles on Intel since Nehalem and on AMD since Zen.
inline double clock_chain(isize rounds) {
#if defined(__x86_64__)
    uint64_t x = 3;
    for (isize i = 0; i < rounds; ++i)
        __asm__ volatile(
            "imul %0, %0\n imul %0, %0\n imul %0, %0\n imul %0, %0\n imul %0, %0\n imul %0, %0\n imul %0, %0\n imul "
            "%0, %0"
            : "+r"(x));
    return 3 * 8.0 * (double)rounds;
#elif defined(__aarch64__)
    uint64_t x = 0, y = 1;
    for (isize i = 0; i < rounds; ++i)
        __asm__ volatile(
            "eor %0, %0, %1\n eor %0, %0, %1\n eor %0, %0, %1\n eor %0, %0, %1\n eor %0, %0, %1\n eor %0, %0, %1\n"
            "eor %0, %0, %1\n eor %0, %0, %1"
            : "+r"(x)
            : "r"(y));
    return 8.0 * (double)rounds;
#else
    uint64_t x = 3;  // most other machines take 3 to 5 cycles: no more than a guess
    for (isize i = 0; i < rounds; ++i) {
        x *= x;
        __asm__ volatile("" : "+r"(x));
    }
    return 3.0 * (double)rounds;
#endif
}

#if defined(__x86_64__)

// A second chain, of instructions with a latency of 1. Where the two clocks differ, one of the latencies is not the one
// assumed.
inline double clock_chain_of_rotations(isize rounds) {
    uint64_t x = 3;
    for (isize i = 0; i < rounds; ++i)
        __asm__ volatile(
            "rol $7, %0\n rol $7, %0\n rol $7, %0\n rol $7, %0\n rol $7, %0\n rol $7, %0\n rol $7, %0\n rol $7, %0"
            : "+r"(x));
    return 8.0 * (double)rounds;
}

// Ticks of the time stamp counter. It runs at the CPU's nominal frequency, whatever the core's clock is.
inline double time_stamps(isize rounds) {
    const uint64_t before = __builtin_ia32_rdtsc();
    clock_chain(rounds);
    return (double)(__builtin_ia32_rdtsc() - before);
}

#endif

#if defined(__x86_64__) && !defined(BNN_EMULATE)

// Twelve independent sums hide every latency; the empty asm keeps them in registers and the compiler from folding them.
#    define BNN_LIMIT(function, features, vector, zero, products, step)                                             \
        BNN_TARGET_BEGIN(features)                                                                                  \
        inline double function(isize rounds) {                                                                      \
            vector a = zero, b = zero, s0 = zero, s1 = a, s2 = a, s3 = a, s4 = a, s5 = a, s6 = a, s7 = a, s8 = a,   \
                   s9 = a, s10 = a, s11 = a;                                                                        \
            const auto one = [&](vector& s) __attribute__((always_inline)) {                                        \
                step;                                                                                               \
                __asm__ volatile("" : "+v"(s));                                                                     \
            };                                                                                                      \
            for (isize r = 0; r < rounds; ++r) {                                                                    \
                __asm__ volatile("" : "+v"(a), "+v"(b));                                                            \
                one(s0), one(s1), one(s2), one(s3), one(s4), one(s5), one(s6), one(s7), one(s8), one(s9), one(s10), \
                    one(s11);                                                                                       \
            }                                                                                                       \
            return 12.0 * (products) * (double)rounds;                                                              \
        }                                                                                                           \
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
          __m256i t = _mm256_add_epi8(_mm256_add_epi8(_mm256_shuffle_epi8(a, s), _mm256_shuffle_epi8(b, s)),
                                      _mm256_shuffle_epi8(a, b));
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
BNN_LIMIT(bf16_avx512, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(), 32,
          s = _mm512_dpbf16_ps(s, (__m512bh)a, (__m512bh)b))

// Both operands signed, so a product of signs needs no correction. Spelled in bytes, since assemblers know it only
// since 2022: vpdpbssd %ymm13, %ymm12, %ymm0 to %ymm11.
BNN_TARGET_BEGIN("avx2")
inline double vnni_int8_avx2(isize rounds) {
    __asm__ volatile("vpxor %%xmm12, %%xmm12, %%xmm12\n vpxor %%xmm13, %%xmm13, %%xmm13" ::: "xmm12", "xmm13");
    for (isize r = 0; r < rounds; ++r)
        __asm__ volatile(
            ".irp low, 0xc5, 0xcd, 0xd5, 0xdd, 0xe5, 0xed, 0xf5, 0xfd\n .byte 0xc4, 0xc2, 0x1f, 0x50, \\low\n .endr\n"
            ".irp high, 0xc5, 0xcd, 0xd5, 0xdd\n .byte 0xc4, 0x42, 0x1f, 0x50, \\high\n .endr" ::
                : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11");
    return 12.0 * 32 * (double)rounds;
}
BNN_TARGET_END

#if defined(BNN_AMX)

// Four independent sums of 16 x 16. Their factors are signs in bf16, and whatever bytes those have as int8: of zeros a
// core may multiply more in a second, since it draws less power.
struct TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes_a_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// gcc's intrinsics of tiles are statements: a semicolon after each.
#        define BNN_TILE_LIMIT(function, features, products, multiply) \
            BNN_TARGET_BEGIN(features)                                 \
            inline double function(isize rounds) {                     \
                static constexpr TileShapes shapes{};                  \
                uint16_t signs[512];                                   \
                for (uint32_t i = 0, state = 1; i < 512; ++i) {        \
                    state = state * 1664525u + 1013904223u;            \
                    signs[i] = state >> 31 ? 0x3f80 : 0xbf80;          \
                }                                                      \
                _tile_loadconfig(&shapes);                             \
                __asm__ volatile("" : : "r"(signs) : "memory");        \
                _tile_zero(0);                                         \
                _tile_zero(1);                                         \
                _tile_zero(2);                                         \
                _tile_zero(3);                                         \
                _tile_loadd(4, signs, 64);                             \
                _tile_loadd(5, signs, 64);                             \
                _tile_loadd(6, signs, 64);                             \
                _tile_loadd(7, signs, 64);                             \
                for (isize r = 0; r < rounds; ++r) {                   \
                    multiply(0, 4, 6);                                 \
                    multiply(1, 4, 7);                                 \
                    multiply(2, 5, 6);                                 \
                    multiply(3, 5, 7);                                 \
                }                                                      \
                _tile_release();                                       \
                return 4.0 * (products) * (double)rounds;              \
            }                                                          \
            BNN_TARGET_END

BNN_TILE_LIMIT(tiles_int8, "amx-tile,amx-int8", 16 * 16 * 64, _tile_dpbssd)
BNN_TILE_LIMIT(tiles_bf16, "amx-tile,amx-bf16", 16 * 16 * 32, _tile_dpbf16ps)
#endif

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
#    if defined(BNN_AMX)
    {"bf16-amx", "bfloat16, tdpbf16ps, AMX tiles", [] { return cpu().amx_bf16 && amx_permitted(); }, tiles_bf16},
    {"int8-amx", "int8, tdpbssd, AMX tiles", [] { return cpu().amx_int8 && amx_permitted(); }, tiles_int8},
#    endif
    {"lookup-avx512", "a sign and 16 bits, tables of six, vpermi2w + vpaddw, AVX-512", [] { return cpu().avx512bw; },
     tables_of_six},
    {"lookup-avx2", "a sign and 15 bits, tables of four, 4 vpshufb + 6 for their sums, AVX2", [] { return cpu().avx2; },
     tables_of_four},
    {"int8-avx2", "int8, vpmaddubsw + vpmaddwd + vpaddd, AVX2", [] { return cpu().avx2; }, int8_avx2},
    {"int8-avx512", "int8, vpdpbusd, AVX-512", [] { return cpu().avx512vnni; }, vnni_avx512},
    {"int8-avx2-vnni", "int8, vpdpbssd, AVX-VNNI-INT8", [] { return cpu().avxvnniint8; }, vnni_int8_avx2},
    {"popcount-scalar", "1 bit, xor + popcnt + add, 64-bit words", [] { return cpu().popcnt; }, scalar_popcount},
    {"popcount-avx2", "1 bit, shuffle popcount, AVX2", [] { return cpu().avx2; }, shuffle_popcount_avx2},
    {"pair-table-avx2", "1 bit, pair tables, AVX2", [] { return cpu().avx2; }, pair_table_avx2},
    {"popcount-avx512", "1 bit, xor + vpopcntd + vpaddd, AVX-512", [] { return cpu().avx512vpopcntdq; },
     vpopcnt_avx512},
    {"clock", "cycles: a chain of dependent multiplications, 3 each", always, clock_chain},
    {"clock-rotations", "cycles: a chain of dependent rotations, 1 each", always, clock_chain_of_rotations},
    {"clock-tsc", "ticks of the time stamp counter", always, time_stamps},
    {},
};

#else

const Limit limits[] = {{"clock", "cycles: a chain of dependent instructions", always, clock_chain}, {}};

#endif

}  // namespace bnn
