// All variants of this build, best first. Dispatch, tests and benchmarks walk this one table.
#pragma once
#include "reference.h"
#include "scalar.h"
#if defined(__x86_64__)
#include "avx2.h"
#endif

namespace bnn {

inline const Variant* const variants[] = {
#if defined(__x86_64__)
    &avx2::variant,
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
