// Convolutions of the executor: of bits (conv/conv.h counts them), and of real values as matrix products on gathered
// rows.
#pragma once
#include "executor/stages.h"

namespace bnn::net {

// The same where images are multiplied: 64 channels of all pixels of an item are floats at once.
inline void run_binary_images(const Net& n, const NetOp& o, const Frame& f, const Cut& c, isize item, uint8_t* memory) {
    const Plan& p = c.plan;
    const isize low = item % p.chunks * p.chunk, high = least(o.c, low + p.chunk);
    float* const floats = (float*)(memory + round_up(work_bytes(p), 64));
    const NetStage* s = n.stage + o.first_stage;
    isize fused = 0;
    const float *scale = nullptr, *bias = nullptr, *residual = nullptr;
    if (fused < o.stages && s[fused].what == Do::scale && !s[fused].spatial_a) scale = s[fused++].a;
    if (fused < o.stages && s[fused].what == Do::bias && !s[fused].spatial_a) bias = s[fused++].a;
    if (fused < o.stages && c.window == 1 && s[fused].what == Do::residual) {
        const NetSlot& other = n.slot[s[fused].slot];
        const View v = view(other, f);
        if (v.sc == 1 && other.c == o.c && joined(v, other) && v.sn == other.h * other.w * other.c)
            residual = v.at, ++fused;
    }
    const NetSlot* const to = home(n, o, c.window);
    const isize stride = to ? to->c : 64;
    isize start = 0, many = 0;
    const auto place = [&](isize first) { return to ? (float*)locate(*to, f) + start * to->c + first : floats; };
    const auto begin = [&](isize from, isize some) { start = from, many = some; };
    const auto follow = [&](const Sums& sums, isize first) {
        const isize from = first / 64 * 64;
        Finish f = {};
        f.kind = Finish::float32, f.s = sums, f.to = place(from) + first - from, f.stride = stride;
        f.scale = scale ? scale + first : nullptr, f.bias = bias ? bias + first : nullptr;
        f.residual = residual ? residual + start * o.c + first : nullptr;
        if (residual && stride != o.c) f.residual = nullptr;            // laid out otherwise than the sums
        return f;
    };
    const auto after = [&](const Sums& sums, isize first) {
        if (!residual || stride == o.c) return;
        float* const x = place(first / 64 * 64) + first % 64;
        for (isize i = 0; i < sums.pixels; ++i)
            if (sums.at[i] >= 0)
                n.r->add(x + sums.at[i] * stride, residual + (start + sums.at[i]) * o.c + first, sums.channels);
    };
    const auto done = [&](isize first, isize channels) {
        const isize at_once = most(1, ROWS_AT_ONCE / c.window);
        for (isize i = 0; i < many; i += at_once)
            finish(n, o, f, fused, place(first) + i * c.window * stride, stride, start + i, least(at_once, many - i),
                   c.window, first, channels);
    };
    run_images(*p.v->images, p.images, p.activations, p.blob.for_images, p.e.pool, c.window > 1, low, high,
               item / p.chunks, memory, begin, follow, after, done);
}

inline void run_binary(const Net& n, const NetOp& o, const Frame& f, const Cut& c, isize item, uint8_t* memory) {
    if (o.output >= 0) return run(c.plan, item, memory);
    if (c.plan.images.use) return run_binary_images(n, o, f, c, item, memory);
    Tile t;
    count_tile(c.plan, item, memory, &t);
    float* x = (float*)(memory + round_up(work_bytes(c.plan), 64));
    // The first stages, if they are the usual ones, are part of the conversion from integers.
    const NetStage* s = n.stage + o.first_stage;
    isize done = 0;
    const float *scale = nullptr, *bias = nullptr;
    if (done < o.stages && s[done].what == Do::scale && !s[done].spatial_a) scale = s[done++].a + t.first;
    if (done < o.stages && s[done].what == Do::bias && !s[done].spatial_a) bias = s[done++].a + t.first;
    const NetSlot* other = nullptr;
    View v = {};
    if (!done && o.stages && c.window == 1 && s[0].what == Do::residual) {
        v = view(n.slot[s[0].slot], f);
        if (v.sc == 1 && n.slot[s[0].slot].c == o.c && joined(v, n.slot[s[0].slot]))
            other = &n.slot[s[0].slot], done = 1;
    }
    const isize at_once = most(1, ROWS_AT_ONCE / c.window), plane = o.h * o.w;
    const NetSlot* to = home(n, o, c.window);
    const isize stride = to ? to->c : c.float_stride;
    for (isize i = 0; i < t.many; i += at_once) {
        const isize some = least(at_once, t.many - i);
        if (to) x = (float*)locate(*to, f) + (t.start + i) * to->c + t.first;
        for (isize p = 0; p < some * c.window; ++p) {
            const isize at = i * c.window + p;
            const uint16_t* counts = t.w.counts + at * t.w.count_stride;
            if (other) {
                const isize pixel = t.start + at;
                n.r->convert_add(counts, t.base[at], t.channels,
                                 v.at + pixel / plane * v.sn + pixel % plane * v.sw + t.first, x + p * stride);
            } else {
                n.v->to_float(counts, t.base[at], t.channels, scale, bias, nullptr, x + p * stride);
            }
        }
        finish(n, o, f, done, x, stride, t.start + i, some, c.window, t.first, t.channels);
    }
}

// The receptive field of one pixel and one group, in the order (kh, kw, c).
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

inline void run_real(const Net& n, const NetOp& o, const Frame& f, const Cut& c, isize item, uint8_t* memory) {
    const NetSlot& in = n.slot[o.input];
    const View v = view(in, f);
    const Real& r = *n.r;
    const isize size = stage_window(n, o), oh = o.h / size, ow = o.w / size, all = f.n * oh * ow;
    const isize start = item / c.chunks * c.tile, many = least(c.tile, all - start), rows = many * c.window;
    const isize first = item % c.chunks * c.chunk, channels = least(c.chunk, o.c - first);
    const isize og = o.c / o.groups, cg = in.c / o.groups, k = o.kh * o.kw * cg, panels = ceil_div(og, r.panel);
    const isize bytes = o.kind == Weights::float32 ? 4 : o.kind == Weights::bfloat16 ? 2 : 1;
    float* x = (float*)memory;
    isize stride = c.float_stride;
    if (const NetSlot* to = home(n, o, c.window); to && og % r.panel == 0)      // whole panels are written
        x = (float*)locate(*to, f) + start * to->c + first, stride = to->c;
    memory += round_up(c.tile * c.window * c.float_stride * 4, 64);
    float* gathered = (float*)memory;
    memory += c.direct ? 0 : round_up(c.tile * c.window * c.lda * 4 + 64, 64);
    float* scratch = (float*)memory;
    isize* offsets = (isize*)(memory + r.kblock * r.panel * 4);
    if (!c.direct && v.sc != 1)
        for (isize i = 0, at = 0; i < o.kh; ++i)
            for (isize j = 0; j < o.kw; ++j)
                for (isize q = 0; q < cg; ++q) offsets[at++] = i * o.dh * v.sh + j * o.dw * v.sw + q * v.sc;

    for (isize group = 0; group < o.groups; ++group) {
        const float* a = c.direct ? v.at + start * c.lda : gathered;
        if (!c.direct) {
            isize xx = start % ow, y = start / ow % oh, image = start / ow / oh;
            float* to = gathered;
            for (isize i = 0; i < many; ++i) {
                for (isize p = 0; p < size; ++p)
                    for (isize q = 0; q < size; ++q, to += c.lda)
                        gather_floats(o, in, v, image, y * size + p, xx * size + q, group, offsets, to);
                if (++xx == ow) {
                    xx = 0;
                    if (++y == oh) y = 0, ++image;
                }
            }
        }
        // Each group writes whole panels beyond its last channel, which the next group overwrites.
        const isize low = o.groups == 1 ? first : 0, high = o.groups == 1 ? first + channels : og,
                    shift = o.groups == 1 ? 0 : group * og;
        // few rows: weights are read once, in one stream; many: a block of them stays in the cache for all rows
        const isize block = rows < 4 ? k : r.kblock;
        for (isize from = 0; from < k; from += block) {
            const isize some = least(block, k - from);
            for (isize at = low; at < high; at += r.panel)
                r.gemm(a + from, c.lda, rows,
                       o.weights + ((group * panels + at / r.panel) * k + from) * r.panel * bytes, o.kind, some,
                       x + shift + at - low, stride, from > 0, scratch);
        }
    }
    if (o.scale)
        for (isize p = 0; p < rows; ++p) r.stage(Do::scale, x + p * stride, channels, o.scale + first, nullptr);
    finish(n, o, f, 0, x, stride, start, many, c.window, first, channels);
}

}  // namespace bnn::net
