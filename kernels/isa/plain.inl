// The functions of variant.h around the kernels, as loops that a compiler vectorises. Included once for each
// instruction set, inside its namespace and target attribute; for that reason there is no #pragma once.

inline void to_float_pixel(const uint16_t* counts, const int32_t* base, isize channels, const float* scale,
                           const float* bias, const float* residual, float* to) {
    if (scale && bias && !residual) {
        for (isize o = 0; o < channels; ++o) to[o] = (float)(base[o] - 2 * (int32_t)counts[o]) * scale[o] + bias[o];
        return;
    }
    for (isize o = 0; o < channels; ++o) to[o] = (float)(base[o] - 2 * (int32_t)counts[o]);
    if (scale) for (isize o = 0; o < channels; ++o) to[o] *= scale[o];
    if (bias) for (isize o = 0; o < channels; ++o) to[o] += bias[o];
    if (residual) for (isize o = 0; o < channels; ++o) to[o] += residual[o];
}

inline void to_float(const uint16_t* counts, isize counts_stride, const int32_t* const* base, isize pixels,
                     isize channels, const float* scale, const float* bias, const float* residual, float* to,
                     isize to_stride, bool) {
    for (isize p = 0; p < pixels; ++p)
        to_float_pixel(counts + p * counts_stride, base[p], channels, scale, bias,
                       residual ? residual + p * to_stride : nullptr, to + p * to_stride);
}

inline void to_int16(const uint16_t* counts, const int32_t* base, isize channels, int16_t* to) {
    for (isize o = 0; o < channels; ++o) to[o] = (int16_t)(base[o] - 2 * (int32_t)counts[o]);
}

inline void to_bf16(const float* x, isize n, uint16_t* to) {
    for (isize i = 0; i < n; ++i) {
        uint32_t word;
        copy(&word, x + i, 4);
        const uint32_t rounded = (word + 0x7fff + (word >> 16 & 1)) >> 16;
        to[i] = (uint16_t)((word & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
    }
}

// Packs 64 bytes of 0 or 1 into the bits of a word: the product moves the lowest bit of byte i to bit 56 + i.
inline uint64_t gather_bits(const uint8_t* bytes) {
    uint64_t word = 0;
    for (int i = 0; i < 8; ++i) word |= (load64(bytes + 8 * i) * 0x0102040810204080u >> 56) << (8 * i);
    return word;
}

inline void to_bits(const uint16_t* counts, isize counts_stride, isize pixels, const uint16_t* limit, isize channels,
                    uint64_t* to, isize to_stride) {
    for (isize p = 0; p < pixels; ++p, counts += counts_stride, to += to_stride)
        for (isize o = 0; o < channels; o += 64) {
            uint8_t below[64];
            for (int i = 0; i < 64; ++i) below[i] = counts[o + i] < limit[o + i];
            to[o / 64] = gather_bits(below);
        }
}

inline void transpose(const float* from, isize from_stride, isize pixels, isize channels, float* to, isize to_stride,
                      bool) {
    isize o = 0;
    for (; o + 8 <= channels; o += 8) {
        isize p = 0;
        for (; p + 8 <= pixels; p += 8)
            for (isize i = 0; i < 8; ++i)
                for (isize j = 0; j < 8; ++j) to[(o + i) * to_stride + p + j] = from[(p + j) * from_stride + o + i];
        for (; p < pixels; ++p)
            for (isize i = 0; i < 8; ++i) to[(o + i) * to_stride + p] = from[p * from_stride + o + i];
    }
    for (; o < channels; ++o)
        for (isize p = 0; p < pixels; ++p) to[o * to_stride + p] = from[p * from_stride + o];
}

inline void pack_channels(const float* x, isize channels, uint64_t* to) {
    for (isize c = 0; c < channels; c += 64) {
        uint8_t positive[64] = {};
        if (c + 64 <= channels)
            for (int i = 0; i < 64; ++i) positive[i] = x[c + i] >= 0;
        else
            for (isize i = 0; i < channels - c; ++i) positive[i] = x[c + i] >= 0;
        to[c / 64] = gather_bits(positive);
    }
}

inline void pack_bf16(const uint16_t* x, isize channels, uint64_t* to) {
    for (isize c = 0; c < channels; c += 64) {
        uint8_t positive[64] = {};                      // +0 up to infinity, and -0
        const auto one = [&](isize i) { positive[i] = (uint8_t)((x[c + i] <= 0x7f80) | (x[c + i] == 0x8000)); };
        if (c + 64 <= channels) for (int i = 0; i < 64; ++i) one(i);
        else for (isize i = 0; i < channels - c; ++i) one(i);
        to[c / 64] = gather_bits(positive);
    }
}

// Takes 16 pixels at a time, so that a whole cache line of each plane is used, and gathers 32 channels in 32-bit lanes.
inline void pack_planes(const float* x, isize stride, isize channels, isize pixels, uint64_t* to, isize to_stride) {
    isize p = 0;
    for (; p + 16 <= pixels; p += 16)
        for (isize c = 0; c < channels; c += 64) {
            uint32_t half[2][16];
            for (int h = 0; h < 2; ++h) {
                const isize start = c + 32 * h, n = most(0, least(32, channels - start));
                uint32_t lane[16] = {};
                for (isize i = n; i-- > 0;) {
                    const float* v = x + (start + i) * stride + p;
                    for (int j = 0; j < 16; ++j) lane[j] = lane[j] + lane[j] + (v[j] >= 0 ? 1u : 0u);
                }
                for (int j = 0; j < 16; ++j) half[h][j] = lane[j];
            }
            for (int j = 0; j < 16; ++j) to[(p + j) * to_stride + c / 64] = half[0][j] | (uint64_t)half[1][j] << 32;
        }
    for (; p < pixels; ++p)
        for (isize c = 0; c < channels; c += 64) {
            uint64_t word = 0;
            for (isize i = 0; i < least(64, channels - c); ++i) word |= (uint64_t)(x[(c + i) * stride + p] >= 0) << i;
            to[p * to_stride + c / 64] = word;
        }
}
