// A whole packed network, loaded from the records of records.h and run in one call. executor.h runs it.
//
// Plain C++17: no Python, no library. Memory that lasts is asked for through a function; the caller hands over the
// memory of a run.
#pragma once
#include "conv/conv.h"
#include "executor/real.h"
#include "executor/records.h"

namespace bnn {

struct NetSlot {
    bool bits;
    isize h, w, c;
    Area area;
    isize offset;  // bytes of one image's slots before this one; for Area::outside the number of the array
    isize row() const { return bits ? words(c) * 8 : c * 4; }              // bytes of a pixel
    isize bytes() const { return h * w * row(); }                          // of an image
};

struct NetStage {
    Do what;
    isize slot, size;                   // size: of a pooling window
    const float *a, *b;
    bool spatial_a, spatial_b;          // parameters that differ from pixel to pixel
};

struct NetOp {
    Source source;
    isize input, h, w, c;               // shape of what the source gives, before the stages
    isize kh, kw, sh, sw, ph, pw, dh, dw, groups;
    isize repeat;                       // map
    isize border;                       // bit_pad: 1 or -1
    bool count_padding;                 // avg_pool
    isize axis;                         // join, resample: 0, 1, 2 for h, w, c
    Reduction reduction;                // reduce: over the axes whose size becomes 1
    isize phase;
    isize output, pool;                 // where bits go, if the operation emits them itself; else output is -1
    const uint64_t* flip;
    isize first_stage, stages;
    // prepared once
    Plan plan;                          // binary_conv
    Choice* choice;                     // binary_conv, where the variant has images; else null
    const uint8_t* weights;             // real_conv: panels of each group
    const uint16_t* pairs;              // the same for products of bf16, or null
    const int32_t* sums;                // of each channel's int8 weights, if Int8Products multiply them; else null
    Weights kind;
    const float* scale;                 // real_conv with int8 weights
    const int32_t* table;               // move: where each value comes from, or -1; join: its slots;
                                        // resample: the first tap of each result
    isize count;                        // join: how many slots; resample: how many taps
    const float* values;                // move: what stands where nothing comes from; resample: weights [results][taps]
};

// Where an array from outside lies; strides in floats for float slots, unused for bits ([N][H][W][words], contiguous).
struct Outside { uint8_t* at; isize sn, sc, sh, sw; };

// ours: the constant may be overwritten, lasts as long as the net, and only one operation names it.
struct Constant { const void* at; isize bytes; bool ours; };

struct Net {
    const Variant* v;
    const Real* r;
    isize slots, ops, stages, micro_bytes, chunk_bytes;     // bytes of one image
    isize quantized[2];                 // of each phase: the most bytes that a quantized image takes
    NetSlot* slot;
    NetOp* op;
    NetStage* stage;
};

constexpr isize ROWS_AT_ONCE = 16, MICRO = 2, CHUNK = 128;

struct NetTables {
    const SlotRecord* slots;
    const OpRecord* ops;
    const StageRecord* stages;
    isize slot_count, op_count, stage_count, micro_bytes, chunk_bytes;
    const Constant* constants;
    isize constant_count;
};

// Gives memory aligned to 64 that lasts as long as the net, or null where there is none left.
using Allocate = void* (*)(void* context, isize bytes);

// Fills `out` and returns null, or returns what is wrong. Constants may be freed afterwards, except those marked
// `ours`: of these, large real-valued weights are rearranged where they lie.
const char* load(const Variant& v, const NetTables& t, Allocate allocate, void* context, Net* out);

// How a run is cut: images that are run at once, threads, and bytes of the two areas, of a piece of work, and of all.
struct RunPlan { isize micro, chunk, images, chunk_images, threads, work; bool by_image; isize bytes; };

// How `images` images run on at most `threads` threads, and the memory it takes.
RunPlan plan_run(const Net& n, const Outside* outside, isize images, isize threads);

// Runs a network on OpenMP's threads. memory: plan.bytes, aligned to 64. outside: the arrays that slots of
// Area::outside name, of `images` images each. watch(context, k), if not null, is called after operation k; it means
// something on one thread only.
void run(const Net& n, const RunPlan& p, const Outside* outside, isize images, uint8_t* memory,
         void (*watch)(void* context, isize k), void* context);

}  // namespace bnn
