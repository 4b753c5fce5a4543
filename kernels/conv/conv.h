// Binary convolution (and linear layer) over packed activations: the same driver for every variant.
//
// Output pixels are cut into tiles. A tile's receptive fields are gathered into rows, all output channels are counted against
// them, and the epilogue turns counts into float32, int16 or bits while they are in the cache. A variant that counts straight from
// lines of the input saves most of the gathering: neighbouring pixels share taps, and each is copied once a line, not once a pixel.
//
// Zero padding. A padded tap must contribute 0, yet a row can only hold bits. It holds 0 bits there, so such a tap counts
// popcount(w_tap), a constant of the weights. With v valid taps of C channels each,
//     dot = C v + 2 sum over padded taps of popcount(w_tap) - 2 popcount(row xor w) = base - 2 count.
// `base` depends on which taps are padded only, the "border class" of a pixel: a table of a few rows. Thresholds are folded in,
//     dot >= t  <=>  count < floor((base - t) / 2) + 1 = limit,
// so that an epilogue that emits bits pays nothing for the padding. Lines of taps that lie outside are not even counted, where that
// is worth while: neither `base` nor `count` then holds anything of them.
//
// A variant that multiplies bytes does so where it is faster by an estimate (images.h): none of this applies to it.
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
    isize pool = 1;                         // bits only: max over pool x pool windows, side by side, of dot before the threshold
    void* to = nullptr;
};

// Rows or columns of output pixels that see the same valid taps share a class; classes are runs, as both ends are monotone.
struct Span { isize low, high; };           // valid taps [low, high); empty spans are {0, 0}

inline Span valid_taps(isize at, isize stride, isize padding, isize dilation, isize kernel, isize size) {
    const isize start = at * stride - padding;
    const isize low = start >= 0 ? 0 : ceil_div(-start, dilation);
    const isize high = start >= size ? 0 : least(kernel, ceil_div(size - start, dilation));
    return low < high ? Span{low, high} : Span{0, 0};
}

// Everything a call needs beside tensors: lives in caller's memory of plan_bytes().
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
    uint16_t* limit;                        // [rows * columns][round_up(O, 64)], bits only
    int32_t* threshold;                     // [round_up(O, 64)], bits only
    ImagePlan images;                       // where images.use, instead of tile and what follows
    isize tile, chunk, tiles, chunks;       // pixels (windows when pooling) and channels of one work item, and how many of each
    bool direct;                            // activations are rows already
    bool lines;                             // a tile's input is copied line by line, not gathered row by row
    bool skip;                              // lines of taps above and below the image are not counted
};

inline isize classes(isize outputs, isize stride, isize padding, isize dilation, isize kernel, isize size, int32_t* ids, Span* spans) {
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
inline isize row_classes(const Conv& g, int32_t* ids, Span* spans) { return classes(g.oh(), g.sh, g.ph, g.dh, g.kh, g.h, ids, spans); }
inline isize column_classes(const Conv& g, int32_t* ids, Span* spans) { return classes(g.ow(), g.sw, g.pw, g.dw, g.kw, g.w, ids, spans); }

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

inline uint16_t count_limit(int64_t base, int64_t threshold) {
    const int64_t limit = ((base - threshold) >> 1) + 1;        // arithmetic shift: floor
    return (uint16_t)(limit < 0 ? 0 : limit > 65535 ? 65535 : limit);
}

inline bool one_stretch(const Conv& g) { return g.row_bytes() <= KBLOCK; }

inline isize outputs_h(const Plan& p) { return p.g.oh() / p.e.pool; }
inline isize outputs_w(const Plan& p) { return p.g.ow() / p.e.pool; }
inline isize windows(const Plan& p) { return p.g.n * outputs_h(p) * outputs_w(p); }

inline const char* check(const Conv& g, const Epilogue& e) {
    if (const char* wrong = check(g)) return wrong;
    if (e.out == Out::int16 && g.k() > 32767) return "int16 results need K <= 32767";
    if (e.out != Out::bits && (e.threshold || e.flip || e.pool != 1)) return "thresholds, flips and pooling need bits as the result";
    if (e.out != Out::float32 && (e.residual || e.channels_first)) return "residual and planes need float32 as the result";
    if (e.out != Out::float32 && e.out != Out::bfloat16 && (e.scale || e.bias)) return "scale and bias need float32 or bfloat16 as the result";
    if (e.pool < 1 || e.pool > 8) return "the pooling window is below 1 or above 8";
    return nullptr;
}

// Chooses tiles so that a tile's rows and counts stay in the second-level cache and every thread has work.
inline void choose_tiles(Plan* p, isize threads) {
    const Conv& g = p->g;
    if (p->v->images && (p->images = plan_images(*p->v->images, g, p->e.pool, p->e.channels_first, threads)).use) {
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
        const isize want = ceil_div(2 * threads, most(1, ceil_div(all * window, tile)));     // chunks that would keep all threads busy
        if (threads > 1 && want > 1) p->chunk = most(LANES, round_up(ceil_div(g.o, want), LANES));
        if (g.o > 4096) p->chunk = least(p->chunk, 4096);
    }
    p->tile = most(1, tile / window);
    p->tiles = ceil_div(all, p->tile);
    p->chunks = ceil_div(g.o, p->chunk);
}

// Whether leaving out lines of taps pays: there must be enough of them, and output rows long enough to fill a kernel's block, since
// rows of pixels that see different lines are counted apart. Pooling windows mix rows.
inline bool skips_lines(const Variant& v, const Conv& g, const Epilogue& e) {
    if (g.kw * g.tap_bytes() % v.step || e.pool != 1 || !one_stretch(g) || g.ow() < 4) return false;
    isize outside = 0;
    for (isize y = 0; y < g.oh(); ++y) {
        const Span s = valid_taps(y, g.sh, g.ph, g.dh, g.kh, g.h);
        outside += g.kh - (s.high - s.low);
    }
    return 64 * outside >= g.oh() * g.kh;
}

// `memory`: plan_bytes(g), aligned to 64. g and e have passed check(). once: for a batch of this size alone.
inline Plan make_plan(const Variant& v, const Conv& g, const Epilogue& e, const Blob& blob, const uint64_t* activations, isize threads,
                      uint8_t* memory, bool once = true) {
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
    for (isize o = 0; o < round_up(g.o, 64); ++o) p.threshold[o] = o >= g.o ? INT32_MAX : e.threshold ? e.threshold[o] : 0;
    choose_tiles(&p, threads);
    if (p.images.use && once) return p;
    row_classes(g, p.row_class, spans);
    column_classes(g, p.column_class, spans + s.rows);
    p.skip = skips_lines(v, g, e);
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
            if (e.out != Out::bits) continue;
            uint16_t* limit = p.limit + (r * s.columns + c) * padded;
            for (isize o = 0; o < padded; ++o) limit[o] = o < g.o ? count_limit(base[o], e.threshold ? e.threshold[o] : 0) : 0;
        }
    p.direct = g.taps() == 1 && g.sh == 1 && g.sw == 1 && g.ph == 0 && g.pw == 0 && g.groups == 1 && e.pool == 1;
    p.lines = v.count_lines && !p.direct && g.dw == 1 && g.sw <= g.kw && g.kw * g.tap_bytes() % v.step == 0 && one_stretch(g);
    return p;
}

// Memory of one thread: gathered rows or copied lines, counts, the variant's scratch, one tile of floats (planes), long-K bases and limits.
struct WorkSizes { isize rows, counts, scratch, floats, bases, limits, bits, total, count_stride; };

inline WorkSizes work_sizes(const Plan& p) {
    WorkSizes s = {};
    const isize pixels = p.tile * p.e.pool * p.e.pool, channels = round_up(p.chunk, 64);
    // A group's last vector may reach 63 counts beyond its last channel; and a stride of a power of two would crowd a few cache sets.
    s.count_stride = round_up(p.chunk, 64) + (p.g.groups > 1 ? 64 : 32);
    // Copied lines take no more than rows, as neighbours share taps, but for a word at the end of each.
    s.rows = p.direct ? 0 : round_up(pixels * p.g.row_stride() + (p.lines ? p.g.kh * 8 : 0) + ROW_SLACK, 64);
    s.counts = round_up(pixels * s.count_stride * 2, 64);
    s.scratch = round_up(p.v->scratch_bytes(pixels, p.g.row_bytes()), 64);
    s.floats = p.e.channels_first ? round_up(pixels * channels * 4, 64) : 0;
    s.bases = one_stretch(p.g) ? 0 : round_up(pixels * channels * 4, 64);
    s.limits = one_stretch(p.g) || p.e.out != Out::bits ? 0 : round_up(channels * 2, 64);
    s.bits = p.e.pool == 1 ? 0 : round_up(words(p.chunk) * 8, 64);
    s.total = s.rows + s.counts + s.scratch + s.floats + s.bases + s.limits + s.bits;
    return s;
}
inline isize work_bytes(const Plan& p) { return p.images.use ? image_work(p.images, nullptr).total + SUMS * 4 : work_sizes(p).total; }
inline isize work_items(const Plan& p) { return p.tiles * p.chunks; }

// Windows [x, x + many) of line y of image n; `at` counts pixels of the tile before them.
struct Run { isize n, y, x, many, at; };

// `many` windows from window `start` on, cut where lines end; the number of runs. Divides once, then counts.
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

// body(pixel of the tile, column) for all pixels of a run on line `a` of its windows; pixels lie window by window.
template <class Body>
inline void each_pixel(const Plan& p, const Run& r, isize a, const Body& body) {
    const isize pool = p.e.pool, many = r.many;
    for (isize b = 0; b < pool; ++b)
        for (isize i = 0; i < many; ++i) body(r.at + (i * pool + a) * pool + b, (r.x + i) * pool + b);
}

// cg bits from bit `start` of a pixel's words, into ceil(cg / 8) bytes.
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

inline void gather_row(const Plan& p, isize n, isize oy, isize ox, isize group, uint8_t* row) {
    const Conv& g = p.g;
    const isize pixel_bytes = words(g.c) * 8, tap_bytes = g.tap_bytes();
    const isize y = oy * g.sh - g.ph, x = ox * g.sw - g.pw;
    const uint8_t* image = (const uint8_t*)p.activations + n * g.h * g.w * pixel_bytes;
    const Span down = p.row_taps[p.row_class[oy]], across = p.column_taps[p.column_class[ox]];
    const isize before = across.low * tap_bytes, after = (g.kw - across.high) * tap_bytes, line_bytes = g.kw * tap_bytes;
    const bool runs = g.dw == 1 && g.groups == 1 && tap_bytes == pixel_bytes;   // a row of taps is one stretch of memory
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
        } else if (g.groups == 1) {         // whole words: what is written too far, the next tap or the fill below overwrites
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

// The input under a tile, every tap once: line i of `to` holds what line i of the kernel meets on the tile's first line of pixels, then
// on the next, all zero-filled where they leave the image. at[k]: the first tap of pixel k that is counted.
inline void copy_lines(const Plan& p, const Run* run, isize runs, isize group, uint8_t* to, isize line_stride, const uint8_t** at) {
    const Conv& g = p.g;
    const isize pool = p.e.pool, pixel_bytes = words(g.c) * 8, tap_bytes = g.tap_bytes(), step = g.sw * tap_bytes;
    for (const Run* r = run; r < run + runs; ++r) {
        const isize start = r->x * pool, columns = (r->many * pool - 1) * g.sw + g.kw, x = start * g.sw - g.pw;
        const isize low = least(columns, most(0, -x)), high = most(low, least(columns, g.w - x));       // [low, high) lie in the image
        const isize before = low * tap_bytes, after = (columns - high) * tap_bytes;
        for (isize a = 0; a < pool; ++a, to += columns * tap_bytes) {
            const Span down = p.row_taps[p.row_class[r->y * pool + a]];
            const isize first = p.skip ? down.low : 0, last = p.skip ? down.high : g.kh, y = (r->y * pool + a) * g.sh - g.ph;
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

struct Work { uint8_t* rows; uint16_t* counts; uint8_t* scratch; float* floats; int32_t* bases; uint16_t* limits; uint64_t* bits; isize count_stride; };

// Float results as planes, from[pixels][stride]: pixels that lie side by side in one image are written together.
inline void store_planes(const Plan& p, const float* from, isize stride, isize start, isize pixels, isize first, isize channels) {
    const isize plane = p.g.oh() * p.g.ow();
    for (isize i = 0; i < pixels;) {
        const isize image = (start + i) / plane, at = (start + i) % plane, run = least(pixels - i, plane - at);
        float* to = (float*)p.e.to + (image * p.g.o + first) * plane + at;
        p.v->transpose(from + i * stride, stride, run, channels, to, plane);
        if (p.e.residual) {
            const float* residual = p.e.residual + (image * p.g.o + first) * plane + at;
            for (isize o = 0; o < channels; ++o)
                for (isize k = 0; k < run; ++k) to[o * plane + k] += residual[o * plane + k];
        }
        i += run;
    }
}

// One work item, counted: dot = base[i][o] - 2 * w.counts[i * w.count_stride + o] for `pixels` pixels, window by window, and
// `channels` channels from `first` on.
struct Tile {
    isize start, many, pixels, first, channels;     // windows [start, start + many)
    isize border[64];                               // class of each pixel
    const int32_t* base[64];                        // not set where bits need only their limits
    Work w;
};

// `memory`: work_bytes(p), aligned to 64, of this thread alone.
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

    // Groups in order: each writes whole vectors beyond its last channel, which the next group overwrites.
    for (isize group = 0; group < g.groups; ++group) {
        const uint8_t *rows = w.rows, *at[64];
        isize stride = g.row_stride();
        const isize line_bytes = g.kw * g.tap_bytes(), line_stride = pixels * line_bytes + 8;      // + 8: the last word may reach too far
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
        const isize low = g.groups == 1 ? first : 0, high = g.groups == 1 ? first + channels : g.og(), shift = group * g.og();
        const auto count = [&](isize i, isize many, isize from, isize to) {
            uint16_t* counts = w.counts + shift + i * w.count_stride;
            if (p.lines)
                v.count_lines(at + i, line_stride, line_bytes, many, weights, g.row_bytes(), from, to, low, high, counts, w.count_stride,
                              w.scratch);
            else
                v.count(rows + i * stride, stride, many, weights, g.row_bytes(), from, to, low, high, counts, w.count_stride, w.scratch);
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
            if (to < g.row_bytes())         // a long K: move this stretch into the base
                for (isize i = 0; i < pixels; ++i)
                    for (isize o = 0; o < high - low; ++o)
                        w.bases[i * base_stride + shift + o] = (int32_t)((uint32_t)w.bases[i * base_stride + shift + o] -
                                                                         2u * w.counts[i * w.count_stride + shift + o]);
        }
    }
    t->start = start, t->many = many, t->pixels = pixels, t->first = first, t->channels = channels, t->w = w;
}

// Results that are larger do not stay in a cache that is one core's own.
constexpr isize STREAM_BYTES = 4 << 20;

// One work item where images are multiplied. `memory`: work_bytes(p), aligned to 64, of this thread alone.
inline void run_image_item(const Plan& p, isize item, uint8_t* memory) {
    const Epilogue& e = p.e;
    const Images& v = *p.v->images;
    const isize o = p.g.o, line = words(o), low = item % p.chunks * p.chunk, high = least(o, low + p.chunk);
    float* const floats = (float*)(memory + image_work(p.images, nullptr).total);
    isize start = 0, many = 0;
    const auto begin = [&](isize from, isize some) {
        start = from, many = some;
        for (isize i = 0; i < many && e.pool > 1; ++i) fill((uint64_t*)e.to + (start + i) * line + low / 64, 0, words(high - low) * 8);
    };
    const auto follow = [&](const Sums& s, isize first) {
        const isize at = start * o + first;
        Finish f = {};
        f.s = s, f.stride = o;
        f.scale = e.scale ? e.scale + first : nullptr, f.bias = e.bias ? e.bias + first : nullptr;
        if (e.out == Out::bits) {
            f.kind = Finish::bits;
            f.threshold = p.threshold + first, f.flip = e.flip && e.pool == 1 ? (uint32_t)(e.flip[first / 64] >> first % 64) : 0, f.join = e.pool > 1;
            f.to = (uint32_t*)((uint64_t*)e.to + start * line) + first / 32, f.stride = 2 * line;
        } else if (e.out == Out::bfloat16) {
            f.kind = Finish::bfloat16, f.to = (uint16_t*)e.to + at;
        } else if (e.out == Out::int16) {
            f.kind = Finish::int16, f.to = (int16_t*)e.to + at;
        } else if (!e.channels_first) {
            f.kind = Finish::float32, f.to = (float*)e.to + at, f.residual = e.residual ? e.residual + at : nullptr;
            f.stream = !f.residual && (intptr_t)f.to % 64 == 0 && o % SUMS_TILE == 0 && p.g.pixels() * o * 4 > STREAM_BYTES;
        } else {
            f.kind = Finish::float32, f.to = floats, f.stride = SUMS_CHANNELS, f.s.at = IN_ORDER;
        }
        return f;
    };
    const auto after = [&](const Sums& s, isize first) {
        for (isize i = 0, run; i < s.pixels && e.channels_first; i += run) {
            for (run = 1; i + run < s.pixels && s.at[i] >= 0 && s.at[i + run] == s.at[i] + run;) ++run;
            if (s.at[i] >= 0) store_planes(p, floats + i * SUMS_CHANNELS, SUMS_CHANNELS, start + s.at[i], run, first, s.channels);
        }
    };
    const auto done = [&](isize first, isize channels) {
        if (e.out != Out::bits) return;
        uint64_t* const to = (uint64_t*)e.to + start * line + first / 64;
        for (isize i = 0; i < many && channels <= 32; ++i) ((uint32_t*)(to + i * line))[1] = 0;
        for (isize i = 0; i < many && e.pool > 1 && e.flip; ++i) to[i * line] ^= e.flip[first / 64];
    };
    run_images(v, p.images, p.activations, p.blob.for_images, e.pool, false, low, high, item / p.chunks, memory, begin, follow, after, done);
}

// One work item: a tile of pixels against a chunk of channels, and its epilogue. `memory` as for count_tile.
inline void run(const Plan& p, isize item, uint8_t* memory) {
    if (p.images.use) return run_image_item(p, item, memory);
    Tile t;
    count_tile(p, item, memory, &t);
    const Conv& g = p.g;
    const Variant& v = *p.v;
    const Epilogue& e = p.e;
    const Work& w = t.w;
    const isize window = e.pool * e.pool, start = t.start, many = t.many, pixels = t.pixels, first = t.first, channels = t.channels;
    const isize base_stride = round_up(p.chunk, 64);
    const bool single = one_stretch(g);
    const int32_t* const* base = t.base;

    if (e.out == Out::float32) {
        for (isize i = 0; i < pixels; ++i) {
            float* to = e.channels_first ? w.floats + i * base_stride : (float*)e.to + (start + i) * g.o + first;
            const float* residual = e.residual && !e.channels_first ? e.residual + (start + i) * g.o + first : nullptr;
            v.to_float(w.counts + i * w.count_stride, base[i], channels, e.scale ? e.scale + first : nullptr,
                       e.bias ? e.bias + first : nullptr, residual, to);
        }
        if (e.channels_first) store_planes(p, w.floats, base_stride, start, pixels, first, channels);
    } else if (e.out == Out::bfloat16) {
        constexpr isize SOME = 512;
        alignas(64) float sums[SOME];
        for (isize i = 0; i < pixels; ++i)
            for (isize o = 0; o < channels; o += SOME) {
                const isize n = least(SOME, channels - o), at = first + o;
                v.to_float(w.counts + i * w.count_stride + o, base[i] + o, n, e.scale ? e.scale + at : nullptr, e.bias ? e.bias + at : nullptr,
                           nullptr, sums);
                v.to_bf16(sums, n, (uint16_t*)e.to + (start + i) * g.o + at);
            }
    } else if (e.out == Out::int16) {
        for (isize i = 0; i < pixels; ++i)
            v.to_int16(w.counts + i * w.count_stride, base[i], channels, (int16_t*)e.to + (start + i) * g.o + first);
    } else {
        const isize line = words(g.o), n = words(channels);
        for (isize i = 0, some; i < many; i += some) {
            uint64_t* to = (uint64_t*)e.to + (start + i) * line + first / 64;
            for (some = 1; single && window == 1 && i + some < many && t.border[i + some] == t.border[i];) ++some;      // one limit
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

// Max-pooling of bits: OR over windows (padding is -1, like -infinity); then xor `flip`. bits [N][H][W][words] -> to.
struct Pool { isize n, h, w, c, k, stride, padding;
    isize oh() const { return (h + 2 * padding - k) / stride + 1; }
    isize ow() const { return (w + 2 * padding - k) / stride + 1; }
};

inline const char* check(const Pool& p) {
    if (p.n < 0 || p.h < 1 || p.w < 1 || p.c < 1) return "a size is below 1";
    if (p.k < 1 || p.stride < 1) return "the window or its stride is below 1";
    if (p.padding < 0 || 2 * p.padding > p.k) return "the padding is negative or above half the window";
    if (p.k > p.h + 2 * p.padding || p.k > p.w + 2 * p.padding) return "the window is larger than the padded input";
    return nullptr;
}

// Line `line` of n * oh() output lines.
inline void or_pool_line(const Pool& p, const uint64_t* bits, const uint64_t* flip, uint64_t* to, isize line) {
    const isize n = words(p.c), image = line / p.oh(), y0 = line % p.oh() * p.stride - p.padding;
    for (isize ox = 0; ox < p.ow(); ++ox) {
        uint64_t* out = to + (line * p.ow() + ox) * n;
        const isize x0 = ox * p.stride - p.padding;
        fill(out, 0, n * 8);
        for (isize y = most(0, y0); y < least(p.h, y0 + p.k); ++y)
            for (isize x = most(0, x0); x < least(p.w, x0 + p.k); ++x)
                for (isize i = 0; i < n; ++i) out[i] |= bits[((image * p.h + y) * p.w + x) * n + i];
        if (flip) for (isize i = 0; i < n; ++i) out[i] ^= flip[i];
    }
}

}  // namespace bnn
