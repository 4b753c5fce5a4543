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

// One pixel of a block.
template <Finish::Kind K>
inline void finish_pixel(const Finish& f, isize i) {
    const isize at = f.s.at[i];
    if (at < 0) return;
    if constexpr (K == Finish::bits) {
        const uint32_t a = _mm512_cmpge_epi32_mask(_mm512_loadu_si512((const void*)f.s.pixel(i, 0)), _mm512_loadu_si512((const void*)f.threshold));
        const uint32_t b = _mm512_cmpge_epi32_mask(_mm512_loadu_si512((const void*)f.s.pixel(i, 1)), _mm512_loadu_si512((const void*)(f.threshold + 16)));
        uint32_t* const word = (uint32_t*)f.to + at * f.stride;
        const uint32_t bits = (a | b << 16) ^ f.flip;
        *word = f.join ? *word | bits : bits;
    } else {
        for (isize c = 0; c < 2 * SUMS_TILE && c < f.s.channels; c += SUMS_TILE) {
            const isize left = f.s.channels - c, place = at * f.stride + c;
            const __mmask16 there = (__mmask16)(left >= SUMS_TILE ? 0xffff : (1 << left) - 1);
            const __m512i sum = _mm512_loadu_si512((const void*)f.s.pixel(i, c / SUMS_TILE));
            if constexpr (K == Finish::int16) {
                alignas(64) int32_t sums[SUMS_TILE];
                _mm512_store_si512((void*)sums, sum);
                for (isize k = 0; k < least(SUMS_TILE, left); ++k) ((int16_t*)f.to)[place + k] = (int16_t)sums[k];
            } else {
                __m512 x = _mm512_cvtepi32_ps(sum);                     // each step rounds on its own
                if (f.scale) x = _mm512_mul_ps(x, _mm512_maskz_loadu_ps(there, f.scale + c));
                if (f.bias) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(there, f.bias + c));
                if constexpr (K == Finish::float32) {
                    if (f.residual) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(there, f.residual + place));
                    _mm512_mask_storeu_ps((float*)f.to + place, there, x);
                } else {
                    alignas(64) float values[SUMS_TILE];
                    _mm512_storeu_ps(values, x);
                    avx2::plain::to_bf16(values, least(SUMS_TILE, left), (uint16_t*)f.to + place);
                }
            }
        }
    }
}

template <Finish::Kind K>
inline void finish_pixels(const Finish& f, isize from, isize to) {
    if constexpr (K != Finish::nothing)
        for (isize i = from; i < to; ++i) finish_pixel<K>(f, i);
}

// The other block's pixels are spread over the steps: its instructions fill the time in which the tile unit works.
template <Finish::Kind K>
void multiply_and(const int8_t* a0, const int8_t* a1, isize stride, const isize* offsets, const int8_t* b, isize steps, bool start, int32_t* sums,
                  const Finish& other) {
    const isize pixels = K == Finish::nothing ? 0 : other.s.pixels, share = ceil_div(pixels, steps);
    isize done = 0;
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
    for (isize k = 0; k < steps; ++k, b += 2 * TILE) {
        const isize at = offsets[k];
        _tile_loadd(6, b, 64);
        _tile_loadd(4, a0 + at, stride);
        _tile_dpbssd(0, 4, 6);
        _tile_loadd(7, b + TILE, 64);
        _tile_dpbssd(1, 4, 7);
        if (a1) {
            _tile_loadd(5, a1 + at, stride);
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        }
        const isize next = least(pixels, done + share);
        finish_pixels<K>(other, done, next);
        done = next;
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    if (!a1) return;
    _tile_stored(2, sums + 512, 64);
    _tile_stored(3, sums + 768, 64);
}

inline void multiply(const int8_t* a0, const int8_t* a1, isize stride, const isize* offsets, const int8_t* b, isize steps, bool start,
                     int32_t* sums, const Finish& other) {
    switch (other.kind) {
    case Finish::nothing: return multiply_and<Finish::nothing>(a0, a1, stride, offsets, b, steps, start, sums, other);
    case Finish::bits: return multiply_and<Finish::bits>(a0, a1, stride, offsets, b, steps, start, sums, other);
    case Finish::float32: return multiply_and<Finish::float32>(a0, a1, stride, offsets, b, steps, start, sums, other);
    case Finish::bfloat16: return multiply_and<Finish::bfloat16>(a0, a1, stride, offsets, b, steps, start, sums, other);
    case Finish::int16: return multiply_and<Finish::int16>(a0, a1, stride, offsets, b, steps, start, sums, other);
    }
}

inline void finish(const Finish& f) {
    switch (f.kind) {
    case Finish::nothing: return;
    case Finish::bits: return finish_pixels<Finish::bits>(f, 0, f.s.pixels);
    case Finish::float32: return finish_pixels<Finish::float32>(f, 0, f.s.pixels);
    case Finish::bfloat16: return finish_pixels<Finish::bfloat16>(f, 0, f.s.pixels);
    case Finish::int16: return finish_pixels<Finish::int16>(f, 0, f.s.pixels);
    }
}

inline bool supported() { return cpu().amx_int8 && cpu().avx512vpopcntdq && cpu().gfni && amx_permitted(); }

constexpr Images images = {begin, end, expand, expand_weights, multiply, finish, 29, 4, 1.0 / 285, 4};
constexpr Variant variant = {"amx", "AMX INT8, AVX-512 F, BW, VL and VPOPCNTDQ, GFNI", supported, avx512vpopcnt::weight_bytes,
                             avx512vpopcnt::interleave, avx512vpopcnt::count, avx512vpopcnt::scratch_bytes, avx512vpopcnt::variant.step,
                             avx512vpopcnt::count_lines, avx2::plain::to_float, avx2::plain::to_int16, avx2::plain::to_bf16,
                             avx512bw::to_bits, avx2::transpose, avx2::pack_channels, avx2::plain::pack_bf16, avx2::pack_planes, &images};

}  // namespace bnn::amx
BNN_TARGET_END
#endif
