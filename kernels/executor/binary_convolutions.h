// Convolutions of bits in the executor: conv/conv.h has their sums.
#pragma once
#include "executor/stages.h"

namespace bnn::net {

// The stages that are part of the conversion from integers, the first of an operation: a scale, a bias, a residual, in
// this order, each where there is one. behind: a residual may stand behind a scale or a bias. No
// pooling follows a residual.
struct Prefix { isize stages; const float *scale, *bias, *residual; };
inline Prefix fused_prefix(const Net& n, const NetOp& o, const Frame& f, bool behind) {
    const NetStage* const s = n.stage + o.first_stage;
    Prefix p = {};
    const auto next = [&](Do what) {
        return p.stages < o.stages && s[p.stages].what == what && !s[p.stages].spatial_a;
    };
    if (next(Do::scale)) p.scale = s[p.stages++].a;
    if (next(Do::bias)) p.bias = s[p.stages++].a;
    if ((behind || !p.stages) && next(Do::residual)) p.residual = alongside(n, o, s[p.stages], f);
    p.stages += p.residual != nullptr;
    return p;
}

// run_binary where images of bytes are multiplied: 64 channels of all pixels of an item become floats at once.
inline void run_binary_images(const Net& n, const NetOp& o, const Frame& f, const Cut& c, isize item, uint8_t* memory) {
    const Plan& p = c.plan;
    const isize low = item % p.chunks * p.chunk, high = least(o.c, low + p.chunk);
    float* const floats = (float*)(memory + round_up(work_bytes(p), 64));
    const Prefix fused = fused_prefix(n, o, f, true);
    const float* const residual = fused.residual;
    const NetSlot* const to = home(n, o, c.window);
    const isize stride = to ? to->c : 64;
    isize start = 0, many = 0;
    const auto place = [&](isize first) { return to ? (float*)locate(*to, f) + start * to->c + first : floats; };
    const auto begin = [&](isize from, isize some) { start = from, many = some; };
    const auto follow = [&](const Sums& sums, isize first) {
        const isize from = first / 64 * 64;
        Finish e = {};
        e.kind = Finish::float32, e.s = sums, e.to = place(from) + first - from, e.stride = stride;
        e.scale = fused.scale ? fused.scale + first : nullptr, e.bias = fused.bias ? fused.bias + first : nullptr;
        e.residual = residual ? residual + start * o.c + first : nullptr;
        if (residual && stride != o.c) e.residual = nullptr;            // laid out otherwise than the sums
        return e;
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
            run_stages(n, o, f, fused.stages, place(first) + i * c.window * stride, stride, start + i,
                   least(at_once, many - i), c.window, first, channels);
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
    const Prefix fused = fused_prefix(n, o, f, false);
    const float* const scale = fused.scale ? fused.scale + t.first : nullptr;
    const float* const bias = fused.bias ? fused.bias + t.first : nullptr;
    const isize at_once = most(1, ROWS_AT_ONCE / c.window);
    const NetSlot* to = home(n, o, c.window);
    const isize stride = to ? to->c : c.float_stride;
    for (isize i = 0; i < t.many; i += at_once) {
        const isize some = least(at_once, t.many - i);
        if (to) x = (float*)locate(*to, f) + (t.start + i) * to->c + t.first;
        const isize begin = i * c.window;
        const uint16_t* counts = t.w.counts + begin * t.w.count_stride;
        if (!fused.residual)
            n.v->to_float(counts, t.w.count_stride, t.base + begin, some * c.window, t.channels, scale, bias, nullptr,
                          x, stride, false);
        for (isize p = 0; fused.residual && p < some * c.window; ++p)
            n.r->convert_add(counts + p * t.w.count_stride, t.base[begin + p], t.channels,
                             fused.residual + (t.start + begin + p) * o.c + t.first, x + p * stride);
        run_stages(n, o, f, fused.stages, x, stride, t.start + i, some, c.window, t.first, t.channels);
    }
}

}  // namespace bnn::net
