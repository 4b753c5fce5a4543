// What needs no Python: the kernels' variants and the executor's float functions, each compiled for its instruction
// set, the executor, and what benchmarks measure. The other unit of the module bnn_kernels holds the Python shells; so
// both compile side by side.
#include "isa/variants.h"

#include "executor/executor.h"
#include "gradients/all.h"
#include "measure/one_word.h"
#include "measure/peaks.h"
#include "executor/real_variants.h"
#include "threads.h"

namespace bnn {

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
