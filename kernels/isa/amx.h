// AMX: weights and activations are stored and moved as bits, and multiplied as tiles of int8. All else is
// avx512vpopcnt's.
//
// One instruction multiplies 16 pixels x 64 bytes by 64 bytes x 16 channels and adds to int32 sums, exactly.
// conv/images.h expands the bits of each image once, to bytes of +1 and -1 in a buffer whose border is 0, and those of
// each block of weights once for all pixels of a piece of work. So weights lie in memory as bits, an eighth of the
// room, and are bytes in the first-level cache only.
//
// Bits to bytes in one instruction: gf2p8affineqb multiplies each byte, as a vector of bits, by a matrix. The one below
// copies the complement of one bit to the upper seven and puts 1 into the lowest: 0 becomes 0xff, 1 becomes 0x01.
#pragma once
#include "isa/avx512.h"

#if defined(BNN_AMX)

BNN_TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512vpopcntdq,avx2,popcnt,gfni,amx-tile,amx-int8")
namespace bnn::amx {

constexpr isize TILE = 1024;            // bytes

// Makes the compiler finish its writes: the tile intrinsics of older compilers do not say that they read memory.
inline void memory_is_read() { __asm__ volatile("" ::: "memory"); }

// Configures all eight tiles: 16 rows of 64 bytes.
inline void begin() {
    struct { uint8_t palette, start, unused[14]; uint16_t row_bytes[16]; uint8_t rows[16]; } config = {};
    config.palette = 1;
    for (int i = 0; i < 8; ++i) config.row_bytes[i] = 64, config.rows[i] = 16;
    memory_is_read();
    _tile_loadconfig(&config);
}
inline void end() { _tile_release(); }

// The matrix for gf2p8affineqb that selects one bit of each byte.
constexpr uint64_t select(int bit) { return (uint64_t)0x0001010101010101 << bit; }

inline void expand(const uint64_t* from, isize from_stride, isize pixels, isize channels, int8_t* to, isize to_stride) {
    const __m512i every =
        _mm512_set_epi64((long long)select(7), (long long)select(6), (long long)select(5), (long long)select(4),
                         (long long)select(3), (long long)select(2), (long long)select(1), (long long)select(0));
    const __m512i one = _mm512_set1_epi8(1);
    const isize whole = channels / 64, left = channels % 64;
    for (isize p = 0; p < pixels; ++p, from += from_stride, to += to_stride) {
        for (isize k = 0; k < whole; ++k)
            _mm512_storeu_si512((void*)(to + 64 * k),
                                _mm512_gf2p8affine_epi64_epi8(_mm512_set1_epi64((long long)from[k]), every, 0xff));
        if (left)
            _mm512_mask_storeu_epi8((void*)(to + 64 * whole), ((uint64_t)1 << left) - 1,
                                    _mm512_or_si512(_mm512_movm_epi8(~from[whole]), one));
    }
}

inline void expand_weights(const uint8_t* bits, isize lines, int8_t* to) {
    for (; lines > 0; --lines, bits += 64, to += 512) {
        const __m512i x = _mm512_loadu_si512((const void*)bits);
        BNN_UNROLL for (int b = 0; b < 8; ++b) _mm512_storeu_si512(
            (void*)(to + 64 * b), _mm512_gf2p8affine_epi64_epi8(x, _mm512_set1_epi64((long long)select(b)), 0xff));
    }
}

// Writes the result of pixel i of a block.
template <Finish::Kind K>
inline void finish_pixel(const Finish& f, isize i) {
    const isize at = f.s.at[i];
    if (at < 0) return;
    const int32_t* const sums = f.s.pixel(i, 0);
    if constexpr (K == Finish::bits) {
        const __m512i low = _mm512_loadu_si512((const void*)f.threshold),
                      high = _mm512_loadu_si512((const void*)(f.threshold + 16));
        const uint32_t a = _mm512_cmpge_epi32_mask(_mm512_loadu_si512((const void*)sums), low);
        const uint32_t b =
            _mm512_cmpge_epi32_mask(_mm512_loadu_si512((const void*)(sums + SUMS_TILE * SUMS_TILE)), high);
        uint32_t* const word = (uint32_t*)f.to + at * f.stride;
        const uint32_t bits = (a | b << 16) ^ f.flip;
        *word = f.join ? *word | bits : bits;
    } else {
        for (isize c = 0; c < 2 * SUMS_TILE && c < f.s.channels; c += SUMS_TILE) {
            const isize left = f.s.channels - c, place = at * f.stride + c;
            const __mmask16 there = (__mmask16)(left >= SUMS_TILE ? 0xffff : (1 << left) - 1);
            const __m512i sum = _mm512_loadu_si512((const void*)(sums + c * SUMS_TILE));
            if constexpr (K == Finish::int16) {
                alignas(64) int32_t one[SUMS_TILE];
                _mm512_store_si512((void*)one, sum);
                for (isize k = 0; k < least(SUMS_TILE, left); ++k) ((int16_t*)f.to)[place + k] = (int16_t)one[k];
            } else {
                __m512 x = _mm512_cvtepi32_ps(sum);                     // each step rounds on its own
                if (f.scale) x = _mm512_mul_ps(x, _mm512_maskz_loadu_ps(there, f.scale + c));
                if (f.bias) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(there, f.bias + c));
                if constexpr (K == Finish::float32) {
                    if (f.residual) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(there, f.residual + place));
                    if (f.stream && there == 0xffff) _mm512_stream_ps((float*)f.to + place, x);
                    else _mm512_mask_storeu_ps((float*)f.to + place, there, x);
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
inline void finish_pixels(const Finish& finish, isize from, isize to) {
    const Finish f = finish;                            // a copy that can stay in registers: no write can change it
    if constexpr (K != Finish::nothing)
        for (isize i = from; i < to; ++i) finish_pixel<K>(f, i);
}

// The other work, in as many shares as the block has steps; next() does one share.
template <Finish::Kind K>
struct Shares {
    const Beside& work;
    isize pixels, pixel = 0, lines, line = 0;

    Shares(const Beside& b, isize steps)
        : work(b), pixels(K == Finish::nothing ? 0 : ceil_div(b.finish.s.pixels, steps)),
          lines(ceil_div(b.lines, steps)) {}
    void next() {
        if constexpr (K != Finish::nothing) {
            const isize end = least(pixel + pixels, work.finish.s.pixels);
            finish_pixels<K>(work.finish, pixel, end);
            pixel = end;
        }
        if (const isize some = least(lines, work.lines - line); some > 0)
            expand_weights(work.bits + line * 64, some, work.bytes + line * 512), line += some;
    }
};

// Stores tile T of the block before, if it has to be stored, and sets the tile to what the sums of this block start
// with. A macro, since the number of a tile is part of the instruction.
#define BNN_BEGIN_SUMS(T)                                                   \
    if (b.to && (b.two || T < 2)) _tile_stored(T, b.to + 256 * T, 64);      \
    if (x.from) _tile_loadd(T, x.from + 256 * T, 64);                       \
    else if (!x.goes_on) _tile_zero(T);

// Multiplies a block and does the other work meanwhile. The tiles of the block before are stored between the first
// multiplications of this one, since the tile unit would wait while they were all stored at once. TWO: the block has 32
// pixels, not 16.
template <Finish::Kind K, bool TWO>
void multiply_and(const Block& x, const Beside& b) {
    const int8_t* weights = x.weights;
    Shares<K> shares(b, x.steps);
    memory_is_read();
    _tile_loadd(6, weights, 64);
    _tile_loadd(4, x.a0 + x.offsets[0], x.stride);
    BNN_BEGIN_SUMS(0)
    _tile_dpbssd(0, 4, 6);
    _tile_loadd(7, weights + TILE, 64);
    BNN_BEGIN_SUMS(1)
    _tile_dpbssd(1, 4, 7);
    if constexpr (TWO) {
        _tile_loadd(5, x.a1 + x.offsets[0], x.stride);
        BNN_BEGIN_SUMS(2)
        _tile_dpbssd(2, 5, 6);
        BNN_BEGIN_SUMS(3)
        _tile_dpbssd(3, 5, 7);
    } else if (b.to && b.two) {
        _tile_stored(2, b.to + 512, 64);
        _tile_stored(3, b.to + 768, 64);
    }
    for (isize k = 1; k < x.steps; ++k) {
        shares.next();
        weights += 2 * TILE;
        const isize at = x.offsets[k];
        _tile_loadd(6, weights, 64);
        _tile_loadd(4, x.a0 + at, x.stride);
        _tile_dpbssd(0, 4, 6);
        _tile_loadd(7, weights + TILE, 64);
        _tile_dpbssd(1, 4, 7);
        if constexpr (TWO) {
            _tile_loadd(5, x.a1 + at, x.stride);
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        }
    }
    shares.next();
}
#undef BNN_BEGIN_SUMS

template <Finish::Kind K>
void multiply_any(const Block& x, const Beside& b) {
    x.a1 ? multiply_and<K, true>(x, b) : multiply_and<K, false>(x, b);
}

inline void multiply(const Block& x, const Beside& b) {
    switch (b.finish.kind) {
    case Finish::nothing: return multiply_any<Finish::nothing>(x, b);
    case Finish::bits: return multiply_any<Finish::bits>(x, b);
    case Finish::float32: return multiply_any<Finish::float32>(x, b);
    case Finish::bfloat16: return multiply_any<Finish::bfloat16>(x, b);
    case Finish::int16: return multiply_any<Finish::int16>(x, b);
    }
}

inline void store(int32_t* to, bool two) {
    _tile_stored(0, to, 64);
    _tile_stored(1, to + 256, 64);
    if (two) {
        _tile_stored(2, to + 512, 64);
        _tile_stored(3, to + 768, 64);
    }
    memory_is_read();
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

inline uint64_t ticks() { return __rdtsc(); }

constexpr Images images = {begin, end, expand, expand_weights, multiply, store, finish, ticks, 21.4, 4, 1.0 / 285, 5.5};
// Where counting is faster, it counts as avx512vpopcnt does.
constexpr Variant with_images(Variant variant) {
    variant.name = "amx";
    variant.needs = "AMX INT8, AVX-512 F, BW, VL and VPOPCNTDQ, GFNI";
    variant.supported = supported;
    variant.images = &images;
    return variant;
}
constexpr Variant variant = with_images(avx512vpopcnt::variant);

}  // namespace bnn::amx
BNN_TARGET_END
#endif
