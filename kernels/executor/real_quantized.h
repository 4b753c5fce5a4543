// Convolutions of real values with int8 weights in the executor, where the CPU multiplies integers. An image's
// activations are quantized once, channels side by side, in a border of zeros, and rows are gathered from there. T: a
// quantized value, uint8_t, or int16_t less the zero point.
#pragma once
#include "executor/real_convolutions.h"

namespace bnn::net {

// Quantizes n values that are `apart` floats apart; the results are `between` values apart.
template <class T>
inline void quantize_apart(const Real& r, const float* from, isize apart, isize n, const Quantization& q, isize between,
                           T* to) {
    constexpr isize SOME = 64;
    for (isize i = 0; i < n; i += SOME) {
        const isize some = least(SOME, n - i);
        T results[SOME];
        float values[SOME];
        if (apart != 1) for (isize k = 0; k < some; ++k) values[k] = from[(i + k) * apart];
        r.int8->quantize(apart == 1 ? from + i : values, some, q, results);
        for (isize k = 0; k < some; ++k) to[(i + k) * between] = results[k];
    }
}

// Quantizes an image; where no instruction multiplies integers, only finds how to.
template <class T>
inline void quantize_image(const Net& n, const NetOp& o, const Frame& f, isize image) {
    const Real& r = *n.r;
    const NetSlot& in = n.slot[o.input];
    const View v = view(in, f);
    const float* const at = v.at + image * v.sn;
    const bool pixels = v.sc == 1 && v.sw == in.c, planes = v.sw == 1 && v.sh == in.w && v.sc == in.w * in.h;
    Range range = {};
    if (planes || joined(v, in)) {
        r.range(at, in.h * in.w * in.c, &range);
    } else if (pixels) {
        for (isize y = 0; y < in.h; ++y) r.range(at + y * v.sh, in.w * in.c, &range);
    } else {
        for (isize i = 0; i < in.h * in.c; ++i) {
            const float* const line = at + i / in.c * v.sh + i % in.c * v.sc;
            if (v.sw == 1) r.range(line, in.w, &range);
            else for (isize x = 0; x < in.w; ++x) r.range(line + x * v.sw, 1, &range);
        }
    }
    const Quantization q = f.quantized.how[image] = quantization(range);
    if (!o.sums) return;
    const isize line = (in.w + 2 * o.pw) * in.c, border = o.pw * in.c;
    T* to = (T*)f.quantized.values + image * quantized_values(o, in);
    const auto zeros = [&](isize some) {
        fill(to, sizeof(T) == 1 ? q.zero_point : 0, some * (isize)sizeof(T)), to += some;
    };
    zeros(o.ph * line);
    for (isize y = 0; y < in.h; ++y) {
        const float* const from = at + y * v.sh;
        zeros(border);
        if (pixels) r.int8->quantize(from, in.w * in.c, q, to);
        else
            for (isize c = 0; c < in.c; ++c) quantize_apart(r, from + c * v.sc, v.sw, in.w, q, in.c, to + c);
        to += in.w * in.c;
        zeros(border);
    }
    zeros(o.ph * line);
}

// Gathers the rows of `many` windows of size x size pixels from window `start` on, in one group.
template <class T>
inline void gather_quantized(const NetOp& o, const NetSlot& in, const T* images, isize size, isize start, isize many,
                             isize group, isize stride, T* to) {
    const isize oh = o.h / size, ow = o.w / size, cg = in.c / o.groups, k = o.kh * o.kw * cg;
    const isize line = (in.w + 2 * o.pw) * in.c, down = o.sh * line, right = o.sw * in.c;
    const bool runs = o.dw == 1 && o.groups == 1;           // a row of taps is one stretch of memory
    const Taps taps = {o.kh, o.dh * line, runs ? 1 : o.kw, o.dw * in.c, runs ? o.kw * cg : cg};
    isize x = start % ow, y = start / ow % oh;
    const T* image = images + start / ow / oh * quantized_values(o, in) + group * cg;
    for (isize i = 0; i < many; ++i) {
        const T* const from = image + y * size * down + x * size * right;
        for (isize p = 0; p < size; ++p)
            for (isize q = 0; q < size; ++q, to += stride) {
                gather_taps(taps, from + p * down + q * right, to);
                clear_run(to, k, stride);
            }
        if (++x == ow) {
            x = 0;
            if (++y == oh) y = 0, image += quantized_values(o, in);
        }
    }
}

// Runs a piece of a convolution with int8 weights and of its stages.
template <class T>
inline void run_quantized(const Net& n, const NetOp& o, const Frame& f, const Cut& c, isize item, uint8_t* memory) {
    const NetSlot& in = n.slot[o.input];
    const Real& r = *n.r;
    const isize size = stage_window(n, o), plane = (o.h / size) * (o.w / size);
    const isize start = item / c.chunks * c.tile, many = least(c.tile, f.n * plane - start), rows = many * c.window;
    const isize first = item % c.chunks * c.chunk, channels = least(c.chunk, o.c - first);
    const isize og = o.c / o.groups, k = o.kh * o.kw * in.c / o.groups, panels = ceil_div(og, r.panel);
    float* x = (float*)memory;
    isize stride = c.float_stride;
    memory += round_up(c.tile * c.window * stride * 4, 64);
    if (const NetSlot* to = home(n, o, c.window); to && og % r.panel == 0)      // whole panels are written
        x = (float*)locate(*to, f) + start * to->c + first, stride = to->c;
    Quantization* const how = (Quantization*)memory;                            // of each row
    T* const gathered = (T*)(memory + round_up(c.tile * c.window * (isize)sizeof(Quantization), 64));
    for (isize w = 0, left = plane - start % plane, image = start / plane; w < many; ++w) {
        for (isize p = 0; p < c.window; ++p) how[w * c.window + p] = f.quantized.how[image];
        if (--left == 0) left = plane, ++image;
    }
    for (isize group = 0; group < o.groups; ++group) {
        const T* const a = c.direct ? (T*)f.quantized.values + start * c.lda : gathered;
        if (!c.direct) gather_quantized(o, in, (T*)f.quantized.values, size, start, many, group, c.lda, gathered);
        // Each group writes whole panels beyond its last channel, which the next group overwrites.
        const isize low = o.groups == 1 ? first : 0, high = o.groups == 1 ? first + channels : og,
                    shift = o.groups == 1 ? 0 : group * og;
        for (isize from = 0; from < k; from += INT8_BLOCK) {
            const isize some = least(INT8_BLOCK, k - from), deep = round_up(k, r.int8->depth);
            for (isize at = low; at < high; at += r.panel) {
                const isize panel = group * panels + at / r.panel;
                const Int8Products::Last last = {how, start % plane + many <= plane, o.sums + panel * r.panel,
                                                 o.scale + group * og + at};
                r.int8->multiply(a + from, c.lda, rows, o.weights + (panel * deep + from) * r.panel,
                                 round_up(some, r.int8->depth), x + shift + at - low, stride, from > 0,
                                 from + some == k ? &last : nullptr);
            }
        }
    }
    // zeros stand behind the last channel; a slot has whole panels
    const isize wide = round_up(channels, r.panel);
    run_stages(n, o, f, 0, x, stride, start, many, c.window, first, channels, wide);
}

}  // namespace bnn::net
