// Max-pooling of bits.
#pragma once
#include "layout.h"

namespace bnn {

// Max-pooling of bits [N][H][W][words(C)]: OR over windows of k x k, then xor `flip`. Padding counts as -1, as
// -infinity does for floats.
struct Pool { isize n, h, w, c, k, stride, padding;
    isize oh() const { return (h + 2 * padding - k) / stride + 1; }
    isize ow() const { return (w + 2 * padding - k) / stride + 1; }
};

// Returns null, or what is wrong.
inline const char* check(const Pool& p) {
    if (p.n < 0 || p.h < 1 || p.w < 1 || p.c < 1) return "a size is below 1";
    if (p.k < 1 || p.stride < 1) return "the window or its stride is below 1";
    if (p.padding < 0 || 2 * p.padding > p.k) return "the padding is negative or above half the window";
    if (p.k > p.h + 2 * p.padding || p.k > p.w + 2 * p.padding) return "the window is larger than the padded input";
    return nullptr;
}

// Pools one window of an image [h][width][count words]: rows [top, bottom), columns [left, right); then xor `flip`.
inline void or_window(const uint64_t* image, isize width, isize count, isize top, isize bottom, isize left, isize right,
                      const uint64_t* flip, uint64_t* to) {
    fill(to, 0, count * 8);
    for (isize y = top; y < bottom; ++y)
        for (isize x = left; x < right; ++x)
            for (isize i = 0; i < count; ++i) to[i] |= image[(y * width + x) * count + i];
    if (flip) for (isize i = 0; i < count; ++i) to[i] ^= flip[i];
}

// Pools output line `line` of n * oh().
inline void or_pool_line(const Pool& p, const uint64_t* bits, const uint64_t* flip, uint64_t* to, isize line) {
    const isize n = words(p.c), image = line / p.oh(), y0 = line % p.oh() * p.stride - p.padding;
    for (isize ox = 0; ox < p.ow(); ++ox) {
        const isize x0 = ox * p.stride - p.padding;
        or_window(bits + image * p.h * p.w * n, p.w, n, most(0, y0), least(p.h, y0 + p.k), most(0, x0),
                  least(p.w, x0 + p.k), flip, to + (line * p.ow() + ox) * n);
    }
}

}  // namespace bnn
