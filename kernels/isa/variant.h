// What a variant (one instruction set) must supply. The driver in conv.h does the rest and is the same for all.
#pragma once
#include "layout.h"

namespace bnn {

// What a variant supplies that multiplies bytes of +1 and -1 instead of counting bits: images of bytes against weights
// of bytes, sums in int32. A step is 64 products; a block of sums is SUMS_PIXELS x SUMS_CHANNELS, as tiles (0, 0), (0,
// 1), (1, 0), (1, 1) of 16 x 16.
constexpr isize BYTES_STEP = 64, SUMS_TILE = 16, SUMS_PIXELS = 32, SUMS_CHANNELS = 32,
                SUMS = SUMS_PIXELS * SUMS_CHANNELS;

// Rows of a result that lie as the pixels of a block do.
constexpr int32_t IN_ORDER[SUMS_PIXELS] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                           16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};

// A block of sums, ready: the row of the result that pixel i belongs to is at[i]; negative: to none.
struct Sums {
    const int32_t* sums;
    const int32_t* at;
    isize pixels, channels;                                     // SUMS_PIXELS and SUMS_CHANNELS or, at the end, fewer
    const int32_t* pixel(isize i, isize half) const {
        return sums + i / SUMS_TILE * 2 * SUMS_TILE * SUMS_TILE + i % SUMS_TILE * SUMS_TILE +
               half * SUMS_TILE * SUMS_TILE;
    }
};

// What becomes of a block of sums, at to + at * stride: bits (sum >= threshold) xor flip, 32 in a word, added to what
// is there if `join`; floats, bf16 and int16 as Variant has them. threshold has SUMS_CHANNELS values; the others
// `channels`, and may be null.
struct Finish {
    enum Kind { nothing, bits, float32, bfloat16, int16 } kind;
    Sums s;
    const int32_t* threshold;
    uint32_t flip;
    bool join;
    const float *scale, *bias, *residual;
    void* to;
    isize stride;
    bool stream;                        // float32 only: past the caches, where whole lines are written
};

// A block to multiply: pixel i of 16 begins at a0 + i * stride + offsets[step], those of the other 16 at a1 (null:
// none). Its sums begin at 0, at `from`, or (`goes_on`) where the block before left them: in registers.
struct Block {
    const int8_t *a0, *a1;
    isize stride;
    const isize* offsets;
    const int8_t* weights;
    isize steps;
    const int32_t* from;
    bool goes_on;
};

// What is done while a block is multiplied: the sums that the block before left in registers are stored, to `to` (null:
// they stay), and finished; `lines` lines of 64 bytes of weights are expanded.
struct Beside {
    int32_t* to;
    bool two;                                                   // the block before had 32 pixels
    Finish finish;
    const uint8_t* bits;
    int8_t* bytes;
    isize lines;
};

struct Images {
    // Before and after the others, on the same thread: its state is the caller's again.
    void (*begin)();
    void (*end)();
    // `pixels` pixels, from_stride words apart, to bytes of +1 and -1, to_stride bytes apart. Of each 64 channels that
    // are all there, bit b of byte i is byte 8 * b + i; those of a last word that is not full are in order, and nothing
    // is written beyond them.
    void (*expand)(const uint64_t* from, isize from_stride, isize pixels, isize channels, int8_t* to, isize to_stride);
    // Weights of SUMS_CHANNELS channels, 4 lines of 64 bytes a step: bit b of byte i of line h is byte i of row 8 * h +
    // b of two tiles of 16 rows, a row four products of 16 channels. To 512 bytes a line.
    void (*expand_weights)(const uint8_t* bits, isize lines, int8_t* to);
    // sums += pixels x channels, in registers; the other work fills the time in which the tile unit works.
    void (*multiply)(const Block& block, const Beside& beside);
    void (*store)(int32_t* to, bool two);                       // the sums of the last block
    void (*finish)(const Finish& block);
    // Cycles: of 16 x 16 sums over a step, of a pixel's step expanded; of a product counted by the variant's other
    // kernels. And steps that a block's other work takes as long as.
    double tile_cycles, expand_cycles, count_cycles, block_steps;
};

struct Variant {
    const char* name;
    const char* needs;                  // for people: what the CPU must have
    bool (*supported)();

    // Bytes of `rows` weight rows of `row_bytes` each, interleaved; and the interleaving (rows padded as the variant
    // likes).
    isize (*weight_bytes)(isize rows, isize row_bytes);
    void (*interleave)(const uint8_t* weights, isize stride, isize rows, isize row_bytes, uint8_t* to);

    // counts[p][o] = popcount(row p xor weight row o) over bytes [from, to) of the rows, `from` a multiple of `step`,
    // `to` another or row_bytes, to - from <= KBLOCK, for weight rows [first, last), `first` a multiple of LANES.
    // Writes whole vectors: up to 63 counts after the last one are overwritten. Rows hold row_bytes bytes, zero-filled
    // to a multiple of 8.
    void (*count)(const uint8_t* rows, isize stride, isize pixels, const uint8_t* weights, isize row_bytes, isize from,
                  isize to, isize first, isize last, uint16_t* counts, isize counts_stride, uint8_t* scratch);
    isize (*scratch_bytes)(isize pixels, isize row_bytes);
    isize step;                         // bytes of a row that are counted together; KBLOCK is a multiple
    // The same where rows lie in lines of line_bytes, which are line_stride bytes apart: byte from + k of row p is
    // at[p][k / line_bytes * line_stride + k % line_bytes]. line_bytes is a multiple of `step`, `from` and `to` of
    // line_bytes. Null where a variant has none.
    void (*count_lines)(const uint8_t* const* at, isize line_stride, isize line_bytes, isize pixels,
                        const uint8_t* weights, isize row_bytes, isize from, isize to, isize first, isize last,
                        uint16_t* counts, isize counts_stride, uint8_t* scratch);

    // to[p][o] = (base[p][o] - 2 counts[p][o]) [* scale[o]] [+ bias[o]] [+ residual[p][o]]; scale, bias, residual may
    // be null. Each step rounds on its own (no fused multiply-add), so that results equal the framework's.
    void (*to_float)(const uint16_t* counts, const int32_t* base, isize channels, const float* scale, const float* bias,
                     const float* residual, float* to);
    void (*to_int16)(const uint16_t* counts, const int32_t* base, isize channels, int16_t* to);
    // bf16, rounded to the nearest, ties to even; NaN stays NaN.
    void (*to_bf16)(const float* x, isize n, uint16_t* to);
    // bit o of to[p] = counts[p][o] < limit[o]; whole words are written, unused top bits 0. limit and counts are
    // readable up to a multiple of 64 channels, and limit is 0 there.
    void (*to_bits)(const uint16_t* counts, isize counts_stride, isize pixels, const uint16_t* limit, isize channels,
                    uint64_t* to, isize to_stride);

    // to[o * to_stride + p] = from[p * from_stride + o]
    void (*transpose)(const float* from, isize from_stride, isize pixels, isize channels, float* to, isize to_stride);

    // Sign bits (x >= 0; NaN gives 0) of `channels` floats side by side; and of `pixels` pixels side by side, their
    // channels `stride` floats apart, each pixel's words `to_stride` words apart.
    void (*pack_channels)(const float* x, isize channels, uint64_t* to);
    void (*pack_bf16)(const uint16_t* x, isize channels, uint64_t* to);         // as pack_channels
    void (*pack_planes)(const float* x, isize stride, isize channels, isize pixels, uint64_t* to, isize to_stride);

    const Images* images = nullptr;     // null where a variant has none
};

// Those of this program, best first, a null pointer at the end; the one of that name, or null; the best that this CPU
// runs. variants.h has them all, and one unit of a program includes it: others compile without a vector instruction.
extern const Variant* const variants[];
const Variant* find_variant(const char* name);
const Variant* best_variant();

}  // namespace bnn
