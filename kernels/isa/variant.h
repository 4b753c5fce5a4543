// What a variant (one instruction set) must supply. The driver in conv.h does the rest and is the same for all.
#pragma once
#include "layout.h"

namespace bnn {

// Sizes for variants that multiply bytes of +1 and -1 instead of counting bits: images of bytes times weights of bytes,
// summed in int32. A step is 64 products. A block of sums is SUMS_PIXELS x SUMS_CHANNELS, stored as four tiles of 16 x
// 16: (0, 0), (0, 1), (1, 0), (1, 1).
constexpr isize BYTES_STEP = 64, SUMS_TILE = 16, SUMS_PIXELS = 32, SUMS_CHANNELS = 32,
                SUMS = SUMS_PIXELS * SUMS_CHANNELS;

// Sums::at for a result whose rows are in the order of the block's pixels.
constexpr int32_t IN_ORDER[SUMS_PIXELS] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                           16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};

// A finished block of sums. Pixel i of the block belongs to row at[i] of the result; a negative at[i] drops it.
struct Sums {
    const int32_t* sums;
    const int32_t* at;
    isize pixels, channels;                                     // SUMS_PIXELS and SUMS_CHANNELS or, at the end, fewer
    const int32_t* pixel(isize i, isize half) const {
        return sums + i / SUMS_TILE * 2 * SUMS_TILE * SUMS_TILE + i % SUMS_TILE * SUMS_TILE +
               half * SUMS_TILE * SUMS_TILE;
    }
};

// What is written for a block of sums. Row r of the result begins at to + r * stride, counted in its own type. bits:
// (sum >= threshold) xor flip, 32 in a word, OR-ed with what is there if `join`. float32, bfloat16 and int16: as
// Variant::to_float, to_bf16 and to_int16. threshold has SUMS_CHANNELS values; scale and bias have `channels`; residual
// is laid out like the result; these three may be null.
struct Finish {
    enum Kind { nothing, bits, float32, bfloat16, int16 } kind;
    Sums s;
    const int32_t* threshold;
    uint32_t flip;
    bool join;
    const float *scale, *bias, *residual;
    void* to;
    isize stride;
    bool stream;                        // float32 only: whole cache lines are written past the caches
};

// A block to multiply. Step k of pixel i is the 64 bytes at a0 + i * stride + offsets[k], and of pixel 16 + i those at
// a1 + i * stride + offsets[k]; a1 is null where the block has 16 pixels only. Sums start at 0, at the values in
// `from`, or, if `goes_on`, at those that the block before left in registers.
struct Block {
    const int8_t *a0, *a1;
    isize stride;
    const isize* offsets;
    const int8_t* weights;
    isize steps;
    const int32_t* from;
    bool goes_on;
};

// Work that is done while a block is multiplied. The sums that the block before left in registers are stored to `to`
// (null: they stay) and written as `finish` says. `lines` lines of 64 bytes of weights are expanded from `bits` to
// `bytes`.
struct Beside {
    int32_t* to;
    bool two;                                                   // the block before had 32 pixels
    Finish finish;
    const uint8_t* bits;
    int8_t* bytes;
    isize lines;
};

// What a variant that multiplies bytes supplies.
struct Images {
    // Called before and after the others on the same thread. After end() the tiles are as the caller had them: unused.
    void (*begin)();
    void (*end)();
    // Expands `pixels` pixels, from_stride words apart, to bytes of +1 and -1, to_stride bytes apart. In each full word
    // of 64 channels, bit b of byte i becomes byte 8 * b + i. The channels of a last word that is not full keep their
    // order, and nothing is written behind them.
    void (*expand)(const uint64_t* from, isize from_stride, isize pixels, isize channels, int8_t* to, isize to_stride);
    // Expands weights of SUMS_CHANNELS channels, 4 lines of 64 bytes to a step, to 512 bytes a line: bit b of byte i of
    // line h becomes byte i of row 8 * h + b. 16 rows are a tile; a row holds four products of 16 channels.
    void (*expand_weights)(const uint8_t* bits, isize lines, int8_t* to);
    // Adds the products of a block to its sums in registers. The other work fills the time in which the tile unit is
    // busy.
    void (*multiply)(const Block& block, const Beside& beside);
    void (*store)(int32_t* to, bool two);                       // stores the sums of the last block
    void (*finish)(const Finish& block);
    uint64_t (*ticks)();                                        // a clock of short times, of any unit
    // Times, for the estimate in conv/image_plan.h. In cycles: of 16 x 16 sums over one step; of one step of a
    // pixel, expanded; of one product that the variant's other kernels count. In steps: of the other work of a block.
    double tile_cycles, expand_cycles, count_cycles, block_steps;
};

// What each variant supplies.
struct Variant {
    const char* name;
    const char* needs;                  // for people: what the CPU must have
    bool (*supported)();

    // The bytes that `rows` weight rows of `row_bytes` each take when they are interleaved, and the interleaving. A
    // variant pads rows as it needs.
    isize (*weight_bytes)(isize rows, isize row_bytes);
    void (*interleave)(const uint8_t* weights, isize stride, isize rows, isize row_bytes, uint8_t* to);

    // Writes counts[p][o] = popcount(row p xor weight row o) over bytes [from, to) of the rows, for weight rows [first,
    // last). `from` is a multiple of `step`, `to` is another or row_bytes, to - from <= KBLOCK, and `first` is a
    // multiple of LANES. Whole vectors are written: up to 63 counts after the last one are overwritten. Rows hold
    // row_bytes bytes, zero-filled to a multiple of 8. scratch: scratch_bytes(pixels, row_bytes).
    void (*count)(const uint8_t* rows, isize stride, isize pixels, const uint8_t* weights, isize row_bytes, isize from,
                  isize to, isize first, isize last, uint16_t* counts, isize counts_stride, uint8_t* scratch);
    isize (*scratch_bytes)(isize pixels, isize row_bytes);
    isize step;                         // bytes of a row that are counted together; KBLOCK is a multiple
    // The same for rows that lie in lines of line_bytes, line_stride bytes apart: byte from + k of row p is at[p][k /
    // line_bytes * line_stride + k % line_bytes]. line_bytes is a multiple of `step`; `from` and `to` are multiples of
    // line_bytes. Null where a variant has none.
    void (*count_lines)(const uint8_t* const* at, isize line_stride, isize line_bytes, isize pixels,
                        const uint8_t* weights, isize row_bytes, isize from, isize to, isize first, isize last,
                        uint16_t* counts, isize counts_stride, uint8_t* scratch);

    // to[p * to_stride + o] = (base[p][o] - 2 counts[p * counts_stride + o]) * scale[o] + bias[o]
    // + residual[p * to_stride + o]. scale, bias and residual may be null, and are then left out. Each step rounds on
    // its own (no fused multiply-add), so that results equal the framework's. counts can be read up to a multiple of 64
    // channels. stream: each row of `to` begins with a cache line, and whole lines may be written past the caches.
    // to_int16 writes base[o] - 2 counts[o] of one pixel.
    void (*to_float)(const uint16_t* counts, isize counts_stride, const int32_t* const* base, isize pixels,
                     isize channels, const float* scale, const float* bias, const float* residual, float* to,
                     isize to_stride, bool stream);
    void (*to_int16)(const uint16_t* counts, const int32_t* base, isize channels, int16_t* to);
    // Rounds n floats to bf16, to the nearest, ties to even; a NaN stays a NaN.
    void (*to_bf16)(const float* x, isize n, uint16_t* to);
    // Sets bit o of to[p] to counts[p][o] < limit[o]. Whole words are written, unused top bits 0. limit and counts can
    // be read up to a multiple of 64 channels, and limit is 0 there.
    void (*to_bits)(const uint16_t* counts, isize counts_stride, isize pixels, const uint16_t* limit, isize channels,
                    uint64_t* to, isize to_stride);

    // to[o * to_stride + p] = from[p * from_stride + o]; stream: as for to_float.
    void (*transpose)(const float* from, isize from_stride, isize pixels, isize channels, float* to, isize to_stride,
                      bool stream);

    // Pack sign bits (x >= 0; a NaN gives 0). pack_channels: of one pixel, `channels` floats side by side. pack_planes:
    // of `pixels` pixels side by side, whose channels are `stride` floats apart; each pixel's words are `to_stride`
    // words apart.
    void (*pack_channels)(const float* x, isize channels, uint64_t* to);
    void (*pack_bf16)(const uint16_t* x, isize channels, uint64_t* to);         // as pack_channels, of bf16
    void (*pack_planes)(const float* x, isize stride, isize channels, isize pixels, uint64_t* to, isize to_stride);

    const Images* images = nullptr;     // null where a variant has none
};

// All variants of this program, best first, with a null pointer at the end; the variant of a name, or null. variants.h
// defines them. One unit of a program includes it, so that the others are compiled without vector instructions.
extern const Variant* const variants[];
const Variant* find_variant(const char* name);

}  // namespace bnn
