// What needs no Python: the kernels' variants and the executor's float functions, each compiled for its instruction
// set, what the shells call, the executor, and what benchmarks measure. The other unit of the module bnn_kernels holds
// the Python shells; so both compile side by side.
#include "isa/variants.h"

#include "calls.h"
#include "executor/executor.h"
#include "gradients/all.h"
#include "measure/one_word.h"
#include "measure/peaks.h"
#include "executor/real_variants.h"
#include "threads.h"

namespace bnn {

void pack_floats(const Variant& v, const float* from, const Lying& x, uint64_t* to, isize threads) {
    const isize n = x.n, c = x.c, h = x.h, w = x.w, sn = x.sn, sc = x.sc, sh = x.sh, sw = x.sw, words_c = words(c);
    // Lines that follow one another in memory are one long line: fewer, larger pieces of work.
    const bool joined = h > 1 && sh == w * sw;
    const isize lines = joined ? 1 : h, length = joined ? h * w : w, piece = most(16, 16384 / most(c, 1) / 16 * 16);
    const isize pieces = ceil_div(length, piece);
    parallel_for(threads, n * lines * pieces, 0, [&](isize item, uint8_t*) {
        const isize first = item % pieces * piece, line = item / pieces % lines, image = item / pieces / lines;
        const isize many = least(piece, length - first);
        const float* a = from + image * sn + line * sh + first * sw;
        uint64_t* out = to + ((image * lines + line) * length + first) * words_c;
        if (sc == 1 && sw == c && c % 64 == 0) {        // whole words, one pixel behind the other
            v.pack_channels(a, many * c, out);
        } else if (sc == 1 || c == 1) {
            for (isize p = 0; p < many; ++p) v.pack_channels(a + p * sw, c, out + p * words_c);
        } else if (sw == 1 || many == 1) {
            v.pack_planes(a, sc, c, many, out, words_c);
        } else {
            for (isize p = 0; p < many; ++p) v.pack_planes(a + p * sw, sc, c, 1, out + p * words_c, words_c);
        }
    });
}

void pack_halves(const Variant& v, const uint16_t* from, isize pixels, isize channels, uint64_t* to, isize threads) {
    const isize piece = most(16, 16384 / most(channels, 1)), words_c = words(channels);
    parallel_for(threads, ceil_div(pixels, piece), 0, [&](isize item, uint8_t*) {
        const isize first = item * piece, many = least(piece, pixels - first), joined = channels % 64 ? 1 : many;
        for (isize p = first; p < first + many; p += joined)
            v.pack_bf16(from + p * channels, joined * channels, to + p * words_c);
    });
}

void convolve(const Variant& v, const Conv& g, const Epilogue& e, const Blob& b, const uint64_t* bits, isize threads,
              Choice* choice) {
    static thread_local Memory memory;
    const auto once = [&](Way way) {
        const Plan plan = make_plan(v, g, e, b, bits, threads, memory.need(plan_bytes(g)), true, way);
        parallel_for(threads, work_items(plan), work_bytes(plan),
                     [&](isize item, uint8_t* mine) { run(plan, item, mine); });
        return way_of(plan, way);
    };
    if (choice) run_faster(*choice, (uint64_t)threads + 1, v.images->ticks, once);
    else once(Way::counting);
}

void convolve_floats(const Variant& v, const Conv& g, const Epilogue& e, const Blob& b, const float* from,
                     const Lying& x, isize threads, Choice* choice) {
    static thread_local Memory memory;
    uint64_t* const bits = (uint64_t*)memory.need(g.n * g.h * g.w * words(g.c) * 8);
    pack_floats(v, from, x, bits, threads);
    convolve(v, g, e, b, bits, threads, choice);
}

void or_pool(const Pool& p, const uint64_t* bits, const uint64_t* flip, uint64_t* to, isize threads) {
    parallel_for(threads, p.n * p.oh(), 0, [&](isize line, uint8_t*) { or_pool_line(p, bits, flip, to, line); });
}

void one_word(const Conv& g, const uint64_t* bits, const uint64_t* rows, float* to) {
    one_word_conv(g, bits, rows, to);
}

void run(const Net& n, const RunPlan& p, const Outside* outside, isize images, uint8_t* memory,
         void (*watch)(void*, isize), void* context) {
    const auto parallel = [](isize threads, isize items, isize bytes, const auto& body) {
        parallel_for(threads, items, bytes, body);
    };
    run(n, p, outside, images, memory, parallel, [&](isize k) { if (watch) watch(context, k); });
}

}  // namespace bnn
