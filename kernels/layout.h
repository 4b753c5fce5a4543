// The contract of all kernels: what a bit means, how bits lie in memory, what is computed, where it would overflow.
//
//   bit 1 = +1, bit 0 = -1.  dot(a, b) = K - 2 popcount(a xor b), K the true length; padding bits are 0 on both sides.
//
// Three layouts, little-endian bit order everywhere (bit i of a row is bit i % 8 of byte i / 8):
//
//   weights, stored    uint8 [O][ceil(K / 8)], K = C/groups * kh * kw in the framework's own order (c, kh, kw):
//                      numpy.packbits(w.reshape(O, -1) >= 0, axis=1, bitorder="little"). What files hold.
//   activations        uint64 [N][H][W][ceil(C / 64)]: the channels of one pixel side by side, unused top bits 0.
//   rows               uint8, kh * kw taps of ceil(C/groups / 8) bytes each, tap-major. Kernels multiply rows. Those of
//                      activations are made as they are needed; those of weights are made once, and each variant
//                      interleaves them in its own way (a "blob").
//
// Overflow: a count of differing bits is at most K. Kernels count into uint16 over stretches of at most KBLOCK bytes
// (65280 bits), the driver adds stretches in int32, so K < 2^31 holds everywhere; int16 results need K <= 32767.
//
// Plain C++17, no Python, no allocation, no exceptions, no library but <stdint.h>: shells supply memory and threads.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace bnn {

using isize = int64_t;

constexpr isize KBLOCK = 8160;      // bytes of a row counted in uint16; a multiple of 32 bytes and of 3 nibbles
constexpr isize ROW_SLACK = 64;     // bytes a kernel may read past the end of a row buffer, and a gather may write
// Work is split at multiples of this many output channels: the widest block of any variant.
constexpr isize LANES = 128;

constexpr isize ceil_div(isize a, isize b) { return (a + b - 1) / b; }
constexpr isize round_up(isize a, isize b) { return ceil_div(a, b) * b; }
// The 64-bit words of a pixel with so many channels.
constexpr isize words(isize channels) { return ceil_div(channels, 64); }

inline void copy(void* to, const void* from, isize n) { __builtin_memcpy(to, from, (size_t)n); }
inline void fill(void* to, int byte, isize n) { __builtin_memset(to, byte, (size_t)n); }
inline uint64_t load64(const void* p) { uint64_t v; __builtin_memcpy(&v, p, 8); return v; }
inline void store64(void* p, uint64_t v) { __builtin_memcpy(p, &v, 8); }
inline isize least(isize a, isize b) { return a < b ? a : b; }
inline isize most(isize a, isize b) { return a > b ? a : b; }

// The number of ones in a word, without the popcnt instruction.
inline int popcount_portable(uint64_t v) {
    v -= (v >> 1) & 0x5555555555555555u;
    v = (v & 0x3333333333333333u) + ((v >> 2) & 0x3333333333333333u);
    v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (int)((v * 0x0101010101010101u) >> 56);
}

// One convolution. A linear layer of M rows is n = M, h = w = kh = kw = 1.
struct Conv {
    isize n = 0, h = 1, w = 1, c = 0, o = 0;
    isize kh = 1, kw = 1, sh = 1, sw = 1, ph = 0, pw = 0, dh = 1, dw = 1, groups = 1;

    isize oh() const { return (h + 2 * ph - dh * (kh - 1) - 1) / sh + 1; }
    isize ow() const { return (w + 2 * pw - dw * (kw - 1) - 1) / sw + 1; }
    isize cg() const { return c / groups; }
    isize og() const { return o / groups; }
    isize taps() const { return kh * kw; }
    isize tap_bytes() const { return ceil_div(cg(), 8); }
    isize row_bytes() const { return taps() * tap_bytes(); }              // of one row, without padding
    isize row_stride() const { return round_up(row_bytes(), 8); }         // as gathered: zero-filled to whole words
    isize k() const { return taps() * cg(); }
    isize pixels() const { return n * oh() * ow(); }
};

// Returns null if the convolution can be computed, else a sentence that says what is wrong with it.
inline const char* check(const Conv& g) {
    const isize limit = (isize)1 << 31;
    if (g.n < 0) return "the batch size is negative";
    const isize positive[] = {g.h, g.w, g.c, g.o, g.kh, g.kw, g.sh, g.sw, g.dh, g.dw, g.groups};
    for (isize v : positive) {
        if (v < 1) return "a size, stride, dilation or group count is below 1";
        if (v >= limit) return "a size is 2^31 or more";
    }
    if (g.n >= limit) return "the batch size is 2^31 or more";
    if (g.ph < 0 || g.pw < 0) return "the padding is negative";
    if (g.ph >= limit || g.pw >= limit) return "the padding is 2^31 or more";
    if (g.kh > 4096 || g.kw > 4096) return "a kernel side is above 4096";
    if (g.c % g.groups || g.o % g.groups) return "the channels do not divide by the groups";
    if (g.taps() >= limit / g.cg()) return "K, the length of a dot product, is 2^31 or more";
    if (g.dh * (g.kh - 1) + 1 > g.h + 2 * g.ph || g.dw * (g.kw - 1) + 1 > g.w + 2 * g.pw)
        return "the kernel is larger than the padded input";
    const double space = 9.0e18;
    if ((double)g.n * g.h * g.w * (g.c + 64) > space || (double)g.n * g.oh() * g.ow() * (g.o + 64) * 8 > space)
        return "the tensors do not fit into memory";
    return nullptr;
}

}  // namespace bnn
