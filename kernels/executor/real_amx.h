// Matrix products of real_bf16.h and real_vnni.h by AMX. Tiles are 16 rows x 32 products, and 32 products x 16 channels
// in pairs; of bytes 64 products, in quads. The functions without tiles multiply few rows by bf16, and weights of
// float32.
#pragma once
#include "executor/real_bf16.h"

#if defined(BNN_AMX)

BNN_TARGET_BEGIN("avx512f,avx512bw,avx512bf16,avx2,fma,amx-tile,amx-bf16,amx-int8")
namespace bnn::real_amx {

using bf16_tiles::BLOCK, bf16_tiles::DEPTH, bf16_tiles::SIDE, bf16_tiles::TILE;
constexpr isize PANEL = real_avx512::PANEL;
static_assert(PANEL == BLOCK, "a panel is two tiles");

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

// The same for bytes: Int8Products::multiply.
constexpr isize BYTES = 2 * DEPTH;                      // in a row of a tile
struct Rows { const uint8_t* at; isize apart; };
inline void multiply_bytes(const void* left, isize lda, isize rows, const uint8_t* quads, isize n, float* c, isize ldc,
                           bool add, const Int8Products::Last* last) {
    const uint8_t* a = (const uint8_t*)left;
    const bf16_tiles::Tiles tiles;
    for (isize start = 0; start < rows; start += BLOCK, a += BLOCK * lda) {
        alignas(64) int32_t sums[BLOCK * BLOCK];
        const isize some = least(BLOCK, rows - start);
        __asm__ volatile("" ::: "memory");
        bf16_tiles::zero_sums();
        alignas(64) uint8_t block[SIDE * BYTES];
        // SIDE rows from `first` on, where they lie or, if not all are there, in the block
        const auto left = [&](isize k, isize first) {
            if (some - first >= SIDE) return Rows{a + first * lda + k, lda};
            for (isize r = first; r < some; ++r) copy(block + (r - first) * BYTES, a + r * lda + k, BYTES);
            __asm__ volatile("" ::: "memory");
            return Rows{block, BYTES};
        };
        for (isize k = 0; k < n; k += BYTES) {
            const Rows upper = left(k, 0);
            _tile_loadd(6, quads + k * PANEL, PANEL * 4);
            _tile_loadd(4, upper.at, upper.apart);
            _tile_dpbusd(0, 4, 6);
            _tile_loadd(7, quads + k * PANEL + SIDE * 4, PANEL * 4);
            _tile_dpbusd(1, 4, 7);
            if (some > SIDE) {
                const Rows lower = left(k, SIDE);
                _tile_loadd(5, lower.at, lower.apart);
                _tile_dpbusd(2, 5, 6);
                _tile_dpbusd(3, 5, 7);
            }
        }
        bf16_tiles::store_sums((float*)sums);
        __asm__ volatile("" ::: "memory");
        real_avx512::Ending ending[2];
        for (isize r = 0; r < some; ++r)
            for (isize half = 0; half < 2; ++half) {
                if (last && (r == 0 || !last->one_image)) ending[half].take<uint8_t>(*last, start + r, half * SIDE);
                float* const to = c + (start + r) * ldc + half * SIDE;
                real_avx512::VI sum = real_avx512::i_load(sums + (r / SIDE * 2 + half) * SIDE * SIDE + r % SIDE * SIDE);
                if (add) sum += real_avx512::i_load(to);
                if (last) real_avx512::f_store(to, ending[half].of(sum));
                else real_avx512::i_store(to, sum);
            }
    }
}

inline bool supported() {
    const Cpu& c = cpu();
    return c.amx_bf16 && c.amx_int8 && c.avx512bw && c.avx512bf16 && c.fma && amx_permitted();
}

static_assert(BF16_ROWS == SIDE && BF16_DEPTH == DEPTH, "what the executor rounds up to");
#if defined(BNN_EMULATE)
constexpr auto without_tiles = real_avx512::gemm;
#else
constexpr auto without_tiles = real_bf16::gemm;
#endif
constexpr Bf16Products products = {real_bf16::round_row, real_bf16::pair, multiply};
constexpr Int8Products byte_products = {BYTES, 1, real_avx512::quantize<uint8_t>, multiply_bytes};
constexpr Real real = real_bf16::with(without_tiles, products, byte_products);

}  // namespace bnn::real_amx
BNN_TARGET_END
#endif
