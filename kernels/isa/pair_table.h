// The 256 tables of pair_table.inl: entry[a | b << 4][i] = popcount(a xor i) + 16 popcount(b xor i). 4 KB, built by the
// compiler.
#pragma once
#include "layout.h"

namespace bnn {

struct PairTables {
    alignas(64) uint8_t entry[256][16];
    constexpr PairTables() : entry() {
        for (int pair = 0; pair < 256; ++pair)
            for (int i = 0; i < 16; ++i) {
                int a = (pair & 15) ^ i, b = (pair >> 4) ^ i, ones = 0;
                for (int bit = 0; bit < 4; ++bit) ones += (a >> bit & 1) + 16 * (b >> bit & 1);
                entry[pair][i] = (uint8_t)ones;
            }
    }
};

inline constexpr PairTables pair_tables{};

}  // namespace bnn
