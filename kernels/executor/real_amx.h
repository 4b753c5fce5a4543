// Matrix products of the executor by AMX: weights of bf16, or of int8, which is exact in bf16, times activations
// rounded to bf16, summed in float32. Tiles are 16 rows x 32 products, and 32 products x 16 channels in pairs. The
// variant without tiles multiplies few rows, and weights of float32.
#pragma once
#include "isa/tiles_bf16.h"

#if defined(BNN_AMX)

BNN_TARGET_BEGIN("avx512f,avx512bw,avx512bf16,avx2,fma,amx-tile,amx-bf16")
namespace bnn::real_amx {

using bf16_tiles::BLOCK, bf16_tiles::DEPTH, bf16_tiles::SIDE, bf16_tiles::TILE;
constexpr isize PANEL = real_avx512::PANEL;
static_assert(PANEL == BLOCK, "a panel is two tiles");

// Rounds SIDE floats to bf16.
inline void to_bf16(const float* from, uint16_t* to) {
#if defined(BNN_EMULATE)
    bf16_tiles::store_bf16(from, to);
#else
    _mm256_storeu_si256((__m256i*)to, as<__m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(from))));
#endif
}

// Rounds n floats, and writes 0 up to a multiple of DEPTH.
inline void round_row(const float* from, isize n, uint16_t* to) {
    isize k = 0;
    for (; k + SIDE <= n; k += SIDE) to_bf16(from + k, to + k);
    if (k < n) {
        alignas(64) float some[SIDE] = {};
        copy(some, from + k, (n - k) * 4);
        to_bf16(some, to + k), k += SIDE;
    }
    if (k % DEPTH) fill(to + k, 0, SIDE * 2);
}

// SIDE weights, as bf16 in the high halves of words.
template <Weights W>
inline __m512i words_of(const uint8_t* from) {
    if constexpr (W == Weights::bfloat16)
        return _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from)), 16);
    else return as<__m512i>(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)from))));
}

// Makes pairs [n / 2][PANEL] of b[n][PANEL], and pairs of 0 up to a multiple of DEPTH.
template <Weights W>
inline void pair_weights(const uint8_t* b, isize n, uint32_t* to) {
    constexpr isize SIZE = W == Weights::bfloat16 ? 2 : 1;
    for (isize k = 0; k < round_up(n, DEPTH); k += 2, to += PANEL)
        for (isize i = 0; i < PANEL; i += SIDE) {
            const __m512i first = k < n ? words_of<W>(b + (k * PANEL + i) * SIZE) : _mm512_setzero_si512();
            const __m512i second = k + 1 < n ? words_of<W>(b + ((k + 1) * PANEL + i) * SIZE) : _mm512_setzero_si512();
            _mm512_storeu_si512((void*)(to + i), _mm512_or_si512(_mm512_srli_epi32(first, 16), second));
        }
}
inline void pair(const uint8_t* panel, Weights w, isize n, uint16_t* to) {
    (w == Weights::int8 ? pair_weights<Weights::int8> : pair_weights<Weights::bfloat16>)(panel, n, (uint32_t*)to);
}

// c[rows][ldc] (+)= a[rows] pairs, for up to BLOCK rows and one panel.
inline void multiply_rows(const uint16_t* a, isize lda, isize rows, const uint16_t* pairs, isize depths, float* c,
                          isize ldc, bool add) {
    alignas(64) float sums[BLOCK * BLOCK];
    __asm__ volatile("" ::: "memory");
    bf16_tiles::zero_sums();
    for (isize k = 0; k < depths; ++k) {
        _tile_loadd(6, pairs + k * DEPTH * PANEL, PANEL * 4);
        _tile_loadd(4, a + k * DEPTH, lda * 2);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, pairs + k * DEPTH * PANEL + DEPTH, PANEL * 4);
        _tile_dpbf16ps(1, 4, 7);
        if (rows > SIDE) {
            _tile_loadd(5, a + SIDE * lda + k * DEPTH, lda * 2);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    if (rows == BLOCK && !add) {
        _tile_stored(0, c, ldc * 4);
        _tile_stored(1, c + SIDE, ldc * 4);
        _tile_stored(2, c + SIDE * ldc, ldc * 4);
        _tile_stored(3, c + SIDE * ldc + SIDE, ldc * 4);
        __asm__ volatile("" ::: "memory");
        return;
    }
    bf16_tiles::store_sums(sums);
    __asm__ volatile("" ::: "memory");
    for (isize r = 0; r < rows; ++r)
        for (isize half = 0; half < 2; ++half) {
            float* const to = c + r * ldc + half * SIDE;
            const __m512 sum = _mm512_loadu_ps(sums + (r / SIDE * 2 + half) * SIDE * SIDE + r % SIDE * SIDE);
            _mm512_storeu_ps(to, add ? _mm512_add_ps(_mm512_loadu_ps(to), sum) : sum);
        }
}

inline void multiply(const uint16_t* a, isize lda, isize rows, const uint16_t* pairs, isize n, float* c, isize ldc,
                     bool add) {
    const bf16_tiles::Tiles tiles;
    for (isize r = 0; r < rows; r += BLOCK)
        multiply_rows(a + r * lda, lda, least(BLOCK, rows - r), pairs, ceil_div(n, DEPTH), c + r * ldc, ldc, add);
}

inline bool supported() { return cpu().amx_bf16 && cpu().avx512bw && cpu().avx512bf16 && cpu().fma && amx_permitted(); }

static_assert(TILE_ROWS == SIDE && TILE_DEPTH == DEPTH, "what the executor rounds up to");
constexpr TileProducts products = {round_row, pair, multiply};
constexpr Real real = {PANEL,
                       real_avx512::KBLOCK_REAL,
                       without_tiles,
                       real_avx512::stage,
                       real_avx512::steps,
                       real_avx512::add,
                       real_avx512::larger,
                       real_avx512::divide,
                       real_avx512::combine,
                       real_avx512::convert_add,
                       real_avx512::sign_bits,
                       &products};

}  // namespace bnn::real_amx
BNN_TARGET_END
#endif
