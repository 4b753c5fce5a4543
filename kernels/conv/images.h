// Convolution by images of bytes, for variants that multiply bytes (Images in variant.h).
//
// Lines of output are cut into strips of `lines` lines. The input under a strip is expanded to bytes once, with a
// border of 0, which adds nothing to a sum: padding needs no correction. `side` strips lie side by side, pixel by
// pixel, as a panel. So the 16 pixels of a tile lie at equal distances even where lines are short,
//     byte of column x, strip s = ((line * width + x) * side + s) * C,
// and 16 sums belong to 16 / side columns. With a stride, columns of equal remainder lie together, so the same holds.
// Where a pixel is no whole number of steps (C % 64), a line of the kernel's taps is one run of bytes, what lies beyond
// it meets weights of 0, and side is 1. Where side is 1 and there is no stride, tiles may go on across the ends of
// lines; the sums of columns in the border are dropped.
#pragma once
#include "conv/image_plan.h"

namespace bnn {

inline isize image_pixels(const ImagePlan& m) {
    return m.panels * m.side * m.lines * m.columns;
}    // of an item, at most

// Where the memory of one item lies.
struct ImageWork {
    isize* offsets;                         // [steps]: of a step of the kernel from the first
    const int8_t** tile;                    // [tiles]
    int32_t* at;                            // [tiles][SUMS_TILE]: windows or pixels from `start`; -1: none
    int32_t *row, *column;    // [panels * side][lines] and [columns]: their shares of `at`; row -1: outside
    int8_t *bytes, *weights[2];             // those that are multiplied and those that are expanded meanwhile
    int32_t* sums;                          // of a block; of all blocks where the weights are cut into several parts
    isize total;
};

// Lays out `memory`; where it is null, only `total` means something.
inline ImageWork image_work(const ImagePlan& m, uint8_t* memory) {
    ImageWork w = {};
    const isize tiles = m.panels * m.tiles, blocks = 1 + (m.steps > WEIGHT_STEPS ? ceil_div(tiles, 2) : 0);
    const auto take = [&](isize bytes) {
        uint8_t* const at = memory ? memory + w.total : nullptr;
        w.total += round_up(bytes, 64);
        return at;
    };
    w.sums = (int32_t*)take(blocks * SUMS * 4);
    for (int8_t*& some : w.weights) some = (int8_t*)take(least(m.steps, WEIGHT_STEPS) * 2048);
    w.bytes = (int8_t*)take(m.buffer());
    w.offsets = (isize*)take(m.steps * 8);
    w.tile = (const int8_t**)take(round_up(tiles, 2) * 8);
    w.at = (int32_t*)take(round_up(tiles, 2) * SUMS_TILE * 4);
    w.row = (int32_t*)take(m.panels * m.side * m.lines * 4);
    w.column = (int32_t*)take(m.columns * 4);
    return w;
}

// Expands the input under a strip to bytes at `to`, with zeros in the border.
inline void fill_strip(const Images& v, const ImagePlan& m, const uint64_t* activations, isize strip, int8_t* to) {
    const Conv& g = m.g;
    const isize count = words(g.c), columns = m.input_columns(), left = least(g.pw, columns),
                right = most(left, least(columns, g.pw + g.w));
    const isize y0 = strip % m.of_image * m.lines * g.sh - g.ph, pixel = m.side * g.c;
    const uint64_t* const image = activations + strip / m.of_image * g.h * g.w * count;
    if (g.taps() == 1 && g.sh == 1 && g.sw == 1 && m.side == 1 && !g.ph && !g.pw && m.columns == g.w)     // one stretch
        return v.expand(image + y0 * g.w * count, count, least(m.lines, g.h - y0) * g.w, g.c, to, g.c);
    for (isize l = 0; l < m.input_lines(); ++l) {
        bool needed = false;
        for (isize i = 0; i < g.kh && !needed; ++i) needed = l >= i * g.dh && (l - i * g.dh) % g.sh == 0;
        if (!needed) continue;
        const bool inside = y0 + l >= 0 && y0 + l < g.h;
        const isize low = inside ? left : columns, high = inside ? right : columns;
        for (isize r = 0; r < m.phases; ++r) {
            int8_t* const line = to + (l * m.phases + r) * m.width * pixel;
            const isize first = ceil_div(most(0, low - r), m.phases), last = ceil_div(most(0, high - r), m.phases),
                        end = ceil_div(most(0, columns - r), m.phases);
            if (first < last)
                v.expand(image + ((y0 + l) * g.w + first * m.phases + r - g.pw) * count, m.phases * count, last - first,
                         g.c, line + first * pixel, pixel);
            for (isize x = 0; x < end; ++x)
                if (x < first || x >= last) fill(line + x * pixel, 0, g.c);
        }
    }
}

// Runs an item. begin(start, many) is called with its windows. For every block of sums, follow(sums, first channel)
// says what becomes of it, and after(sums, first channel) is called when that has been done. done(first, channels) is
// called when all sums of 64 channels (or of those that are left) are done. [low, high): the channels; low is a
// multiple of 64. in_window: rows of the result are the pixels of windows, window by window.
template <class Begin, class Follow, class After, class Done>
void run_images(const Images& v, const ImagePlan& m, const uint64_t* activations, const uint8_t* weights, isize pool,
                bool in_window, isize low, isize high, isize item, uint8_t* memory, const Begin& begin,
                const Follow& follow, const After& after, const Done& done) {
    const Conv& g = m.g;
    const ImageWork w = image_work(m, memory);
    for (isize i = 0, at = 0; i < g.kh; ++i)
        for (isize k = 0; k < m.in_line; ++k, ++at) {
            const isize x = m.whole() ? k * BYTES_STEP / g.c * g.dw : 0,
                        c = k * BYTES_STEP - (m.whole() ? k * BYTES_STEP / g.c * g.c : 0);
            w.offsets[at] = i * g.dh * m.line + (x % m.phases * m.width + x / m.phases) * m.side * g.c + c;
        }
    const isize across = m.columns / pool, of_image = m.rows / pool * across, first_strip = item * m.panels * m.side;
    const isize end_strip = least(m.strips(), first_strip + m.panels * m.side),
                panels = ceil_div(end_strip - first_strip, m.side);
    const auto window = [&](isize strip) {
        return strip / m.of_image * of_image + least(strip % m.of_image * m.lines, m.rows) / pool * across;
    };
    const isize start = window(first_strip), many = window(end_strip) - start;
    const isize scale = in_window ? pool * pool : 1;
    for (isize x = 0; x < m.columns; ++x) w.column[x] = (int32_t)(x / pool * scale + (in_window ? x % pool : 0));
    for (isize s = 0; s < panels * m.side; ++s) {
        const isize strip = first_strip + s, image = strip / m.of_image, row0 = strip % m.of_image * m.lines;
        for (isize y = 0; y < m.lines; ++y) {
            const isize row = row0 + y, at = image * of_image + (pool == 1 ? row : row / pool) * across - start;
            w.row[s * m.lines + y] =
                strip < end_strip && row < m.rows ? (int32_t)(at * scale + (in_window ? row % pool * pool : 0)) : -1;
        }
    }
    isize tiles = 0;
    for (isize panel = 0; panel < panels; ++panel) {
        int8_t* const bytes = w.bytes + panel * m.panel;
        const isize strip0 = first_strip + panel * m.side;
        for (isize s = 0; s < m.side && strip0 + s < end_strip; ++s)
            fill_strip(v, m, activations, strip0 + s, bytes + s * g.c);
        for (isize t = 0; t < m.tiles; ++t, ++tiles) {
            const isize line = m.through ? 0 : t / m.row_tiles(),
                        place = (m.through ? t : t % m.row_tiles()) * SUMS_TILE;
            w.tile[tiles] = bytes + line * g.sh * m.line + place * m.stride();
            const int32_t* row =
                w.row + panel * m.side * m.lines + (m.through ? place / m.width : place % m.side * m.lines + line);
            const int32_t* const row_end = w.row + (panel + 1) * m.side * m.lines;
            isize x = m.through ? place % m.width : place / m.side;
            for (isize i = 0; i < SUMS_TILE; ++i) {
                w.at[tiles * SUMS_TILE + i] = row < row_end && x < m.columns && *row >= 0 ? *row + w.column[x] : -1;
                if (m.through) {
                    if (++x == m.width) x = 0, ++row;
                } else if ((row += m.lines) >= row_end) {
                    row -= m.side * m.lines, ++x;
                }
            }
        }
    }
    if (tiles % 2) for (isize i = 0; i < SUMS_TILE; ++i) w.at[tiles * SUMS_TILE + i] = -1;
    begin(start, many);
    v.begin();
    const isize pairs = ceil_div(tiles, 2);
    const auto bits = [&](isize o, isize k) { return weights + (o / SUMS_CHANNELS * m.steps + k) * 256; };
    const auto steps = [&](isize k) { return least(WEIGHT_STEPS, m.steps - k); };
    struct Held { bool last; isize o, t; int32_t* sums; } held = {};            // the block whose sums are in registers
    const auto sums_held = [&] {
        const isize first = 2 * held.t, pixels = first + 1 < tiles ? SUMS_PIXELS : SUMS_TILE;
        return Sums{held.sums, w.at + first * SUMS_TILE, pixels, least(SUMS_CHANNELS, high - held.o)};
    };
    const auto ready = [&] { return held.last ? follow(sums_held(), held.o) : Finish(); };
    const auto finished = [&] {
        const isize from = held.o / 64 * 64;
        if (held.last) after(sums_held(), held.o);
        if (held.last && held.t == pairs - 1 && (held.o % 64 || held.o + SUMS_CHANNELS >= high))
            done(from, least(64, high - from));
    };
    v.expand_weights(bits(low, 0), 4 * steps(0), w.weights[0]);
    isize now = 0;
    for (isize o = low; o < high; o += SUMS_CHANNELS)
        for (isize k = 0; k < m.steps; k += WEIGHT_STEPS, now ^= 1) {
            const isize some = steps(k);
            if (!m.whole() && g.kw * g.c % BYTES_STEP)
                for (isize i = 0; i < some; ++i)
                    if ((k + i + 1) % m.in_line == 0) clear_weights(w.weights[now] + i * 2048, g.kw * g.c % BYTES_STEP);
            const bool last = k + some == m.steps;
            const isize next_o = last ? o + SUMS_CHANNELS : o, next_k = last ? 0 : k + some,
                        lines = next_o < high ? 4 * steps(next_k) : 0;
            for (isize t = 0; t < pairs; ++t) {
                const bool two = 2 * t + 1 < tiles, goes_on = k && pairs == 1;
                int32_t* const sums = w.sums + (last ? 0 : (1 + t) * SUMS);
                const isize from = lines * t / pairs, to = lines * (t + 1) / pairs;
                const Finish finish = ready();
                v.multiply(
                    {w.tile[2 * t], two ? w.tile[2 * t + 1] : nullptr, m.stride(), w.offsets + k, w.weights[now], some,
                     k && !goes_on ? w.sums + (1 + t) * SUMS : nullptr, goes_on},
                    {goes_on ? nullptr : held.sums, 2 * held.t + 1 < tiles, finish,
                     lines ? bits(next_o, next_k) + from * 64 : nullptr, w.weights[now ^ 1] + from * 512, to - from});
                finished();
                held = {last, o, t, sums};
            }
        }
    v.store(held.sums, 2 * held.t + 1 < tiles);
    v.finish(ready());
    finished();
    v.end();
}

}  // namespace bnn
