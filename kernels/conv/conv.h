// Binary convolution (and linear layer) over packed activations: the same driver for every variant.
//
// Output pixels are cut into tiles. A tile's receptive fields are gathered into rows, all output channels are counted
// against them, and the epilogue turns counts into float32, int16 or bits while they are in the cache. A variant that
// counts straight from lines of the input saves most of the gathering: neighbouring pixels share taps, and each is
// copied once a line, not once a pixel.
//
// Zero padding costs nothing in a loop: plan.h. A variant that multiplies bytes does so where it is faster
// (choice.h, images.h).
#pragma once
#include "conv/count.h"
#include "conv/pool.h"

namespace bnn {

// Runs one work item where images of bytes are multiplied. memory: work_bytes(p), aligned to 64, of this thread alone.
inline void run_image_item(const Plan& p, isize item, uint8_t* memory) {
    const Epilogue& e = p.e;
    const Images& v = *p.v->images;
    const isize o = p.g.o, line = words(o), low = item % p.chunks * p.chunk, high = least(o, low + p.chunk);
    float* const floats = (float*)(memory + image_work(p.images, nullptr).total);
    isize start = 0, many = 0;
    const auto begin = [&](isize from, isize some) {
        start = from, many = some;
        for (isize i = 0; i < many && e.pool > 1; ++i)
            fill((uint64_t*)e.to + (start + i) * line + low / 64, 0, words(high - low) * 8);
    };
    const auto follow = [&](const Sums& s, isize first) {
        const isize at = start * o + first;
        Finish f = {};
        f.s = s, f.stride = o;
        f.scale = e.scale ? e.scale + first : nullptr, f.bias = e.bias ? e.bias + first : nullptr;
        if (e.out == Out::bits) {
            f.kind = Finish::bits;
            f.threshold = p.threshold + first,
            f.flip = e.flip && e.pool == 1 ? (uint32_t)(e.flip[first / 64] >> first % 64) : 0, f.join = e.pool > 1;
            f.to = (uint32_t*)((uint64_t*)e.to + start * line) + first / 32, f.stride = 2 * line;
        } else if (e.out == Out::bfloat16) {
            f.kind = Finish::bfloat16, f.to = (uint16_t*)e.to + at;
        } else if (e.out == Out::int16) {
            f.kind = Finish::int16, f.to = (int16_t*)e.to + at;
        } else if (!e.channels_first) {
            f.kind = Finish::float32, f.to = (float*)e.to + at, f.residual = e.residual ? e.residual + at : nullptr;
            f.stream = !f.residual && past_the_caches(p, f.to, o);
        } else {
            f.kind = Finish::float32, f.to = floats, f.stride = SUMS_CHANNELS, f.s.at = IN_ORDER;
        }
        return f;
    };
    const auto after = [&](const Sums& s, isize first) {
        for (isize i = 0, run; i < s.pixels && e.channels_first; i += run) {
            for (run = 1; i + run < s.pixels && s.at[i] >= 0 && s.at[i + run] == s.at[i] + run;) ++run;
            if (s.at[i] >= 0)
                store_planes(p, floats + i * SUMS_CHANNELS, SUMS_CHANNELS, start + s.at[i], run, first, s.channels);
        }
    };
    const auto done = [&](isize first, isize channels) {
        if (e.out != Out::bits) return;
        uint64_t* const to = (uint64_t*)e.to + start * line + first / 64;
        for (isize i = 0; i < many && channels <= 32; ++i) ((uint32_t*)(to + i * line))[1] = 0;
        for (isize i = 0; i < many && e.pool > 1 && e.flip; ++i) to[i * line] ^= e.flip[first / 64];
    };
    run_images(v, p.images, p.activations, p.blob.for_images, e.pool, false, low, high, item / p.chunks, memory, begin,
               follow, after, done);
}

// Runs one work item: counts a tile of pixels against a chunk of channels, then runs the epilogue. memory: as for
// count_tile.
inline void run(const Plan& p, isize item, uint8_t* memory) {
    if (p.images.use) return run_image_item(p, item, memory);
    const Conv& g = p.g;
    const Variant& v = *p.v;
    const Epilogue& e = p.e;
    Tile t;
    count_tile(p, item, memory, &t);
    const Work& w = t.w;
    const isize window = e.pool * e.pool, start = t.start, many = t.many, pixels = t.pixels, first = t.first,
                channels = t.channels;
    const isize base_stride = round_up(p.chunk, 64);
    const bool single = one_stretch(g);
    const int32_t* const* base = t.base;

    if (e.out == Out::float32) {
        const isize at = start * g.o + first, stride = e.channels_first ? base_stride : g.o;
        float* const to = e.channels_first ? w.floats : (float*)e.to + at;
        const float* const residual = e.residual && !e.channels_first ? e.residual + at : nullptr;
        const bool stream = !e.channels_first && !residual && past_the_caches(p, to, stride);
        v.to_float(w.counts, w.count_stride, base, pixels, channels, e.scale ? e.scale + first : nullptr,
                   e.bias ? e.bias + first : nullptr, residual, to, stride, stream);
        if (e.channels_first) store_planes(p, w.floats, base_stride, start, pixels, first, channels);
    } else if (e.out == Out::bfloat16) {
        constexpr isize SOME = 512;
        alignas(64) float sums[SOME];
        for (isize i = 0; i < pixels; ++i)
            for (isize o = 0; o < channels; o += SOME) {
                const isize n = least(SOME, channels - o), at = first + o;
                const int32_t* const its = base[i] + o;
                v.to_float(w.counts + i * w.count_stride + o, 0, &its, 1, n, e.scale ? e.scale + at : nullptr,
                           e.bias ? e.bias + at : nullptr, nullptr, sums, 0, false);
                v.to_bf16(sums, n, (uint16_t*)e.to + (start + i) * g.o + at);
            }
    } else if (e.out == Out::int16) {
        for (isize i = 0; i < pixels; ++i)
            v.to_int16(w.counts + i * w.count_stride, base[i], channels, (int16_t*)e.to + (start + i) * g.o + first);
    } else {
        const isize line = words(g.o), n = words(channels);
        for (isize i = 0, some; i < many; i += some) {
            uint64_t* to = (uint64_t*)e.to + (start + i) * line + first / 64;
            for (some = 1; single && window == 1 && i + some < many && t.border[i + some] == t.border[i];)
                ++some;    // pixels of one border class share their limits
            for (isize k = 0; k < window; ++k) {
                const isize at = i * window + k;
                const uint16_t* limit = single ? p.limit + t.border[at] * round_up(g.o, 64) + first : w.limits;
                if (!single) {
                    fill(w.limits, 0, round_up(channels, 64) * 2);
                    for (isize o = 0; o < channels; ++o)
                        w.limits[o] = count_limit(base[at][o], e.threshold ? e.threshold[first + o] : 0);
                }
                v.to_bits(w.counts + at * w.count_stride, w.count_stride, some, limit, channels, k ? w.bits : to, line);
                if (k) for (isize j = 0; j < n; ++j) to[j] |= w.bits[j];
            }
            for (isize k = 0; e.flip && k < some; ++k, to += line)
                for (isize j = 0; j < n; ++j) to[j] ^= e.flip[first / 64 + j];
        }
    }
}

}  // namespace bnn
