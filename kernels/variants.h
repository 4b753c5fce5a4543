// All variants of this build, best first. Dispatch, tests and benchmarks walk this one table.
#pragma once
#include "reference.h"
#include "scalar.h"
#if defined(__x86_64__)
#include "avx512.h"
#elif defined(__aarch64__)
#include "neon.h"
#endif

namespace bnn {

inline const Variant* const variants[] = {
#if defined(__x86_64__)
    &avx512vpopcnt::variant,
    &avx512bw::variant,
    &avx2::variant,
#elif defined(__aarch64__)
    &neon::variant,
#endif
    &scalar::variant,
    &reference::variant,
};

inline const Variant* find_variant(const char* name) {
    for (const Variant* v : variants)
        if (!__builtin_strcmp(v->name, name)) return v;
    return nullptr;
}

inline const Variant* best_variant() {
    for (const Variant* v : variants)
        if (v->supported()) return v;
    return nullptr;
}

}  // namespace bnn
