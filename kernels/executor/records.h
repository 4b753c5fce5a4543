// The program of a packed network, as a shell hands it over: arrays of these structures, and a list of constants. Each
// list of names is written once, here; a shell in another language takes the names, and their order, from
// BNN_TEXT_OF(list).
//
// Every field is an int64, so that a host without C++ (a page) writes a structure as a row of numbers. A constant is
// its place in the list, or -1 for none. What the operations and stages mean is written in bnnlib/deploy/graph.py.
//
// Places in the lists have a meaning. Operations from `move` on work on whole tensors; stages from `plus` on take the
// values of a slot as their second operand. A number without a name in its list is refused (`named`).
#pragma once
#include <stdint.h>

#define BNN_TEXT(...) #__VA_ARGS__
#define BNN_TEXT_OF(list) BNN_TEXT(list)             // "map, real_conv, ..."

#define BNN_OPERATIONS map, real_conv, binary_conv, max_pool, avg_pool, bit_pool, bit_pad, move, join, reduce, resample
#define BNN_STAGES                                                                                                  \
    scale, bias, affine, affine_fused, relu, clamp, prelu, step, residual, max_pool, avg_pool, store, sign, divide, \
        abs, square, sqrt, reciprocal, exp, log, sigmoid, tanh, gelu, gelu_tanh, silu, hard_sigmoid, hard_swish,    \
        softplus, elu, plus, minus, minus_from, times, over, over_from, larger, smaller
#define BNN_STORED_WEIGHTS float32, bfloat16, int8, bits
#define BNN_AREAS micro, chunk, outside
#define BNN_REDUCTIONS sum, mean, max, min

// kind: of BNN_SLOT_KINDS; h, w, c: of one image; area: of BNN_AREAS; offset: bytes of one image's slots before this
// one, or the number of the array that stands for a slot from outside.
#define BNN_SLOT_KINDS float32, bits
#define BNN_SLOT_FIELDS kind, h, w, c, area, offset

// kind: of BNN_OPERATIONS; input: a slot; h, w, c: what it gives before the stages; kernel, stride, padding, dilation
// of rows and columns; phase: 0, or 1 of the last operations, whose weights are read once for many images; output: the
// slot of its bits where it emits them itself, else -1, with threshold, flip (constants) and pool (side of the window);
// first_stage, stages: which follow. weight, stored (of BNN_STORED_WEIGHTS), scale: of a convolution. repeat: map.
// border: bit_pad, 1 or -1. count_padding: avg_pool, 0 or 1. axis: join, resample: 0, 1, 2 for h, w, c. reduction:
// reduce, of BNN_REDUCTIONS. taps: resample. table, values: constants of move (where each value comes from; what stands
// where none does), join (its slots) and resample (the first tap of each result; weights).
#define BNN_OP_FIELDS                                                                                             \
    kind, input, h, w, c, kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w,   \
        groups, phase, output, threshold, flip, pool, first_stage, stages, weight, stored, scale, repeat, border, \
        count_padding, axis, reduction, taps, table, values

// kind: of BNN_STAGES; slot: read or written, or -1; first, second: constants; size: of a pooling window;
// spatial_first, spatial_second: 1 for parameters that differ from pixel to pixel.
#define BNN_STAGE_FIELDS kind, slot, first, second, size, spatial_first, spatial_second

namespace bnn {

enum class Source : int { BNN_OPERATIONS };
enum class Do : int { BNN_STAGES };
enum class Stored : int { BNN_STORED_WEIGHTS };
enum class Area : int { BNN_AREAS };
enum class Reduction : int { BNN_REDUCTIONS };
enum class SlotKind : int { BNN_SLOT_KINDS };

// Whether a list, as BNN_TEXT_OF has it, has a name of this number.
constexpr bool named(int64_t number, const char* list) {
    int64_t names = 1;
    for (; *list; ++list) names += *list == ',';
    return number >= 0 && number < names;
}

struct SlotRecord { int64_t BNN_SLOT_FIELDS; };
struct OpRecord { int64_t BNN_OP_FIELDS; };
struct StageRecord { int64_t BNN_STAGE_FIELDS; };

}  // namespace bnn
