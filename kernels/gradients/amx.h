// Gradients by AMX: tiles of 16 x 32 bf16 times 32 x 16 bf16, sums in float32.
//
// Signs become bf16, exactly. In the gradient of the input they carry their channel's scale, rounded to bf16, as in a
// convolution under autocast. Products are exact, sums round in float32; the hardware takes denormal numbers for 0.
//
// Images lie one after another in grids of slots. A line includes the padding that taps reach, and the padding behind
// one line or image is also the padding before the next. So a tap lies at the same distance from every slot, and a tile
// is 16 or 32 slots in a row, wherever lines end. Results for slots of the padding are dropped (gradient of the input)
// or multiplied by zero (gradient of the weights).
//
// The right factor of a tile multiplication has pairs in a row, [k / 2][16 columns][2]: a vector for each pair of rows.
#pragma once
#include "gradients/gradient.h"
#include "isa/tiles_bf16.h"

#if defined(BNN_AMX)
#include "threads.h"

BNN_TARGET_BEGIN("amx-tile,amx-bf16,avx512f,avx512bw")
namespace bnn::amx_gradients {

using namespace bf16_tiles;

// Two rows of a right factor as a vector. minus: what a sign of -1 is in each row; first, second: the signs, bit k for
// column k.
inline __m512i signed_pair(__m512i minus, uint16_t first, uint16_t second) {
    const __m512i one = _mm512_mask_xor_epi32(minus, first, minus, _mm512_set1_epi32(0x8000));
    return _mm512_mask_xor_epi32(one, second, one, _mm512_set1_epi32((int)0x80000000));
}
// The signs of SIDE channels of a row of words.
inline uint16_t signs_of(const uint64_t* row, isize block) { return (uint16_t)(row[block / 4] >> block % 4 * SIDE); }

// A grid of slots: `lines` of `width` slots for each image. In it the image begins at line `top`, slot `left`.
struct Grid {
    isize lines, width, top, left;
    isize image() const { return lines * width; }
    isize reach(const Conv& g) const { return (g.kh - 1) * width + g.kw - 1; }     // from the first tap to the last
};
// The grid of images of h x w whose windows reach ph lines and pw columns beyond each side; where these are negative,
// lines and columns are left out.
inline Grid make_grid(const Conv& g, isize h, isize w, isize ph, isize pw) {
    const isize shared_lines = most(0, least(ph, g.kh - 1)), shared_columns = most(0, least(pw, g.kw - 1));
    return {h + 2 * ph - shared_lines, w + 2 * pw - shared_columns, ph, pw};
}

// The gradient of the input. An item is a group of images.
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

    // Makes part `item` of `right`: the signs of the weights, times the scale.
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

    // Copies dy of an item's images, with zeros for the padding, to [DEPTH of o][slot][DEPTH].
    void make_left(isize first, isize images, uint16_t* left) const {
        const auto zeros = [&](isize slot, isize count) {
            for (isize o = 0; o < depths; ++o) fill(left + (o * slots + slot) * DEPTH, 0, count * DEPTH * 2);
        };
        const isize from_x = most(0, -grid.left), inside = most(0, least(g.ow(), grid.width - grid.left) - from_x);
        isize slot = 0;
        for (isize line = 0; line < images * grid.lines; ++line, slot += grid.width) {
            const isize y = line % grid.lines - grid.top, x = from_x + grid.left;
            if (y < 0 || y >= g.oh() || inside == 0) {
                zeros(slot, grid.width);
                continue;
            }
            zeros(slot, x);
            const uint16_t* from = dy + (((first + line / grid.lines) * g.oh() + y) * g.ow() + from_x) * g.o;
            for (isize k = 0; k < inside; ++k, from += g.o) {
                uint16_t* const to = left + (slot + x + k) * DEPTH;
                isize o = 0;
                for (; o + DEPTH <= g.o; o += DEPTH) copy(to + o * slots, from + o, DEPTH * 2);
                if (o == g.o) continue;
                fill(to + o * slots, 0, DEPTH * 2);
                copy(to + o * slots, from + o, (g.o - o) * 2);
            }
            zeros(slot + x + inside, grid.width - x - inside);
        }
        zeros(slot, slots - slot);
    }

    // Computes dx of the images of item k.
    void item(isize k, uint8_t* mine) const {
        const isize first = k * group, images = least(group, g.n - first);
        uint16_t* const left = (uint16_t*)mine;
        float* const sums = (float*)(left + depths * slots * DEPTH);
        make_left(first, images, left);
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

    // Writes the sums of BLOCK slots and BLOCK channels to dx.
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

// The gradient of the weights: sums over all slots, in chunks.
struct Weight {
    const Conv g;
    const uint16_t* dy;
    const uint64_t* signs;
    float* dw;
    Grid grid;                                          // of the signs
    isize left_blocks, right_blocks;                    // BLOCKs of o and of c
    isize group, shares;                                // BLOCKs of o whose dy is held at a time; items they make
    isize depths, pairs;                                // of a chunk: how many times DEPTH slots, and pairs of signs
    uint16_t* left;                                     // [SIDE of the group's o][DEPTH of slots][TILE]
    float* sums;                                        // [BLOCK of o][BLOCK of c][tap][2 of o][2 of c][SIDE][SIDE]
    int32_t *dy_pixels, *sign_pixels;                   // of the chunk's slots; -1: padding
    isize* order;                                       // of tap * 2 + half: see make_order
    isize begin, first;                                 // the chunk's first slot, the group's first BLOCK of o

    Weight(const Conv& g, const uint16_t* dy, const uint64_t* signs, float* dw, isize threads)
        : g(g), dy(dy), signs(signs), dw(dw) {
        grid = make_grid(g, g.h, g.w, g.ph, g.pw);
        left_blocks = ceil_div(g.o, BLOCK), right_blocks = ceil_div(g.c, BLOCK);
        group = least(left_blocks, 8);                  // a megabyte, half of the second cache
        shares = least(group, ceil_div(threads, right_blocks));
        depths = least(64, ceil_div(all_slots(), DEPTH));
        pairs = depths * SIDE + grid.reach(g) / 2 + 1;
    }
    isize all_slots() const { return g.n * grid.image(); }
    isize left_size() const { return group * 2 * depths * TILE; }
    isize sums_size() const { return left_blocks * right_blocks * g.taps() * BLOCK * BLOCK; }
    isize pixels_size() const { return depths * DEPTH + round_up(2 * pairs + 1, SIDE); }
    isize bytes() const { return 2 * 2 * pairs * DEPTH * 2; }           // of an item: its signs

    isize slot_of(isize tap) const { return tap / g.kw * grid.width + tap % g.kw; }

    // Makes the order in which the products of a tap and a half of a BLOCK's channels are computed. Two neighbours are
    // multiplied at a time: their signs are mostly the same cache lines, a pair or a line of slots apart.
    void make_order() const {
        isize at = 0;
        for (isize half = 0; half < 2; ++half)
            for (isize odd = 0; odd < 2; ++odd)
                for (isize tap = 0; tap < g.taps(); ++tap)
                    if (slot_of(tap) % 2 == odd) order[at++] = tap * 2 + half;
    }

    // Writes the pixels of `count` slots from the chunk's first on, in images of `height` x `width` that begin at line
    // `top`, slot `left`; -1 for padding.
    void make_pixels(int32_t* to, isize count, isize top, isize left, isize height, isize width) const {
        isize image = begin / grid.image(), y = begin % grid.image() / grid.width - top, x = begin % grid.width - left;
        for (isize k = 0; k < count; ++k) {
            const bool inside = image < g.n && y >= 0 && y < height && x >= 0 && x < width;
            to[k] = inside ? (int32_t)((image * height + y) * width + x) : -1;
            if (++x == grid.width - left) {
                x = -left;
                if (++y == grid.lines - top) y = -top, ++image;
            }
        }
    }

    // Makes the left factors of DEPTH slots of dy: a tile for each SIDE channels, whose rows are the channels.
    void make_left(isize depth) const {
        const int32_t* const at = dy_pixels + depth * DEPTH;
        for (isize block = 0; block < 2 * group; ++block) {
            alignas(64) float pairs_of[SIDE * SIDE];                    // [pair][channel], of two bf16
            const isize o = first * BLOCK + block * SIDE;
            const __mmask16 there = (__mmask16)(g.o - o >= SIDE ? 0xffff : (1 << most(0, g.o - o)) - 1);
            const auto load = [&](isize k) {
                return at[k] < 0 ? _mm512_setzero_si512()
                                 : _mm512_cvtepu16_epi32(_mm512_castsi512_si256(
                                       _mm512_maskz_loadu_epi16(there, dy + (isize)at[k] * g.o + o)));
            };
            for (isize k = 0; k < SIDE; ++k)
                _mm512_store_si512(pairs_of + k * SIDE,
                                   _mm512_or_si512(load(2 * k), _mm512_slli_epi32(load(2 * k + 1), 16)));
            avx2::transpose(pairs_of, SIDE, SIDE, SIDE, (float*)(left + (block * depths + depth) * TILE), SIDE, false);
        }
    }

    // Makes the chunk's signs of a BLOCK of channels: [SIDE of c][whether pairs begin at odd slots][pair][DEPTH]. Each
    // item makes those that it multiplies. They stay in the second-level cache, where those of all channels would not
    // fit.
    void make_right(isize c, uint16_t* right) const {
        for (isize half = 0; half < 2; ++half) {
            const isize block = c * 2 + half, row = words(g.c);
            const bool there = block * SIDE < g.c;
            for (isize odd = 0; odd < 2; ++odd) {
                uint16_t* const to = right + (half * 2 + odd) * pairs * DEPTH;
                for (isize pair = 0; pair < pairs; ++pair) {
                    const isize a = sign_pixels[pair * 2 + odd], b = sign_pixels[pair * 2 + odd + 1];
                    const __m512i minus = _mm512_set1_epi32((int)((a < 0 ? 0 : 0xbf80u) | (b < 0 ? 0 : 0xbf800000u)));
                    _mm512_store_si512(to + pair * DEPTH,
                                       signed_pair(minus, there && a >= 0 ? signs_of(signs + a * row, block) : 0,
                                                   there && b >= 0 ? signs_of(signs + b * row, block) : 0));
                }
            }
        }
    }

    // Adds the chunk's products to an item's sums. right: memory for the signs.
    void multiply_chunk(isize item, uint16_t* right) const {
        const isize c = item / shares, share = item % shares, blocks = least(group, left_blocks - first);
        make_right(c, right);
        const Tiles tiles;
        for (isize block = blocks * share / shares; block < blocks * (share + 1) / shares; ++block) {
            const uint16_t* const rows = left + block * 2 * depths * TILE;
            float* const sum = sums + ((first + block) * right_blocks + c) * g.taps() * BLOCK * BLOCK;
            for (isize k = 0; k < g.taps() * 2; k += 2) {
                const uint16_t* from[2];
                float* to[4];
                for (isize i = 0; i < 2; ++i) {
                    const isize tap = order[k + i] / 2, half = order[k + i] % 2, slot = slot_of(tap);
                    from[i] = right + ((half * 2 + slot % 2) * pairs + slot / 2) * DEPTH;
                    to[i] = sum + (tap * 4 + half) * SIDE * SIDE, to[2 + i] = to[i] + 2 * SIDE * SIDE;
                }
                if (begin) load_sums(to[0], to[1], to[2], to[3]);
                else zero_sums();
                for (isize depth = 0; depth < depths; ++depth)
                    multiply(rows + depth * TILE, rows + (depths + depth) * TILE, from[0] + depth * TILE,
                             from[1] + depth * TILE);
                store_sums(to[0], to[1], to[2], to[3]);
            }
        }
    }

    // Writes the sums of output channel o to dw.
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
    Weight work(g, dy, signs, dw, threads);
    const isize pixels = round_up(work.pixels_size(), SIDE), order = round_up(2 * g.taps(), 8);
    work.sums = (float*)memory.need(work.sums_size() * 4 + work.left_size() * 2 + pixels * 4 + order * 8);
    work.left = (uint16_t*)(work.sums + work.sums_size());
    work.dy_pixels = (int32_t*)(work.left + work.left_size());
    work.sign_pixels = work.dy_pixels + work.depths * DEPTH;
    work.order = (isize*)(work.dy_pixels + pixels);
    work.make_order();
    for (work.begin = 0; work.begin < work.all_slots(); work.begin += work.depths * DEPTH) {
        work.make_pixels(work.dy_pixels, work.depths * DEPTH, 0, 0, g.oh(), g.ow());
        work.make_pixels(work.sign_pixels, 2 * work.pairs + 1, work.grid.top, work.grid.left, g.h, g.w);
        for (work.first = 0; work.first < work.left_blocks; work.first += work.group) {
            parallel_for(threads, work.depths, 0, [&](isize item, uint8_t*) { work.make_left(item); });
            parallel_for(threads, work.right_blocks * work.shares, work.bytes(),
                         [&](isize item, uint8_t* mine) { work.multiply_chunk(item, (uint16_t*)mine); });
        }
    }
    parallel_for(threads, g.o, 0, [&](isize o, uint8_t*) { work.finish(o); });
}

}  // namespace bnn::amx_gradients
BNN_TARGET_END
#endif
