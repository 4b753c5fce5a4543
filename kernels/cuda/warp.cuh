// What a warp does together, where CUDA C++ has no name for it: binary products on tensor cores (PTX ISA, "Matrix
// Fragments for mma.m16n8k256" and "ldmatrix"). tests/kernels/cuda_emulate.h has the same two functions in plain C++.
#pragma once
#include "bits.cuh"

#ifndef BNN_EMULATED

#if __CUDA_ARCH__ >= 800
#define BNN_TENSOR_CORES 1

// c[16][8] += popcount(a[16][256 bits] and b[8][256 bits]). Lane l holds, with g = l / 4 and t = l % 4: a words (g, t),
// (g + 8, t), (g, t + 4), (g + 8, t + 4); b words (g, t), (g, t + 4); c (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t +
// 1). AND, not XOR: of the two only AND is an instruction of compute capability 9.0; XOR takes two of them there.
__device__ inline void multiply_and(int (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, "
        "%1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Loads four 8 x 8 matrices of 16-bit elements, here 8 rows of 4 words. Lane l gives the address of row l % 8 of matrix
// l / 8, and receives in r[i] word l % 4 of row l / 4 of matrix i.
__device__ inline void load_matrices(u32 (&r)[4], const u32* row) {
    const u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
#endif

#endif
