// The emulated CUDA kernels as a library: tests/test_cuda.py launches them by name, as bnnlib/ops/cuda launches the real ones.
#include "cuda_emulate.h"

extern "C" {
const char* launch(const char* name, const int* grid, const int* dimensions, const void* args, int order) {
    return bnn_emulated_launch(name, grid, dimensions, args, order);
}
// sizes of the argument structures, in the order of bnnlib/ops/cuda/arguments.py
int size_of(int which) {
    const int sizes[] = {(int)sizeof(ConvArgs), (int)sizeof(PackArgs), (int)sizeof(PrepackArgs), (int)sizeof(PoolArgs), (int)sizeof(TilesArgs),
                         (int)sizeof(PeakArgs)};
    return which < (int)(sizeof sizes / sizeof *sizes) ? sizes[which] : 0;
}
}
