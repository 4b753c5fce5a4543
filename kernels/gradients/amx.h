// Gradients by AMX: tiles of 16 x 32 bf16 times 32 x 16 bf16, sums in float32.
//
// Signs become bf16, exactly. In the gradient of the input they carry their channel's scale, rounded to bf16, as in a
// convolution under autocast. Products are exact, sums round in float32; the hardware takes denormal numbers for 0.
//
// Images lie in grids of slots, one after another: lines have what padding the taps reach, and what is behind one line
// or image is also what is before the next. So a tap is the same distance everywhere, a tile is 16 or 32 slots in a
// row, wherever lines end, and what comes out for slots of the padding is dropped (of the input) or multiplied by zero
// (of the weights).
//
// The right factor of a tile multiplication has pairs in a row: [k / 2][16 columns][2], which is a vector for each
// pair.
#pragma once
#include "gradients/gradient.h"
#include "isa/tiles_bf16.h"

#if defined(BNN_AMX)
#include "threads.h"

BNN_TARGET_BEGIN("amx-tile,amx-bf16,avx512f,avx512bw")
namespace bnn::amx_gradients {

using namespace bf16_tiles;

// The pair of rows with these values of a sign of -1, and these signs (bit k for column k), as a vector.
inline __m512i signed_pair(__m512i minus, uint16_t first, uint16_t second) {
    const __m512i one = _mm512_mask_xor_epi32(minus, first, minus, _mm512_set1_epi32(0x8000));
    return _mm512_mask_xor_epi32(one, second, one, _mm512_set1_epi32((int)0x80000000));
}
inline uint16_t signs_of(const uint64_t* row, isize block) { return (uint16_t)(row[block / 4] >> block % 4 * SIDE); }

// A grid of slots: `lines` of `width` slots for each image. In it the image begins at line `top`, slot `left`.
struct Grid {
    isize lines, width, top, left;
    isize image() const { return lines * width; }
    isize reach(const Conv& g) const { return (g.kh - 1) * width + g.kw - 1; }     // from the first tap to the last
};
// For something of h x w in a padding of which windows reach ph and pw on either side; negative, and lines and columns
// are left out.
inline Grid make_grid(const Conv& g, isize h, isize w, isize ph, isize pw) {
    const isize shared_lines = most(0, least(ph, g.kh - 1)), shared_columns = most(0, least(pw, g.kw - 1));
    return {h + 2 * ph - shared_lines, w + 2 * pw - shared_columns, ph, pw};
}

struct Input {
    const Conv g;
    const uint16_t* dy;
    uint16_t* dx;
    const uint16_t* right;                              // [BLOCK of c][DEPTH of o][tap][2 tiles]
    Grid grid;                                          // of dy
    isize depths, blocks, group, slots;                 // group: images of an item

    Input(const Conv& g, const uint16_t* dy, uint16_t* dx, isize threads) : g(g), dy(dy), dx(dx) {
        grid = make_grid(g, g.oh(), g.ow(), g.kh - 1 - g.ph, g.kw - 1 - g.pw);
        depths = ceil_div(g.o, DEPTH), blocks = ceil_div(g.c, BLOCK);
        group = most(1, least(1024 / grid.image(), g.n / threads));
        slots = round_up(group * grid.image(), BLOCK) + grid.reach(g);
    }
    isize items() const { return ceil_div(g.n, group); }
    isize bytes() const { return depths * slots * DEPTH * 2 + BLOCK * BLOCK * 4; }
    isize right_size() const { return blocks * depths * g.taps() * 2 * TILE; }

    void make_right(const uint64_t* weights, const float* scale, isize item, uint16_t* to) const {
        const isize block = item / depths, depth = item % depths, row = words(g.c);
        to += item * g.taps() * 2 * TILE;
        for (isize pair = 0; pair < SIDE; ++pair) {
            const isize o = depth * DEPTH + pair * 2, some = least(2, most(0, g.o - o));
            uint16_t both[2] = {};
            avx2::plain::to_bf16(scale + o, some, both);
            const __m512i minus = _mm512_set1_epi32((int)((both[0] | (uint32_t)both[1] << 16) ^ 0x80008000));
            for (isize tap = 0; tap < g.taps(); ++tap)
                for (isize half = 0; half < 2; ++half) {
                    const isize columns = block * 2 + half;
                    uint16_t signs[2] = {};
                    for (isize r = 0; r < some; ++r)
                        if (columns * SIDE < g.c)
                            signs[r] = signs_of(weights + ((o + r) * g.taps() + tap) * row, columns);
                    _mm512_store_si512(to + (tap * 2 + half) * TILE + pair * DEPTH,
                                       signed_pair(minus, signs[0], signs[1]));
                }
        }
    }

    void item(isize k, uint8_t* mine) const {
        const isize first = k * group, images = least(group, g.n - first);
        uint16_t* const left = (uint16_t*)mine;                         // [DEPTH of o][slot][DEPTH]
        float* const sums = (float*)(left + depths * slots * DEPTH);
        fill(left, 0, depths * slots * DEPTH * 2);
        const isize skip_x = most(0, -grid.left), skip_y = most(0, -grid.top);
        for (isize line = 0; line < images * g.oh(); ++line) {
            const isize image = line / g.oh(), y = line % g.oh();
            if (y < skip_y || y >= g.oh() - skip_y) continue;
            for (isize x = skip_x; x < g.ow() - skip_x; ++x) {
                const uint16_t* const from = dy + (((first + image) * g.oh() + y) * g.ow() + x) * g.o;
                uint16_t* const to =
                    left + (image * grid.image() + (y + grid.top) * grid.width + x + grid.left) * DEPTH;
                isize o = 0;
                for (; o + DEPTH <= g.o; o += DEPTH) copy(to + o * slots, from + o, DEPTH * 2);
                if (o < g.o) copy(to + o * slots, from + o, (g.o - o) * 2);
            }
        }
        const Tiles tiles;
        for (isize block = 0; block < blocks; ++block)
            for (isize slot = 0; slot < images * grid.image(); slot += BLOCK) {
                const uint16_t* factor = right + block * depths * g.taps() * 2 * TILE;
                zero_sums();
                for (isize depth = 0; depth < depths; ++depth)
                    for (isize i = g.kh; i-- > 0;)
                        for (isize j = g.kw; j-- > 0; factor += 2 * TILE) {
                            const uint16_t* const at = left + (depth * slots + slot + i * grid.width + j) * DEPTH;
                            multiply(at, at + TILE, factor, factor + TILE);
                        }
                store_sums(sums);
                finish(first, images, block, slot, sums);
            }
    }

    // Sums of BLOCK slots and BLOCK channels to dx.
    void finish(isize first, isize images, isize block, isize slot, const float* sums) const {
        isize image = slot / grid.image(), y = slot % grid.image() / grid.width, x = slot % grid.width;
        for (isize r = 0; r < BLOCK && image < images; ++r) {
            if (y < g.h && x < g.w) {
                uint16_t* const to = dx + (((first + image) * g.h + y) * g.w + x) * g.c + block * BLOCK;
                const float* const from = sums + r / SIDE * 2 * SIDE * SIDE + r % SIDE * SIDE;
                const isize left = g.c - block * BLOCK;
                if (left >= BLOCK) {
                    store_bf16(from, to);
                    store_bf16(from + SIDE * SIDE, to + SIDE);
                } else {
                    avx2::plain::to_bf16(from, least(SIDE, left), to);
                    if (left > SIDE) avx2::plain::to_bf16(from + SIDE * SIDE, left - SIDE, to + SIDE);
                }
            }
            if (++x == grid.width) {
                x = 0;
                if (++y == grid.lines) y = 0, ++image;
            }
        }
    }
};

struct Weight {
    const Conv g;
    const uint16_t* dy;
    const uint64_t* signs;
    float* dw;
    Grid grid;                                          // of the signs
    isize left_blocks, right_blocks, depths,
        pairs;    // BLOCKs of o and of c; of a chunk: times DEPTH slots, and pairs of signs
    uint16_t* left;                                     // [SIDE of o][DEPTH of slots][TILE]
    uint16_t* right;                                    // [SIDE of c][whether pairs begin at odd slots][pair][DEPTH]
    float* sums;                                        // [BLOCK of o][BLOCK of c][tap][4 tiles]
    isize begin;                                        // the chunk's first slot

    Weight(const Conv& g, const uint16_t* dy, const uint64_t* signs, float* dw) : g(g), dy(dy), signs(signs), dw(dw) {
        grid = make_grid(g, g.h, g.w, g.ph, g.pw);
        left_blocks = ceil_div(g.o, BLOCK), right_blocks = ceil_div(g.c, BLOCK);
        depths = least(64, ceil_div(all_slots(), DEPTH));
        pairs = depths * SIDE + grid.reach(g) / 2 + 1;
    }
    isize all_slots() const { return g.n * grid.image(); }
    isize left_size() const { return left_blocks * 2 * depths * TILE; }
    isize right_size() const { return right_blocks * 2 * 2 * pairs * DEPTH; }
    isize sums_size() const { return left_blocks * right_blocks * g.taps() * BLOCK * BLOCK; }

    // The pixel of a slot, row by row of `height` x `width` from line `top`, slot `left` of each image, or -1: outside.
    isize pixel(isize slot, isize top, isize left, isize height, isize width) const {
        const isize image = slot / grid.image(), y = slot % grid.image() / grid.width - top,
                    x = slot % grid.width - left;
        return image < g.n && y >= 0 && y < height && x >= 0 && x < width ? (image * height + y) * width + x : -1;
    }

    // DEPTH slots of dy: a tile for each SIDE channels, whose rows are channels.
    void make_left(isize depth) const {
        const uint16_t* rows[DEPTH];
        for (isize k = 0; k < DEPTH; ++k) {
            const isize at = pixel(begin + depth * DEPTH + k, 0, 0, g.oh(), g.ow());
            rows[k] = at < 0 ? nullptr : dy + at * g.o;
        }
        for (isize block = 0; block < 2 * left_blocks; ++block) {
            alignas(64) float pairs_of[SIDE * SIDE];                    // [pair][channel], of two bf16
            const isize o = block * SIDE;
            const __mmask16 there = (__mmask16)(g.o - o >= SIDE ? 0xffff : (1 << most(0, g.o - o)) - 1);
            const auto load = [&](const uint16_t* row) {
                return row ? _mm512_cvtepu16_epi32(_mm512_castsi512_si256(_mm512_maskz_loadu_epi16(there, row + o)))
                           : _mm512_setzero_si512();
            };
            for (isize k = 0; k < SIDE; ++k)
                _mm512_store_si512(pairs_of + k * SIDE,
                                   _mm512_or_si512(load(rows[2 * k]), _mm512_slli_epi32(load(rows[2 * k + 1]), 16)));
            avx2::transpose(pairs_of, SIDE, SIDE, SIDE, (float*)(left + (block * depths + depth) * TILE), SIDE);
        }
    }

    // Pair `item` of the signs, from an even slot and from the odd one behind it.
    void make_right(isize item) const {
        const uint64_t* rows[3];
        for (isize k = 0; k < 3; ++k) {
            const isize at = pixel(begin + item * 2 + k, grid.top, grid.left, g.h, g.w);
            rows[k] = at < 0 ? nullptr : signs + at * words(g.c);
        }
        for (isize odd = 0; odd < 2; ++odd) {
            const uint64_t* const a = rows[odd];
            const uint64_t* const b = rows[odd + 1];
            const __m512i minus = _mm512_set1_epi32((int)((a ? 0xbf80u : 0) | (b ? 0xbf800000u : 0)));
            for (isize block = 0; block < 2 * right_blocks; ++block) {
                const bool there = block * SIDE < g.c;
                const __m512i pair =
                    signed_pair(minus, there && a ? signs_of(a, block) : 0, there && b ? signs_of(b, block) : 0);
                _mm512_store_si512(right + ((block * 2 + odd) * pairs + item) * DEPTH, pair);
            }
        }
    }

    void multiply_chunk(isize item) const {
        const isize o = item / right_blocks, c = item % right_blocks;
        float* sum = sums + item * g.taps() * BLOCK * BLOCK;
        const uint16_t* const first = left + o * 2 * depths * TILE;
        const Tiles tiles;
        for (isize tap = 0; tap < g.taps(); ++tap, sum += BLOCK * BLOCK) {
            const isize slot = tap / g.kw * grid.width + tap % g.kw;
            const uint16_t* const signs0 = right + ((c * 2 * 2 + slot % 2) * pairs + slot / 2) * DEPTH;
            const uint16_t* const signs1 = signs0 + 2 * pairs * DEPTH;
            if (begin) load_sums(sum);
            else zero_sums();
            for (isize k = 0; k < depths; ++k)
                multiply(first + k * TILE, first + (depths + k) * TILE, signs0 + k * TILE, signs1 + k * TILE);
            store_sums(sum);
        }
    }

    void finish(isize o) const {
        for (isize tap = 0; tap < g.taps(); ++tap)
            for (isize c = 0; c < g.c; c += SIDE) {
                const isize item = o / BLOCK * right_blocks + c / BLOCK, tile = o % BLOCK / SIDE * 2 + c % BLOCK / SIDE;
                const float* const from = sums + ((item * g.taps() + tap) * 4 + tile) * SIDE * SIDE + o % SIDE * SIDE;
                copy(dw + (o * g.taps() + tap) * g.c + c, from, least(SIDE, g.c - c) * 4);
            }
    }
};

inline void gradient_of_input(const Conv& g, const uint16_t* dy, const uint64_t* weights, const float* scale,
                              uint16_t* dx, isize threads) {
    static thread_local Memory memory;
    Input work(g, dy, dx, threads);
    uint16_t* const right = (uint16_t*)memory.need(work.right_size() * 2);
    work.right = right;
    parallel_for(threads, work.blocks * work.depths, 0,
                 [&](isize item, uint8_t*) { work.make_right(weights, scale, item, right); });
    parallel_for(threads, work.items(), work.bytes(), [&](isize item, uint8_t* mine) { work.item(item, mine); });
}

inline void gradient_of_weight(const Conv& g, const uint16_t* dy, const uint64_t* signs, float* dw, isize threads) {
    static thread_local Memory memory;
    if (g.n == 0) return fill(dw, 0, g.o * g.k() * 4);
    Weight work(g, dy, signs, dw);
    work.left = (uint16_t*)memory.need((work.left_size() + work.right_size()) * 2 + work.sums_size() * 4);
    work.right = work.left + work.left_size(), work.sums = (float*)(work.right + work.right_size());
    for (work.begin = 0; work.begin < work.all_slots(); work.begin += work.depths * DEPTH) {
        parallel_for(threads, work.depths, 0, [&](isize item, uint8_t*) { work.make_left(item); });
        parallel_for(threads, work.pairs, 0, [&](isize item, uint8_t*) { work.make_right(item); });
        parallel_for(threads, work.left_blocks * work.right_blocks, 0,
                     [&](isize item, uint8_t*) { work.multiply_chunk(item); });
    }
    parallel_for(threads, g.o, 0, [&](isize o, uint8_t*) { work.finish(o); });
}

}  // namespace bnn::amx_gradients
BNN_TARGET_END
#endif
