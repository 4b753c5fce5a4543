// Operations of the executor that compute one pixel after another: copies, poolings, and those that move, join, sum and
// resample values.
#pragma once
#include "executor/stages.h"

namespace bnn::net {

// The part of a pooling window that lies in the input: rows or columns [low, high). size: the window's length where
// padding counts.
struct Reach { isize low, high, size; };
inline Reach reach(isize at, isize kernel, isize stride, isize padding, isize length) {
    const isize start = at * stride - padding, end = least(start + kernel, length + padding);
    return {most(0, start), least(end, length), end - start};
}

// Copies the channels of one pixel.
inline void load_channels(const View& v, isize image, isize y, isize x, isize channels, float* to) {
    const float* from = v.at + image * v.sn + y * v.sh + x * v.sw;
    if (v.sc == 1) copy(to, from, channels * 4);
    else for (isize c = 0; c < channels; ++c) to[c] = from[c * v.sc];
}

// Computes one pixel of a sum, mean, maximum or minimum. work: three rows of the input's channels.
inline void reduce_pixel(const Real& r, const NetOp& o, const NetSlot& in, const View& v, isize image, isize y, isize x,
                         float* to, float* work) {
    float *all = work, *line = work + in.c, *row = work + 2 * in.c;
    const isize top = o.h == 1 ? 0 : y, bottom = o.h == 1 ? in.h : y + 1, left = o.w == 1 ? 0 : x,
                right = o.w == 1 ? in.w : x + 1;
    const bool adds = o.reduction == Reduction::sum || o.reduction == Reduction::mean;
    const auto take = [&](float* sum, const float* one) {
        if (adds) r.add(sum, one, in.c);
        else r.combine(o.reduction == Reduction::max ? Do::larger : Do::smaller, sum, one, in.c, false);
    };
    for (isize i = top; i < bottom; ++i) {  // a line at a time: fewer values that differ in size are added
        load_channels(v, image, i, left, in.c, line);
        for (isize j = left + 1; j < right; ++j) load_channels(v, image, i, j, in.c, row), take(line, row);
        if (i == top) copy(all, line, in.c * 4);
        else take(all, line);
    }
    if (o.c != in.c) {
        double sum = all[0];
        for (isize c = 1; c < in.c; ++c) {
            const double one = all[c];
            if (adds) sum += one;
            else if (one != one || (o.reduction == Reduction::max ? one > sum : one < sum)) sum = one;
        }
        all[0] = (float)sum;
    }
    copy(to, all, o.c * 4);
    if (o.reduction == Reduction::mean) r.divide(to, (float)((bottom - top) * (right - left) * (in.c / o.c)), o.c);
}

// Computes one pixel of an operation that moves, joins, sums or resamples.
inline void tensor_pixel(const Net& n, const NetOp& o, const Frame& f, const NetSlot& in, const View& v, isize image,
                         isize y, isize x, float* to, float* work) {
    const Real& r = *n.r;
    if (o.source == Source::move) {
        const int32_t* from = o.table + (y * o.w + x) * o.c;
        const float* at = v.at + image * v.sn;
        const bool flat = joined(v, in);
        for (isize c = 0; c < o.c; ++c) {
            const isize i = from[c];
            if (i < 0) to[c] = *o.values;
            else to[c] = flat ? at[i] : at[i / in.c / in.w * v.sh + i / in.c % in.w * v.sw + i % in.c * v.sc];
        }
    } else if (o.source == Source::join) {
        isize place = o.axis == 0 ? y : o.axis == 1 ? x : 0;
        for (isize i = 0; i < o.count; ++i) {
            const NetSlot& s = n.slot[o.table[i]];
            const isize size = o.axis == 0 ? s.h : s.w;
            if (o.axis == 2) {
                load_channels(view(s, f), image, y, x, s.c, to + place), place += s.c;
            } else if (place >= size) {
                place -= size;
            } else {
                load_channels(view(s, f), image, o.axis == 0 ? place : y, o.axis == 1 ? place : x, s.c, to);
                break;
            }
        }
    } else if (o.source == Source::reduce) {
        reduce_pixel(r, o, in, v, image, y, x, to, work);
    } else {
        const isize at = o.axis == 0 ? y : x;
        for (isize k = 0; k < o.count; ++k) {
            const isize tap = o.table[at] + k;
            const float weight = o.values[at * o.count + k];
            load_channels(v, image, o.axis == 0 ? tap : y, o.axis == 1 ? tap : x, o.c, work);
            if (k == 0) for (isize c = 0; c < o.c; ++c) to[c] = weight * work[c];
            else for (isize c = 0; c < o.c; ++c) to[c] += weight * work[c];
        }
    }
}

// Runs a piece of an operation that gives floats, and of its stages.
inline void run_floats(const Net& n, const NetOp& o, const Frame& f, const Cut& c, isize item, uint8_t* memory) {
    const NetSlot& in = n.slot[o.input];
    const Real& r = *n.r;
    float* x = (float*)memory;
    float* row = (float*)(memory + round_up(ROWS_AT_ONCE * c.float_stride * 4, 64));
    const isize all = f.n * o.h * o.w, start = item * c.tile, many = least(c.tile, all - start);
    const uint64_t* bits = in.bits ? (const uint64_t*)locate(in, f) : nullptr;
    const View v = in.bits ? View{} : view(in, f);
    isize xx = start % o.w, y = start / o.w % o.h, image = start / o.w / o.h;
    for (isize p = 0; p < many; ++p) {
        float* to = x + p * c.float_stride;
        if (o.source >= Source::move) {
            tensor_pixel(n, o, f, in, v, image, y, xx, to, row);
        } else if (o.source == Source::map) {
            if (bits) {
                const uint64_t* from = bits + (start + p) * words(in.c);
                for (isize i = 0; i < in.c; ++i) to[i] = from[i / 64] >> (i % 64) & 1 ? 1.0f : -1.0f;
            } else {
                load_channels(v, image, y, xx, in.c, to);
            }
            for (isize i = 1; i < o.repeat; ++i) copy(to + i * in.c, to, in.c * 4);
        } else {
            const Reach down = reach(y, o.kh, o.sh, o.ph, in.h), across = reach(xx, o.kw, o.sw, o.pw, in.w);
            bool begun = false;
            for (isize i = down.low; i < down.high; ++i)
                for (isize j = across.low; j < across.high; ++j) {
                    if (!begun) {
                        load_channels(v, image, i, j, o.c, to);
                        begun = true;
                        continue;
                    }
                    const float* from = v.at + image * v.sn + i * v.sh + j * v.sw;
                    if (v.sc != 1) load_channels(v, image, i, j, o.c, row), from = row;
                    if (o.source == Source::max_pool) r.largest(to, to, from, 0, 1, o.c);
                    else r.add(to, from, o.c);
                }
            if (!begun) fill(to, 0, o.c * 4);
            if (o.source == Source::avg_pool)
                r.divide(to,
                         (float)(o.count_padding ? down.size * across.size
                                                 : (down.high - down.low) * (across.high - across.low)),
                         o.c);
        }
        if (++xx == o.w) {
            xx = 0;
            if (++y == o.h) y = 0, ++image;
        }
    }
    run_stages(n, o, f, 0, x, c.float_stride, start, many, 1, 0, o.c);
}

// computes one line of a result of bits
inline void run_bits(const Net& n, const NetOp& o, const Frame& f, isize line) {
    const NetSlot& in = n.slot[o.input];
    const isize count = words(o.c), image = line / o.h, y = line % o.h;
    const uint64_t* from = (const uint64_t*)locate(in, f) + image * in.h * in.w * count;
    uint64_t* to = (uint64_t*)locate(n.slot[o.output], f) + line * o.w * count;
    const uint64_t last = o.c % 64 ? ((uint64_t)1 << (o.c % 64)) - 1 : ~(uint64_t)0;
    for (isize x = 0; x < o.w; ++x, to += count) {
        if (o.source == Source::bit_pad) {
            const isize yy = y - o.ph, xx = x - o.pw;
            if (yy >= 0 && yy < in.h && xx >= 0 && xx < in.w) {
                copy(to, from + (yy * in.w + xx) * count, count * 8);
            } else {
                fill(to, o.border > 0 ? 0xff : 0, count * 8);
                to[count - 1] &= last;
            }
            if (o.flip) for (isize k = 0; k < count; ++k) to[k] ^= o.flip[k];
        } else {
            const Reach down = reach(y, o.kh, o.sh, o.ph, in.h), across = reach(x, o.kw, o.sw, o.pw, in.w);
            or_window(from, in.w, count, down.low, down.high, across.low, across.high, o.flip, to);
        }
    }
}

}  // namespace bnn::net
