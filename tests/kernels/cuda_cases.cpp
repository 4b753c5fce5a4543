// The emulated CUDA kernels against a reference that goes bit by bit, on arrays of their exact size, to be built with sanitizers.
// Prints how many cases were equal; ends with status 1 at the first that is not.
#include "cuda_emulate.h"

#include <cstdlib>
#include <random>

namespace {

std::mt19937 random_bits(1);
int cases = 0;

int upto(int n) { return (int)(random_bits() % (unsigned)n); }
int words64(int c) { return (c + 63) / 64; }

[[noreturn]] void fail(const std::string& what) { std::printf("%s\n", what.c_str()), std::exit(1); }

}  // namespace

using emulated::Three;

static void launch(const std::string& kernel, Three grid, const void* args, int threads_x = 256, int threads_y = 1) {
    const int g[] = {grid.x, grid.y, grid.z}, b[] = {threads_x, threads_y, 1};
    if (const char* wrong = bnn_emulated_launch(kernel.c_str(), g, b, args, upto(3))) fail(kernel + ": " + wrong);
}

template <class T>
static std::unique_ptr<T[]> make(size_t n, int byte = 0) {
    std::unique_ptr<T[]> p(new T[n ? n : 1]);
    std::memset((void*)p.get(), byte, n * sizeof(T));
    return p;
}

static void convolution(const std::string& formulation, int tile, int n, int h, int w, int cg, int og, int groups, int kh, int kw, int s, int pad, int d, int pool, Out out) {
    const int c = cg * groups, o = og * groups, ph = least(pad, h), pw = pad;
    const int oh = (h + 2 * ph - d * (kh - 1) - 1) / s + 1, ow = (w + 2 * pw - d * (kw - 1) - 1) / s + 1;
    if (h + 2 * ph < d * (kh - 1) + 1 || w + 2 * pw < d * (kw - 1) + 1 || oh / pool < 1 || ow / pool < 1) return;
    const int usable = tile / (pool * pool) * (pool * pool), taps = kh * kw;
    if (!usable) return;
    // signs, 1 for +1
    auto x = make<float>((size_t)n * c * h * w), weight = make<float>((size_t)o * cg * taps);
    for (int i = 0; i < n * c * h * w; ++i) x[(size_t)i] = upto(2) ? 1.0f : -1.0f;
    for (int i = 0; i < o * cg * taps; ++i) weight[(size_t)i] = upto(2) ? 1.0f : -1.0f;

    const int words = 2 * words64(c), tap_words = (cg + 31) / 32, bytes = (cg * taps + 7) / 8;
    auto bits = make<u32>((size_t)n * h * w * words, 0x5a);
    PackArgs pack = {x.get(), bits.get(), (i64)c * h * w, (i64)h * w, w, 1, (i64)n * h * w, h, w, c, words, FLOAT32, c == 1};
    launch("bnn_pack", {2, 1, 1}, &pack);
    auto stored = make<unsigned char>((size_t)o * bytes);
    for (int i = 0; i < o; ++i)
        for (int k = 0; k < cg * taps; ++k)
            if (weight[(size_t)(i * cg * taps + k)] > 0) stored[(size_t)(i * bytes + k / 8)] |= (unsigned char)(1 << k % 8);
    auto rows = make<u32>((size_t)o * taps * tap_words, 0x5a);
    auto counts = make<int>((size_t)o * (taps + 1), 0x5a);
    PrepackArgs prepack = {stored.get(), rows.get(), counts.get(), (i64)o * taps * tap_words, o, bytes, cg, taps, tap_words};
    launch("bnn_prepack", {1, 1, 1}, &prepack);
    launch("bnn_tap_counts", {1, 1, 1}, &prepack);

    const bool packed = out == OUT_BITS;
    const int out_words = 2 * words64(o), pixels = n * (oh / pool) * (ow / pool);
    const bool first = out == OUT_FLOAT32 && upto(2);
    auto scale = make<float>((size_t)o), bias = make<float>((size_t)o), residual = make<float>((size_t)pixels * o);
    auto threshold = make<int>((size_t)o);
    auto flip = make<u32>((size_t)out_words);
    for (int i = 0; i < o; ++i) {
        scale[(size_t)i] = (float)upto(1000) / 300 - 1, bias[(size_t)i] = (float)upto(1000) / 7 - 70, threshold[(size_t)i] = upto(21) - 10;
        if (upto(2)) flip[(size_t)(i / 32)] |= 1u << i % 32;
    }
    for (int i = 0; i < pixels * o; ++i) residual[(size_t)i] = (float)upto(100) / 3;
    auto to = make<u32>(packed ? (size_t)pixels * out_words : ((size_t)pixels * o * (out == OUT_FLOAT32 ? 4 : 2) + 3) / 4);
    ConvArgs a = {};
    a.activations = bits.get(), a.weights = rows.get(), a.tap_counts = counts.get(), a.to = to.get();
    const bool real = out == OUT_FLOAT32 || out == OUT_BFLOAT16;
    a.scale = real ? scale.get() : nullptr, a.bias = real ? bias.get() : nullptr, a.residual = out == OUT_FLOAT32 ? residual.get() : nullptr;
    a.threshold = packed ? threshold.get() : nullptr, a.flip = packed ? flip.get() : nullptr;
    a.rows = pixels * pool * pool, a.h = h, a.w = w, a.oh = oh, a.ow = ow, a.o = o, a.kh = kh, a.kw = kw, a.sh = a.sw = s, a.ph = ph, a.pw = pw;
    a.dh = a.dw = d, a.groups = groups, a.cg = cg, a.og = og, a.pixel_words = words, a.tap_words = tap_words, a.row_words = taps * tap_words;
    a.out_words = out_words, a.pool = pool, a.out = out, a.channels_first = first;
    launch("bnn_product_" + formulation + "_" + std::to_string(tile), {(a.rows + usable - 1) / usable, (og + tile - 1) / tile, groups}, &a);

    const auto dot = [&](int image, int channel, int y, int xx) {
        int sum = 0;
        for (int k = 0; k < cg; ++k)
            for (int i = 0; i < kh; ++i)
                for (int j = 0; j < kw; ++j) {
                    const int yy = y * s - ph + i * d, at = xx * s - pw + j * d, from = channel / og * cg + k;
                    if (yy < 0 || yy >= h || at < 0 || at >= w) continue;
                    sum += (int)(x[(size_t)(((image * c + from) * h + yy) * w + at)] * weight[(size_t)((channel * cg + k) * taps + i * kw + j)]);
                }
        return sum;
    };
    const auto wrong = [&] {
        fail(formulation + " " + std::to_string(tile) + " is wrong: n " + std::to_string(n) + " h " + std::to_string(h) + " w " + std::to_string(w) + " cg " +
             std::to_string(cg) + " og " + std::to_string(og) + " groups " + std::to_string(groups) + " kernel " + std::to_string(kh) + " x " +
             std::to_string(kw) + " stride " + std::to_string(s) + " padding " + std::to_string(pad) + " dilation " + std::to_string(d) + " pool " +
             std::to_string(pool) + " out " + std::to_string((int)out));
    };
    for (int q = 0; q < pixels; ++q)
        for (int i = 0; i < (packed ? 32 * out_words : o); ++i) {
            const int across = ow / pool, down = oh / pool, image = q / (across * down), y = q / across % down, xx = q % across;
            if (packed) {
                int best = 0;
                for (int k = 0; k < pool * pool && i < o; ++k) best = k ? most(best, dot(image, i, y * pool + k / pool, xx * pool + k % pool)) : dot(image, i, y * pool, xx * pool);
                const bool want = i < o && (best >= threshold[(size_t)i]) != (flip[(size_t)(i / 32)] >> i % 32 & 1);
                if ((to[(size_t)(q * out_words + i / 32)] >> i % 32 & 1) != (u32)want) wrong();
                continue;
            }
            const int plain = dot(image, i, y, xx), at = first ? (image * o + i) * oh * ow + y * ow + xx : q * o + i;
            const float scaled = (float)plain * scale[(size_t)i], sum = scaled + bias[(size_t)i];
            if (out == OUT_FLOAT32 && ((float*)to.get())[at] != sum + residual[(size_t)at]) wrong();
            if (out == OUT_INT16 && ((short*)to.get())[at] != plain) wrong();
            if (out == OUT_BFLOAT16) {
                const u32 high = (u32)((unsigned short*)to.get())[at] << 16;
                float got;
                std::memcpy(&got, &high, 4);
                if (std::abs(got - sum) > std::abs(sum) / 256) wrong();
            }
        }
    ++cases;
}

static void pooling(int n, int h, int w, int c, int k, int s, int pad) {
    const int oh = (h + 2 * pad - k) / s + 1, ow = (w + 2 * pad - k) / s + 1, words = 2 * words64(c);
    auto from = make<u32>((size_t)n * h * w * words), to = make<u32>((size_t)n * oh * ow * words), flip = make<u32>((size_t)words);
    for (int i = 0; i < n * h * w * words; ++i) from[(size_t)i] = (u32)(random_bits() & random_bits());
    for (int i = 0; i < words; ++i) flip[(size_t)i] = (u32)random_bits();
    PoolArgs a = {from.get(), flip.get(), to.get(), (i64)n * oh * ow * words, h, w, oh, ow, words, k, s, pad};
    launch("bnn_or_pool", {1, 1, 1}, &a);
    for (int q = 0; q < n * oh * ow; ++q)
        for (int i = 0; i < words; ++i) {
            u32 want = 0;
            for (int y = 0; y < k; ++y)
                for (int x = 0; x < k; ++x) {
                    const int yy = q / ow % oh * s - pad + y, xx = q % ow * s - pad + x;
                    if (yy >= 0 && yy < h && xx >= 0 && xx < w) want |= from[(size_t)(((q / (oh * ow) * h + yy) * w + xx) * words + i)];
                }
            if (to[(size_t)(q * words + i)] != (want ^ flip[(size_t)i])) fail("bnn_or_pool is wrong");
        }
    ++cases;
}

static void tiles(int m, int n, int k) {
    const int words = (k + 31) / 32;
    auto a = make<u32>((size_t)m * words), b = make<u32>((size_t)words * n);
    auto c = make<float>((size_t)m * n);
    for (int i = 0; i < words; ++i) {
        const u32 inside = i == words - 1 && k % 32 ? (1u << k % 32) - 1 : 0xffffffffu;
        for (int r = 0; r < m; ++r) a[(size_t)(r * words + i)] = (u32)random_bits() & inside;
        for (int r = 0; r < n; ++r) b[(size_t)(i * n + r)] = (u32)random_bits() & inside;
    }
    TilesArgs args = {a.get(), b.get(), c.get(), m, n, k, words};
    launch("bnn_product_tiles", {(n + 15) / 16, (m + 15) / 16, 1}, &args, 16, 16);
    for (int r = 0; r < m; ++r)
        for (int q = 0; q < n; ++q) {
            int count = 0;
            for (int i = 0; i < words; ++i) count += __builtin_popcount(a[(size_t)(r * words + i)] ^ b[(size_t)(i * n + q)]);
            if (c[(size_t)(r * n + q)] != (float)(k - 2 * count)) fail("bnn_product_tiles is wrong");
        }
    ++cases;
}

int main() {
    const int channels[] = {1, 3, 31, 32, 33, 64, 65, 100};
    for (const char* formulation : {"registers", "carry_save", "tensor"})
        for (int tile : {32, 64, 128})
            for (int i = 0; i < 16; ++i) {
                const Out out = (Out)(i % 4);
                const int pool = out == OUT_BITS ? 1 + upto(3) : 1, groups = upto(3) ? 1 : 1 + upto(3), k = 1 + upto(4);
                convolution(formulation, tile, 1 + upto(2), 2 + upto(6), 2 + upto(6), channels[upto(8)], 1 + upto(tile == 32 ? 70 : 40), groups, k, 1 + upto(3),
                            1 + upto(2), upto(3), 1 + upto(2), pool, out);
            }
    pooling(2, 9, 8, 70, 2, 2, 0), pooling(1, 9, 8, 64, 3, 2, 1), pooling(2, 5, 5, 1, 3, 1, 0), pooling(1, 7, 7, 130, 2, 3, 1);
    tiles(1, 1, 1), tiles(17, 33, 70), tiles(16, 5, 600);
    PeakArgs peak = {nullptr, 3, 1, 0xfffffff1u};
    for (const char* name : {"bnn_peak_popcount", "bnn_peak_carry_save", "bnn_peak_tensor"}) launch(name, {1, 1, 1}, &peak);
    std::printf("%d cases, all equal\n", cases);
}
