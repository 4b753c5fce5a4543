// The input of a tile of output pixels: rows, one a pixel, or lines that neighbours share.
#pragma once
#include "conv/plan.h"

namespace bnn {

// Windows [x, x + many) of line y of image n; `at` counts pixels of the tile before them.
struct Run { isize n, y, x, many, at; };

// Cuts `many` windows from window `start` on into runs, where lines end; returns the number of runs. Divides once, then
// counts.
inline isize list_runs(const Plan& p, isize start, isize many, Run* to) {
    const isize width = outputs_w(p), height = outputs_h(p), window = p.e.pool * p.e.pool;
    isize runs = 0;
    Run r = {start / width / height, start / width % height, start % width, 0, 0};
    for (; many > 0; many -= r.many) {
        r.many = least(many, width - r.x);
        to[runs++] = r;
        r.at += r.many * window, r.x = 0;
        if (++r.y == height) r.y = 0, ++r.n;
    }
    return runs;
}

// Calls body(pixel of the tile, column) for all pixels of a run on line `a` of its windows. Pixels lie window by
// window.
template <class Body>
inline void each_pixel(const Plan& p, const Run& r, isize a, const Body& body) {
    const isize pool = p.e.pool, many = r.many;
    for (isize b = 0; b < pool; ++b)
        for (isize i = 0; i < many; ++i) body(r.at + (i * pool + a) * pool + b, (r.x + i) * pool + b);
}

// Copies cg bits, from bit `start` of a pixel's words on, into ceil(cg / 8) bytes.
inline void gather_tap(const uint8_t* pixel, isize start, isize cg, uint8_t* to) {
    const isize bytes = ceil_div(cg, 8);
    if (start % 8 == 0 && cg % 8 == 0) return copy(to, pixel + start / 8, bytes);
    for (isize i = 0; i < bytes; ++i) {
        const isize bit = start + 8 * i, shift = bit % 8, left = cg - 8 * i;
        unsigned v = pixel[bit / 8] >> shift;
        if (shift && left > 8 - shift) v |= (unsigned)pixel[bit / 8 + 1] << (8 - shift);
        to[i] = (uint8_t)(left < 8 ? v & ((1u << left) - 1) : v);
    }
}

// Writes the row of output pixel (oy, ox) of image n in one group: its taps, zeros outside the image, and zeros up to
// g.row_stride().
inline void gather_row(const Plan& p, isize n, isize oy, isize ox, isize group, uint8_t* row) {
    const Conv& g = p.g;
    const isize pixel_bytes = words(g.c) * 8, tap_bytes = g.tap_bytes();
    const isize y = oy * g.sh - g.ph, x = ox * g.sw - g.pw;
    const uint8_t* image = (const uint8_t*)p.activations + n * g.h * g.w * pixel_bytes;
    const Span down = p.row_taps[p.row_class[oy]], across = p.column_taps[p.column_class[ox]];
    const isize before = across.low * tap_bytes, after = (g.kw - across.high) * tap_bytes,
                line_bytes = g.kw * tap_bytes;
    const bool runs =
        g.dw == 1 && g.groups == 1 && tap_bytes == pixel_bytes;    // a row of taps is one stretch of memory
    uint8_t* to = row;
    if (down.low) fill(to, 0, down.low * line_bytes), to += down.low * line_bytes;
    for (isize i = down.low; i < down.high; ++i) {
        const uint8_t* from = image + ((y + i * g.dh) * g.w + x + across.low * g.dw) * pixel_bytes;
        if (before) fill(to, 0, before), to += before;
        if (runs) {
            const isize n = line_bytes - before - after;
            isize k = 0;
            for (; k + 16 <= n; k += 16) copy(to + k, from + k, 16);
            if (k < n) store64(to + k, load64(from + k));
            to += n;
        } else if (g.groups ==
                   1) {    // whole words: the next tap, or the fill below, overwrites what is written too far
            for (isize j = across.low; j < across.high; ++j, to += tap_bytes, from += g.dw * pixel_bytes)
                for (isize k = 0; k < tap_bytes; k += 8) store64(to + k, load64(from + k));
        } else {
            for (isize j = across.low; j < across.high; ++j, to += tap_bytes, from += g.dw * pixel_bytes)
                gather_tap(from, group * g.cg(), g.cg(), to);
        }
        if (after) fill(to, 0, after), to += after;
    }
    if (down.high < g.kh) fill(to, 0, (g.kh - down.high) * line_bytes), to += (g.kh - down.high) * line_bytes;
    fill(to, 0, g.row_stride() - g.row_bytes());
}

// Copies the input under a tile, every tap once. Line i of `to` holds what line i of the kernel meets on the tile's
// first line of pixels, then what it meets on the next; outside the image it is zero. at[k]: the first tap of pixel k
// that is counted.
inline void copy_lines(const Plan& p, const Run* run, isize runs, isize group, uint8_t* to, isize line_stride,
                       const uint8_t** at) {
    const Conv& g = p.g;
    const isize pool = p.e.pool, pixel_bytes = words(g.c) * 8, tap_bytes = g.tap_bytes(), step = g.sw * tap_bytes;
    for (const Run* r = run; r < run + runs; ++r) {
        const isize start = r->x * pool, columns = (r->many * pool - 1) * g.sw + g.kw, x = start * g.sw - g.pw;
        const isize low = least(columns, most(0, -x)),
                    high = most(low, least(columns, g.w - x));    // [low, high) lie in the image
        const isize before = low * tap_bytes, after = (columns - high) * tap_bytes;
        for (isize a = 0; a < pool; ++a, to += columns * tap_bytes) {
            const Span down = p.row_taps[p.row_class[r->y * pool + a]];
            const isize first = p.skip ? down.low : 0, last = p.skip ? down.high : g.kh,
                        y = (r->y * pool + a) * g.sh - g.ph;
            const uint8_t* origin = to + first * line_stride;
            each_pixel(p, *r, a, [&](isize k, isize column) { at[k] = origin + (column - start) * step; });
            for (isize i = first; i < last; ++i) {
                uint8_t* line = to + i * line_stride;
                if (i < down.low || i >= down.high) {
                    fill(line, 0, columns * tap_bytes);
                    continue;
                }
                const isize pixel = (r->n * g.h + y + i * g.dh) * g.w + x + low;
                const uint8_t* from = (const uint8_t*)p.activations + pixel * pixel_bytes;
                if (before) fill(line, 0, before), line += before;
                if (tap_bytes == pixel_bytes) {
                    copy(line, from, (high - low) * tap_bytes), line += (high - low) * tap_bytes;
                } else if (g.groups == 1) {         // whole words, as in gather_row
                    for (isize j = low; j < high; ++j, line += tap_bytes, from += pixel_bytes)
                        for (isize k = 0; k < tap_bytes; k += 8) store64(line + k, load64(from + k));
                } else {
                    for (isize j = low; j < high; ++j, line += tap_bytes, from += pixel_bytes)
                        gather_tap(from, group * g.cg(), g.cg(), line);
                }
                if (after) fill(line, 0, after);
            }
        }
    }
}

}  // namespace bnn
