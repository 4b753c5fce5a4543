// How an operation is cut into pieces of work, where its slots lie, and the stages that follow on its values.
#pragma once
#include "executor/load.h"

namespace bnn::net {

// The images that an operation works on.
struct Frame {
    uint8_t *micro, *chunk;
    isize micro_room, chunk_room;       // images that the areas hold
    isize in_chunk, in_all;             // the first image's place in its chunk and among all
    isize n;
    const Outside* outside;
    struct Quantized { Quantization* how; void* values; } quantized;      // of each image, in the operation that runs
};

// Where the first of these images lies in a slot.
inline uint8_t* locate(const NetSlot& s, const Frame& f) {
    if (s.area == Area::micro) return f.micro + s.offset * f.micro_room;
    if (s.area == Area::chunk) return f.chunk + s.offset * f.chunk_room + f.in_chunk * s.bytes();
    const Outside& o = f.outside[s.offset];
    return o.at + f.in_all * (s.bits ? s.bytes() : o.sn * 4);
}

// A slot of floats: its first value, and the strides in floats of images, channels, lines and pixels.
struct View { const float* at; isize sn, sc, sh, sw; };

inline View view(const NetSlot& s, const Frame& f) {
    const float* at = (const float*)locate(s, f);
    if (s.area == Area::outside)
        return {at, f.outside[s.offset].sn, f.outside[s.offset].sc, f.outside[s.offset].sh, f.outside[s.offset].sw};
    return {at, s.h * s.w * s.c, 1, s.w * s.c, s.c};
}

// whether an image is one stretch of memory, channels side by side
inline bool joined(const View& v, const NetSlot& s) {
    return (v.sc == 1 || s.c == 1) && (v.sw == s.c || s.w == 1) && (v.sh == s.w * s.c || s.h == 1);
}

// How an operation is cut into pieces of work.
struct Cut {
    isize items, work;                  // work: bytes of memory of a piece
    isize tile, tiles, chunk, chunks;   // pixels (windows) and channels of a piece
    isize window, float_stride;
    bool direct;                        // real_conv: rows are the input itself
    isize lda;                          // values of a row
    isize lines;                        // values of the input's lines under a piece, where it has a copy of them
    isize rounded;                      // bf16 of a row, where real_conv multiplies bf16
    Plan plan;
};

// The side of the pooling window among an operation's stages; 1 where there is none.
inline isize stage_window(const Net& n, const NetOp& o) {
    for (isize i = 0; i < o.stages; ++i)
        if (is_pool(n.stage[o.first_stage + i].what)) return n.stage[o.first_stage + i].size;
    return 1;
}

// Cuts an operation on these images into pieces for `threads` threads. way: of a binary convolution.
inline Cut cut(const Net& n, const NetOp& o, const Frame& f, isize threads, Way way) {
    Cut c = {};
    const NetSlot& in = n.slot[o.input];
    const isize pool = o.output >= 0 ? o.pool : stage_window(n, o);
    c.window = pool * pool;
    const isize all = f.n * (o.h / pool) * (o.w / pool);
    if (o.source == Source::binary_conv) {
        c.plan = o.plan;
        c.plan.g.n = f.n;
        c.plan.activations = (const uint64_t*)locate(in, f);
        c.plan.e.to = o.output >= 0 ? (void*)locate(n.slot[o.output], f) : nullptr;
        choose_tiles(&c.plan, threads, way);
        c.tile = c.plan.tile, c.tiles = c.plan.tiles, c.chunk = c.plan.chunk, c.chunks = c.plan.chunks;
        c.float_stride = round_up(c.chunk, 64);
        const isize rows = c.plan.images.use ? image_pixels(c.plan.images) : most(ROWS_AT_ONCE, c.window);
        c.work = round_up(work_bytes(c.plan), 64) +
                 (o.output >= 0 ? 0 : rows * (c.plan.images.use ? 64 : c.float_stride) * 4 + 64);
    } else if (o.source == Source::real_conv) {
        const bool bf16 = n.r->bf16 && o.kind == Weights::bfloat16, integers = o.sums;
        const isize k = o.kh * o.kw * in.c / o.groups, panel = n.r->panel, size = integers ? n.r->int8->size : 4;
        const View v = view(in, f);
        const bool whole = o.kh == in.h && o.kw == in.w && o.ph == 0 && o.pw == 0;
        const bool point = o.kh == 1 && o.kw == 1 && o.ph == 0 && o.pw == 0 && o.sh == 1 && o.sw == 1;
        c.direct = o.groups == 1 && c.window == 1 && (whole || point);
        if (!integers)                  // all images' pixels evenly apart, and not to be rounded in place
            c.direct = c.direct && o.kind != Weights::int8 && joined(v, in) &&
                       (whole || v.sn == in.h * in.w * in.c || f.n == 1);
        if (c.direct) c.lda = whole && !integers ? v.sn : point ? in.c : k;
        else c.lda = integers ? round_up(k, n.r->int8->depth) : round_up(k, 16) + 16;
        // gathered rows stay in the cache; large weights are read once for many rows
        const isize side = bf16 || integers ? 2 * BF16_ROWS : 12, some = bf16 || integers ? 64 : 48;
        isize tile = !c.direct ? least(some, most(side, (1 << 18) / (k * size) / side * side))
                     : k * o.c > 1 << 18 ? 128 : some;
        c.chunk = o.c;
        if (o.groups == 1) {
            if (c.direct) c.chunk = 256;
            c.chunk = round_up(least(c.chunk, 512), LANES);
            while (threads > 1 && tile > 16 && ceil_div(all * c.window, tile) * ceil_div(o.c, c.chunk) < 2 * threads)
                tile /= 2;
            while (threads > 1 && c.chunk > LANES &&
                   ceil_div(all * c.window, tile) * ceil_div(o.c, c.chunk) < 2 * threads)
                c.chunk = round_up(c.chunk / 2, LANES);
            c.chunk = least(c.chunk, o.c);
        }
        c.tile = most(1, tile / c.window);
        c.tiles = ceil_div(all, c.tile), c.chunks = ceil_div(o.c, c.chunk);
        c.float_stride = round_up(c.chunk, panel) + panel;
        const isize rows = c.tile * c.window;
        // A slot from outside has planes and no border: its lines are copied with one.
        if (in.area == Area::outside && !integers && !c.direct && o.groups == 1 && o.kh * o.kw > 1) {
            const isize below = least(o.h / pool, (c.tile + o.w / pool - 2) / (o.w / pool) + 1) * pool;
            const isize lines = (below - 1) * o.sh + (o.kh - 1) * o.dh + 1, line = (in.w + 2 * o.pw) * in.c;
            c.lines = (double)lines * (double)line <= 1 << 16 ? (lines + 1) * line : 0;
        }
        if (bf16) c.rounded = round_up(c.lines ? k : least(BF16_BLOCK, k), BF16_DEPTH);
        c.work = round_up(rows * c.float_stride * 4, 64);
        if (integers)
            c.work += round_up(rows * (isize)sizeof(Quantization), 64) +
                      (c.direct ? 0 : rows * c.lda * size + ROW_SLACK);
        else
            c.work += (c.direct ? 0 : round_up(rows * c.lda * 4 + 64, 64)) + n.r->kblock * panel * 4 +
                      round_up(most(k * 8, c.lines * 4 + 128), 64) + round_up(rows, BF16_ROWS) * c.rounded * 2 + 64;
    } else {
        const bool bits = o.output >= 0;
        c.tile = bits ? o.w : ROWS_AT_ONCE;
        c.tiles = ceil_div(all, c.tile), c.chunk = o.c, c.chunks = 1;
        c.float_stride = round_up(o.c, 64);
        c.work = bits ? 0
                      : round_up(ROWS_AT_ONCE * c.float_stride * 4, 64) +
                            round_up(most(o.c, 3 * in.c * (o.source == Source::reduce)) * 4, 64);
    }
    c.items = c.tiles * c.chunks;
    return c;
}

// The values of a residual that lie in memory as the operation's own do, channels side by side and no gap between
// images; null where they lie otherwise.
inline const float* alongside(const Net& n, const NetOp& o, const NetStage& s, const Frame& f) {
    const NetSlot& t = n.slot[s.slot];
    const View v = view(t, f);
    return t.c == o.c && joined(v, t) && v.sn == t.h * t.w * t.c ? v.at : nullptr;
}

// Makes a step (real.h) of a stage, for rows of x from pixel `start` on and channels from `first` on. Returns false
// where the stage is no step.
inline bool make_step(const NetOp& o, const Net& n, const NetStage& s, const Frame& f, isize start, isize first,
                      Step* step) {
    if (!is_step(s.what) || s.spatial_a || s.spatial_b) return false;
    const bool all = s.what == Do::clamp;                                       // two values for all channels
    *step = {s.what, s.a && !all ? s.a + first : s.a, s.b && !all ? s.b + first : s.b, nullptr, o.c};
    if (s.what == Do::store) step->to = (float*)locate(n.slot[s.slot], f) + start * o.c + first;
    if (s.what == Do::residual) {
        const float* const values = alongside(n, o, s, f);
        if (!values) return false;
        step->a = values + start * o.c + first;
    }
    return true;
}

// Rows of values of an operation: channels [first, first + channels), `stride` floats apart, for pixels from `start` on
// of planes of `plane` pixels, `across` to a line.
struct Rows { float* x; isize stride, count, start, plane, across, first, channels; };

// Adds a slot, whose channels follow themselves where it has fewer.
inline void add_residual(const Real& r, const NetOp& o, const NetSlot& t, const View& v, const Rows& rows) {
    const isize first = rows.first, channels = rows.channels;
    isize image = rows.start / rows.plane, y = rows.start % rows.plane / t.w, xx = rows.start % rows.plane % t.w;
    for (isize p = 0; p < rows.count; ++p) {
        const float* from_row = v.at + image * v.sn + y * v.sh + xx * v.sw;
        if (++xx == t.w && (xx = 0, ++y) == t.h) y = 0, ++image;
        float* to = rows.x + p * rows.stride;
        if (v.sc == 1 && t.c == o.c) {
            r.add(to, from_row + first, channels);
        } else if (v.sc == 1) {
            for (isize c = first; c < first + channels;) {
                const isize inner = c % t.c, some = least(t.c - inner, first + channels - c);
                r.add(to + c - first, from_row + inner, some);
                c += some;
            }
        } else {
            for (isize c = 0; c < channels; ++c) to[c] += from_row[(first + c) % t.c * v.sc];
        }
    }
}

// Writes the signs of the values into a slot at `to`.
inline void write_signs(const Real& r, const NetOp& o, const NetStage& s, uint64_t* to, const Rows& rows) {
    const isize line = words(o.c);
    for (isize p = 0; p < rows.count; ++p) {
        const isize at = s.spatial_a || s.spatial_b ? (rows.start + p) % rows.plane * o.c : 0;
        r.sign(rows.x + p * rows.stride, s.a + (s.spatial_a ? at : 0) + rows.first,
               s.b ? s.b + (s.spatial_b ? at : 0) + rows.first : nullptr, rows.channels,
               to + (rows.start + p) * line + rows.first / 64);
    }
}

// Combines the values with those of a slot, of which a size of 1 serves all places of that axis.
inline void combine_slot(const Real& r, Do what, const NetSlot& t, const View& v, const Rows& rows) {
    for (isize p = 0; p < rows.count; ++p) {
        const isize at = rows.start + p, y = at % rows.plane / rows.across, xx = at % rows.across;
        const float* with =
            v.at + at / rows.plane * v.sn + (t.h == 1 ? 0 : y * v.sh) + (t.w == 1 ? 0 : xx * v.sw);
        float* to = rows.x + p * rows.stride;
        if (t.c == 1) r.combine(what, to, with, rows.channels, true);
        else if (v.sc == 1) r.combine(what, to, with + rows.first, rows.channels, false);
        else
            for (isize c = 0; c < rows.channels; ++c) r.combine(what, to + c, with + (rows.first + c) * v.sc, 1, true);
    }
}

// Pools the values of `many` windows, whose pixels are rows one behind the other; the results are the first rows.
inline void pool_windows(const Real& r, Do what, float* x, isize stride, isize many, isize window, isize channels) {
    for (isize p = 0; p < many && window > 1; ++p) {
        float* const to = x + p * stride;
        const float* const from = x + p * window * stride;
        if (what == Do::max_pool) {
            r.largest(to, from, from + stride, stride, window - 1, channels);
        } else {
            if (p) copy(to, from, channels * 4);
            for (isize k = 1; k < window; ++k) r.add(to, from + k * stride, channels);
            r.divide(to, (float)window, channels);
        }
    }
}

// Runs a stage that is no step and uses no slot. size: the side of windows that are not pooled yet, whose pixels the
// rows are and of which `start` is the first; else 1.
inline void run_stage(const Real& r, const NetOp& o, const NetStage& s, const Rows& rows, isize size) {
    const isize window = size * size, first = s.what == Do::elu ? 0 : rows.first;    // elu: one value for all
    for (isize p = 0; p < rows.count; ++p) {
        isize at = 0;
        if (s.spatial_a || s.spatial_b) {               // row p is pixel k of window w
            const isize k = p % window, w = (rows.start + p / window) % rows.plane;
            at = size == 1 ? w : (w / rows.across * size + k / size) * o.w + w % rows.across * size + k % size;
        }
        r.stage(s.what, rows.x + p * rows.stride, rows.channels,
                s.a ? s.a + (s.spatial_a ? at * o.c : 0) + first : nullptr,
                s.b ? s.b + (s.spatial_b ? at * o.c : 0) + first : nullptr);
    }
}

// Runs the stages from number `from` on over `many` windows from window `start` on, for channels [first, first +
// channels). The values are x[window * many][stride]. wide: how many channels of x may be computed with, `channels` or
// more.
inline void run_stages(const Net& n, const NetOp& o, const Frame& f, isize from, float* x, isize stride, isize start,
                       isize many, isize window, isize first, isize channels, isize wide = 0) {
    const Real& r = *n.r;
    const isize size = stage_window(n, o), plane = (o.h / size) * (o.w / size);
    Rows rows = {x, stride, many * window, start, plane, o.w / size, first, channels};
    bool pooled = window == 1;
    for (isize i = from; i < o.stages; ++i) {
        constexpr isize STEPS = 8;
        Step steps[STEPS];
        isize count = 0, computed = most(wide, channels);
        for (; i < o.stages && count < STEPS; ++i) {
            if (!make_step(o, n, n.stage[o.first_stage + i], f, start, first, steps + count)) break;
            if (steps[count].what == Do::residual || steps[count].what == Do::store) computed = channels;
            count += steps[count].to != x;                  // none for values that are computed where they are stored
        }
        if (count) r.steps(steps, count, x, rows.count, stride, computed);
        if (count == STEPS) --i;
        if (count == STEPS || i == o.stages) continue;
        const NetStage& s = n.stage[o.first_stage + i];
        if (is_pool(s.what)) {
            pool_windows(r, s.what, x, stride, many, window, channels);
            rows.count = many, pooled = true;
        } else if (s.what == Do::residual) {
            add_residual(r, o, n.slot[s.slot], view(n.slot[s.slot], f), rows);
        } else if (s.what == Do::sign) {
            write_signs(r, o, s, (uint64_t*)locate(n.slot[s.slot], f), rows);
        } else if (combines(s.what)) {
            combine_slot(r, s.what, n.slot[s.slot], view(n.slot[s.slot], f), rows);
        } else {
            run_stage(r, o, s, rows, pooled ? 1 : size);
        }
    }
}

// The slot in which an operation's values can be computed without a copy, or null. It is the slot of the only store, if
// the stages behind that write nothing but bits.
inline const NetSlot* home(const Net& n, const NetOp& o, isize window) {
    const NetSlot* found = nullptr;
    for (isize i = 0; i < o.stages; ++i) {
        const NetStage& s = n.stage[o.first_stage + i];
        if (found && s.what != Do::sign) return nullptr;
        if (s.what == Do::store) found = &n.slot[s.slot];
    }
    return window == 1 ? found : nullptr;
}

}  // namespace bnn::net
