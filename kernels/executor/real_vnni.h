// Matrix products of bytes in the executor, by AVX-512 VNNI: an instruction adds four products to each of 16 sums.
#pragma once
#include "isa/cpu.h"

#if !defined(BNN_EMULATE)                               // the emulation multiplies bytes by tiles alone
BNN_TARGET_BEGIN("avx512f,avx512bw,avx512vnni,avx2,fma")
namespace bnn::real_vnni {

using namespace real_avx512;
using T = uint8_t;

inline VI i_weights(const uint8_t* quads) { return i_load(quads); }
inline VI i_add_products(VI sum, VI x, VI weights) {
    return as<VI>(_mm512_dpbusd_epi32(as<__m512i>(sum), as<__m512i>(x), as<__m512i>(weights)));
}
#include "executor/real_integers.inl"

constexpr Int8Products products = {4, sizeof(T), quantize<T>, multiply};
constexpr Real real = with(products);

}  // namespace bnn::real_vnni
BNN_TARGET_END
#endif
