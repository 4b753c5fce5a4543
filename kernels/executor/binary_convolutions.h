// Convolutions of bits in the executor: conv/conv.h has their sums.
#pragma once
#include "executor/stages.h"

namespace bnn::net {

// run_binary where images of bytes are multiplied: 64 channels of all pixels of an item become floats at once.
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

// Runs a piece of a binary convolution and of its stages.
inline void run_binary(const Net& n, const NetOp& o, const Frame& f, const Cut& c, isize item, uint8_t* memory) {
    if (o.output >= 0) return run(c.plan, item, memory);
    if (c.plan.images.use) return run_binary_images(n, o, f, c, item, memory);
    Tile t;
    count_tile(c.plan, item, memory, &t);
    float* x = (float*)(memory + round_up(work_bytes(c.plan), 64));
    // A scale and a bias, or a residual, that come first are part of the conversion from integers.
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

}  // namespace bnn::net
