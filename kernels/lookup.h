// gradient.h by look-ups: for one unit of a program.
//
// In both gradients a float is multiplied by a sign, and the same float by many: one for each channel and tap. So the 16 sums
// +-a +-b +-c +-d of four values of dy go into a table, and every place that needs one of them looks it up. A register holds two
// tables of bf16; vpermw looks up in both for 16 channels, vdpbf16ps adds what it found, in float32: 128 products with two
// instructions, of which a multiplication of bf16 needs four. A sum in a table is rounded to bf16, as each value of dy was before; nothing
// else is rounded below float32.
//
// Eight values are a group (two tables), three groups a word of the index: for each of 16 channels two lanes of 16 bits, lane s with
// the signs of values 4 s to 4 s + 3 of group k at bits 5 k to 5 k + 3, and s at bit 5 k + 4, which tells the tables apart.
#pragma once
#include "cpu.h"
#include "gradient.h"
#include "threads.h"

#if defined(__x86_64__) && !defined(BNN_EMULATE)        // the emulation has no bf16
#include <immintrin.h>

BNN_TARGET_BEGIN("avx512f,avx512bw,avx512bf16")
namespace bnn::lookup {

constexpr isize F = 16, TABLE = 64, GROUP = 8, GROUPS = 3, WORD = GROUP * GROUPS;
constexpr int ROWS = 4, VECTORS = 4;
constexpr isize CACHED = 3 << 17;                       // bytes that are used again and again: most of a second-level cache, 384 KiB

// sum[r][v] += what the words of the index, `stride` bytes apart, find in the tables of row r.
template <int V>
void find(const uint8_t* const (&tables)[ROWS], const uint8_t* index, isize stride, isize words, __m512 (&sum)[ROWS][V]) {
    const __m512bh one = (__m512bh)_mm512_set1_epi16(0x3f80);
    __m512 found[ROWS][V];                              // stays in registers
    BNN_UNROLL for (int r = 0; r < ROWS; ++r)
        BNN_UNROLL for (int v = 0; v < V; ++v) found[r][v] = sum[r][v];
    for (isize k = 0; k < words; ++k, index += stride) {
        __m512i at[V];
        BNN_UNROLL for (int v = 0; v < V; ++v) at[v] = _mm512_loadu_si512(index + 64 * v);
        BNN_UNROLL for (int j = 0; j < GROUPS; ++j) {
            BNN_UNROLL for (int r = 0; r < ROWS; ++r) {
                const __m512i table = _mm512_loadu_si512(tables[r] + (k * GROUPS + j) * TABLE);
                BNN_UNROLL for (int v = 0; v < V; ++v)
                    found[r][v] = _mm512_dpbf16_ps(found[r][v], (__m512bh)_mm512_permutexvar_epi16(at[v], table), one);
            }
            BNN_UNROLL for (int v = 0; v < V; ++v) at[v] = _mm512_srli_epi16(at[v], 5);
        }
    }
    BNN_UNROLL for (int r = 0; r < ROWS; ++r)
        BNN_UNROLL for (int v = 0; v < V; ++v) sum[r][v] = found[r][v];
}

// Two tables from eight values, `step` floats apart.
inline void tabulate(const float* values, isize step, uint8_t* to) {
    __m512 half[2];
    for (int s = 0; s < 2; ++s) {
        half[s] = _mm512_setzero_ps();
        BNN_UNROLL for (int i = 0; i < 4; ++i) {
            constexpr uint16_t set[4] = {0xaaaa, 0xcccc, 0xf0f0, 0xff00};       // of 0 to 15, those with bit i
            const __m512 sign = _mm512_mask_blend_ps(set[i], _mm512_set1_ps(-1.0f), _mm512_set1_ps(1.0f));
            half[s] = _mm512_fmadd_ps(_mm512_set1_ps(values[(4 * s + i) * step]), sign, half[s]);
        }
    }
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(half[1], half[0]));
}

// One word of the index for `vectors` vectors of channels: rows[r] has the signs of value r.
inline void make_word(const uint64_t* const (&rows)[WORD], isize vectors, uint8_t* to) {
    const __m512i halves = _mm512_set1_epi32(0x4210 << 16);
    for (isize v = 0; v < vectors; ++v) {
        __m512i word = halves;
        BNN_UNROLL for (int r = 0; r < WORD; ++r) {
            uint16_t signs;
            copy(&signs, (const uint8_t*)rows[r] + 2 * v, 2);
            word = _mm512_mask_or_epi32(word, signs, word, _mm512_set1_epi32(1 << (r % GROUP / 4 * 16 + r / GROUP * 5 + r % 4)));
        }
        _mm512_storeu_si512(to + 64 * v, word);
    }
}

// n values of bf16 to float32, zeros up to a multiple of F.
inline void widen(const uint16_t* from, isize n, float* to) {
    for (isize k = 0; k < n; k += F) {
        alignas(32) uint16_t some[F] = {};
        copy(some, from + k, 2 * least(F, n - k));
        _mm512_storeu_ps(to + k, (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_load_si256((const __m256i*)some)), 16));
    }
}

inline __mmask16 inside(isize left) { return (__mmask16)(left < F ? (1 << left) - 1 : 0xffff); }

// A strip of lines of dx of one image: the tables of the pixels of dy that it needs, and the sums.
struct Input {
    const Conv g;
    const uint16_t* dy;
    const float* scale;
    uint16_t* dx;
    const uint8_t* index;                               // [tap][word][vector]
    isize words, vectors, pixel, lines;                 // pixel: bytes of a pixel's tables; lines: in a strip

    Input(const Conv& g, const uint16_t* dy, const float* scale, uint16_t* dx) : g(g), dy(dy), scale(scale), dx(dx) {
        words = ceil_div(g.o, WORD), vectors = ceil_div(g.c, F), pixel = words * GROUPS * TABLE;
        lines = least(g.h, most(1, CACHED / (g.ow() * pixel) - (g.kh - 1)));
    }
    isize strips() const { return ceil_div(g.h, lines); }
    isize bytes() const { return ((lines + g.kh - 1) * g.ow() + 1) * pixel + round_up(words * WORD, F) * 4; }

    void strip(isize item, uint8_t* mine) const {
        const isize image = item / strips(), top = item % strips() * lines, bottom = least(g.h, top + lines);
        const isize first = most(0, top + g.ph - (g.kh - 1)), last = least(g.oh(), bottom + g.ph);
        uint8_t* const nothing = mine;
        uint8_t* const tables = mine + pixel;
        float* const values = (float*)(mine + ((lines + g.kh - 1) * g.ow() + 1) * pixel);
        fill(nothing, 0, pixel);
        fill(values, 0, round_up(words * WORD, F) * 4);
        for (isize p = 0; p < (last - first) * g.ow(); ++p) {
            widen(dy + ((image * g.oh() + first) * g.ow() + p) * g.o, g.o, values);
            for (isize o = 0; o < g.o; o += F)
                _mm512_storeu_ps(values + o, _mm512_mul_ps(_mm512_loadu_ps(values + o), _mm512_maskz_loadu_ps(inside(g.o - o), scale + o)));
            for (isize k = 0; k < words * GROUPS; ++k) tabulate(values + k * GROUP, 1, tables + p * pixel + k * TABLE);
        }
        uint16_t* const to = dx + (image * g.h + top) * g.w * g.c;
        for (isize v = 0; v < vectors; v += VECTORS) {
            switch (vectors - v) {
                case 1: sums<1>(v, top, bottom, first, last, tables, nothing, to); break;
                case 2: sums<2>(v, top, bottom, first, last, tables, nothing, to); break;
                case 3: sums<3>(v, top, bottom, first, last, tables, nothing, to); break;
                default: sums<VECTORS>(v, top, bottom, first, last, tables, nothing, to);
            }
        }
    }

    template <int V>
    void sums(isize vector, isize top, isize bottom, isize first, isize last, const uint8_t* tables, const uint8_t* nothing, uint16_t* to) const {
        const isize pixels = (bottom - top) * g.w;
        for (isize p = 0; p < pixels; p += ROWS) {
            isize y[ROWS], x[ROWS];
            __m512 sum[ROWS][V];
            for (int r = 0; r < ROWS; ++r) {
                const isize q = least(p + r, pixels - 1);               // the last once more, and not stored
                y[r] = top + q / g.w + g.ph, x[r] = q % g.w + g.pw;
                for (int v = 0; v < V; ++v) sum[r][v] = _mm512_setzero_ps();
            }
            for (isize t = 0; t < g.taps(); ++t) {
                const uint8_t* at[ROWS];
                for (int r = 0; r < ROWS; ++r) {
                    const isize line = y[r] - t / g.kw, column = x[r] - t % g.kw;
                    const bool there = line >= first && line < last && column >= 0 && column < g.ow();
                    at[r] = there ? tables + ((line - first) * g.ow() + column) * pixel : nothing;
                }
                find<V>(at, index + (t * words * vectors + vector) * 64, vectors * 64, words, sum);
            }
            for (int r = 0; r < least(ROWS, pixels - p); ++r)
                for (int v = 0; v < V; ++v) {
                    const isize c = (vector + v) * F;
                    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(sum[r][v]);
                    copy(to + (p + r) * g.c + c, &rounded, 2 * least(F, g.c - c));
                }
        }
    }
};

// Some images' share of dw: first the index of their signs, then for 16 rows of dw at a time tables and sums.
struct Weight {
    const Conv g;
    const uint16_t* dy;
    const uint64_t* signs;
    float* dw;
    isize vectors, most_words;
    uint8_t* index;                                     // [tap][word][vector]
    uint32_t* outside;                                  // of [tap][word]: which of its positions have no sign at this tap
    const uint64_t* zeros;                              // in their place
    isize begin, words;                                 // the first position, and words of them from there

    Weight(const Conv& g, const uint16_t* dy, const uint64_t* signs, float* dw) : g(g), dy(dy), signs(signs), dw(dw) {
        vectors = ceil_div(g.c, F);
        most_words = least(most(1, CACHED / (g.taps() * vectors * 64)), least(42, ceil_div(g.pixels(), WORD)));
    }
    isize bytes() const { return most_words * WORD * (F * 4 + ROWS * TABLE / GROUP) + F * 4; }

    void make_index(isize item) const {
        const isize tap = item / words, word = item % words;
        const uint64_t* rows[WORD];
        uint32_t missing = 0;
        for (isize r = 0; r < WORD; ++r) {
            const isize q = begin + word * WORD + r, x = q % g.ow() + tap % g.kw - g.pw, line = q / g.ow();
            const isize y = line % g.oh() + tap / g.kw - g.ph;
            const bool there = q < g.pixels() && y >= 0 && y < g.h && x >= 0 && x < g.w;
            rows[r] = there ? signs + ((line / g.oh() * g.h + y) * g.w + x) * bnn::words(g.c) : zeros;
            missing |= (uint32_t)!there << r;
        }
        make_word(rows, vectors, index + item * vectors * 64);
        outside[item] = missing;
    }

    void rows(isize block, uint8_t* mine) const {
        const isize count = least(words * WORD, g.pixels() - begin), channels = least(F, g.o - block * F);
        float* const values = (float*)mine;                                     // [position][F]
        uint8_t* const tables = mine + most_words * WORD * F * 4;               // [ROWS][groups]
        float* const border = (float*)(tables + most_words * WORD * ROWS * TABLE / GROUP);
        for (isize q = 0; q < count; ++q) widen(dy + (begin + q) * g.o + block * F, channels, values + q * F);
        fill(values + count * F, 0, (words * WORD - count) * F * 4);
        const isize each = words * GROUPS * TABLE;
        for (isize o = 0; o < channels; o += ROWS) {
            for (isize r = 0; r < ROWS; ++r)
                for (isize k = 0; k < words * GROUPS; ++k) tabulate(values + k * GROUP * F + o + r, F, tables + r * each + k * TABLE);
            const uint8_t* const at[ROWS] = {tables, tables + each, tables + 2 * each, tables + 3 * each};
            for (isize tap = 0; tap < g.taps(); ++tap) {
                // where there is no sign the index says -1: that is taken back
                __m512 sum = _mm512_setzero_ps();
                for (isize k = 0; k < words; ++k)
                    for (uint32_t left = outside[tap * words + k]; left; left &= left - 1)
                        sum = _mm512_add_ps(sum, _mm512_loadu_ps(values + (k * WORD + __builtin_ctz(left)) * F));
                _mm512_storeu_ps(border, sum);
                const isize some = least(ROWS, channels - o);
                float* const to = dw + ((block * F + o) * g.taps() + tap) * g.c;
                for (isize v = 0; v < vectors; v += VECTORS) {
                    switch (vectors - v) {
                        case 1: sums<1>(at, tap, v, border + o, some, to); break;
                        case 2: sums<2>(at, tap, v, border + o, some, to); break;
                        case 3: sums<3>(at, tap, v, border + o, some, to); break;
                        default: sums<VECTORS>(at, tap, v, border + o, some, to);
                    }
                }
            }
        }
    }

    template <int V>
    void sums(const uint8_t* const (&at)[ROWS], isize tap, isize vector, const float* border, isize some, float* to) const {
        __m512 sum[ROWS][V];
        BNN_UNROLL for (int r = 0; r < ROWS; ++r)
            BNN_UNROLL for (int v = 0; v < V; ++v) {
                const isize c = (vector + v) * F;
                sum[r][v] = _mm512_set1_ps(border[r]);
                if (begin && r < some) sum[r][v] = _mm512_add_ps(sum[r][v], _mm512_maskz_loadu_ps(inside(g.c - c), to + r * g.taps() * g.c + c));
            }
        find<V>(at, index + (tap * words * vectors + vector) * 64, vectors * 64, words, sum);
        for (int r = 0; r < some; ++r)
            for (int v = 0; v < V; ++v) {
                const isize c = (vector + v) * F;
                _mm512_mask_storeu_ps(to + r * g.taps() * g.c + c, inside(g.c - c), sum[r][v]);
            }
    }
};

}  // namespace bnn::lookup
BNN_TARGET_END
#endif

namespace bnn {

#if defined(__x86_64__) && !defined(BNN_EMULATE)
bool has_gradients(const char* variant) { return !__builtin_strncmp(variant, "avx512", 6) && cpu().avx512bf16; }

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
    lookup::Input work(g, dy, scale, dx);
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
    parallel_for(threads, g.n * work.strips(), work.bytes(), [&](isize item, uint8_t* mine) { work.strip(item, mine); });
}

void gradient_of_weight(const Conv& g, const uint16_t* dy, const uint64_t* signs, float* dw, isize threads) {
    if (!g.n) return fill(dw, 0, g.o * g.k() * 4);
    static thread_local Memory memory;
    lookup::Weight work(g, dy, signs, dw);
    const isize indexes = g.taps() * work.most_words;
    const Shared shared(memory, round_up(indexes * (work.vectors * 64 + 4), 64), g.c);
    work.index = shared.index, work.zeros = shared.zeros, work.outside = (uint32_t*)(shared.index + indexes * work.vectors * 64);
    for (work.begin = 0; work.begin < g.pixels(); work.begin += work.most_words * lookup::WORD) {
        work.words = least(work.most_words, ceil_div(g.pixels() - work.begin, lookup::WORD));
        parallel_for(threads, g.taps() * work.words, 0, [&](isize item, uint8_t*) { work.make_index(item); });
        parallel_for(threads, ceil_div(g.o, lookup::F), work.bytes(), [&](isize block, uint8_t* mine) { work.rows(block, mine); });
    }
}
#else
bool has_gradients(const char*) { return false; }
void gradient_of_input(const Conv&, const uint16_t*, const uint64_t*, const float*, uint16_t*, isize) {}
void gradient_of_weight(const Conv&, const uint16_t*, const uint64_t*, float*, isize) {}
#endif

}  // namespace bnn
