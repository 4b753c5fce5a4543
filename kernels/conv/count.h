// A tile of pixels, counted against a chunk of channels.
#pragma once
#include "conv/depthwise.h"

namespace bnn {

// Where the parts of one thread's memory lie (WorkSizes in plan.h).
struct Work {
    uint8_t* rows;
    uint16_t* counts;
    uint8_t* scratch;
    float* floats;
    int32_t* bases;
    uint16_t* limits;
    uint64_t* bits;
    isize count_stride;
};

// Whether float results are written past the caches: there are many, and rows of `stride` floats from `to` on begin
// with a cache line. Other threads see them behind the barrier of a parallel loop, which uses locked instructions.
inline bool past_the_caches(const Plan& p, const void* to, isize stride) {
    constexpr isize LINE = 64, FEW = 4 << 20;   // bytes that may stay in one core's own cache
    return p.g.pixels() * p.g.o * 4 > FEW && (intptr_t)to % LINE == 0 && stride * 4 % LINE == 0;
}

// Writes float results, from[pixels][stride], as planes. Pixels that lie side by side in one image are written
// together.
inline void store_planes(const Plan& p, const float* from, isize stride, isize start, isize pixels, isize first,
                         isize channels) {
    const isize plane = p.g.oh() * p.g.ow();
    for (isize i = 0; i < pixels;) {
        const isize image = (start + i) / plane, at = (start + i) % plane, run = least(pixels - i, plane - at);
        float* to = (float*)p.e.to + (image * p.g.o + first) * plane + at;
        p.v->transpose(from + i * stride, stride, run, channels, to, plane,
                       !p.e.residual && past_the_caches(p, to, plane));
        if (p.e.residual) {
            const float* residual = p.e.residual + (image * p.g.o + first) * plane + at;
            for (isize o = 0; o < channels; ++o)
                for (isize k = 0; k < run; ++k) to[o * plane + k] += residual[o * plane + k];
        }
        i += run;
    }
}

// One work item, counted: dot = base[i][o] - 2 * w.counts[i * w.count_stride + o] for `pixels` pixels, window by
// window, and `channels` channels from `first` on.
struct Tile {
    isize start, many, pixels, first, channels;     // windows [start, start + many)
    isize border[64];                               // class of each pixel
    const int32_t* base[64];                        // not set where bits need only their limits
    Work w;
};

// Counts one work item. memory: work_bytes(p), aligned to 64, of this thread alone.
inline void count_tile(const Plan& p, isize item, uint8_t* memory, Tile* t) {
    const Conv& g = p.g;
    const Variant& v = *p.v;
    const Epilogue& e = p.e;
    const WorkSizes s = work_sizes(p);
    Work w = {};
    w.rows = memory, memory += s.rows;
    w.counts = (uint16_t*)memory, memory += s.counts;
    w.scratch = memory, memory += s.scratch;
    w.floats = (float*)memory, memory += s.floats;
    w.bases = (int32_t*)memory, memory += s.bases;
    w.limits = (uint16_t*)memory, memory += s.limits;
    w.bits = (uint64_t*)memory;
    w.count_stride = s.count_stride;

    const isize window = e.pool * e.pool, start = item / p.chunks * p.tile, many = least(p.tile, windows(p) - start);
    const isize pixels = many * window, first = item % p.chunks * p.chunk, channels = least(p.chunk, g.o - first);
    const isize base_stride = round_up(p.chunk, 64);
    const bool single = one_stretch(g);

    Run run[64];
    const isize runs = list_runs(p, start, many, run);
    for (const Run* r = run; r < run + runs; ++r)
        for (isize a = 0; a < e.pool; ++a) {
            const isize line = p.row_class[r->y * e.pool + a] * p.columns;
            const int32_t* column_class = p.column_class;
            each_pixel(p, *r, a, [&](isize i, isize x) { t->border[i] = line + column_class[x]; });
        }
    for (isize i = 0; i < pixels && (e.out != Out::bits || !single); ++i) {
        t->base[i] = p.base + t->border[i] * g.o + first;
        if (single) continue;
        copy(w.bases + i * base_stride, t->base[i], channels * 4);
        t->base[i] = w.bases + i * base_stride;
    }

    if (depthwise(g)) {
        uint64_t* const weights = (uint64_t*)w.rows;
        depthwise_weights(p, weights);
        for (const Run* r = run; r < run + runs; ++r)
            for (isize a = 0; a < e.pool; ++a)
                each_pixel(p, *r, a, [&](isize i, isize x) {
                    count_depthwise(p, r->n, r->y * e.pool + a, x, weights, w.counts + i * w.count_stride);
                });
    }
    // Groups are counted in order: each writes whole vectors beyond its last channel, which the next group overwrites.
    for (isize group = 0; group < g.groups && !depthwise(g); ++group) {
        const uint8_t *rows = w.rows, *at[64];
        isize stride = g.row_stride();
        const isize line_bytes = g.kw * g.tap_bytes(),
                    line_stride = pixels * line_bytes + 8;    // + 8: the last word may reach too far
        if (p.direct) {
            stride = words(g.c) * 8;
            rows = (const uint8_t*)p.activations + start * stride;
        } else if (p.lines) {
            copy_lines(p, run, runs, group, w.rows, line_stride, at);
        } else {
            uint8_t* row = w.rows;              // in order, as each overwrites what the one before wrote too far
            for (const Run* r = run; r < run + runs; ++r)
                for (isize i = 0; i < r->many; ++i)
                    for (isize a = 0; a < e.pool; ++a)
                        for (isize b = 0; b < e.pool; ++b, row += stride)
                            gather_row(p, r->n, r->y * e.pool + a, (r->x + i) * e.pool + b, group, row);
        }
        const uint8_t* weights = p.blob.weights + group * p.blob.group_bytes;
        const isize low = g.groups == 1 ? first : 0, high = g.groups == 1 ? first + channels : g.og(),
                    shift = group * g.og();
        const auto count = [&](isize i, isize many, isize from, isize to) {
            uint16_t* counts = w.counts + shift + i * w.count_stride;
            if (p.lines)
                v.count_lines(at + i, line_stride, line_bytes, many, weights, g.row_bytes(), from, to, low, high,
                              counts, w.count_stride, w.scratch);
            else
                v.count(rows + i * stride, stride, many, weights, g.row_bytes(), from, to, low, high, counts,
                        w.count_stride, w.scratch);
        };
        for (isize r = 0, next; p.skip && r < runs; r = next) {
            const int32_t its = p.row_class[run[r].y];
            for (next = r + 1; next < runs && p.row_class[run[next].y] == its;) ++next;
            const isize i = run[r].at, end = next < runs ? run[next].at : pixels;
            const Span lines = p.row_taps[its];
            if (lines.low < lines.high)
                count(i, end - i, lines.low * line_bytes, lines.high * line_bytes);
            else
                for (isize k = i; k < end; ++k) fill(w.counts + shift + k * w.count_stride, 0, (high - low) * 2);
        }
        for (isize from = 0; !p.skip && from < g.row_bytes(); from += KBLOCK) {
            const isize to = least(from + KBLOCK, g.row_bytes());
            count(0, pixels, from, to);
            if (to < g.row_bytes())         // K takes several stretches: move this one into the base
                for (isize i = 0; i < pixels; ++i)
                    for (isize o = 0; o < high - low; ++o)
                        w.bases[i * base_stride + shift + o] =
                            (int32_t)((uint32_t)w.bases[i * base_stride + shift + o] -
                                      2u * w.counts[i * w.count_stride + shift + o]);
        }
    }
    t->start = start, t->many = many, t->pixels = pixels, t->first = first, t->channels = channels, t->w = w;
}

}  // namespace bnn
