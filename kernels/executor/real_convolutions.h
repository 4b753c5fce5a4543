// Convolutions of real values in the executor: matrix products on gathered rows.
#pragma once
#include "executor/stages.h"

namespace bnn::net {

// Gathers the receptive field of one pixel in one group, in the order (kh, kw, c). offsets: of each value from the
// first, where channels do not lie side by side.
inline void gather_floats(const NetOp& o, const NetSlot& in, const View& v, isize image, isize y0, isize x0,
                          isize group, const isize* offsets, float* to) {
    const isize cg = in.c / o.groups, k = o.kh * o.kw * cg;
    const float* base = v.at + image * v.sn + group * cg * v.sc;
    const isize y = y0 * o.sh - o.ph, x = x0 * o.sw - o.pw;
    const isize top = y >= 0 ? 0 : ceil_div(-y, o.dh),
                left = x >= 0 ? 0 : ceil_div(-x, o.dw);  // taps [top, bottom) x [left, right)
    const isize bottom = y >= in.h ? 0 : least(o.kh, ceil_div(in.h - y, o.dh)),
                right = x >= in.w ? 0 : least(o.kw, ceil_div(in.w - x, o.dw));
    const bool inside = top == 0 && left == 0 && bottom == o.kh && right == o.kw;
    const float* from = base + y * v.sh + x * v.sw;
    if (v.sc != 1) {
        if (inside) {
            for (isize i = 0; i < k; ++i) to[i] = from[offsets[i]];
            return;
        }
        fill(to, 0, k * 4);
        for (isize i = top; i < bottom; ++i)
            for (isize j = left; j < right; ++j)
                for (isize q = 0, at = (i * o.kw + j) * cg; q < cg; ++q) to[at + q] = from[offsets[at + q]];
        return;
    }
    if (!inside) fill(to, 0, k * 4);
    const bool runs = o.dw == 1 && v.sw == cg;              // a row of taps is one stretch of memory
    for (isize i = top; i < bottom; ++i) {
        if (runs)
            copy(to + (i * o.kw + left) * cg, from + i * o.dh * v.sh + left * v.sw, most(0, right - left) * cg * 4);
        else
            for (isize j = left; j < right; ++j)
                copy(to + (i * o.kw + j) * cg, from + i * o.dh * v.sh + j * o.dw * v.sw, cg * 4);
    }
}

// Lines of an image, channels side by side, in a border of zeros; T: float, or uint16_t as bf16.
template <class T>
struct Lines {
    T* at;
    isize image, top, line;             // the first line (of the border above: negative); values of a line

    // Copies lines [from, to) of an image.
    void take(const Real& r, const NetOp& o, const NetSlot& in, const View& v, isize image_, isize from, isize to) {
        image = image_, top = from;
        float* const last = (float*)(at + round_up((to - top) * line, 32));    // one line in float32, for bf16
        for (isize y = top; y < to; ++y) {
            T* const line_at = at + (y - top) * line;
            if (y < 0 || y >= in.h) {
                fill(line_at, 0, line * (isize)sizeof(T));
                continue;
            }
            float* x = sizeof(T) == 4 ? (float*)line_at : last;
            fill(x, 0, o.pw * in.c * 4), x += o.pw * in.c;
            const float* const row = v.at + image * v.sn + y * v.sh;
            if (v.sc == 1 && v.sw == in.c) copy(x, row, in.w * in.c * 4);
            else
                for (isize c = 0; c < in.c; ++c)
                    for (isize k = 0; k < in.w; ++k) x[k * in.c + c] = row[c * v.sc + k * v.sw];
            fill(x + in.w * in.c, 0, o.pw * in.c * 4);
            if constexpr (sizeof(T) == 2) r.bf16->round(last, line, line_at);
        }
    }
};

// Copies n values; up to 15 bytes behind them are read and written too.
template <class T>
inline void copy_run(T* to, const T* from, isize n) {
    constexpr isize SOME = 16 / (isize)sizeof(T);
    isize k = 0;
    do copy(to + k, from + k, 16); while ((k += SOME) < n);
}

// Writes zeros from n up to `end`, and up to 15 bytes behind.
template <class T>
inline void clear_run(T* to, isize n, isize end) {
    constexpr isize SOME = 16 / (isize)sizeof(T);
    const T zeros[SOME] = {};
    for (; n < end; n += SOME) copy(to + n, zeros, 16);
}

// What a row takes from lines: `lines` lines that are `apart` values apart, and of each line `runs` runs of n values
// that are `between` values apart.
struct Taps { isize lines, apart, runs, between, n; };

template <class T>
inline void gather_taps(Taps t, const T* from, T* to) {
    for (isize i = 0; i < t.lines; ++i, from += t.apart)
        for (isize j = 0; j < t.runs; ++j, to += t.n) copy_run(to, from + j * t.between, t.n);
}

// Gathers the rows of `many` windows of size x size pixels from window `start` on, by way of copied lines. Rows are
// `stride` values apart. zeros: they are filled with 0 up to `stride`.
template <class T>
inline void gather_windows(const Net& n, const NetOp& o, const View& v, isize size, isize start, isize many,
                           isize stride, bool zeros, T* memory, T* to) {
    const NetSlot& in = n.slot[o.input];
    const isize oh = o.h / size, ow = o.w / size, k = o.kh * o.kw * in.c, line = (in.w + 2 * o.pw) * in.c;
    const isize down = o.sh * line, right = o.sw * in.c;
    const Taps taps = {o.kh, o.dh * line, o.dw == 1 ? 1 : o.kw, o.dw * in.c, o.dw == 1 ? o.kw * in.c : in.c};
    isize x = start % ow, y = start / ow % oh;
    Lines<T> lines = {memory, -1, 0, line};
    for (isize i = 0, image = start / ow / oh; i < many; ++i) {
        if (image != lines.image) {
            const isize last = least(oh, y + (x + many - i - 1) / ow + 1) * size - 1;
            lines.take(*n.r, o, in, v, image, y * size * o.sh - o.ph, last * o.sh - o.ph + (o.kh - 1) * o.dh + 1);
        }
        const T* const from = memory + (y * size * o.sh - o.ph - lines.top) * line + x * size * right;
        for (isize p = 0; p < size; ++p)
            for (isize q = 0; q < size; ++q, to += stride) {
                gather_taps(taps, from + p * down + q * right, to);
                if (zeros) clear_run(to, k, stride);
            }
        if (++x == ow) {
            x = 0;
            if (++y == oh) y = 0, ++image;
        }
    }
}

// Gathers the rows of `many` windows in one group, as floats.
inline void gather_group(const NetOp& o, const NetSlot& in, const View& v, isize size, isize start, isize many,
                         isize group, const isize* offsets, isize stride, float* to) {
    const isize oh = o.h / size, ow = o.w / size;
    isize x = start % ow, y = start / ow % oh;
    for (isize i = 0, image = start / ow / oh; i < many; ++i) {
        for (isize p = 0; p < size; ++p)
            for (isize q = 0; q < size; ++q, to += stride)
                gather_floats(o, in, v, image, y * size + p, x * size + q, group, offsets, to);
        if (++x == ow) {
            x = 0;
            if (++y == oh) y = 0, ++image;
        }
    }
}

// Runs a piece of a real-valued convolution and of its stages.
inline void run_real(const Net& n, const NetOp& o, const Frame& f, const Cut& c, isize item, uint8_t* memory) {
    const NetSlot& in = n.slot[o.input];
    const View v = view(in, f);
    const Real& r = *n.r;
    const isize size = stage_window(n, o), all = f.n * (o.h / size) * (o.w / size);
    const isize start = item / c.chunks * c.tile, many = least(c.tile, all - start), rows = many * c.window;
    const isize first = item % c.chunks * c.chunk, channels = least(c.chunk, o.c - first);
    const isize og = o.c / o.groups, cg = in.c / o.groups, k = o.kh * o.kw * cg, panels = ceil_div(og, r.panel);
    const isize weight_size = o.kind == Weights::float32 ? 4 : o.kind == Weights::bfloat16 ? 2 : 1;
    const bool bf16 = c.rounded && rows >= 4, bytes = o.kind == Weights::int8;
    const auto take = [&](isize some) {
        uint8_t* const at = memory;
        memory += round_up(some, 64);
        return at;
    };
    float* x = (float*)take(c.tile * c.window * c.float_stride * 4);
    isize stride = c.float_stride;
    if (const NetSlot* to = home(n, o, c.window); to && og % r.panel == 0)      // whole panels are written
        x = (float*)locate(*to, f) + start * to->c + first, stride = to->c;
    float* const gathered = (float*)take(c.direct ? 0 : c.tile * c.window * c.lda * 4 + 64);
    float* const scratch = (float*)take(r.kblock * r.panel * 4);
    uint8_t* const rest = take(most(k * 8, c.lines * 4 + 128));
    uint16_t* const rounded = (uint16_t*)memory;
    isize* const offsets = (isize*)rest;
    if (!c.direct && !c.lines && v.sc != 1)
        for (isize i = 0, at = 0; i < o.kh; ++i)
            for (isize j = 0; j < o.kw; ++j)
                for (isize q = 0; q < cg; ++q) offsets[at++] = i * o.dh * v.sh + j * o.dw * v.sw + q * v.sc;
    const isize plane = (o.h / size) * (o.w / size);
    const auto quantization_at = [&](isize row) -> const Quantization& {
        return f.quantized.how[(start + row / c.window) / plane];
    };

    for (isize group = 0; group < o.groups; ++group) {
        const float* const a = c.direct ? v.at + start * c.lda : gathered;
        if (c.lines && bf16) gather_windows(n, o, v, size, start, many, c.rounded, true, (uint16_t*)rest, rounded);
        else if (c.lines) gather_windows(n, o, v, size, start, many, c.lda, false, (float*)rest, gathered);
        else if (!c.direct) gather_group(o, in, v, size, start, many, group, offsets, c.lda, gathered);
        if (bytes)
            for (isize p = 0; p < rows; ++p) r.quantize_as_float(gathered + p * c.lda, k, quantization_at(p));
        // Each group writes whole panels beyond its last channel, which the next group overwrites.
        const isize low = o.groups == 1 ? first : 0, high = o.groups == 1 ? first + channels : og,
                    shift = o.groups == 1 ? 0 : group * og;
        // For few rows, weights are read once, in one stream. For many, a block of weights stays in the cache for all
        // rows.
        const isize block = bf16 ? c.rounded : rows < 4 ? k : r.kblock;
        for (isize from = 0; from < k; from += block) {
            const isize some = least(block, k - from);
            if (bf16 && !c.lines)
                for (isize p = 0; p < rows; ++p) r.bf16->round(a + p * c.lda + from, some, rounded + p * c.rounded);
            for (isize at = low; at < high; at += r.panel) {
                const isize panel = group * panels + at / r.panel;
                float* const to = x + shift + at - low;
                const uint8_t* const weights = o.weights + (panel * k + from) * r.panel * weight_size;
                if (!bf16) {
                    r.gemm(a + from, c.lda, rows, weights, o.kind, some, to, stride, from > 0, scratch);
                    continue;
                }
                const uint16_t* pairs = o.pairs + (panel * round_up(k, BF16_DEPTH) + from) * r.panel;
                if (!o.pairs)
                    for (isize part = 0; part < some; part += BF16_BLOCK) {
                        const isize now = least(BF16_BLOCK, some - part);
                        r.bf16->pair(weights + part * r.panel * 2, now, (uint16_t*)scratch);
                        r.bf16->multiply(rounded + part, c.rounded, rows, (uint16_t*)scratch, now, to, stride,
                                          from + part > 0);
                    }
                else r.bf16->multiply(rounded, c.rounded, rows, pairs, some, to, stride, from > 0);
            }
        }
    }
    if (bytes)
        for (isize p = 0; p < rows; ++p) r.rescale(x + p * stride, quantization_at(p).scale, o.scale + first, channels);
    // zeros stand behind the last channel; a slot has whole panels
    const isize wide = round_up(channels, r.panel);
    run_stages(n, o, f, 0, x, stride, start, many, c.window, first, channels, wide);
}

}  // namespace bnn::net
