// The instructions of AMX on bf16 and int8, by what their manual says; for emulate.h. Of the configuration it knows rows and bytes of a row,
// and that without one there are no tiles.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace emulated_tiles {

struct Tile {
    int rows = 0, bytes = 0;
    uint8_t at[16][64] = {};
};
inline thread_local bool configured = false;
inline thread_local Tile tiles[8];

inline Tile& tile(int k) {
    if (!configured || !tiles[k].rows) std::abort();
    return tiles[k];
}
inline void load_configuration(const void* from) {
    uint8_t all[64];
    std::memcpy(all, from, 64);
    if (all[0] != 1) std::abort();                                      // the one palette
    for (int k = 0; k < 8; ++k) {
        tiles[k] = Tile();
        tiles[k].rows = all[48 + k], tiles[k].bytes = all[16 + 2 * k] | all[17 + 2 * k] << 8;
        if (tiles[k].rows > 16 || tiles[k].bytes > 64) std::abort();
    }
    configured = true;
}
inline void release() { configured = false; }
inline void zero(int k) { std::memset(tile(k).at, 0, sizeof tile(k).at); }
inline void load(int k, const void* from, long stride) {
    Tile& t = tile(k);
    zero(k);
    for (int r = 0; r < t.rows; ++r) std::memcpy(t.at[r], (const uint8_t*)from + r * stride, (size_t)t.bytes);
}
inline void store(int k, void* to, long stride) {
    const Tile& t = tile(k);
    for (int r = 0; r < t.rows; ++r) std::memcpy((uint8_t*)to + r * stride, t.at[r], (size_t)t.bytes);
}

inline float flushed(float x) { return x < 0x1p-126f && x > -0x1p-126f ? x < 0 ? -0.0f : 0.0f : x; }
inline float bf16(const uint8_t* from) {
    const uint32_t word = (uint32_t)from[0] << 16 | (uint32_t)from[1] << 24;
    float x;
    std::memcpy(&x, &word, 4);
    return flushed(x);
}
inline void multiply_bf16(int sum, int left, int right) {
    Tile &s = tile(sum), &a = tile(left), &b = tile(right);
    if (s.rows != a.rows || s.bytes != b.bytes || a.bytes / 4 != b.rows) std::abort();
    for (int m = 0; m < s.rows; ++m)
        for (int n = 0; n < s.bytes / 4; ++n) {
            float x;
            std::memcpy(&x, s.at[m] + 4 * n, 4);
            for (int k = 0; k < b.rows; ++k)
                for (int half = 0; half < 4; half += 2) x = flushed(x + bf16(a.at[m] + 4 * k + half) * bf16(b.at[k] + 4 * n + half));
            std::memcpy(s.at[m] + 4 * n, &x, 4);
        }
}

// Left: a type of bytes that the left factor is made of.
template <class Left>
inline void multiply_int8(int sum, int left, int right) {
    Tile &s = tile(sum), &a = tile(left), &b = tile(right);
    if (s.rows != a.rows || s.bytes != b.bytes || a.bytes / 4 != b.rows) std::abort();
    for (int m = 0; m < s.rows; ++m)
        for (int n = 0; n < s.bytes / 4; ++n) {
            int32_t x;
            std::memcpy(&x, s.at[m] + 4 * n, 4);
            for (int k = 0; k < 4 * b.rows; ++k) x += (Left)a.at[m][k] * (int8_t)b.at[k / 4][4 * n + k % 4];
            std::memcpy(s.at[m] + 4 * n, &x, 4);
        }
}

// A clock that now and then leaps, so that convolutions change their way from call to call.
inline uint64_t ticks() {
    static thread_local uint64_t now = 1, state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return now += state >> 63 ? 1 << 20 : 1;
}

}  // namespace emulated_tiles

#define __rdtsc emulated_tiles::ticks
#define _tile_loadconfig emulated_tiles::load_configuration
#define _tile_release emulated_tiles::release
#define _tile_zero emulated_tiles::zero
#define _tile_loadd emulated_tiles::load
#define _tile_stored emulated_tiles::store
#define _tile_dpbf16ps emulated_tiles::multiply_bf16
#define _tile_dpbssd emulated_tiles::multiply_int8<int8_t>
#define _tile_dpbusd emulated_tiles::multiply_int8<uint8_t>
