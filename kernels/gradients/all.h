// All gradients of this build, best first. Dispatch, tests and benchmarks walk this one table. One unit of a program
// includes it.
#pragma once
#include "gradients/amx.h"
#include "gradients/lookup.h"

namespace bnn {

const Gradients all_gradients[] = {
#if defined(BNN_AMX)
    {"amx", "avx512vpopcnt", false, [] { return cpu().amx_bf16 && amx_permitted(); }, amx_gradients::gradient_of_input,
     amx_gradients::gradient_of_weight},
#endif
#if defined(__x86_64__)
    {"avx512", "avx512", true, [] { return cpu().avx512bw; }, lookup_avx512::gradient_of_input,
     lookup_avx512::gradient_of_weight},
    {"avx2", "avx2", true, [] { return cpu().avx2 && cpu().fma; }, lookup_avx2::gradient_of_input,
     lookup_avx2::gradient_of_weight},
#endif
    {},
};

const Gradients* find_gradients(const char* variant) {
    // "amx" is that variant, with tiles added
    if (!__builtin_strcmp(variant, "amx")) variant = "avx512vpopcnt";
    for (const Gradients* g = all_gradients; g->name; ++g)
        if (!__builtin_strncmp(variant, g->variants, __builtin_strlen(g->variants)) && g->supported()) return g;
    return nullptr;
}

const Gradients* gradients_named(const char* name) {
    for (const Gradients* g = all_gradients; g->name; ++g)
        if (!__builtin_strcmp(name, g->name)) return g;
    return nullptr;
}

}  // namespace bnn
