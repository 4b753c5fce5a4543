// Packs signs into words, rearranges stored weights for the products, and max-pools words.
#include "bits.cuh"

enum Type : int { FLOAT32, BFLOAT16, FLOAT16 };

// Tensor [N][C][H][W] with any strides (in elements) -> [N][H][W][words]. Sign of 0 and of -0 is +1; a NaN counts as
// -1.
struct PackArgs {
    const void* from;
    u32* to;
    i64 sn, sc, sh, sw;
    i64 pixels;             // N H W
    int h, w, c, words, type, by_channel;
};

__device__ inline bool positive(const PackArgs& p, i64 at) {
    if (p.type == FLOAT32) return ((const float*)p.from)[at] >= 0.0f;
    const u32 bits = ((const unsigned short*)p.from)[at], size = bits & 0x7fff;
    return size <= (p.type == BFLOAT16 ? 0x7f80u : 0x7c00u) && (size == 0 || !(bits >> 15));
}

__device__ inline i64 pixel_at(const PackArgs& p, i64 pixel) {
    const i64 line = pixel / p.w, image = line / p.h;
    return image * p.sn + (line - image * p.h) * p.sh + (pixel - line * p.w) * p.sw;
}

// Packs a tensor. by_channel (channels side by side): a warp makes a word, a lane a bit. Else a thread makes a word,
// and neighbouring threads the words of neighbouring pixels. grid: any, blocks of THREADS.
extern "C" __global__ void __launch_bounds__(THREADS) bnn_pack(const __grid_constant__ PackArgs p) {
    const i64 thread = (i64)blockIdx.x * THREADS + threadIdx.x, threads = (i64)gridDim.x * THREADS,
              all = p.pixels * p.words;
    if (p.by_channel) {
        const int lane = threadIdx.x % 32;
        for (i64 item = thread / 32; item < all; item += threads / 32) {
            const i64 pixel = item / p.words;
            const int c = (int)(item - pixel * p.words) * 32 + lane;
            const u32 bits = __ballot_sync(0xffffffffu, c < p.c && positive(p, pixel_at(p, pixel) + c * p.sc));
            if (lane == 0) p.to[item] = bits;
        }
        return;
    }
    for (i64 item = thread; item < all; item += threads) {
        const i64 word = item / p.pixels, pixel = item - word * p.pixels, at = pixel_at(p, pixel);
        u32 bits = 0;
        for (int i = 0; i < 32 && word * 32 + i < p.c; ++i) bits |= (u32)positive(p, at + (word * 32 + i) * p.sc) << i;
        p.to[pixel * p.words + word] = bits;
    }
}

// Stored bits [O][bytes] in the order (c, tap) -> words in the order (tap, c), and the ones of each tap and row.
struct PrepackArgs {
    const unsigned char* from;
    u32* to;
    int* tap_counts;
    i64 words;              // O taps tap_words
    int o, bytes, cg, taps, tap_words;
};

extern "C" __global__ void __launch_bounds__(THREADS) bnn_prepack(const __grid_constant__ PrepackArgs p) {
    for (i64 item = (i64)blockIdx.x * THREADS + threadIdx.x; item < p.words; item += (i64)gridDim.x * THREADS) {
        const i64 row = item / p.tap_words, o = row / p.taps;
        const int first = (int)(item - row * p.tap_words) * 32, tap = (int)(row - o * p.taps);
        u32 bits = 0;
        for (int i = 0; i < 32 && first + i < p.cg; ++i) {
            const i64 bit = (i64)(first + i) * p.taps + tap;
            bits |= (u32)(p.from[o * p.bytes + bit / 8] >> (bit % 8) & 1) << i;
        }
        p.to[item] = bits;
    }
}

// Counts the ones of each tap and of each row. A warp to a channel.
extern "C" __global__ void __launch_bounds__(THREADS) bnn_tap_counts(const __grid_constant__ PrepackArgs p) {
    const int lane = threadIdx.x % 32;
    for (i64 o = (i64)blockIdx.x * WARPS + threadIdx.x / 32; o < p.o; o += (i64)gridDim.x * WARPS) {
        const u32* row = p.to + o * p.taps * p.tap_words;
        int* counts = p.tap_counts + o * (p.taps + 1);
        int whole = 0;
        for (int tap = 0; tap < p.taps; ++tap) {
            int ones = 0;
            for (int j = lane; j < p.tap_words; j += 32) ones += __popc(row[tap * p.tap_words + j]);
            for (int by = 16; by; by /= 2) ones += __shfl_xor_sync(0xffffffffu, ones, by);
            if (lane == 0) counts[tap] = ones;
            whole += ones;
        }
        if (lane == 0) counts[p.taps] = whole;
    }
}

// OR over windows, then xor flip; [N][H][W][words] -> [N][oh][ow][words]. A thread to a word.
struct PoolArgs {
    const u32* from;
    const u32* flip;        // [words] or null
    u32* to;
    i64 words_out;          // N oh ow words
    int h, w, oh, ow, words, kernel, stride, padding;
};

extern "C" __global__ void __launch_bounds__(THREADS) bnn_or_pool(const __grid_constant__ PoolArgs p) {
    for (i64 item = (i64)blockIdx.x * THREADS + threadIdx.x; item < p.words_out; item += (i64)gridDim.x * THREADS) {
        const i64 pixel = item / p.words, line = pixel / p.ow, image = line / p.oh;
        const int word = (int)(item - pixel * p.words), y0 = (int)(line - image * p.oh) * p.stride - p.padding;
        const int x0 = (int)(pixel - line * p.ow) * p.stride - p.padding;
        u32 bits = 0;
        for (int y = y0 < 0 ? 0 : y0; y < y0 + p.kernel && y < p.h; ++y)
            for (int x = x0 < 0 ? 0 : x0; x < x0 + p.kernel && x < p.w; ++x)
                bits |= p.from[((image * p.h + y) * p.w + x) * p.words + word];
        p.to[item] = p.flip ? bits ^ p.flip[word] : bits;
    }
}
