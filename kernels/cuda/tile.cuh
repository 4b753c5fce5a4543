// What the formulations of the product share: loading words of activations and weights, and the epilogue behind the
// counts.
#pragma once
#include "warp.cuh"

constexpr int SLICE = 32, STAGE = SLICE + 1;  // channels that are finished at once, and words of a row of their counts

// The rows of activations that a thread loads: where each begins.
template <int N>
struct Rows {
    i64 image[N];
    int y[N], x[N];

    __device__ Rows(const ConvArgs& p, int first, int usable, int own, int step) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const int at = own + i * step;
            const bool inside = at < usable && at < p.rows - first;
            const Place o = inside ? place_of(p, first + at) : Place{0, 0, 0};
            image[i] = inside ? (i64)o.image * p.h * p.w * p.pixel_words : -1;
            y[i] = o.y * p.sh - p.ph, x[i] = o.x * p.sw - p.pw;
        }
    }

    // Loads word k of each row: 0 beyond the end and where the tap lies outside the image.
    __device__ void load(const ConvArgs& p, int group, int k, u32 (&to)[N]) const {
        const int tap = k / p.tap_words, j = k - tap * p.tap_words, down = tap / p.kw * p.dh,
                  across = tap % p.kw * p.dw;
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const int yy = y[i] + down, xx = x[i] + across;
            to[i] = 0;
            if (k >= p.row_words || image[i] < 0 || (u32)yy >= (u32)p.h || (u32)xx >= (u32)p.w) continue;
            const u32* pixel = p.activations + image[i] + ((i64)yy * p.w + xx) * p.pixel_words;
            if (p.groups == 1) {
                to[i] = pixel[j];
                continue;
            }
            const int from = group * p.cg + 32 * j, word = from / 32, shift = from % 32, left = p.cg - 32 * j;
            u32 v = pixel[word] >> shift;
            if (shift && word + 1 < p.pixel_words) v |= pixel[word + 1] << (32 - shift);
            to[i] = left < 32 ? v & ((1u << left) - 1) : v;
        }
    }
};

// Loads word k of the weights of channels first + own, first + own + step, ... of a group.
template <int N>
__device__ inline void load_weights(const ConvArgs& p, int group, int first, int own, int step, int k, u32 (&to)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const int channel = first + own + i * step;
        to[i] = k < p.row_words && channel < p.og ? p.weights[(i64)(group * p.og + channel) * p.row_words + k] : 0;
    }
}

__device__ inline int most(int a, int b) { return a > b ? a : b; }
__device__ inline int least(int a, int b) { return a < b ? a : b; }

// Taps [low, high) of a kernel side that lie inside the image.
struct Span { int low, high; };
__device__ inline Span taps_inside(int start, int dilation, int kernel, int size) {
    const int low = start >= 0 ? 0 : (-start + dilation - 1) / dilation,
              high = start >= size ? 0 : least(kernel, (size - start + dilation - 1) / dilation);
    return low < high ? Span{low, high} : Span{0, 0};
}

struct Reach {                  // of one row of the product
    Span down, across;
    bool whole;
    __device__ Reach(const ConvArgs& p, const Place& o)
        : down(taps_inside(o.y * p.sh - p.ph, p.dh, p.kh, p.h)),
          across(taps_inside(o.x * p.sw - p.pw, p.dw, p.kw, p.w)),
          whole(down.low == 0 && down.high == p.kh && across.low == 0 && across.high == p.kw) {}
};

// The dot product of a row and channel `o` (of all), whose bits differ `count` times.
__device__ inline int dot_of(const ConvArgs& p, const Reach& r, int o, int count) {
    const int taps = p.kh * p.kw;
    if (r.whole) return p.cg * taps - 2 * count;
    const int* ones = p.tap_counts + (i64)o * (taps + 1);
    int inside = 0;
    for (int i = r.down.low; i < r.down.high; ++i)
        for (int j = r.across.low; j < r.across.high; ++j) inside += ones[i * p.kw + j];
    return p.cg * (r.down.high - r.down.low) * (r.across.high - r.across.low) + 2 * (ones[taps] - inside) - 2 * count;
}

// dot * scale + bias + residual, each rounded on its own, as PyTorch does
__device__ inline float finished(const ConvArgs& p, int dot, int o, const float* residual) {
    float v = (float)dot;
    if (p.scale) v = __fmul_rn(v, p.scale[o]);
    if (p.bias) v = __fadd_rn(v, p.bias[o]);
    return residual ? __fadd_rn(v, *residual) : v;
}

__device__ inline unsigned short bfloat16_of(float v) {
    const u32 bits = __float_as_uint(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (unsigned short)(bits >> 16 | 0x40);      // a NaN stays one
    return (unsigned short)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

// The epilogue of TILE rows from `first` on and of the SLICE channels of a group from `channel` on, whose counts are
// stage[row * STAGE + column]. Not inlined: it is called once for each slice of a tile and would be most of a kernel's
// code.
template <int TILE>
__device__ __noinline__ void finish(const ConvArgs& p, const int* stage, int first, int usable, int group,
                                    int channel) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, rows = least(usable, p.rows - first);
    if (channel >= p.og) return;
    if (p.out == OUT_FLOAT32 && p.channels_first) {         // neighbouring lanes write neighbouring pixels of a plane
        constexpr int BLOCKS = TILE / 32, EACH = WARPS / BLOCKS;
        const int row = warp % BLOCKS * 32 + lane, plane = p.oh * p.ow;
        if (row >= rows) return;
        const Place at = place_of(p, first + row);
        const Reach reach(p, at);
        for (int c = warp / BLOCKS; c < SLICE && channel + c < p.og; c += EACH) {
            const int o = group * p.og + channel + c;
            const i64 to = ((i64)at.image * p.o + o) * plane + at.y * p.ow + at.x;
            ((float*)p.to)[to] =
                finished(p, dot_of(p, reach, o, stage[row * STAGE + c]), o, p.residual ? p.residual + to : nullptr);
        }
        return;
    }
    const bool mine = channel + lane < p.og;                // a lane to a channel
    const int o = mine ? group * p.og + channel + lane : 0;
    if (p.out != OUT_BITS) {
        for (int row = warp; row < rows; row += WARPS) {
            if (!mine) continue;
            const int dot = dot_of(p, Reach(p, place_of(p, first + row)), o, stage[row * STAGE + lane]);
            const i64 to = (i64)(first + row) * p.o + o;
            if (p.out == OUT_FLOAT32) ((float*)p.to)[to] = finished(p, dot, o, p.residual ? p.residual + to : nullptr);
            else if (p.out == OUT_BFLOAT16) ((unsigned short*)p.to)[to] = bfloat16_of(finished(p, dot, o, nullptr));
            else ((short*)p.to)[to] = (short)dot;
        }
        return;
    }
    const int window = p.pool * p.pool, limit = mine && p.threshold ? p.threshold[o] : 0;
    const bool flip = mine && p.flip && p.flip[o / 32] >> (o % 32) & 1;
    for (int q = warp; q < rows / window; q += WARPS) {
        int best = 0;
        for (int k = 0; mine && k < window; ++k) {
            const int row = q * window + k,
                      dot = dot_of(p, Reach(p, place_of(p, first + row)), o, stage[row * STAGE + lane]);
            best = k ? most(best, dot) : dot;
        }
        const u32 bits = __ballot_sync(0xffffffffu, mine && (best >= limit) != flip);
        if (lane) continue;
        const int from = group * p.og + channel, shift = from % 32;
        u32* to = (u32*)p.to + (i64)(first / window + q) * p.out_words + from / 32;
        if (p.groups == 1) *to = bits;
        else {                                              // groups share words, which were zeros
            atomicOr(to, bits << shift);
            if (shift && bits >> (32 - shift)) atomicOr(to + 1, bits >> (32 - shift));
        }
    }
}
