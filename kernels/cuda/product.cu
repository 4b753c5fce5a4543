// The product of packed rows, in three formulations: a linear layer, or a convolution whose rows are gathered as they
// are needed (an implicit GEMM). A block computes a tile of rows of the product for a tile of the channels of one
// group. grid: (tiles of rows, tiles of channels, groups), THREADS threads.
//
// 1. registers: each thread computes T x T products and counts the ones of the xor word by word.
// 2. carry-save: the same, but full adders turn the xor of eight words into four words of weight 1, 1, 2 and 4, which
// are then counted. In a clock a multiprocessor counts the ones of 16 words but does 64 logical operations, so half the
// counting pays for more logic.
// 3. tensor: binary products on tensor cores, popcount(a and w). popcount(a xor w) = popcount(a) + popcount(w) - 2
// popcount(a and w).
#include "tile.cuh"

// The majority of three bits: one LOP3 instruction, as is a ^ b ^ c.
__device__ inline u32 majority(u32 a, u32 b, u32 c) { return (a & b) | (a & c) | (b & c); }

template <bool CARRY_SAVE>
__device__ inline int differing(const u32 (&a)[8], const u32 (&b)[8], int sum) {
    u32 x[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) x[k] = a[k] ^ b[k];
    if (!CARRY_SAVE) {
#pragma unroll
        for (int k = 0; k < 8; ++k) sum += __popc(x[k]);
        return sum;
    }
    const u32 s0 = x[0] ^ x[1] ^ x[2], c0 = majority(x[0], x[1], x[2]), s1 = x[3] ^ x[4] ^ x[5],
              c1 = majority(x[3], x[4], x[5]);
    const u32 s2 = s0 ^ s1 ^ x[6], c2 = majority(s0, s1, x[6]), twos = c0 ^ c1 ^ c2, fours = majority(c0, c1, c2);
    return sum + __popc(s2) + __popc(x[7]) + 2 * __popc(twos) + 4 * __popc(fours);
}

__device__ inline void copy8(u32 (&to)[8], const u32* from) {
    const Quad low = *(const Quad*)from, high = *(const Quad*)(from + 4);
    to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w, to[4] = high.x, to[5] = high.y, to[6] = high.z,
    to[7] = high.w;
}

template <int T, bool CARRY_SAVE>
__device__ inline void product_in_registers(const ConvArgs& p) {
    constexpr int TILE = 16 * T, DEPTH = 8, LINE = DEPTH + 4, LOADS = TILE * DEPTH / THREADS, HALF = TILE * LINE;
    constexpr int MEMORY = 4 * HALF > TILE * STAGE ? 4 * HALF : TILE * STAGE;
    BNN_SHARED(u32, memory, MEMORY);                        // rows and channels, twice; then counts
    const int window = p.pool * p.pool, usable = TILE / window * window, group = blockIdx.z;
    const int first = blockIdx.x * usable, channel = blockIdx.y * TILE, tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const int own = threadIdx.x / DEPTH, word = threadIdx.x % DEPTH, step = THREADS / DEPTH;

    const Rows<LOADS> rows(p, first, usable, own, step);
    u32 a[LOADS], b[LOADS];
    int sum[T][T] = {};
    const auto load = [&](int k) {
        rows.load(p, group, k + word, a);
        load_weights<LOADS>(p, group, channel, own, step, k + word, b);
    };
    load(0);
    int side = 0;
    for (int k = 0; k < p.row_words; k += DEPTH, side ^= 1) {
        u32 *ours = memory + side * 2 * HALF, *theirs = ours + HALF;
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            ours[(own + i * step) * LINE + word] = a[i];
            theirs[(own + i * step) * LINE + word] = b[i];
        }
        __syncthreads();            // one barrier a step: the other half was read before it
        if (k + DEPTH < p.row_words) load(k + DEPTH);
        u32 r[T][8], w[8];
#pragma unroll
        for (int i = 0; i < T; ++i) copy8(r[i], ours + (ty + 16 * i) * LINE);
#pragma unroll
        for (int j = 0; j < T; ++j) {
            copy8(w, theirs + (tx + 16 * j) * LINE);
#pragma unroll
            for (int i = 0; i < T; ++i) sum[i][j] = differing<CARRY_SAVE>(r[i], w, sum[i][j]);
        }
    }
    int* stage = (int*)memory;
#pragma unroll
    for (int c = 0; c < TILE; c += SLICE) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < T; ++i)
#pragma unroll
            for (int j = 0; j < 2; ++j) stage[(ty + 16 * i) * STAGE + tx + 16 * j] = sum[i][c / 16 + j];
        __syncthreads();
        finish<TILE>(p, stage, first, usable, group, channel + c);
    }
}

#ifdef BNN_TENSOR_CORES
// Eight warps, two by four: each has 16 T rows and 8 T channels.
template <int T>
__device__ inline void product_on_tensor_cores(const ConvArgs& p) {
    constexpr int TILE = 32 * T, DEPTH = 16, LINE = DEPTH + 4, LOADS = TILE * DEPTH / THREADS, HALF = TILE * LINE;
    constexpr int MEMORY = 4 * HALF > TILE * STAGE ? 4 * HALF : TILE * STAGE;
    BNN_SHARED(u32, memory, MEMORY);
    BNN_SHARED(int, ones, TILE);                            // of each row of activations
    const int window = p.pool * p.pool, usable = TILE / window * window, group = blockIdx.z;
    const int first = blockIdx.x * usable, channel = blockIdx.y * TILE, lane = threadIdx.x % 32,
              warp = threadIdx.x / 32;
    const int own = threadIdx.x / DEPTH, word = threadIdx.x % DEPTH, step = THREADS / DEPTH;
    const int top = warp / 4 * 16 * T, left = warp % 4 * 8 * T;

    if (threadIdx.x < TILE) ones[threadIdx.x] = 0;
    const Rows<LOADS> rows(p, first, usable, own, step);
    u32 a[LOADS], b[LOADS];
    int counted[LOADS] = {}, sum[T][T][4] = {};
    const auto load = [&](int k) {
        rows.load(p, group, k + word, a);
        load_weights<LOADS>(p, group, channel, own, step, k + word, b);
    };
    load(0);
    int side = 0;
    for (int k = 0; k < p.row_words; k += DEPTH, side ^= 1) {
        u32 *ours = memory + side * 2 * HALF, *theirs = ours + HALF;
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            counted[i] += __popc(a[i]);
            ours[(own + i * step) * LINE + word] = a[i];
            theirs[(own + i * step) * LINE + word] = b[i];
        }
        __syncthreads();
        if (k + DEPTH < p.row_words) load(k + DEPTH);
#pragma unroll
        for (int d = 0; d < DEPTH; d += 8) {
            u32 r[T][4], w[4];
#pragma unroll
            for (int i = 0; i < T; ++i)                     // rows 0..7 and 8..15, words 0..3; then words 4..7
                load_matrices(r[i], ours + (top + 16 * i + lane % 16) * LINE + d + lane / 16 * 4);
#pragma unroll
            for (int j = 0; j < T; j += 2) {                // channels 0..7, words 0..3 and 4..7; then channels 8..15
                const int row = T > 1 ? left + 8 * j + lane / 16 * 8 + lane % 8 : left + lane % 8;
                load_matrices(w, theirs + row * LINE + d + lane / 8 % 2 * 4);
#pragma unroll
                for (int i = 0; i < T; ++i) {
                    multiply_and(sum[i][j], r[i], w[0], w[1]);
                    if (T > 1) multiply_and(sum[i][T > 1 ? j + 1 : j], r[i], w[2], w[3]);
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < LOADS; ++i) atomicAdd(&ones[own + i * step], counted[i]);
    int* stage = (int*)memory;
    const int taps = p.kh * p.kw, row = top + lane / 4, column = left + lane % 4 * 2;
#pragma unroll
    for (int c = 0; c < TILE; c += SLICE) {
        __syncthreads();
#pragma unroll
        for (int j = 0; j < T; ++j) {
            const int at = column + 8 * j;
            if (at < c || at >= c + SLICE) continue;
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int o = channel + at + e,
                          theirs = o < p.og ? p.tap_counts[(i64)(group * p.og + o) * (taps + 1) + taps] : 0;
#pragma unroll
                for (int i = 0; i < T; ++i)
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const int r = row + 16 * i + 8 * half;
                        stage[r * STAGE + at + e - c] = ones[r] + theirs - 2 * sum[i][j][2 * half + e];
                    }
            }
        }
        __syncthreads();
        finish<TILE>(p, stage, first, usable, group, channel + c);
    }
}
#endif

#define BNN_PRODUCT(name, call)                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS) bnn_product_##name(const __grid_constant__ ConvArgs p) { \
        call;                                                                                                      \
    }
BNN_PRODUCT(registers_128, (product_in_registers<8, false>(p)))
BNN_PRODUCT(registers_64, (product_in_registers<4, false>(p)))
BNN_PRODUCT(registers_32, (product_in_registers<2, false>(p)))
BNN_PRODUCT(carry_save_128, (product_in_registers<8, true>(p)))
BNN_PRODUCT(carry_save_64, (product_in_registers<4, true>(p)))
BNN_PRODUCT(carry_save_32, (product_in_registers<2, true>(p)))
#ifdef BNN_TENSOR_CORES
BNN_PRODUCT(tensor_128, product_on_tensor_cores<4>(p))
BNN_PRODUCT(tensor_64, product_on_tensor_cores<2>(p))
BNN_PRODUCT(tensor_32, product_on_tensor_cores<1>(p))
#endif
