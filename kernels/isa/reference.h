// The plain reference: one bit string against another, eight bytes at a time, in portable C++. Every variant is tested
// against it, and it is tested against the framework. It runs on every CPU, and is slow.
#pragma once
#include "isa/variant.h"

namespace bnn::reference {

#include "isa/plain.inl"

inline bool supported() { return true; }

inline isize weight_bytes(isize rows, isize row_bytes) { return rows * round_up(row_bytes, 8); }

inline void interleave(const uint8_t* weights, isize stride, isize rows, isize row_bytes, uint8_t* to) {
    const isize padded = round_up(row_bytes, 8);
    fill(to, 0, rows * padded);
    for (isize o = 0; o < rows; ++o) copy(to + o * padded, weights + o * stride, row_bytes);
}

inline void count(const uint8_t* rows, isize stride, isize pixels, const uint8_t* weights, isize row_bytes, isize from,
                  isize to, isize first, isize last, uint16_t* counts, isize counts_stride, uint8_t*) {
    const isize padded = round_up(row_bytes, 8), end = least(padded, round_up(to, 8));
    for (isize p = 0; p < pixels; ++p)
        for (isize o = first; o < last; ++o) {
            int differ = 0;
            for (isize k = from; k < end; k += 8)
                differ += popcount_portable(load64(rows + p * stride + k) ^ load64(weights + o * padded + k));
            counts[p * counts_stride + o - first] = (uint16_t)differ;
        }
}

inline isize scratch_bytes(isize, isize) { return 0; }

constexpr Variant variant = {"reference",   "nothing", supported,     weight_bytes, interleave, count,
                             scratch_bytes, 8,         nullptr,       to_float,     to_int16,   to_bf16,
                             to_bits,       transpose, pack_channels, pack_bf16,    pack_planes};

}  // namespace bnn::reference
