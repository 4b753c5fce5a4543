// All variants of this build, best first (by what was measured). Dispatch, tests and benchmarks walk this one table.
// One unit of a program includes it.
#pragma once
#include "isa/reference.h"
#include "isa/scalar.h"
#if defined(__x86_64__)
#include "isa/amx.h"
#elif defined(__aarch64__)
#include "isa/neon.h"
#elif defined(__wasm_simd128__)
#include "isa/wasm.h"
#endif

namespace bnn {

const Variant* const variants[] = {
#if defined(__x86_64__)
#if defined(BNN_AMX)
    &amx::variant,
#endif
    &avx512vpopcnt::variant,
    &avx512bw::variant,
    &avx2::variant,
#elif defined(__aarch64__)
    &neon::variant,
#elif defined(__wasm_simd128__)
    &wasm::variant,
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

}  // namespace bnn
