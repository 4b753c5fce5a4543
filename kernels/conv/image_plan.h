// How images of bytes (images.h) are laid out and cut, how their weights lie, and an estimate of the cycles they take,
// by which they are used or not.
#pragma once
#include "conv/choice.h"
#include "isa/variant.h"

namespace bnn {

struct ImagePlan {
    bool possible, use;
    Conv g;                                 // where the kernel is 1 x 1: one image, with a line for each pixel
    isize rows, columns;                    // of the result that are needed
    isize side, lines, of_image,
        panels;    // strips side by side, lines of a strip, strips of an image, panels of an item
    bool through;                           // tiles go on across the ends of lines
    // remainders of a column by the stride, columns of each; bytes of a line and of a panel
    isize phases, width, line, panel;
    isize tiles;                            // of a panel
    isize in_line, steps;                   // of a line of the kernel, and of the whole kernel

    bool whole() const { return g.c % BYTES_STEP == 0; }
    isize strips() const { return g.n * of_image; }
    isize items() const { return ceil_div(ceil_div(strips(), side), panels); }
    isize input_lines() const { return (lines - 1) * g.sh + (g.kh - 1) * g.dh + 1; }
    isize input_columns() const { return (columns - 1) * g.sw + (g.kw - 1) * g.dw + 1; }
    isize stride() const { return whole() ? g.c : g.sw * g.c; }     // from a pixel of a tile to the next
    isize row_tiles() const { return ceil_div(columns * side, SUMS_TILE); }
    isize buffer() const { return round_up(panels * panel + SUMS_TILE * stride() + 2 * BYTES_STEP, 64); }
};

inline isize steps_of_line(const Conv& g) { return ceil_div(g.kw * g.cg(), BYTES_STEP); }

inline isize image_weight_bytes(const Conv& g) {
    return g.groups == 1 ? ceil_div(g.o, SUMS_CHANNELS) * g.kh * steps_of_line(g) * 256 : 0;
}

// Makes the lines of weights from a word of signs, of 64 channels that Images::expand puts at the start of a step: bit
// l of byte q of lines[l / 8] is the sign of byte 4 l + q, which is bit l / 2 of byte q + l % 2 * 4 of the word.
inline void lines_of_word(uint64_t word, uint32_t lines[2]) {
    const auto spread = [](uint32_t bits) {                 // four bits of each byte to every other place
        bits = (bits | bits << 2) & 0x33333333;
        return (bits | bits << 1) & 0x55555555;
    };
    for (int half = 0; half < 2; ++half, word >>= 4) {
        const uint64_t four = word & 0x0f0f0f0f0f0f0f0fu;
        lines[half] = spread((uint32_t)four) | spread((uint32_t)(four >> 32)) << 1;
    }
}

// Writes weights in the order that Images::expand_weights reads, image_weight_bytes(g). rows: as for
// Variant::interleave.
inline void interleave_for_images(const Conv& g, const uint8_t* rows, isize stride, uint8_t* to) {
    const isize in_line = steps_of_line(g);
    fill(to, 0, image_weight_bytes(g));
    for (isize o = 0; o < g.o; ++o)
        for (isize tap = 0; tap < g.taps(); ++tap) {
            const uint8_t* const row = rows + o * stride + tap * g.tap_bytes();
            uint8_t* const block = to + (o / SUMS_CHANNELS * g.kh + tap / g.kw) * in_line * 256 +
                                   o % SUMS_CHANNELS / SUMS_TILE * 128 + o % SUMS_TILE * 4;
            if (g.c % BYTES_STEP == 0) {
                for (isize k = 0; k < g.c / BYTES_STEP; ++k) {
                    uint32_t lines[2];
                    lines_of_word(load64(row + 8 * k), lines);
                    uint8_t* const step = block + (tap % g.kw * g.c / BYTES_STEP + k) * 256;
                    copy(step, lines, 4);
                    copy(step + 64, lines + 1, 4);
                }
                continue;
            }
            for (isize c = 0; c < g.c; ++c) {
                const bool bit = row[c / 8] >> (c % 8) & 1;
                const isize place =
                    c < g.c / 64 * 64 ? c / 64 * 64 + c % 8 * 8 + c % 64 / 8 : c;    // as Images::expand has it
                const isize at = tap % g.kw * g.c + place, line = at % BYTES_STEP / 4;
                block[at / BYTES_STEP * 256 + line / 8 * 64 + at % 4] |= (uint8_t)(bit << (line % 8));
            }
        }
}

// Sets the weights of a step to 0 from product `products` on: those beyond the end of a line of the kernel.
inline void clear_weights(int8_t* step, isize products) {
    for (isize tile = 0; tile < 2; ++tile, step += 1024)
        for (isize k = products; k < BYTES_STEP; ++k) {
            if (k % 4 == 0) {
                fill(step + k / 4 * 64, 0, 1024 - k / 4 * 64);
                break;
            }
            for (isize c = 0; c < SUMS_TILE; ++c) step[k / 4 * 64 + c * 4 + k % 4] = 0;
        }
}

constexpr isize IMAGE_TILES = 64, IMAGE_BYTES = 512 << 10,
                WEIGHT_STEPS = 96;    // of an item, at most (about); of weights that are bytes at once

// Fills in what follows from side, lines and through.
inline void lay_out(ImagePlan* m) {
    const Conv& g = m->g;
    m->of_image = ceil_div(m->rows, m->lines);
    m->phases = m->whole() ? g.sw : 1;
    m->width = ceil_div(m->input_columns(), m->phases);
    m->line = m->phases * m->width * m->side * g.c;
    m->panel = m->input_lines() * m->line;
    m->tiles = m->through ? ceil_div((m->lines - 1) * m->width + m->columns, SUMS_TILE) : m->lines * m->row_tiles();
}

// An estimate of the cycles that the whole convolution takes.
inline double image_cycles(const Images& v, const ImagePlan& m) {
    const isize panels = ceil_div(m.strips(), m.side);
    const double products = (double)m.steps * ceil_div(m.g.o, SUMS_CHANNELS) * 2;
    return v.tile_cycles * products * (1 + v.block_steps / (double)m.steps) * (double)panels * (double)m.tiles +
           v.expand_cycles * ((double)panels * (double)m.panel / BYTES_STEP + products * SUMS_TILE * (double)m.items());
}

// The plan that takes the fewest cycles by the estimate, if one is `possible` and the way is not counting. `use`: the
// way is images, or counting bits takes more cycles by the estimate. conv: with its batch. pool: side of the windows
// that lines and columns must fill. planes: pixels of a tile must be neighbours.
inline ImagePlan plan_images(const Images& v, const Conv& conv, isize pool, bool planes, isize threads, Way way) {
    ImagePlan best = {};
    if (way == Way::counting || conv.groups != 1 || (conv.c % BYTES_STEP && conv.dw != 1) || conv.n == 0) return best;
    const double pixels = ((double)conv.h + 2 * conv.ph + conv.sh) * ((double)conv.w + 2 * conv.pw + conv.sw);
    if (pixels * (double)conv.c > 1 << 30) return best;                 // an image with its border
    ImagePlan m = {};
    m.g = conv;
    Conv& g = m.g;
    if (g.taps() == 1 && g.sh == 1 && g.sw == 1 && g.ph == 0 && g.pw == 0 && pool == 1)
        g.h = g.n * g.h * g.w, g.n = g.w = 1;
    m.rows = g.oh() / pool * pool, m.columns = g.ow() / pool * pool;
    if (!m.rows || !m.columns) return best;
    m.in_line = steps_of_line(g), m.steps = g.kh * m.in_line, m.panels = 1;
    double least_cycles = 0;
    for (m.side = 1; m.side <= (m.whole() && !planes ? SUMS_TILE : 1); m.side *= 2)
        for (int through = 0; through < (m.side == 1 && g.sh == 1 && g.sw == 1 ? 2 : 1); ++through) {
            m.through = through;
            m.lines = m.rows, lay_out(&m);
            const isize fit = most(1, least(SUMS_TILE * IMAGE_TILES / most(1, m.side * (through ? m.width : m.columns)),
                                            IMAGE_BYTES / m.line - (g.kh - 1) * g.dh));
            const isize fewest = ceil_div(m.rows, least(m.rows, round_up(fit, pool)));
            for (isize cuts = fewest; cuts < fewest + m.side && cuts <= m.rows / pool; ++cuts) {
                m.lines = round_up(ceil_div(m.rows, cuts), pool), lay_out(&m);
                const double cycles = image_cycles(v, m);
                if (!best.possible || cycles < least_cycles) best = m, best.possible = true, least_cycles = cycles;
            }
        }
    if (!best.possible) return best;
    // several small panels are one item, and every thread gets equally many items
    const isize all = ceil_div(best.strips(), best.side);
    best.panels = most(1, least(all, least(IMAGE_TILES / best.tiles, IMAGE_BYTES / best.panel)));
    while (threads > 1 && best.panels > 1 && best.items() < 4 * threads && best.items() % threads) --best.panels;
    best.use = way == Way::images ||
               (way == Way::estimated && image_cycles(v, best) < v.count_cycles * (double)conv.pixels() *
                                                                     (double)conv.o * (double)conv.k());
    return best;
}

}  // namespace bnn
