// AMX: bits are what is stored and moved, tiles of int8 are what is multiplied. Elsewhere it is avx512vpopcnt.
//
// One instruction multiplies 16 pixels x 64 bytes by 64 bytes x 16 channels and adds to int32 sums, exactly. conv/images.h expands each
// image's bits to bytes of +1 and -1 once, in a buffer whose border is 0, and each block of weights once for all pixels of a piece of
// work: weights lie as bits, an eighth of the room, and are in the first-level cache as bytes.
//
// Bits to bytes in one instruction: gf2p8affineqb multiplies each byte, as a vector of bits, by a matrix. The one below copies the
// complement of one bit to the upper seven and puts 1 into the lowest: 0 becomes 0xff, 1 becomes 0x01.
#pragma once
#include "isa/avx512.h"

#if defined(BNN_AMX)

BNN_TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512vpopcntdq,avx2,popcnt,gfni,amx-tile,amx-int8")
namespace bnn::amx {

constexpr isize TILE = 1024;            // bytes

// Older compilers' tile instructions do not say that they read memory.
inline void memory_is_read() { __asm__ volatile("" ::: "memory"); }

inline void begin() {
    struct { uint8_t palette, start, unused[14]; uint16_t row_bytes[16]; uint8_t rows[16]; } config = {};
    config.palette = 1;
    for (int i = 0; i < 8; ++i) config.row_bytes[i] = 64, config.rows[i] = 16;
    memory_is_read();
    _tile_loadconfig(&config);
}
inline void end() { _tile_release(); }

constexpr uint64_t select(int bit) { return (uint64_t)0x0001010101010101 << bit; }

inline void expand(const uint64_t* from, isize from_stride, isize pixels, isize channels, int8_t* to, isize to_stride) {
    const __m512i every = _mm512_set_epi64((long long)select(7), (long long)select(6), (long long)select(5), (long long)select(4),
                                           (long long)select(3), (long long)select(2), (long long)select(1), (long long)select(0));
    const __m512i one = _mm512_set1_epi8(1);
    const isize whole = channels / 64, left = channels % 64;
    for (isize p = 0; p < pixels; ++p, from += from_stride, to += to_stride) {
        for (isize k = 0; k < whole; ++k)
            _mm512_storeu_si512((void*)(to + 64 * k), _mm512_gf2p8affine_epi64_epi8(_mm512_set1_epi64((long long)from[k]), every, 0xff));
        if (left)
            _mm512_mask_storeu_epi8((void*)(to + 64 * whole), ((uint64_t)1 << left) - 1, _mm512_or_si512(_mm512_movm_epi8(~from[whole]), one));
    }
}

inline void expand_weights(const uint8_t* bits, isize steps, int8_t* to) {
    __m512i bit[8];
    BNN_UNROLL for (int b = 0; b < 8; ++b) bit[b] = _mm512_set1_epi64((long long)select(b));
    for (isize k = 0; k < 4 * steps; ++k, bits += 64, to += 512) {
        const __m512i x = _mm512_loadu_si512((const void*)bits);
        BNN_UNROLL for (int b = 0; b < 8; ++b) _mm512_storeu_si512((void*)(to + 64 * b), _mm512_gf2p8affine_epi64_epi8(x, bit[b], 0xff));
    }
}

inline void multiply(const int8_t* a0, const int8_t* a1, isize stride, const isize* offsets, const int8_t* b, isize steps, bool start,
                     int32_t* sums) {
    memory_is_read();
    if (start) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, sums, 64);
        _tile_loadd(1, sums + 256, 64);
        _tile_loadd(2, sums + 512, 64);
        _tile_loadd(3, sums + 768, 64);
    }
    if (a1)
        for (isize k = 0; k < steps; ++k, b += 2 * TILE) {
            const isize at = offsets[k];
            _tile_loadd(6, b, 64);
            _tile_loadd(4, a0 + at, stride);
            _tile_dpbssd(0, 4, 6);
            _tile_loadd(7, b + TILE, 64);
            _tile_dpbssd(1, 4, 7);
            _tile_loadd(5, a1 + at, stride);
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        }
    else
        for (isize k = 0; k < steps; ++k, b += 2 * TILE) {
            _tile_loadd(6, b, 64);
            _tile_loadd(4, a0 + offsets[k], stride);
            _tile_dpbssd(0, 4, 6);
            _tile_loadd(7, b + TILE, 64);
            _tile_dpbssd(1, 4, 7);
        }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    if (!a1) return;
    _tile_stored(2, sums + 512, 64);
    _tile_stored(3, sums + 768, 64);
}

inline void to_bits(const Sums& s, const int32_t* threshold, uint32_t flip, bool join, uint32_t* to, isize stride) {
    const __m512i low = _mm512_loadu_si512((const void*)threshold), high = _mm512_loadu_si512((const void*)(threshold + 16));
    for (isize i = 0; i < s.pixels; ++i) {
        if (s.at[i] < 0) continue;
        const uint32_t a = _mm512_cmpge_epi32_mask(_mm512_loadu_si512((const void*)s.pixel(i, 0)), low);
        const uint32_t b = _mm512_cmpge_epi32_mask(_mm512_loadu_si512((const void*)s.pixel(i, 1)), high);
        uint32_t* const word = to + s.at[i] * stride;
        const uint32_t bits = (a | b << 16) ^ flip;
        *word = join ? *word | bits : bits;
    }
}

// The result of `channels` (up to 16) channels of a pixel; each step rounds on its own.
inline __m512 value(const int32_t* sums, __mmask16 there, const float* scale, const float* bias) {
    __m512 x = _mm512_cvtepi32_ps(_mm512_loadu_si512((const void*)sums));
    if (scale) x = _mm512_mul_ps(x, _mm512_maskz_loadu_ps(there, scale));
    if (bias) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(there, bias));
    return x;
}
inline __mmask16 some(isize channels) { return (__mmask16)(channels >= 16 ? 0xffff : (1 << most(0, channels)) - 1); }

inline void to_float(const Sums& s, const float* scale, const float* bias, const float* residual, float* to, isize stride) {
    for (isize half = 0; half < 2 && 16 * half < s.channels; ++half) {
        const __mmask16 there = some(s.channels - 16 * half);
        const float *a = scale ? scale + 16 * half : nullptr, *b = bias ? bias + 16 * half : nullptr;
        for (isize i = 0; i < s.pixels; ++i) {
            if (s.at[i] < 0) continue;
            const isize at = s.at[i] * stride + 16 * half;
            __m512 x = value(s.pixel(i, half), there, a, b);
            if (residual) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(there, residual + at));
            _mm512_mask_storeu_ps(to + at, there, x);
        }
    }
}

inline void to_bf16(const Sums& s, const float* scale, const float* bias, uint16_t* to, isize stride) {
    alignas(64) float x[SUMS_CHANNELS];
    for (isize i = 0; i < s.pixels; ++i) {
        if (s.at[i] < 0) continue;
        for (isize half = 0; half < 2; ++half) {
            const __mmask16 there = some(s.channels - 16 * half);
            _mm512_storeu_ps(x + 16 * half, value(s.pixel(i, half), there, scale ? scale + 16 * half : nullptr, bias ? bias + 16 * half : nullptr));
        }
        avx2::plain::to_bf16(x, s.channels, to + s.at[i] * stride);
    }
}

inline void to_int16(const Sums& s, int16_t* to, isize stride) {
    for (isize i = 0; i < s.pixels; ++i) {
        if (s.at[i] < 0) continue;
        for (isize c = 0; c < s.channels; ++c) to[s.at[i] * stride + c] = (int16_t)s.pixel(i, c / 16)[c % 16];
    }
}

inline bool supported() { return cpu().amx_int8 && cpu().avx512vpopcntdq && cpu().gfni && amx_permitted(); }

constexpr Images images = {begin, end, expand, expand_weights, multiply, to_bits, to_float, to_bf16, to_int16, 24, 2, 1.0 / 300};
constexpr Variant variant = {"amx", "AMX INT8, AVX-512 F, BW, VL and VPOPCNTDQ, GFNI", supported, avx512vpopcnt::weight_bytes,
                             avx512vpopcnt::interleave, avx512vpopcnt::count, avx512vpopcnt::scratch_bytes, avx512vpopcnt::variant.step,
                             avx512vpopcnt::count_lines, avx2::plain::to_float, avx2::plain::to_int16, avx2::plain::to_bf16,
                             avx512bw::to_bits, avx2::transpose, avx2::pack_channels, avx2::plain::pack_bf16, avx2::pack_planes, &images};

}  // namespace bnn::amx
BNN_TARGET_END
#endif
