// What the Python shell calls: whole operations, on threads, in memory of their own. bnn_core.cpp defines them, so that
// both units of the module are compiled side by side and neither waits long for the other.
#pragma once
#include "conv/conv.h"

namespace bnn {

// Sizes of float32 [N][C][H][W] and the strides of each in elements.
struct Lying { isize n, c, h, w, sn, sc, sh, sw; };

// Signs as bits, to [N][H][W][words(C)]: of floats that lie as `x` says, or of bf16 [pixels][channels].
void pack_floats(const Variant& v, const float* from, const Lying& x, uint64_t* to, isize threads);
void pack_halves(const Variant& v, const uint16_t* from, isize pixels, isize channels, uint64_t* to, isize threads);

// Convolves bits, or floats that it packs. g and e have passed check(). choice: what is known of this convolution where
// the variant multiplies images, else null.
void convolve(const Variant& v, const Conv& g, const Epilogue& e, const Blob& b, const uint64_t* bits, isize threads,
              Choice* choice);
void convolve_floats(const Variant& v, const Conv& g, const Epilogue& e, const Blob& b, const float* from,
                     const Lying& x, isize threads, Choice* choice);

void or_pool(const Pool& p, const uint64_t* bits, const uint64_t* flip, uint64_t* to, isize threads);

}  // namespace bnn
