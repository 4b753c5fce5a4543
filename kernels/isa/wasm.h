// WebAssembly SIMD: v128.xor, i8x16.popcnt and i8x16.add do 128 products. See byte_count.inl. i8x16.popcnt is one
// instruction on ARM; on x86 the browser compiles it to a table look-up of several instructions.
#pragma once
#include <wasm_simd128.h>

#include "isa/cpu.h"
#include "isa/variant.h"

namespace bnn::wasm {

#include "isa/plain.inl"

using V = v128_t;

inline V v_zero() { return wasm_i8x16_splat(0); }
inline V v_load(const uint8_t* p) { return wasm_v128_load(p); }
inline V v_broadcast(const uint8_t* p) { return wasm_v128_load8_splat(p); }
inline V v_count(V sum, V a, V b) { return wasm_i8x16_add(sum, wasm_i8x16_popcnt(wasm_v128_xor(a, b))); }
inline void v_widen(V sum, uint16_t* to, bool store) {
    const V low = wasm_u16x8_extend_low_u8x16(sum), high = wasm_u16x8_extend_high_u8x16(sum);
    wasm_v128_store(to, store ? low : wasm_i16x8_add(wasm_v128_load(to), low));
    wasm_v128_store(to + 8, store ? high : wasm_i16x8_add(wasm_v128_load(to + 8), high));
}

#include "isa/byte_count.inl"

constexpr Variant variant = {
    "wasm",     "WebAssembly SIMD", supported, weight_bytes, interleave, count,     scratch_bytes, 1,
    nullptr,    to_float,           to_int16,  to_bf16,      to_bits,    transpose, pack_channels, pack_bf16,
    pack_planes};

}  // namespace bnn::wasm
