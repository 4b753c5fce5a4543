// What benchmarks call: the limits of one core (peaks.h), and the plain loop of other implementations (one_word.h).
#pragma once
#include "conv/conv.h"

namespace bnn {

// `run(n)` does n rounds and returns how many products that was. An entry without a name ends the list.
struct Limit {
    const char *name, *what;
    bool (*supported)();
    double (*run)(isize rounds);
};

extern const Limit limits[];
void one_word(const Conv& g, const uint64_t* bits, const uint64_t* rows, float* to);

}  // namespace bnn
