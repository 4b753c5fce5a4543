// The speed of the units that the formulations use: loops without memory. In each of `steps` steps a thread multiplies
// EACH words, or, on tensor cores, a warp multiplies EACH products of 16 x 8 x 256. `to` is written if the sum happens
// to be `never`, so that the compiler must compute it.
#include "warp.cuh"

struct PeakArgs {
    u32* to;
    int steps;
    u32 seed, never;
};

constexpr int EACH = 8;

__device__ inline void keep(const PeakArgs& p, u32 v) { if (v == p.never) p.to[0] = v; }

extern "C" __global__ void __launch_bounds__(THREADS) bnn_peak_popcount(const __grid_constant__ PeakArgs p) {
    u32 sum[EACH];
    for (int i = 0; i < EACH; ++i) sum[i] = p.seed + threadIdx.x + i;
    for (int s = 0; s < p.steps; ++s)
#pragma unroll
        for (int i = 0; i < EACH; ++i) sum[i] += __popc(sum[i] ^ (p.seed + s));
    u32 all = 0;
    for (int i = 0; i < EACH; ++i) all ^= sum[i];
    keep(p, all);
}

extern "C" __global__ void __launch_bounds__(THREADS) bnn_peak_carry_save(const __grid_constant__ PeakArgs p) {
    u32 sum[EACH];
    for (int i = 0; i < EACH; ++i) sum[i] = p.seed + threadIdx.x + i;
    for (int s = 0; s < p.steps; ++s) {
        u32 x[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) x[i] = sum[i] ^ (p.seed + s);
        const u32 s0 = x[0] ^ x[1] ^ x[2], c0 = (x[0] & x[1]) | (x[0] & x[2]) | (x[1] & x[2]);
        const u32 s1 = x[3] ^ x[4] ^ x[5], c1 = (x[3] & x[4]) | (x[3] & x[5]) | (x[4] & x[5]);
        const u32 s2 = s0 ^ s1 ^ x[6], c2 = (s0 & s1) | (s0 & x[6]) | (s1 & x[6]);
        sum[0] += __popc(s2) + 2 * __popc(c0 ^ c1 ^ c2);
        sum[7] += __popc(x[7]) + 4 * __popc((c0 & c1) | (c0 & c2) | (c1 & c2));
    }
    u32 all = 0;
    for (int i = 0; i < EACH; ++i) all ^= sum[i];
    keep(p, all);
}

#ifdef BNN_TENSOR_CORES
extern "C" __global__ void __launch_bounds__(THREADS) bnn_peak_tensor(const __grid_constant__ PeakArgs p) {
    int sum[EACH][4] = {};
    const u32 a[4] = {p.seed, p.seed + threadIdx.x, p.seed * 3, p.seed * 5};
    for (int s = 0; s < p.steps; ++s)
#pragma unroll
        for (int i = 0; i < EACH; ++i) multiply_and(sum[i], a, p.seed + i, p.seed ^ i);
    u32 all = 0;
    for (int i = 0; i < EACH; ++i) all ^= sum[i][0] ^ sum[i][1] ^ sum[i][2] ^ sum[i][3];
    keep(p, all);
}
#endif
