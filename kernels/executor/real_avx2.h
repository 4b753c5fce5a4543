// Matrix products of 8 bits in the executor, by AVX2: activations less their zero point and weights are 16 bits wide
// when they are multiplied, and an instruction adds two products. (AVX2's products of bytes saturate.)
#pragma once
#include "isa/cpu.h"

BNN_TARGET_BEGIN("avx2,fma")
namespace bnn::real_madd {

using namespace real_avx2;
using T = int16_t;

inline VI i_weights(const uint8_t* pairs) {
    return as<VI>(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)pairs)));
}
inline VI i_add_products(VI sum, VI x, VI weights) {
    return sum + as<VI>(_mm256_madd_epi16(as<__m256i>(x), as<__m256i>(weights)));
}
#include "executor/real_integers.inl"

constexpr Int8Products products = {2, sizeof(T), quantize<T>, multiply};
constexpr Real real = with(products);

}  // namespace bnn::real_madd
BNN_TARGET_END
