// Tiles of bf16: 16 rows x 32 products times 32 products x 16 columns, sums in float32. Products are exact, sums round;
// the hardware takes denormal numbers for 0. The right factor has pairs in a row: [products / 2][16 columns][2].
#pragma once
#include "isa/cpu.h"
#include "layout.h"

#if defined(BNN_AMX)
#include "isa/avx2.h"

BNN_TARGET_BEGIN("amx-tile,amx-bf16,avx512f,avx512bw")
namespace bnn::bf16_tiles {

constexpr isize SIDE = 16, DEPTH = 32;                  // rows and columns of a tile of sums; bf16 in a row of a factor
constexpr isize TILE = SIDE * DEPTH;                    // bf16 in a factor
constexpr isize BLOCK = 2 * SIDE;                       // four tiles of sums are BLOCK x BLOCK

// As long as one exists, all eight tiles of its thread have 16 rows of 64 bytes. Its destructor releases them, since
// other code uses tiles in the same threads.
struct Tiles {
    struct alignas(64) Shape {
        uint8_t palette = 1, start = 0, unused[14] = {};
        uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE};
    };
    Tiles() {
        static constexpr Shape shape;
        _tile_loadconfig(&shape);
        __asm__ volatile("" ::: "memory");    // GCC does not know that loading a tile reads what was written before
    }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
};

inline void zero_sums() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}
inline void load_sums(const float* a, const float* b, const float* c, const float* d) {     // [SIDE][SIDE] each
    _tile_loadd(0, a, 64);
    _tile_loadd(1, b, 64);
    _tile_loadd(2, c, 64);
    _tile_loadd(3, d, 64);
}
inline void store_sums(float* a, float* b, float* c, float* d) {
    _tile_stored(0, a, 64);
    _tile_stored(1, b, 64);
    _tile_stored(2, c, 64);
    _tile_stored(3, d, 64);
}
inline void load_sums(const float* from) { load_sums(from, from + 256, from + 512, from + 768); }   // [4 tiles]
inline void store_sums(float* to) { store_sums(to, to + 256, to + 512, to + 768); }
// Multiplies two tiles on the left by two on the right, and adds the products to the sums (0, 0), (0, 1), (1, 0) and
// (1, 1).
inline void multiply(const uint16_t* left0, const uint16_t* left1, const uint16_t* right0, const uint16_t* right1) {
    _tile_loadd(6, right0, 64);
    _tile_loadd(4, left0, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, right1, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, left1, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

// Rounds SIDE floats as Variant::to_bf16 does.
inline void store_bf16(const float* from, uint16_t* to) {
    const __m512i word = _mm512_loadu_si512(from),
                  odd = _mm512_and_si512(_mm512_srli_epi32(word, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(_mm512_add_epi32(word, odd), _mm512_set1_epi32(0x7fff));
    const __m512i size = _mm512_and_si512(word, _mm512_set1_epi32(0x7fffffff));
    const __mmask16 nan = _mm512_cmpgt_epi32_mask(size, _mm512_set1_epi32(0x7f800000));
    const __m512i half = _mm512_mask_blend_epi32(nan, _mm512_srli_epi32(up, 16), _mm512_set1_epi32(0x7fc0));
    _mm256_storeu_si256((__m256i*)to, _mm512_cvtepi32_epi16(half));
}

}  // namespace bnn::bf16_tiles
BNN_TARGET_END
#endif
