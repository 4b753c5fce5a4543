// NEON (every 64-bit ARM): eor, cnt, add do 128 products. See byte_count.inl.
#pragma once
#include <arm_neon.h>

#include "isa/cpu.h"
#include "isa/variant.h"

namespace bnn::neon {

#include "isa/plain.inl"

using V = uint8x16_t;

inline V v_zero() { return vdupq_n_u8(0); }
inline V v_load(const uint8_t* p) { return vld1q_u8(p); }
inline V v_broadcast(const uint8_t* p) { return vld1q_dup_u8(p); }
inline V v_count(V sum, V a, V b) { return vaddq_u8(sum, vcntq_u8(veorq_u8(a, b))); }
inline void v_widen(V sum, uint16_t* to, bool store) {
    const uint16x8_t low = vmovl_u8(vget_low_u8(sum)), high = vmovl_u8(vget_high_u8(sum));
    vst1q_u16(to, store ? low : vaddq_u16(vld1q_u16(to), low));
    vst1q_u16(to + 8, store ? high : vaddq_u16(vld1q_u16(to + 8), high));
}

#include "isa/byte_count.inl"

constexpr Variant variant = {"neon",        "NEON",    supported,     weight_bytes, interleave, count,
                             scratch_bytes, 1,         nullptr,       to_float,     to_int16,   to_bf16,
                             to_bits,       transpose, pack_channels, pack_bf16,    pack_planes};

}  // namespace bnn::neon
