// The plain reference: one bit string against another, eight bytes at a time, portable C++. Every variant is tested against it,
// and it is tested against the framework. Runs anywhere; fast nowhere.
#pragma once
#include "variant.h"

namespace bnn::reference {

#include "plain.inl"

inline bool supported() { return true; }

inline index weight_bytes(index rows, index row_bytes) { return rows * round_up(row_bytes, 8); }

inline void interleave(const uint8_t* weights, index stride, index rows, index row_bytes, uint8_t* to) {
    const index padded = round_up(row_bytes, 8);
    fill(to, 0, rows * padded);
    for (index o = 0; o < rows; ++o) copy(to + o * padded, weights + o * stride, row_bytes);
}

inline void count(const uint8_t* rows, index stride, index pixels, const uint8_t* weights, index row_bytes, index from, index to,
                  index first, index last, uint16_t* counts, index counts_stride, uint8_t*) {
    const index padded = round_up(row_bytes, 8), end = least(padded, round_up(to, 8));
    for (index p = 0; p < pixels; ++p)
        for (index o = first; o < last; ++o) {
            int differ = 0;
            for (index k = from; k < end; k += 8)
                differ += popcount_portable(load64(rows + p * stride + k) ^ load64(weights + o * padded + k));
            counts[p * counts_stride + o - first] = (uint16_t)differ;
        }
}

inline index scratch_bytes(index, index) { return 0; }

constexpr Variant variant = {"reference", "nothing", supported, weight_bytes, interleave, count, scratch_bytes, to_float,
                             to_int16, to_bits, transpose, pack_channels, pack_planes};

}  // namespace bnn::reference
