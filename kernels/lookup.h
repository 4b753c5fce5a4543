// gradient.h by look-ups: for one unit of a program.
//
// In both gradients a value of dy is added to many sums or taken from them, as their signs say. So the 64 sums that six values can give
// go into a table, and every place that needs one of them looks it up: vpermi2w finds 32 of them, one for each channel, and vpaddw adds
// them. Two instructions for 192 products; multiplying bf16 takes six, and twelve on a CPU that has only float32.
//
// Sums are integers of 16 bits. The values of a chunk (192 at most) are rounded to multiples of their step, a power of two such that
// even if all of them had one sign their sum would be below 2^15 steps: nothing overflows. Chunks are added in float32. So a sum is off
// by half a step for each value at most, and by nothing where the values are multiples of it; on normally distributed values that is
// less than what rounding the result to bf16 takes away (tested). A value that is not finite makes every sum it is in NaN.
//
// Six values are a group (a table), two groups a word of the index: for each of 32 channels 16 bits, bit k for value k. A table holds
// what the signs of +1 add, twice; a sum starts where all signs are -1.
#pragma once
#include "cpu.h"
#include "gradient.h"
#include "threads.h"

#if defined(__x86_64__) && !defined(BNN_EMULATE)        // what is written in assembly cannot be emulated
#include <immintrin.h>

#include "avx2.h"

BNN_TARGET_BEGIN("avx512f,avx512bw")
namespace bnn::lookup {

constexpr isize F = 16, H = 32, TABLE = 128;                                // floats and halves of a vector; bytes of a table
constexpr isize GROUP = 6, GROUPS = 2, WORD = GROUP * GROUPS, CHUNK = 16;   // values, groups, values; words
constexpr int ROWS = 4, VECTORS = 4;
constexpr isize CACHED = 256 << 10;                     // bytes that are used again and again; most second-level caches have more

struct Head {                                           // of a row of tables
    float step;
    int32_t start;                                      // of its sums, in steps
};

inline __mmask16 inside(isize left) { return (__mmask16)(left < F ? (1 << most(left, 0)) - 1 : 0xffff); }

// sum += what the tables have at `at`. Written out because compilers take vpermt2w, which overwrites a table that the next look-up needs,
// and because they add in another order, for which there are no registers.
inline void look_up(__m512i at, __m512i low, __m512i high, __m512i& sum) {
    __asm__("vpermi2w %3, %2, %0\n\tvpaddw %0, %1, %1" : "+v"(at), "+v"(sum) : "v"(low), "v"(high));
}

// to[c] += steps[c] * step; storing with a mask takes far longer on some CPUs.
inline void add(float* to, isize channels, __m512i steps, __m512 step) {
    const __m512 more = _mm512_cvtepi32_ps(steps);
    if (channels >= F) return _mm512_storeu_ps(to, _mm512_fmadd_ps(more, step, _mm512_loadu_ps(to)));
    const __mmask16 those = inside(channels);
    _mm512_mask_storeu_ps(to, those, _mm512_fmadd_ps(more, step, _mm512_maskz_loadu_ps(those, to)));
}

// to[r][c] += what the words of the index, `stride` bytes apart, find in the tables of row r, for channels c below `channels`.
template <int V>
__attribute__((noinline)) void find(const uint8_t* const (&tables)[ROWS], const Head (&heads)[ROWS], const uint8_t* index, isize stride,
                                    isize words, isize channels, float* const (&to)[ROWS]) {
    __m512i found[ROWS][V];
    BNN_UNROLL for (int r = 0; r < ROWS; ++r)
        BNN_UNROLL for (int v = 0; v < V; ++v) found[r][v] = _mm512_set1_epi16((int16_t)heads[r].start);
    for (isize k = 0; k < words; ++k, index += stride) {
        __m512i at[V];
        BNN_UNROLL for (int v = 0; v < V; ++v) at[v] = _mm512_loadu_si512(index + 64 * v);
        BNN_UNROLL for (int j = 0; j < GROUPS; ++j) {
            BNN_UNROLL for (int r = 0; r < ROWS; ++r) {
                const uint8_t* const table = tables[r] + (k * GROUPS + j) * TABLE;
                const __m512i low = _mm512_loadu_si512(table), high = _mm512_loadu_si512(table + 64);
                BNN_UNROLL for (int v = 0; v < V; ++v) look_up(at[v], low, high, found[r][v]);
            }
            BNN_UNROLL for (int v = 0; v < V; ++v) at[v] = _mm512_srli_epi16(at[v], GROUP);
        }
    }
    BNN_UNROLL for (int r = 0; r < ROWS; ++r) {
        const __m512 step = _mm512_set1_ps(heads[r].step);
        BNN_UNROLL for (int v = 0; v < V; ++v) {        // low halves are the first 16 channels, see make_word
            const __m512i low = _mm512_srai_epi32(_mm512_slli_epi32(found[r][v], 16), 16), high = _mm512_srai_epi32(found[r][v], 16);
            add(to[r] + v * H, channels - v * H, low, step);
            add(to[r] + v * H + F, channels - v * H - F, high, step);
        }
    }
}

// A table from six values in steps, `stride` apart.
inline void tabulate(const int16_t* values, isize stride, uint8_t* to) {
    constexpr uint32_t set[5] = {0xaaaaaaaa, 0xcccccccc, 0xf0f0f0f0, 0xff00ff00, 0xffff0000};       // of 0 to 31, those with bit i
    __m512i low = _mm512_maskz_set1_epi16(set[0], values[0]);
    BNN_UNROLL for (int i = 1; i < 5; ++i)
        low = _mm512_mask_add_epi16(low, set[i], low, _mm512_set1_epi16(values[i * stride]));
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(values[5 * stride]));
    _mm512_storeu_si512(to, _mm512_add_epi16(low, low));
    _mm512_storeu_si512(to + 64, _mm512_add_epi16(high, high));
}

// How many steps 1 is, for values of which the sizes sum up to `total`: with half a step more for each they stay below 2^15. NaN, and
// so is every sum then, where a value is not finite.
inline __m512 steps_in_one(__m512 total) {
    const __m512 most = _mm512_min_ps(_mm512_div_ps(_mm512_set1_ps(32767 - 96), total), _mm512_set1_ps(0x1p126f));
    const __m512 power = _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(most), _mm512_set1_epi32(0x7f800000)));
    const __mmask16 finite = _mm512_cmp_ps_mask(total, _mm512_set1_ps(__builtin_inff()), _CMP_LT_OQ);
    return _mm512_mask_blend_ps(finite, _mm512_set1_ps(__builtin_nanf("")), power);
}

// Up to F values of bf16, then zeros.
inline __m512 widen(const uint16_t* from, __mmask16 those) {
    const __m256i some = _mm512_castsi512_si256(_mm512_maskz_loadu_epi16(those, from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(some), 16));
}

// One word of the index for `vectors` vectors of channels: rows[r] has the signs of value r. Channels k and 16 + k become neighbours.
inline void make_word(const uint64_t* const (&rows)[WORD], isize vectors, uint8_t* to) {
    alignas(64) static constexpr uint16_t order[H] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i interleaved = _mm512_load_si512(order);
    for (isize v = 0; v < vectors; ++v) {
        __m512i word = _mm512_setzero_si512();
        BNN_UNROLL for (int r = 0; r < WORD; ++r) {
            uint32_t signs;
            copy(&signs, (const uint8_t*)rows[r] + 4 * v, 4);
            word = _mm512_mask_add_epi16(word, signs, word, _mm512_set1_epi16(1 << r));
        }
        _mm512_storeu_si512(to + 64 * v, _mm512_permutexvar_epi16(interleaved, word));
    }
}

template <int V>
struct Count { static constexpr int value = V; };

// body(v, Count<V>()) for blocks of V vectors, the first of which is v: as few blocks as can be, none more than one larger than another.
template <class Body>
void in_blocks(isize vectors, const Body& body) {
    for (isize v = 0; v < vectors;) {
        const isize left = vectors - v, some = ceil_div(left, ceil_div(left, VECTORS));
        switch (some) {
            case 1: body(v, Count<1>()); break;
            case 2: body(v, Count<2>()); break;
            case 3: body(v, Count<3>()); break;
            default: body(v, Count<VECTORS>());
        }
        v += some;
    }
}

// Some lines of dx of one image, a few at a time: the tables of the lines of dy that they need, in a ring, and the sums.
struct Input {
    const Conv g;
    const uint16_t* dy;
    const float* scale;
    uint16_t* dx;
    const uint8_t* index;                               // [tap][word][vector]
    isize words, chunks, vectors, head, pixel;          // pixel: bytes of a pixel's heads and tables
    isize lines, ring, part;                            // lines: made at a time; ring: of dy, with tables; part: of an item

    Input(const Conv& g, const uint16_t* dy, const float* scale, uint16_t* dx, isize threads) : g(g), dy(dy), scale(scale), dx(dx) {
        words = ceil_div(g.o, WORD), chunks = ceil_div(words, CHUNK), vectors = ceil_div(g.c, H);
        head = round_up(chunks * (isize)sizeof(Head), 64), pixel = head + words * GROUPS * TABLE;
        lines = least(g.h, most(1, CACHED / (g.ow() * pixel) - (g.kh - 1))), ring = lines + g.kh - 1;
        part = g.n < threads ? lines : g.h;
    }
    isize items() const { return g.n * ceil_div(g.h, part); }
    isize bytes() const { return (ring * g.ow() + 1) * pixel + chunks * CHUNK * WORD * 6; }

    void item(isize k, uint8_t* mine) const {
        const isize parts = ceil_div(g.h, part), image = k / parts, begin = k % parts * part, end = least(g.h, begin + part);
        uint8_t* const nothing = mine;
        uint8_t* const tables = mine + pixel;
        float* const values = (float*)(tables + ring * g.ow() * pixel);
        fill(nothing, 0, pixel);
        fill(values, 0, chunks * CHUNK * WORD * 6);
        isize line = most(0, begin + g.ph - (g.kh - 1));                // of dy, the next without tables
        for (isize top = begin; top < end; top += lines) {
            const isize bottom = least(end, top + lines);
            for (const isize last = least(g.oh(), bottom + g.ph); line < last; ++line)
                for (isize x = 0; x < g.ow(); ++x)
                    prepare(dy + ((image * g.oh() + line) * g.ow() + x) * g.o, values, tables + (line % ring * g.ow() + x) * pixel);
            uint16_t* const to = dx + (image * g.h + top) * g.w * g.c;
            in_blocks(vectors, [&](isize v, auto count) { sums<count.value>(v, top, bottom, tables, nothing, to); });
        }
    }

    // A pixel's heads and tables.
    void prepare(const uint16_t* from, float* values, uint8_t* to) const {
        int16_t* const whole = (int16_t*)(values + chunks * CHUNK * WORD);
        for (isize k = 0; k < chunks; ++k) {
            const isize begin = k * CHUNK * WORD, end = least(g.o, begin + CHUNK * WORD);
            __m512 total = _mm512_setzero_ps();
            for (isize o = begin; o < end; o += F) {
                const __mmask16 those = inside(end - o);
                const __m512 value = _mm512_mul_ps(widen(from + o, those), _mm512_maskz_loadu_ps(those, scale + o));
                total = _mm512_add_ps(total, _mm512_abs_ps(value));
                _mm512_storeu_ps(values + o, value);
            }
            const __m512 unit = steps_in_one(_mm512_set1_ps(_mm512_reduce_add_ps(total)));
            __m512i all = _mm512_setzero_si512();
            for (isize o = begin; o < end; o += F) {
                const __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(values + o), unit));
                all = _mm512_add_epi32(all, value);
                _mm256_storeu_si256((__m256i*)(whole + o), _mm512_cvtepi32_epi16(value));
            }
            Head* const it = (Head*)to + k;
            it->step = 1 / _mm512_cvtss_f32(unit), it->start = -_mm512_reduce_add_epi32(all);
        }
        for (isize k = 0; k < words * GROUPS; ++k) tabulate(whole + k * GROUP, 1, to + head + k * TABLE);
    }

    template <int V>
    void sums(isize vector, isize top, isize bottom, const uint8_t* tables, const uint8_t* nothing, uint16_t* to) const {
        const isize pixels = (bottom - top) * g.w;
        for (isize p = 0; p < pixels; p += ROWS) {
            isize y[ROWS], x[ROWS];                                     // of dy at the first tap
            alignas(64) float sum[ROWS][V * H];
            float* const row[ROWS] = {sum[0], sum[1], sum[2], sum[3]};
            for (isize k = 0; k < ROWS * V * H; k += F) _mm512_store_ps(sum[0] + k, _mm512_setzero_ps());
            for (int r = 0; r < ROWS; ++r) {
                const isize q = least(p + r, pixels - 1);               // the last once more, and not stored
                y[r] = top + q / g.w + g.ph, x[r] = q % g.w + g.pw;
            }
            for (isize k = 0; k < chunks; ++k) {                        // outside: the taps share most tables, which then are near
                const uint8_t* at = index + (k * CHUNK * vectors + vector) * 64;
                for (isize i = 0; i < g.kh; ++i) {
                    const uint8_t* line[ROWS];
                    for (int r = 0; r < ROWS; ++r)
                        line[r] = y[r] >= i && y[r] - i < g.oh() ? tables + (y[r] - i) % ring * g.ow() * pixel : nullptr;
                    for (isize j = 0; j < g.kw; ++j, at += words * vectors * 64) {
                        const uint8_t* table[ROWS];
                        Head heads[ROWS];
                        for (int r = 0; r < ROWS; ++r) {
                            const uint8_t* const it = line[r] && x[r] >= j && x[r] - j < g.ow() ? line[r] + (x[r] - j) * pixel : nothing;
                            table[r] = it + head + k * CHUNK * GROUPS * TABLE, heads[r] = ((const Head*)it)[k];
                        }
                        find<V>(table, heads, at, vectors * 64, least(CHUNK, words - k * CHUNK), V * H, row);
                    }
                }
            }
            for (int r = 0; r < least(ROWS, pixels - p); ++r)
                avx2::plain::to_bf16(sum[r], least(V * H, g.c - vector * H), to + (p + r) * g.c + vector * H);
        }
    }
};

// Some positions' share of dw: first the index of their signs, then for H rows of dw at a time tables and sums.
struct Weight {
    const Conv g;
    const uint16_t* dy;
    const uint64_t* signs;
    float* dw;
    isize vectors, blocks, parts, most_words;           // blocks: of H rows of dw; parts: of the taps, an item each
    uint8_t* index;                                     // [tap][word][vector]
    uint16_t* outside;                                  // of [tap][word]: which of its positions have no sign at this tap
    const uint64_t* zeros;                              // in their place
    isize begin, words;                                 // the first position, and words of them from there

    Weight(const Conv& g, const uint16_t* dy, const uint64_t* signs, float* dw, isize threads) : g(g), dy(dy), signs(signs), dw(dw) {
        vectors = ceil_div(g.c, H), blocks = ceil_div(g.o, H);
        parts = blocks % threads && blocks < 4 * threads ? least(threads, g.taps()) : 1;
        most_words = round_up(least(most(1, CACHED / (g.taps() * vectors * 64)), least(96, ceil_div(g.pixels(), WORD))), CHUNK);
    }
    isize bytes() const { return CHUNK * WORD * H * 2 + ROWS * CHUNK * GROUPS * TABLE + H * 4 + g.taps() * H * 4 + round_up(g.c, H) * 4; }

    void make_index(isize item) const {
        const isize tap = item / words, word = item % words;
        const uint64_t* rows[WORD];
        uint16_t missing = 0;
        const isize q = begin + word * WORD;
        isize image = q / (g.oh() * g.ow()), y = q / g.ow() % g.oh() + tap / g.kw - g.ph, x = q % g.ow() + tap % g.kw - g.pw;
        for (isize r = 0; r < WORD; ++r) {
            const bool there = image < g.n && y >= 0 && y < g.h && x >= 0 && x < g.w;
            rows[r] = there ? signs + ((image * g.h + y) * g.w + x) * bnn::words(g.c) : zeros;
            missing |= (uint16_t)(!there << r);
            if (++x == g.ow() + tap % g.kw - g.pw) {
                x = tap % g.kw - g.pw;
                if (++y == g.oh() + tap / g.kw - g.ph) y = tap / g.kw - g.ph, ++image;
            }
        }
        make_word(rows, vectors, index + item * vectors * 64);
        outside[item] = missing;
    }

    void rows(isize item, uint8_t* mine) const {
        constexpr isize each = CHUNK * GROUPS * TABLE;
        const isize block = item / parts, part = item % parts, channels = least(H, g.o - block * H);
        const isize begin_tap = part * g.taps() / parts, end_tap = (part + 1) * g.taps() / parts;
        uint8_t* const tables = mine;                                           // [ROWS][group]
        int16_t* const values = (int16_t*)(tables + ROWS * each);               // [position][H], in steps
        float* const steps = (float*)(values + CHUNK * WORD * H);               // [H]
        int32_t* const starts = (int32_t*)(steps + H);                          // [tap][H]
        float* const nowhere = (float*)(starts + g.taps() * H);
        for (isize from = 0; from < words; from += CHUNK) {
            const isize some = least(CHUNK, words - from);
            prepare(block, from, begin_tap, end_tap, values, steps, starts);
            for (isize o = 0; o < channels; o += ROWS) {
                for (isize r = 0; r < ROWS; ++r)
                    for (isize k = 0; k < some * GROUPS; ++k)
                        tabulate(values + k * GROUP * H + o + r, H, tables + r * each + k * TABLE);
                const uint8_t* const table[ROWS] = {tables, tables + each, tables + 2 * each, tables + 3 * each};
                for (isize tap = begin_tap; tap < end_tap; ++tap) {
                    float* rows[ROWS];
                    Head heads[ROWS];
                    for (isize r = 0; r < ROWS; ++r) {
                        rows[r] = o + r < channels ? dw + ((block * H + o + r) * g.taps() + tap) * g.c : nowhere;
                        heads[r] = {steps[o + r], starts[tap * H + o + r]};
                    }
                    in_blocks(vectors, [&](isize v, auto count) {
                        float* const to[ROWS] = {rows[0] + v * H, rows[1] + v * H, rows[2] + v * H, rows[3] + v * H};
                        const uint8_t* const at = index + ((tap * words + from) * vectors + v) * 64;
                        find<count.value>(table, heads, at, vectors * 64, some, g.c - v * H, to);
                    });
                }
            }
        }
    }

    // A chunk's values in steps, for up to H channels, and where the sums start at each tap: the index says -1 where there is no sign.
    void prepare(isize block, isize from, isize begin_tap, isize end_tap, int16_t* values, float* steps, int32_t* starts) const {
        const isize first = begin + from * WORD, count = least(CHUNK * WORD, g.pixels() - first);
        const uint16_t* const at = dy + first * g.o + block * H;
        const __mmask16 those[2] = {inside(g.o - block * H), inside(g.o - block * H - F)};
        __m512 total[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (isize q = 0; q < count; ++q)
            BNN_UNROLL for (int v = 0; v < 2; ++v)
                total[v] = _mm512_add_ps(total[v], _mm512_abs_ps(widen(at + q * g.o + v * F, those[v])));
        const __m512 unit[2] = {steps_in_one(total[0]), steps_in_one(total[1])};
        __m512i all[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
        for (isize q = 0; q < count; ++q)
            BNN_UNROLL for (int v = 0; v < 2; ++v) {
                const __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(widen(at + q * g.o + v * F, those[v]), unit[v]));
                all[v] = _mm512_sub_epi32(all[v], value);
                _mm256_storeu_si256((__m256i*)(values + q * H + v * F), _mm512_cvtepi32_epi16(value));
            }
        fill(values + count * H, 0, (CHUNK * WORD - count) * H * 2);
        BNN_UNROLL for (int v = 0; v < 2; ++v) {
            _mm512_storeu_ps(steps + v * F, _mm512_div_ps(_mm512_set1_ps(1), unit[v]));
            for (isize tap = begin_tap; tap < end_tap; ++tap) {
                __m512i start = all[v];
                for (isize k = from; k < least(words, from + CHUNK); ++k)
                    for (unsigned left = outside[tap * words + k]; left; left &= left - 1) {
                        const int16_t* const value = values + ((k - from) * WORD + __builtin_ctz(left)) * H + v * F;
                        start = _mm512_add_epi32(start, _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i*)value)));
                    }
                _mm512_storeu_si512(starts + tap * H + v * F, start);
            }
        }
    }
};

}  // namespace bnn::lookup
BNN_TARGET_END
#endif

namespace bnn {

#if defined(__x86_64__) && !defined(BNN_EMULATE)
// Not with AMX, which multiplies five times as many in a cycle as can be looked up.
bool has_gradients(const char* variant) { return !__builtin_strncmp(variant, "avx512", 6) && cpu().avx512bw && !cpu().amx; }

// An index and behind it a row of zeros.
struct Shared {
    uint8_t* index;
    uint64_t* zeros;
    Shared(Memory& memory, isize bytes, isize channels) {
        index = memory.need(bytes + words(channels) * 8), zeros = (uint64_t*)(index + bytes);
        fill(zeros, 0, words(channels) * 8);
    }
};

void gradient_of_input(const Conv& g, const uint16_t* dy, const uint64_t* weights, const float* scale, uint16_t* dx, isize threads) {
    static thread_local Memory memory;
    lookup::Input work(g, dy, scale, dx, threads);
    const Shared shared(memory, g.taps() * work.words * work.vectors * 64, g.c);
    work.index = shared.index;
    parallel_for(threads, g.taps() * work.words, 0, [&](isize item, uint8_t*) {
        const uint64_t* rows[lookup::WORD];
        for (isize r = 0; r < lookup::WORD; ++r) {
            const isize o = item % work.words * lookup::WORD + r;
            rows[r] = o < g.o ? weights + (o * g.taps() + item / work.words) * words(g.c) : shared.zeros;
        }
        lookup::make_word(rows, work.vectors, shared.index + item * work.vectors * 64);
    });
    parallel_for(threads, work.items(), work.bytes(), [&](isize item, uint8_t* mine) { work.item(item, mine); });
}

void gradient_of_weight(const Conv& g, const uint16_t* dy, const uint64_t* signs, float* dw, isize threads) {
    fill(dw, 0, g.o * g.k() * 4);
    static thread_local Memory memory;
    lookup::Weight work(g, dy, signs, dw, threads);
    const isize indexes = g.taps() * work.most_words;
    const Shared shared(memory, round_up(indexes * (work.vectors * 64 + 2), 64), g.c);
    work.index = shared.index, work.zeros = shared.zeros, work.outside = (uint16_t*)(shared.index + indexes * work.vectors * 64);
    for (work.begin = 0; work.begin < g.pixels(); work.begin += work.most_words * lookup::WORD) {
        work.words = least(work.most_words, ceil_div(g.pixels() - work.begin, lookup::WORD));
        parallel_for(threads, g.taps() * work.words, 0, [&](isize item, uint8_t*) { work.make_index(item); });
        parallel_for(threads, work.blocks * work.parts, work.bytes(), [&](isize item, uint8_t* mine) { work.rows(item, mine); });
    }
}
#else
bool has_gradients(const char*) { return false; }
void gradient_of_input(const Conv&, const uint16_t*, const uint64_t*, const float*, uint16_t*, isize) {}
void gradient_of_weight(const Conv&, const uint16_t*, const uint64_t*, float*, isize) {}
#endif

}  // namespace bnn
