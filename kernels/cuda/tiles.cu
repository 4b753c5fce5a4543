// The formulation of S3 (XNOR GEMM as a PyTorch extension), written anew to be measured against: a thread counts one
// product, tiles of 16 x 16 words of both operands pass through shared memory.
//   c[m][n] = k - 2 popcount(a[m][words] xor b[words][n]), float32. grid: (ceil(n / 16), ceil(m / 16)), 16 x 16
//   threads.
#include "bits.cuh"

struct TilesArgs {
    const u32* a;
    const u32* b;
    float* c;
    int m, n, k, words;
};

extern "C" __global__ void __launch_bounds__(256) bnn_product_tiles(const __grid_constant__ TilesArgs p) {
    BNN_SHARED(u32, a, 256);
    BNN_SHARED(u32, b, 256);
    const int x = threadIdx.x, y = threadIdx.y, column = blockIdx.x * 16 + x, row = blockIdx.y * 16 + y;
    int count = 0;
    for (int first = 0; first < p.words; first += 16) {
        a[y * 16 + x] = row < p.m && first + x < p.words ? p.a[(i64)row * p.words + first + x] : 0;
        b[y * 16 + x] = column < p.n && first + y < p.words ? p.b[(i64)(first + y) * p.n + column] : 0;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 16; ++i) count += __popc(a[y * 16 + i] ^ b[i * 16 + x]);
        __syncthreads();
    }
    if (row < p.m && column < p.n) p.c[(i64)row * p.n + column] = (float)(p.k - 2 * count);
}
