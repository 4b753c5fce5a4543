// All variants of this build, best first. Dispatch, tests and benchmarks walk this one table. For one unit of a program.
#pragma once
#include "isa/reference.h"
#include "isa/scalar.h"
#if defined(__x86_64__)
#include "isa/avx512.h"
#elif defined(__aarch64__)
#include "isa/neon.h"
#endif

namespace bnn {

const Variant* const variants[] = {
#if defined(__x86_64__)
    &avx512vpopcnt::variant,
    &avx512bw::variant,
    &avx2::variant,
#elif defined(__aarch64__)
    &neon::variant,
#endif
    &scalar::variant,
    &reference::variant,
    nullptr,
};

const Variant* find_variant(const char* name) {
    for (const Variant* const* v = variants; *v; ++v)
        if (!__builtin_strcmp((*v)->name, name)) return *v;
    return nullptr;
}

const Variant* best_variant() {
    for (const Variant* const* v = variants; *v; ++v)
        if ((*v)->supported()) return *v;
    return nullptr;
}

}  // namespace bnn
