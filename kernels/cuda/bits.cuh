// The contract of the CUDA kernels: what kernels/layout.h says, in words of 32 bits, and what NVRTC needs to know of
// it.
//
//   bit 1 = +1, bit 0 = -1.  dot(a, b) = K - 2 popcount(a xor b); bits beyond the last channel are 0 on both sides.
//
//   activations   [N][H][W][2 ceil(C / 64)] words: the channels of a pixel side by side (layout.h in 32-bit words)
//   weights       [O][kh kw ceil(Cg / 32)] words, tap by tap, made once from stored bits (pack.cu); behind them
//   tap counts    int32 [O][kh kw + 1]: the ones of each tap, then of the whole row
//
// Zero padding. A tap outside the image is loaded as zeros, so it counts popcount(w_tap). The epilogue corrects it:
//   dot = Cg v + 2 sum over padded taps of popcount(w_tap) - 2 count,    v: the number of taps inside.
//
// Counts are of 32 bits and K < 2^31. Offsets into tensors are of 64 bits; rows of the product are fewer than 2^31.
//
// No headers: NVRTC has none. Arguments are structures of pointers and integers that bnnlib/ops/cuda/arguments.py
// mirrors field by field; a test compares sizes. tests/kernels/cuda_emulate.h runs the same files on a CPU.
#pragma once

using u32 = unsigned int;
using i64 = long long;

#ifndef BNN_EMULATED
#define BNN_SHARED(type, name, count) __shared__ alignas(16) type name[count]
#endif

constexpr int THREADS = 256, WARPS = THREADS / 32;

struct alignas(16) Quad { u32 x, y, z, w; };

enum Out : int { OUT_FLOAT32, OUT_BFLOAT16, OUT_INT16, OUT_BITS };

struct ConvArgs {
    const u32* activations;
    const u32* weights;
    const int* tap_counts;
    const float* scale;         // [O] or null, as are the next three
    const float* bias;
    const float* residual;      // laid out like the result
    const int* threshold;
    const u32* flip;            // [2 ceil(O / 64)]
    void* to;
    int rows;                   // N oh ow pixels; pooled, those of the windows alone, window by window
    int h, w, oh, ow, o;
    int kh, kw, sh, sw, ph, pw, dh, dw;
    int groups, cg, og;         // channels of a group, in and out
    int pixel_words, tap_words, row_words, out_words;
    int pool, out, channels_first;
};

// Where a row of the product lies: its image and the pixel of the output.
struct Place { int image, y, x; };

__device__ inline Place place_of(const ConvArgs& p, int row) {
    const int window = p.pool * p.pool, q = row / window, k = row - q * window;
    const int across = p.ow / p.pool, down = p.oh / p.pool, line = q / across, image = line / down;
    return {image, (line - image * down) * p.pool + k / p.pool, (q - line * across) * p.pool + k % p.pool};
}
