// AMX: bits are what is stored and moved, tiles of int8 are what is multiplied. Elsewhere it is avx512vpopcnt.
//
// A bit becomes a byte, +1 or -1, on its way into the second-level cache; weights lie ready as such bytes. One instruction multiplies
// 16 pixels x 64 bits by 64 bits x 16 channels and adds to int32 sums. Bits of padding are 0 on both sides and count as equal here too,
//     sum = n - 2 popcount(row xor w),  n the bits of the stretch,  so  count = (n - sum) / 2,
// exact: |sum| <= n <= 8 KBLOCK. Bytes of weights beyond a row's end are 0, so whatever the other side holds there adds nothing.
//
// Weights: blocks of LANES rows; in each first the rows as avx512vpopcnt likes them, then, if the block is worth it, tiles. A byte for
// a bit costs eight times the room, so blocks of few channels and short rows have none.
#pragma once
#include "isa/avx512.h"

#if defined(BNN_AMX)

BNN_TARGET_BEGIN("avx512f,avx512bw,avx512vpopcntdq,avx2,popcnt,amx-tile,amx-int8")
namespace bnn::amx {

constexpr isize TILE = 1024;            // bytes
constexpr isize STEP = 8;               // bytes of a row that one tile covers: 64 products
constexpr isize STEPS = 18;             // that two tiles of channels stay in the first-level cache for
constexpr isize FEW_PIXELS = 8, FEW_CHANNELS = 32, FEW_BYTES = 16;          // below: popcount is faster

// Older compilers' tile instructions do not say that they read memory.
inline void memory_is_read() { __asm__ volatile("" ::: "memory"); }

inline bool has_tiles(isize rows, isize row_bytes) { return rows >= FEW_CHANNELS && row_bytes >= FEW_BYTES; }
inline isize bit_bytes(isize rows, isize row_bytes) { return round_up(avx512vpopcnt::weight_bytes(rows, row_bytes), 64); }
inline isize block_bytes(isize rows, isize row_bytes) {
    const isize tiles = has_tiles(rows, row_bytes) ? round_up(rows, 32) / 16 * ceil_div(row_bytes, STEP) * TILE : 0;
    return bit_bytes(rows, row_bytes) + tiles;
}
inline isize weight_bytes(isize rows, isize row_bytes) {
    return rows / LANES * block_bytes(LANES, row_bytes) + (rows % LANES ? block_bytes(rows % LANES, row_bytes) : 0);
}

// Tile [o / 16][k / 64] holds in line k % 64 / 4 four bytes of each of 16 channels.
inline void interleave(const uint8_t* weights, isize stride, isize rows, isize row_bytes, uint8_t* to) {
    const isize steps = ceil_div(row_bytes, STEP);
    for (isize first = 0; first < rows; first += LANES, weights += LANES * stride) {
        const isize some = least(LANES, rows - first);
        avx512vpopcnt::interleave(weights, stride, some, row_bytes, to);
        uint8_t* tiles = to + bit_bytes(some, row_bytes);
        to += block_bytes(some, row_bytes);
        if (!has_tiles(some, row_bytes)) continue;
        fill(tiles, 0, to - tiles);
        for (isize o = 0; o < some; ++o)
            for (isize k = 0; k < 8 * row_bytes; ++k) {
                const bool bit = weights[o * stride + k / 8] >> (k % 8) & 1;
                tiles[(o / 16 * steps + k / 64) * TILE + k % 64 / 4 * 64 + o % 16 * 4 + k % 4] = bit ? 1 : 0xff;
            }
    }
}

// Pixels as tiles, [p / 16][step]; lines beyond the last pixel keep what they held, and their sums are dropped.
inline void expand(const uint8_t* const* at, isize line_stride, isize line_bytes, isize lines, isize pixels, uint8_t* to) {
    const __m512i one = _mm512_set1_epi8(1);
    const isize in_line = ceil_div(line_bytes, STEP), steps = lines * in_line;
    for (isize p = 0; p < pixels; ++p) {
        uint8_t* out = to + p / 16 * steps * TILE + p % 16 * 64;
        for (isize i = 0; i < lines; ++i)
            for (isize k = 0; k < in_line; ++k, out += TILE) {
                const uint64_t zeros = ~load64(at[p] + i * line_stride + k * STEP);
                _mm512_storeu_si512((void*)out, _mm512_or_si512(_mm512_movm_epi8(zeros), one));
            }
    }
}

// sums += 32 or 16 pixels x 32 channels over n steps; sums: tiles (0, 0), (0, 1), (1, 0), (1, 1).
inline void multiply(const uint8_t* a0, const uint8_t* a1, const uint8_t* b0, const uint8_t* b1, isize n, bool two, bool start,
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
    if (two)
        for (isize k = 0; k < n * TILE; k += TILE) {
            _tile_loadd(4, a0 + k, 64);
            _tile_loadd(6, b0 + k, 64);
            _tile_loadd(7, b1 + k, 64);
            _tile_loadd(5, a1 + k, 64);
            _tile_dpbssd(0, 4, 6);
            _tile_dpbssd(1, 4, 7);
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        }
    else
        for (isize k = 0; k < n * TILE; k += TILE) {
            _tile_loadd(4, a0 + k, 64);
            _tile_loadd(6, b0 + k, 64);
            _tile_loadd(7, b1 + k, 64);
            _tile_dpbssd(0, 4, 6);
            _tile_dpbssd(1, 4, 7);
        }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    _tile_stored(2, sums + 512, 64);
    _tile_stored(3, sums + 768, 64);
}

inline void store_counts(const int32_t* sums, isize pixels, int32_t bits, uint16_t* counts, isize counts_stride) {
    const __m512i n = _mm512_set1_epi32(bits);
    for (isize p = 0; p < pixels; ++p) {
        const int32_t* from = sums + p / 16 * 512 + p % 16 * 16;
        for (isize c = 0; c < 2; ++c) {
            const __m512i twice = _mm512_sub_epi32(n, _mm512_loadu_si512((const void*)(from + 256 * c)));
            _mm256_storeu_si256((__m256i*)(counts + p * counts_stride + 16 * c), _mm512_cvtepi32_epi16(_mm512_srli_epi32(twice, 1)));
        }
    }
}

inline void configure() {
    struct { uint8_t palette, start, unused[14]; uint16_t row_bytes[16]; uint8_t rows[16]; } config = {};
    config.palette = 1;
    for (int i = 0; i < 8; ++i) config.row_bytes[i] = 64, config.rows[i] = 16;
    memory_is_read();
    _tile_loadconfig(&config);
}

// The tiles are configured and released within a call: other code of this thread may use them too.
inline void count_lines(const uint8_t* const* at, isize line_stride, isize line_bytes, isize pixels, const uint8_t* weights,
                        isize row_bytes, isize from, isize to, isize first, isize last, uint16_t* counts, isize counts_stride,
                        uint8_t* scratch) {
    const isize steps = ceil_div(row_bytes, STEP), lines = (to - from) / line_bytes, many = lines * ceil_div(line_bytes, STEP);
    const bool tiled = pixels >= FEW_PIXELS && has_tiles(least(LANES, last - first), row_bytes);
    if (tiled) {
        expand(at, line_stride, line_bytes, lines, pixels, scratch);
        configure();
    }
    weights += first / LANES * block_bytes(LANES, row_bytes);
    for (isize o = first; o < last; o += LANES) {
        const isize some = least(LANES, last - o);
        uint16_t* its = counts + o - first;
        if (!tiled || !has_tiles(some, row_bytes)) {
            avx512vpopcnt::count_lines(at, line_stride, line_bytes, pixels, weights, row_bytes, from, to, 0, some, its, counts_stride, nullptr);
        } else {
            const uint8_t* tiles = weights + bit_bytes(some, row_bytes) + from / STEP * TILE;
            alignas(64) int32_t sums[2][1024];
            for (isize c = 0; c < some; c += 32)
                for (isize p = 0; p < pixels; p += 64) {
                    const isize pairs = ceil_div(least(64, pixels - p), 32);
                    for (isize k = 0; k < many; k += STEPS)
                        for (isize i = 0; i < pairs; ++i) {
                            const isize at = p + 32 * i;
                            // The lines of all steps of 16 pixels follow one another, in weights those of the whole row.
                            const uint8_t *a0 = scratch + (at / 16 * many + k) * TILE, *b0 = tiles + (c / 16 * steps + k) * TILE;
                            multiply(a0, a0 + many * TILE, b0, b0 + steps * TILE, least(STEPS, many - k), at + 16 < pixels, k == 0, sums[i]);
                        }
                    for (isize i = 0; i < pairs; ++i) {
                        const isize at = p + 32 * i;
                        store_counts(sums[i], least(32, pixels - at), (int32_t)(8 * (to - from)), its + at * counts_stride + c, counts_stride);
                    }
                }
        }
        weights += block_bytes(some, row_bytes);
    }
    if (tiled) _tile_release();
}

inline void count(const uint8_t* rows, isize stride, isize pixels, const uint8_t* weights, isize row_bytes, isize from, isize to,
                  isize first, isize last, uint16_t* counts, isize counts_stride, uint8_t* scratch) {
    const uint8_t* at[64];
    for (isize p = 0; p < pixels; p += 64) {
        const isize some = least(64, pixels - p);
        for (isize i = 0; i < some; ++i) at[i] = rows + (p + i) * stride + from;
        count_lines(at, 0, to - from, some, weights, row_bytes, from, to, first, last, counts + p * counts_stride, counts_stride, scratch);
    }
}

inline isize scratch_bytes(isize pixels, isize row_bytes) {
    return ceil_div(pixels, 16) * ceil_div(least(row_bytes, KBLOCK), STEP) * TILE;
}

inline bool supported() { return cpu().amx_int8 && cpu().avx512vpopcntdq && amx_permitted(); }

constexpr Variant variant = {"amx", "AMX INT8, AVX-512 F, BW and VPOPCNTDQ", supported, weight_bytes, interleave, count, scratch_bytes, STEP,
                             count_lines, avx2::plain::to_float, avx2::plain::to_int16, avx2::plain::to_bf16, avx512bw::to_bits, avx2::transpose,
                             avx2::pack_channels, avx2::plain::pack_bf16, avx2::pack_planes};

}  // namespace bnn::amx
BNN_TARGET_END
#endif
