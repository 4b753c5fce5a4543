// How a convolution is cut into pieces of work, and what is known before the first of them: border classes, bases and
// limits.
//
// Zero padding. A padded tap must contribute 0, yet a row can only hold bits. It holds 0 bits there, so such a tap
// counts popcount(w_tap), a constant of the weights. With v valid taps of C channels each,
//     dot = C v + 2 sum over padded taps of popcount(w_tap) - 2 popcount(row xor w) = base - 2 count.
// `base` depends only on which taps are padded, the "border class" of a pixel, so it is a table of a few rows.
// Thresholds are folded into it,
//     dot >= t  <=>  count < floor((base - t) / 2) + 1 = limit,
// so an epilogue that emits bits pays nothing for the padding. Where it saves time, lines of taps that lie outside are
// not counted; then neither `base` nor `count` holds anything of them.
//
// Where a variant multiplies bytes instead (images.h), none of this applies.
#pragma once
#include "conv/blob.h"

namespace bnn {

enum class Out { float32, bfloat16, int16, bits };     // bfloat16: of float32, rounded once more

struct Epilogue {
    Out out = Out::float32;
    bool channels_first = false;            // float32 only: NCHW planes instead of NHWC pixels
    const float* scale = nullptr;           // [O]
    const float* bias = nullptr;            // [O]
    const float* residual = nullptr;        // laid out like the result
    const int32_t* threshold = nullptr;     // [O], bits only: bit = (dot >= threshold) xor flip; null means 0
    const uint64_t* flip = nullptr;         // [words(O)], bits only, after pooling; null means none
    isize pool = 1;    // bits only: max over pool x pool windows, side by side, of dot before the threshold
    void* to = nullptr;
};

// Rows or columns of output pixels that see the same valid taps share a class; classes are runs, as both ends are
// monotone.
struct Span { isize low, high; };           // valid taps [low, high); empty spans are {0, 0}

// The taps of output `at` that lie in the input, along one side.
inline Span valid_taps(isize at, isize stride, isize padding, isize dilation, isize kernel, isize size) {
    const isize start = at * stride - padding;
    const isize low = start >= 0 ? 0 : ceil_div(-start, dilation);
    const isize high = start >= size ? 0 : least(kernel, ceil_div(size - start, dilation));
    return low < high ? Span{low, high} : Span{0, 0};
}

// All that a call needs beside its tensors. The arrays lie in memory of the caller, plan_bytes(g).
struct Plan {
    Conv g;
    const Variant* v;
    Epilogue e;
    Blob blob;
    const uint64_t* activations;
    int32_t *row_class, *column_class;      // [OH], [OW]
    Span *row_taps, *column_taps;           // [rows], [columns]: the valid taps of each class
    isize rows, columns;                    // number of classes
    int32_t* base;                          // [rows * columns][O]
    uint16_t* limit;                        // [rows * columns][round_up(O, 64)], bits of one stretch only
    int32_t* threshold;                     // [round_up(O, 64)], bits only
    ImagePlan images;                       // where images.use, instead of tile and what follows
    isize tile, chunk, tiles,
        chunks;    // pixels (windows when pooling) and channels of one work item, and how many of each
    bool direct;                            // activations are rows already
    bool lines;                             // a tile's input is copied line by line, not gathered row by row
    bool skip;                              // lines of taps above and below the image are not counted
};

// Numbers the classes of outputs along one side. ids: the class of each output; spans: the taps of each class; either
// may be null. Returns how many classes there are.
inline isize classes(isize outputs, isize stride, isize padding, isize dilation, isize kernel, isize size, int32_t* ids,
                     Span* spans) {
    isize n = 0;
    Span last = {-1, -1};
    for (isize i = 0; i < outputs; ++i) {
        const Span s = valid_taps(i, stride, padding, dilation, kernel, size);
        if (s.low != last.low || s.high != last.high) {
            if (spans) spans[n] = s;
            ++n, last = s;
        }
        if (ids) ids[i] = (int32_t)(n - 1);
    }
    return n;
}
inline isize row_classes(const Conv& g, int32_t* ids, Span* spans) {
    return classes(g.oh(), g.sh, g.ph, g.dh, g.kh, g.h, ids, spans);
}
inline isize column_classes(const Conv& g, int32_t* ids, Span* spans) {
    return classes(g.ow(), g.sw, g.pw, g.dw, g.kw, g.w, ids, spans);
}

// Classes of rows and columns, and the bytes of each part of a plan's memory.
struct PlanSizes { isize rows, columns, ids, spans, base, limit, threshold, total; };

inline PlanSizes plan_sizes(const Conv& g) {
    PlanSizes s = {};
    s.rows = row_classes(g, nullptr, nullptr), s.columns = column_classes(g, nullptr, nullptr);
    s.ids = round_up((g.oh() + g.ow()) * 4, 64);
    s.spans = round_up((s.rows + s.columns) * (isize)sizeof(Span), 64);
    s.base = round_up(s.rows * s.columns * g.o * 4, 64);
    s.limit = round_up(s.rows * s.columns * round_up(g.o, 64) * 2, 64);
    s.threshold = round_up(g.o, 64) * 4;
    s.total = s.ids + s.spans + s.base + s.limit + s.threshold;
    return s;
}
inline isize plan_bytes(const Conv& g) { return plan_sizes(g).total; }

// The limit of the head of this file, for counts of 16 bits.
inline uint16_t count_limit(int64_t base, int64_t threshold) {
    const int64_t limit = ((base - threshold) >> 1) + 1;        // arithmetic shift: floor
    return (uint16_t)(limit < 0 ? 0 : limit > 65535 ? 65535 : limit);
}

// The same in 32 bits, which compilers turn into vectors, for |base| < 2^30. A threshold beyond +-2^30 decides alone,
// whatever the base, and so does 2^30.
inline uint16_t stretch_limit(int32_t base, int32_t threshold) {
    constexpr int32_t far = 1 << 30;
    threshold = threshold < -far ? -far : threshold > far ? far : threshold;
    const int32_t limit = ((base - threshold) >> 1) + 1;
    return (uint16_t)(limit < 0 ? 0 : limit > 65535 ? 65535 : limit);
}

// Whether 16 bits hold the count of a whole row.
inline bool one_stretch(const Conv& g) { return g.row_bytes() <= KBLOCK; }

// Whether each channel is convolved by itself. Then 64 of them are counted at once (depthwise.h), in 8 bits.
inline bool depthwise(const Conv& g) { return g.cg() == 1 && g.og() == 1 && g.groups > 1 && g.taps() < 256; }

// Lines, columns and number of pooling windows.
inline isize outputs_h(const Plan& p) { return p.g.oh() / p.e.pool; }
inline isize outputs_w(const Plan& p) { return p.g.ow() / p.e.pool; }
inline isize windows(const Plan& p) { return p.g.n * outputs_h(p) * outputs_w(p); }

inline const char* check(const Conv& g, const Epilogue& e) {
    if (const char* wrong = check(g)) return wrong;
    if (e.out == Out::int16 && g.k() > 32767) return "int16 results need K <= 32767";
    if (e.out != Out::bits && (e.threshold || e.flip || e.pool != 1))
        return "thresholds, flips and pooling need bits as the result";
    if (e.out != Out::float32 && (e.residual || e.channels_first))
        return "residual and planes need float32 as the result";
    if (e.out != Out::float32 && e.out != Out::bfloat16 && (e.scale || e.bias))
        return "scale and bias need float32 or bfloat16 as the result";
    if (e.pool < 1 || e.pool > 8) return "the pooling window is below 1 or above 8";
    return nullptr;
}

// Chooses tiles, for the way that is asked for, so that a tile's rows and counts stay in the second-level cache and
// every thread has work.
inline void choose_tiles(Plan* p, isize threads, Way way) {
    const Conv& g = p->g;
    p->images = {};
    if (p->v->images) p->images = plan_images(*p->v->images, g, p->e.pool, p->e.channels_first, threads, way);
    if (p->images.use) {
        p->tiles = p->images.items();
        p->chunk = g.o;
        if (p->tiles < threads) p->chunk = least(g.o, round_up(ceil_div(g.o, ceil_div(threads, p->tiles)), 64));
        p->chunks = ceil_div(g.o, p->chunk);
        return;
    }
    const isize window = p->e.pool * p->e.pool, all = windows(*p);
    isize tile = least(64, most(2, (128 << 10) / g.row_stride()) / 2 * 2);
    if (g.o > 1024) tile = most(2, least(tile, 65536 / g.o / 2 * 2));
    p->chunk = g.o;
    while (threads > 1 && tile > 16 && ceil_div(all * window, tile) < 4 * threads) tile /= 2;
    if (g.groups == 1 && g.o > LANES) {
        const isize want =
            ceil_div(2 * threads, most(1, ceil_div(all * window, tile)));    // chunks that would keep all threads busy
        if (threads > 1 && want > 1) p->chunk = most(LANES, round_up(ceil_div(g.o, want), LANES));
        if (g.o > 4096) p->chunk = least(p->chunk, 4096);
    }
    p->tile = most(1, tile / window);
    p->tiles = ceil_div(all, p->tile);
    p->chunks = ceil_div(g.o, p->chunk);
}

// The way that a plan takes, where it was asked for `way`; Way::estimated where there is no other.
inline Way way_of(const Plan& p, Way way) {
    return p.images.use ? Way::images : p.images.possible ? Way::counting : way;
}

// Whether it saves time to leave out lines of taps. There must be enough of them, and lines of output long enough to
// fill a kernel's block, since lines of pixels that see different taps are counted apart. Pooling windows mix lines, so
// they leave out none.
inline bool skips_lines(const Variant& v, const Conv& g, const Epilogue& e) {
    if (g.kw * g.tap_bytes() % v.step || e.pool != 1 || !one_stretch(g) || g.ow() < 4) return false;
    isize outside = 0;
    for (isize y = 0; y < g.oh(); ++y) {
        const Span s = valid_taps(y, g.sh, g.ph, g.dh, g.kh, g.h);
        outside += g.kh - (s.high - s.low);
    }
    return 64 * outside >= g.oh() * g.kh;
}

// Plans a call. memory: plan_bytes(g), aligned to 64. g and e have passed check(). once: the plan serves a batch of
// this size alone.
inline Plan make_plan(const Variant& v, const Conv& g, const Epilogue& e, const Blob& blob, const uint64_t* activations,
                      isize threads, uint8_t* memory, bool once = true, Way way = Way::estimated) {
    Plan p = {};
    p.g = g, p.v = &v, p.e = e, p.blob = blob, p.activations = activations;
    const PlanSizes s = plan_sizes(g);
    p.rows = s.rows, p.columns = s.columns;
    p.row_class = (int32_t*)memory, p.column_class = p.row_class + g.oh();
    Span* spans = (Span*)(memory + s.ids);
    p.base = (int32_t*)(memory + s.ids + s.spans);
    p.limit = (uint16_t*)(memory + s.ids + s.spans + s.base);
    p.row_taps = spans, p.column_taps = spans + s.rows;
    p.threshold = (int32_t*)(memory + s.ids + s.spans + s.base + s.limit);
    for (isize o = 0; o < round_up(g.o, 64); ++o)
        p.threshold[o] = o >= g.o ? INT32_MAX : e.threshold ? e.threshold[o] : 0;
    choose_tiles(&p, threads, way);
    if (p.images.use && once) return p;
    row_classes(g, p.row_class, spans);
    column_classes(g, p.column_class, spans + s.rows);
    p.skip = !depthwise(g) && skips_lines(v, g, e);
    const isize padded = round_up(g.o, 64);
    for (isize r = 0; r < s.rows; ++r)
        for (isize c = 0; c < s.columns; ++c) {
            const Span a = spans[r], b = spans[s.rows + c];
            int32_t* base = p.base + (r * s.columns + c) * g.o;
            const int32_t products = (int32_t)(g.cg() * (a.high - a.low) * (b.high - b.low));
            for (isize o = 0; o < g.o; ++o) base[o] = products;
            for (isize i = p.skip ? a.low : 0; i < (p.skip ? a.high : g.kh); ++i)
                for (isize j = 0; j < g.kw; ++j) {
                    if (i >= a.low && i < a.high && j >= b.low && j < b.high) continue;
                    const int32_t* ones = blob.tap_counts + (i * g.kw + j) * g.o;
                    for (isize o = 0; o < g.o; ++o) base[o] += 2 * ones[o];
                }
            if (e.out != Out::bits || !one_stretch(g)) continue;
            uint16_t* limit = p.limit + (r * s.columns + c) * padded;
            for (isize o = 0; o < g.o; ++o) limit[o] = stretch_limit(base[o], p.threshold[o]);
            for (isize o = g.o; o < padded; ++o) limit[o] = 0;
        }
    p.direct = g.taps() == 1 && g.sh == 1 && g.sw == 1 && g.ph == 0 && g.pw == 0 && g.groups == 1 && e.pool == 1;
    p.lines =
        v.count_lines && !p.direct && g.dw == 1 && g.sw <= g.kw && g.kw * g.tap_bytes() % v.step == 0 && one_stretch(g);
    return p;
}

// Bytes of the parts of one thread's memory: gathered rows or copied lines, counts, the variant's scratch, one tile of
// floats (for planes), bases and limits (where K takes several stretches), bits (where windows are pooled).
struct WorkSizes { isize rows, counts, scratch, floats, bases, limits, bits, total, count_stride; };

inline WorkSizes work_sizes(const Plan& p) {
    WorkSizes s = {};
    const isize pixels = p.tile * p.e.pool * p.e.pool, channels = round_up(p.chunk, 64);
    // A group's last vector may reach 63 counts beyond its last channel. And the stride is no power of two, with which
    // rows would share a few sets of the cache.
    s.count_stride = round_up(p.chunk, 64) + (p.g.groups > 1 ? 64 : 32);
    // Copied lines take no more memory than rows, since neighbours share taps, except for a word at the end of each.
    s.rows = p.direct ? 0 : round_up(pixels * p.g.row_stride() + (p.lines ? p.g.kh * 8 : 0) + ROW_SLACK, 64);
    if (depthwise(p.g)) s.rows = round_up(p.g.taps() * words(p.g.c) * 8, 64);
    s.counts = round_up(pixels * s.count_stride * 2, 64);
    s.scratch = round_up(p.v->scratch_bytes(pixels, p.g.row_bytes()), 64);
    s.floats = p.e.channels_first ? round_up(pixels * channels * 4, 64) : 0;
    s.bases = one_stretch(p.g) ? 0 : round_up(pixels * channels * 4, 64);
    s.limits = one_stretch(p.g) || p.e.out != Out::bits ? 0 : round_up(channels * 2, 64);
    s.bits = p.e.pool == 1 ? 0 : round_up(words(p.chunk) * 8, 64);
    s.total = s.rows + s.counts + s.scratch + s.floats + s.bases + s.limits + s.bits;
    return s;
}
inline isize work_bytes(const Plan& p) {
    return p.images.use ? image_work(p.images, nullptr).total + SUMS * 4 : work_sizes(p).total;
}
inline isize work_items(const Plan& p) { return p.tiles * p.chunks; }

}  // namespace bnn
