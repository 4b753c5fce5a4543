// The real-valued work of the executor: matrix products, and the stages between layers. One table of functions for each
// instruction set, as for the binary kernels. Weights of float32 multiply activations of float32. Weights of bf16 do so
// too, or, where the CPU multiplies bf16, activations rounded to it; sums are in float32. Weights of int8 multiply
// activations of 8 bits (Quantization), and their sums are integers.
//
// Rounding. Each stage rounds on its own, except affine_fused, which is one fused multiply-add: PyTorch's batch norm.
// Sums of floats have an order of their own, so their last bits differ from any other library's. Sums of integers are
// exact, so they are the same on every CPU; where it multiplies no int8, they are summed as floats, exact to 2^24.
#pragma once
#include "executor/records.h"
#include "isa/variant.h"

namespace bnn {

enum class Weights : int { float32, bfloat16, int8 };

// Matrix products of bf16. The left factor is rounded once; the right factor ("pairs") is [n / 2][panel][2] bf16. n is
// filled up with 0 to a multiple of 32.
struct Bf16Products {
    void (*round)(const float* from, isize n, uint16_t* to);
    void (*pair)(const uint8_t* panel, isize n, uint16_t* to);                 // makes pairs of n weights of a panel
    // c[rows][ldc] (+)= a[rows][n] pairs; the rows of a are there up to a multiple of 16.
    void (*multiply)(const uint16_t* a, isize lda, isize rows, const uint16_t* pairs, isize n, float* c, isize ldc,
                     bool add);
};
constexpr isize BF16_ROWS = 16, BF16_DEPTH = 32;        // what rows and products are rounded up to: a tile of AMX
constexpr isize BF16_BLOCK = 256;                       // products whose weights are made pairs at once

// How the activations of one image become bytes: x is about scale * (q - zero_point), q = 0 ... 255. The bytes reach
// from the image's least value to its largest, with 0 among them, which is exact.
struct Quantization { float scale, inverse; int32_t zero_point; };
struct Range { float low, high, finite; };              // finite: 0, or NaN if a value is not

// The quantization of an image with values in this range. An image with a value that is not finite gives NaN.
inline Quantization quantization(const Range& r) {
    constexpr float least = 1.17549435e-38f, round = 12582912.0f;   // 1.5 * 2^23: adding it rounds to integers
    const float scale = (r.high - r.low) / 255.0f + r.finite;
    if (scale != scale) return {scale, 0, 0};
    if (scale < least) return {0, 0, 0};                // all values are 0, or as good as 0
    const float inverse = 1.0f / scale;
    return {scale, inverse, (int32_t)(-r.low * inverse + round - round)};
}

// Matrix products of 8 bits. The left factor is bytes, or int16 less the zero point. The right factor is int8, in an
// order [n / together][panel][together], where together is 4 for bytes and 2 for int16; n is filled up with 0 to a
// multiple of `depth`.
struct Int8Products {
    isize depth, size;                  // size: bytes of a value of the left factor, 1 or 2
    constexpr isize together() const { return 4 / size; }
    void (*quantize)(const float* x, isize n, const Quantization& q, void* to);
    // c[rows][ldc] (+)= a[rows][n] b, as int32. Whole multiples of depth are read of each row.
    // last: then c becomes float, (c - zero_point * sums[channel]) * (scale of the row * scales[channel]); int16 have
    // no zero point.
    struct Last { const Quantization* rows; bool one_image; const int32_t* sums; const float* scales; };
    void (*multiply)(const void* a, isize lda, isize rows, const uint8_t* b, isize n, float* c, isize ldc, bool add,
                     const Last* last);
};
constexpr isize INT8_BLOCK = 1024;                      // products of a block
constexpr isize INT8_LONGEST = 1 << 16;                 // products whose sum is sure to fit int32

// A stage on rows of values. a and b hold a value for each channel, or one for all channels (clamp). For `residual`, a
// holds rows that are `row` floats apart; for `store`, `to` does.
struct Step {
    Do what;
    const float *a, *b;
    float* to;
    isize row;
};
// The stages that run as steps.
constexpr bool is_step(Do d) {
    return d == Do::scale || d == Do::bias || d == Do::affine || d == Do::affine_fused || d == Do::relu ||
           d == Do::clamp || d == Do::prelu || d == Do::residual || d == Do::store;
}

// The functions of one instruction set. add: x += y; largest: to = max(x, rows[count][stride]); divide: x /= by;
// rescale: x *= by * scales, of n values each.
struct Real {
    isize panel;            // output channels side by side in the weights: [O / panel][K][panel], zero-filled
    isize kblock;           // products to be summed in one call of gemm
    // c[rows][ldc] (+)= a[rows][n] b[n][panel]; scratch: n * panel floats
    void (*gemm)(const float* a, isize lda, isize rows, const uint8_t* b, Weights w, isize n, float* c, isize ldc,
                 bool add, float* scratch);
    void (*stage)(Do what, float* x, isize n, const float* a, const float* b);
    // Runs the steps one after another while the values are in registers: x[rows][stride], n channels each.
    void (*steps)(const Step* steps, isize count, float* x, isize rows, isize stride, isize n);
    void (*add)(float* x, const float* y, isize n);
    void (*largest)(float* to, const float* x, const float* rows, isize stride, isize count, isize n);
    void (*divide)(float* x, float by, isize n);
    void (*rescale)(float* x, float by, const float* scales, isize n);
    void (*combine)(Do what, float* x, const float* y, isize n, bool one);       // one: with y[0] alone
    void (*convert_add)(const uint16_t* counts, const int32_t* base, isize n, const float* y, float* x);
    // Sets bit i to low[i] <= x[i] <= high[i]; where high is null there is no upper end. Whole words are written,
    // unused bits 0.
    void (*sign)(const float* x, const float* low, const float* high, isize n, uint64_t* to);
    void (*range)(const float* x, isize n, Range* r);                           // widens r to these values
    void (*quantize_as_float)(float* x, isize n, const Quantization& q);        // in place: bytes less the zero point
    const Bf16Products* bf16;           // or null; fewer than four rows are for gemm
    const Int8Products* int8;           // or null: then quantize_as_float, and gemm
};

// The float functions that go with a kernel variant of this name. In real_variants.h, which one unit of a program
// includes.
const Real& real_for(const char* variant);

}  // namespace bnn
