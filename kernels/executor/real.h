// What the executor computes in float32: matrix products (FP32 weights, or weights stored as bf16 or int8), and the
// stages between layers. One table of functions for each instruction set, as for the binary kernels. Where the CPU
// multiplies bf16, weights of fewer bits than float32 multiply activations rounded to bf16, summed in float32.
//
// Rounding. Each stage rounds on its own, except affine_fused, which is one fused multiply-add: PyTorch's batch norm.
// Sums of matrix products have an order of their own, so their last bits differ from any other library's.
#pragma once
#include "executor/records.h"
#include "isa/variant.h"

namespace bnn {

enum class Weights : int { float32, bfloat16, int8 };

// Matrix products of bf16, for weights of fewer bits than float32. The left factor is rounded once; the right factor
// ("pairs") is [n / 2][panel][2] bf16. n is filled up with 0 to a multiple of 32.
struct Bf16Products {
    void (*round)(const float* from, isize n, uint16_t* to);
    void (*pair)(const uint8_t* panel, Weights w, isize n, uint16_t* to);      // makes pairs of n weights of a panel
    // c[rows][ldc] (+)= a[rows][n] pairs; the rows of a are there up to a multiple of 16.
    void (*multiply)(const uint16_t* a, isize lda, isize rows, const uint16_t* pairs, isize n, float* c, isize ldc,
                     bool add);
};
constexpr isize BF16_ROWS = 16, BF16_DEPTH = 32;        // what rows and products are rounded up to: a tile of AMX
constexpr isize BF16_BLOCK = 256;                       // products whose weights are made pairs at once

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

// The functions of one instruction set. add: x += y; larger: x = max(x, y); divide: x /= by, of n values each.
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
    void (*larger)(float* x, const float* y, isize n);
    void (*divide)(float* x, float by, isize n);
    void (*combine)(Do what, float* x, const float* y, isize n, bool one);       // one: with y[0] alone
    void (*convert_add)(const uint16_t* counts, const int32_t* base, isize n, const float* y, float* x);
    // Sets bit i to low[i] <= x[i] <= high[i]; where high is null there is no upper end. Whole words are written,
    // unused bits 0.
    void (*sign)(const float* x, const float* low, const float* high, isize n, uint64_t* to);
    const Bf16Products* bf16;           // or null; fewer than four rows are for gemm
};

// The float functions that go with a kernel variant of this name. In real_variants.h, which one unit of a program
// includes.
const Real& real_for(const char* variant);

}  // namespace bnn
