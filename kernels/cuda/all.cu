// One unit of a program: what bnnlib/ops/cuda compiles for the GPU present.
#include "pack.cu"
#include "peaks.cu"
#include "product.cu"
#include "tiles.cu"
