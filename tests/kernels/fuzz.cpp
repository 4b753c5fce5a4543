// A fuzz of all variants against a bit-by-bit convolution, without Python: the shell of the sanitizer build, of the emulated
// AVX-512 build and of the cross-compiled ARM build. Some awkward shapes, then random ones. Buffers are exactly as large as the
// contract says, so that AddressSanitizer sees every byte too far. Then the gradients, where there are any. Usage: fuzz CASES SEED. Prints
// one line for each variant and each kind of gradients, and exits with 1 at the first difference.
#if defined(BNN_EMULATE)
#include "emulate.h"
#include "amx_emulate.h"
#endif
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "conv/conv.h"
#include "gradients/all.h"
#include "isa/variants.h"

using bnn::isize;

static uint64_t state;
static uint64_t random64() {                                            // xorshift*
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return state * 0x2545F4914F6CDD1Du;
}
static isize pick(isize low, isize high) { return low + (isize)(random64() % (uint64_t)(high - low + 1)); }
template <class T>
static T choose(std::initializer_list<T> of) { return of.begin()[pick(0, (isize)of.size() - 1)]; }

// Aligned as allocators align, not padded.
template <class T>
struct Buffer {
    explicit Buffer(isize n) : size(n), at((T*)std::aligned_alloc(64, (size_t)bnn::round_up(n * (isize)sizeof(T), 64))) {}
    ~Buffer() { std::free(at); }
    Buffer(const Buffer&) = delete;
    isize size;
    T* at;
    T& operator[](isize i) { return at[i]; }
};

struct Problem {
    bnn::Conv g;
    std::vector<float> x, w;                                            // [n][h][w][c], [o][cg][kh][kw], -1 or +1
    std::vector<int> dot;                                               // [n][oh][ow][o]
};

// Shapes whose tiles hold pieces of several lines and images, whose windows hang far over the edges, or which kernels that count
// straight from lines of the input must leave to others.
static const bnn::Conv awkward[] = {
    // n, h, w, c, o, kh, kw, sh, sw, ph, pw, dh, dw, groups
    {3, 7, 7, 64, 40, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {2, 9, 5, 96, 64, 3, 3, 2, 2, 1, 1, 1, 1, 1},           // taps of 12 bytes in pixels of 16
    {1, 5, 67, 128, 300, 3, 3, 1, 1, 0, 0, 1, 1, 1},        // lines longer than a tile, chunks of channels
    {1, 6, 35, 192, 17, 5, 3, 1, 2, 2, 2, 1, 1, 1},
    {2, 3, 2, 128, 33, 5, 5, 1, 1, 2, 3, 1, 1, 1},          // a kernel larger than the image
    {2, 4, 5, 64, 32, 3, 3, 1, 1, 4, 5, 1, 1, 1},           // pixels that see nothing of it
    {70, 1, 1, 64, 20, 3, 3, 1, 1, 1, 1, 1, 1, 1},          // as many lines as pixels
    {9, 1, 9, 32, 48, 1, 3, 1, 1, 0, 1, 1, 1, 1},
    {2, 9, 8, 64, 130, 3, 3, 1, 1, 2, 1, 2, 1, 1},          // only lines are dilated
    {2, 9, 8, 64, 30, 3, 3, 1, 1, 2, 2, 2, 2, 1},
    {1, 9, 24, 96, 20, 3, 3, 3, 3, 0, 0, 1, 1, 1},          // windows share nothing: lines as long as they can be
    {2, 6, 11, 128, 30, 3, 2, 1, 3, 1, 1, 1, 1, 1},         // a stride above the kernel
    {2, 6, 9, 36, 20, 3, 4, 1, 3, 1, 2, 1, 1, 1},
    {1, 8, 9, 192, 96, 3, 3, 1, 1, 1, 1, 1, 1, 3},
    {2, 8, 8, 72, 50, 3, 4, 2, 1, 1, 2, 1, 1, 2},
    {5, 7, 7, 64, 33, 3, 3, 1, 1, 1, 1, 1, 1, 1},           // images of bytes: lines shorter than a tile, of several images
    {3, 8, 8, 128, 20, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {1, 14, 14, 64, 20, 3, 3, 2, 2, 1, 1, 1, 1, 1},         // every other column
    {1, 3, 600, 64, 8, 3, 3, 1, 2, 1, 1, 1, 1, 1},         // lines longer than a piece of work
    {2, 40, 33, 20, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1},         // a pixel that is no whole step
    {1, 2, 3, 1280, 33, 3, 3, 1, 1, 1, 1, 1, 1, 1},         // more weights than are bytes at once
};

static bnn::Conv random_shape() {
    bnn::Conv g;
    const isize shape = pick(0, 9);
    g.groups = choose<isize>({1, 1, 1, 2, 3});
    const isize cg = shape == 0 ? pick(5000, 9000) : choose<isize>({1, 3, 7, 8, 20, 33, 64, 65, 96, 128, 200});
    g.c = cg * g.groups, g.o = choose<isize>({1, 5, 16, 31, 32, 50, 64, 100, 129, 200, 300}) * g.groups;
    if (shape == 1) g.groups = g.c = g.o = choose<isize>({2, 5, 63, 64, 65, 130, 1030});   // each channel by itself
    g.n = pick(1, 2);
    const isize most_kernel = shape == 0 ? 1 : 5;
    g.kh = pick(1, most_kernel), g.kw = pick(1, most_kernel), g.sh = pick(1, 3), g.sw = pick(1, 3), g.dh = pick(1, 2), g.dw = pick(1, 2);
    g.ph = pick(0, 3), g.pw = pick(0, 3);
    if (shape == 0 && pick(0, 1)) g.kh = 1, g.kw = 9, g.pw = 4, g.dw = 1;   // K beyond one 16-bit stretch
    if (shape == 1 && !pick(0, 3)) g.kh = pick(14, 17), g.kw = pick(14, 17);   // about as many taps as 8 bits count
    g.h = bnn::most(1, g.dh * (g.kh - 1) + 1 - 2 * g.ph) + pick(0, 5), g.w = bnn::most(1, g.dw * (g.kw - 1) + 1 - 2 * g.pw) + pick(0, 7);
    return g;
}

static Problem make_problem(const bnn::Conv& g) {
    Problem p;
    p.g = g;
    const isize cg = g.cg();
    const int fill = (int)pick(0, 7);                                   // now and then all equal: the largest counts
    const auto sign = [&](int same) { return fill == same ? 1.0f : fill == same + 1 ? -1.0f : random64() >> 63 ? 1.0f : -1.0f; };
    p.x.resize((size_t)(g.n * g.h * g.w * g.c)), p.w.resize((size_t)(g.o * g.k()));
    for (float& v : p.x) v = sign(0);
    for (float& v : p.w) v = sign(1);
    p.dot.assign((size_t)(g.pixels() * g.o), 0);
    isize at = 0;
    for (isize n = 0; n < g.n; ++n)
        for (isize y = 0; y < g.oh(); ++y)
            for (isize x = 0; x < g.ow(); ++x)
                for (isize o = 0; o < g.o; ++o, ++at)
                    for (isize i = 0; i < g.kh; ++i)
                        for (isize j = 0; j < g.kw; ++j) {
                            const isize yy = y * g.sh - g.ph + i * g.dh, xx = x * g.sw - g.pw + j * g.dw;
                            if (yy < 0 || yy >= g.h || xx < 0 || xx >= g.w) continue;
                            const float* a = &p.x[(size_t)(((n * g.h + yy) * g.w + xx) * g.c + o / g.og() * cg)];
                            const float* b = &p.w[(size_t)(o * g.k() + i * g.kw + j)];
                            int sum = 0;
                            for (isize c = 0; c < cg; ++c) sum += a[c] == b[c * g.taps()] ? 1 : -1;
                            p.dot[(size_t)at] += sum;
                        }
    return p;
}

static void differ(const bnn::Variant& v, const bnn::Conv& g, const char* what, isize at) {
    std::printf("%s: %s differs at %lld: n %lld h %lld w %lld c %lld o %lld k %lldx%lld s %lldx%lld p %lldx%lld d %lldx%lld g %lld\n", v.name,
                what, (long long)at, (long long)g.n, (long long)g.h, (long long)g.w, (long long)g.c, (long long)g.o, (long long)g.kh,
                (long long)g.kw, (long long)g.sh, (long long)g.sw, (long long)g.ph, (long long)g.pw, (long long)g.dh, (long long)g.dw,
                (long long)g.groups);
    std::exit(1);
}

static void run(const bnn::Variant& v, const bnn::Conv& g, const bnn::Epilogue& e, const bnn::Blob& blob, const uint64_t* bits, isize threads) {
    if (const char* wrong = bnn::check(g, e)) std::printf("check: %s\n", wrong), std::exit(1);
    Buffer<uint8_t> plan_memory(bnn::plan_bytes(g));
    const bnn::Plan plan = bnn::make_plan(v, g, e, blob, bits, threads, plan_memory.at);
    Buffer<uint8_t> memory(bnn::work_bytes(plan));
    for (isize i = bnn::work_items(plan); i-- > 0;) bnn::run(plan, i, memory.at);      // any order must do
}

static float from_bf16(uint16_t half) {
    const uint32_t word = (uint32_t)half << 16;
    float value;
    bnn::copy(&value, &word, 4);
    return value;
}

static uint16_t to_bf16(float value) {                                  // to nearest, ties to even
    uint32_t word;
    bnn::copy(&word, &value, 4);
    return (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

static void test(const bnn::Variant& v, const Problem& p, isize pool) {
    const bnn::Conv& g = p.g;
    const isize pixels = g.pixels(), threads = pick(1, 4);

    Buffer<uint64_t> bits(g.n * g.h * g.w * bnn::words(g.c)), again(bits.size);
    for (isize i = 0; i < g.n * g.h * g.w; ++i) v.pack_channels(&p.x[(size_t)(i * g.c)], g.c, bits.at + i * bnn::words(g.c));
    std::vector<float> planes((size_t)(g.h * g.w * g.c));
    for (isize n = 0; n < g.n; ++n) {
        for (isize i = 0; i < g.h * g.w; ++i)
            for (isize c = 0; c < g.c; ++c) planes[(size_t)(c * g.h * g.w + i)] = p.x[(size_t)((n * g.h * g.w + i) * g.c + c)];
        v.pack_planes(planes.data(), g.h * g.w, g.c, g.h * g.w, again.at + n * g.h * g.w * bnn::words(g.c), bnn::words(g.c));
    }
    for (isize i = 0; i < bits.size; ++i) if (bits[i] != again[i]) differ(v, g, "packing of planes", i);
    for (isize i = 0; i < g.n * g.h * g.w * g.c; ++i)
        if ((bits[i / g.c * bnn::words(g.c) + i % g.c / 64] >> (i % g.c % 64) & 1) != (p.x[(size_t)i] > 0)) differ(v, g, "packing", i);
    Buffer<uint16_t> halves(g.c);
    Buffer<uint64_t> packed(bnn::words(g.c));
    for (isize c = 0; c < g.c; ++c) halves[c] = choose<uint16_t>({0, 0x8000, 1, 0x8001, 0x3f80, 0xbf80, 0x7f80, 0xff80, 0x7f81, 0x7fff, 0xff81, 0xffff});
    v.pack_bf16(halves.at, g.c, packed.at);
    for (isize c = 0; c < packed.size * 64; ++c)
        if ((packed[c / 64] >> c % 64 & 1) != (c < g.c && from_bf16(halves[c]) >= 0)) differ(v, g, "packing of bf16", c);

    const isize stored = bnn::ceil_div(g.k(), 8);
    Buffer<uint8_t> weights(g.o * stored), blob_memory(bnn::blob_bytes(v, g)), scratch(bnn::prepack_scratch_bytes(g));
    bnn::fill(weights.at, 0, weights.size);
    for (isize o = 0; o < g.o; ++o)
        for (isize k = 0; k < g.k(); ++k)
            if (p.w[(size_t)(o * g.k() + k)] > 0) weights[o * stored + k / 8] |= (uint8_t)(1 << k % 8);
    bnn::prepack(v, g, weights.at, blob_memory.at, scratch.at);
    bnn::Blob blob;
    if (const char* wrong = bnn::open_blob(v, g, blob_memory.at, blob_memory.size, &blob)) std::printf("blob: %s\n", wrong), std::exit(1);

    std::vector<float> scale((size_t)g.o), bias((size_t)g.o);
    for (float& s : scale) s = (float)pick(-64, 64) / 16;
    for (float& b : bias) b = (float)pick(-64, 64);
    for (int planes_out = 0; planes_out < 2; ++planes_out) {
        Buffer<float> y(pixels * g.o), residual(pixels * g.o);
        for (isize i = 0; i < residual.size; ++i) residual[i] = (float)pick(-9, 9);
        bnn::Epilogue e;
        e.channels_first = planes_out, e.to = y.at;
        const bool with_scale = pick(0, 1), with_bias = pick(0, 1), with_residual = pick(0, 1);
        if (with_scale) e.scale = scale.data();
        if (with_bias) e.bias = bias.data();
        if (with_residual) e.residual = residual.at;
        run(v, g, e, blob, bits.at, threads);
        const isize plane = g.oh() * g.ow();
        for (isize i = 0; i < pixels; ++i)
            for (isize o = 0; o < g.o; ++o) {
                const isize at = planes_out ? (i / plane * g.o + o) * plane + i % plane : i * g.o + o;
                float want = (float)p.dot[(size_t)(i * g.o + o)];
                if (with_scale) want *= scale[(size_t)o];
                if (with_bias) want += bias[(size_t)o];
                if (with_residual) want += residual[at];
                if (y[at] != want) differ(v, g, planes_out ? "float planes" : "float", at);
            }
    }
    {
        Buffer<uint16_t> y(pixels * g.o);
        bnn::Epilogue e;
        e.out = bnn::Out::bfloat16, e.to = y.at, e.scale = scale.data(), e.bias = bias.data();
        run(v, g, e, blob, bits.at, threads);
        for (isize i = 0; i < y.size; ++i)
            if (y[i] != to_bf16((float)p.dot[(size_t)i] * scale[(size_t)(i % g.o)] + bias[(size_t)(i % g.o)])) differ(v, g, "bfloat16", i);
    }
    if (g.k() <= 32767) {
        Buffer<int16_t> y(pixels * g.o);
        bnn::Epilogue e;
        e.out = bnn::Out::int16, e.to = y.at;
        run(v, g, e, blob, bits.at, threads);
        for (isize i = 0; i < y.size; ++i) if (y[i] != p.dot[(size_t)i]) differ(v, g, "int16", i);
    }
    const isize oh = g.oh() / pool, ow = g.ow() / pool, line = bnn::words(g.o);
    std::vector<int32_t> threshold((size_t)g.o);
    Buffer<uint64_t> flip(line);
    for (int32_t& t : threshold) t = (int32_t)pick(-20, 20);
    threshold[0] = choose<int32_t>({INT32_MIN, INT32_MAX, 0});
    for (isize i = 0; i < line; ++i) flip[i] = random64();
    flip[line - 1] &= ~0ull >> (line * 64 - g.o);
    Buffer<uint64_t> y(g.n * oh * ow * line);
    bnn::Epilogue e;
    e.out = bnn::Out::bits, e.to = y.at, e.pool = pool, e.threshold = threshold.data(), e.flip = flip.at;
    run(v, g, e, blob, bits.at, threads);
    for (isize i = 0; i < g.n * oh * ow; ++i)
        for (isize o = 0; o < line * 64; ++o) {
            bool want = false;
            if (o < g.o) {
                for (isize k = 0; k < pool * pool; ++k) {
                    const isize yy = i / ow % oh * pool + k / pool, xx = i % ow * pool + k % pool;
                    want |= p.dot[(size_t)(((i / ow / oh * g.oh() + yy) * g.ow() + xx) * g.o + o)] >= threshold[(size_t)o];
                }
                want ^= flip[o / 64] >> (o % 64) & 1;
            }
            if ((y[i * line + o / 64] >> (o % 64) & 1) != want) differ(v, g, "bits", i * line * 64 + o);
        }
}

static bnn::Conv shape_with_gradients(bool strided) {
    bnn::Conv g;
    g.n = pick(1, 3), g.kh = pick(1, 5), g.kw = pick(1, 5), g.ph = pick(0, 4), g.pw = pick(0, 4);
    if (!pick(0, 3)) g.kh = g.kw = 1, g.ph = g.pw = 0;                  // pixels without neighbours go another way
    if (strided && pick(0, 1)) g.sh = pick(1, 3), g.sw = pick(1, 3);
    g.c = choose<isize>({1, 5, 15, 17, 31, 32, 33, 64, 65, 100, 130}), g.o = choose<isize>({1, 6, 11, 12, 13, 32, 33, 50, 130, 192, 193});
    g.h = bnn::most(1, g.kh - 2 * g.ph) + pick(0, 9), g.w = bnn::most(1, g.kw - 2 * g.pw) + pick(0, 9);
    return g;
}

// dy of integers so small that no chunk of them is rounded: both gradients must be exact, dx rounded once.
static void test_gradients(const bnn::Gradients& gradients, const Problem& p) {
    const bnn::Variant* const* best = bnn::variants;                    // of those that this CPU runs
    while (!(*best)->supported()) ++best;
    const bnn::Variant& v = **best;
    const bnn::Conv& g = p.g;
    Buffer<uint64_t> signs(g.n * g.h * g.w * bnn::words(g.c)), weights(g.o * g.taps() * bnn::words(g.c));
    Buffer<uint16_t> dy(g.pixels() * g.o), dx(g.n * g.h * g.w * g.c);
    Buffer<float> scale(g.o), dw(g.o * g.k());
    for (isize i = 0; i < g.n * g.h * g.w; ++i) v.pack_channels(&p.x[(size_t)(i * g.c)], g.c, signs.at + i * bnn::words(g.c));
    for (isize i = 0; i < g.o * g.taps(); ++i) {
        const isize o = i / g.taps(), t = i % g.taps();
        v.pack_planes(&p.w[(size_t)(o * g.k() + t)], g.taps(), g.c, 1, weights.at + i * bnn::words(g.c), bnn::words(g.c));
    }
    for (isize o = 0; o < g.o; ++o) scale[o] = (float)choose<int>({0, 1, 2});
    for (isize i = 0; i < dy.size; ++i) dy[i] = to_bf16((float)pick(-9, 9));
    gradients.of_input(g, dy.at, weights.at, scale.at, dx.at, pick(1, 4));
    gradients.of_weight(g, dy.at, signs.at, dw.at, pick(1, 3));
    std::vector<float> input((size_t)dx.size), weight((size_t)dw.size);
    for (isize q = 0; q < g.pixels(); ++q)
        for (isize t = 0; t < g.taps(); ++t) {
            const isize n = q / (g.oh() * g.ow());
            const isize y = q / g.ow() % g.oh() * g.sh + t / g.kw - g.ph, x = q % g.ow() * g.sw + t % g.kw - g.pw;
            if (y < 0 || y >= g.h || x < 0 || x >= g.w) continue;
            const isize pixel = ((n * g.h + y) * g.w + x) * g.c;
            for (isize o = 0; o < g.o; ++o)
                for (isize c = 0; c < g.c; ++c) {
                    const float d = from_bf16(dy[q * g.o + o]);
                    input[(size_t)(pixel + c)] += d * scale[o] * p.w[(size_t)(o * g.k() + c * g.taps() + t)];
                    weight[(size_t)((o * g.taps() + t) * g.c + c)] += d * p.x[(size_t)(pixel + c)];
                }
        }
    for (isize i = 0; i < dx.size; ++i)                                 // not of bits: 0 has two
        if (from_bf16(dx[i]) != from_bf16(to_bf16(input[(size_t)i]))) differ(v, g, "the gradient of the input", i);
    for (isize i = 0; i < dw.size; ++i) if (dw[i] != weight[(size_t)i]) differ(v, g, "the gradient of the weight", i);
}

int main(int count, char** arguments) {
    const int cases = count > 1 ? std::atoi(arguments[1]) : 50;
    const uint64_t seed = count > 2 ? (uint64_t)std::atoll(arguments[2]) : 1;
    for (const bnn::Variant* const* each = bnn::variants; *each; ++each) {
        const bnn::Variant* v = *each;
        if (!v->supported()) {
            std::printf("%s: not on this CPU\n", v->name);
            continue;
        }
        bnn::Images always = v->images ? *v->images : bnn::Images();
        always.count_cycles = 1e9;                                      // images of bytes wherever they are possible, not where they pay
        bnn::Variant forced = *v;
        if (v->images) forced.images = &always;
        for (int round = 0; round < (v->images ? 2 : 1); ++round) {
            const bnn::Variant& its = round ? *v : forced;
            state = 0x9E3779B97F4A7C15u * (seed + 1);
            for (const bnn::Conv& g : awkward)
                for (isize pool = 1; pool <= 2; ++pool) test(its, make_problem(g), pool);
            for (int i = 0; i < cases; ++i) {
                const Problem p = make_problem(random_shape());
                test(its, p, pick(1, 3));
            }
        }
        std::printf("%s: %d cases equal\n", v->name, cases);
    }
    for (const bnn::Gradients* each = bnn::all_gradients; each->name; ++each) {
        if (!each->supported()) {
            std::printf("gradients %s: not on this CPU\n", each->name);
            continue;
        }
        for (int i = 0; i < cases; ++i) test_gradients(*each, make_problem(shape_with_gradients(each->strided)));
        std::printf("gradients %s: %d cases equal\n", each->name, cases);
    }
    return 0;
}
