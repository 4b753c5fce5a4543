// Weights made ready for one variant: a header, the popcount of every tap (zero padding needs them), and the
// interleaved rows. A blob is one flat buffer without pointers; it is checked before use, so one made for another
// variant is refused, not misread.
#pragma once
#include "conv/images.h"

namespace bnn {

// The head of a blob: what its weights were made for.
struct BlobHeader {
    char magic[8], variant[24];
    int64_t o, cg, kh, kw, groups, bytes;
    int64_t unused[6];
};
static_assert(sizeof(BlobHeader) == 128, "part of the format");

struct Blob {
    const int32_t* tap_counts;      // [taps][O]
    const uint8_t* weights;         // of group 0
    isize group_bytes;              // from one group to the next
    const uint8_t* for_images;      // behind them, where the variant multiplies images of bytes and there is one group
};

inline void write_name(char* to, isize n, const char* name) {
    fill(to, 0, n);
    for (isize i = 0; i + 1 < n && name[i]; ++i) to[i] = name[i];
}

inline isize blob_weights_offset(const Conv& g) { return (isize)sizeof(BlobHeader) + round_up(g.taps() * g.o * 4, 64); }

inline isize blob_images_offset(const Variant& v, const Conv& g) {
    return blob_weights_offset(g) + g.groups * round_up(v.weight_bytes(g.og(), g.row_bytes()), 64);
}

inline isize blob_bytes(const Variant& v, const Conv& g) {
    return blob_images_offset(v, g) + (v.images ? image_weight_bytes(g) : 0) + ROW_SLACK;
}

inline isize prepack_scratch_bytes(const Conv& g) { return g.og() * g.row_stride(); }

// Moves bit j of byte i to bit i of byte j.
inline uint64_t transpose_bits(uint64_t x) {
    uint64_t swap = (x ^ x >> 7) & 0x00aa00aa00aa00aau;
    x ^= swap ^ swap << 7;
    swap = (x ^ x >> 14) & 0x0000cccc0000ccccu;
    x ^= swap ^ swap << 14;
    swap = (x ^ x >> 28) & 0x00000000f0f0f0f0u;
    return x ^ swap ^ swap << 28;
}

// Turns a stored row, in the order (c, kh, kw), into taps of channels, tap by tap. Takes eight channels and eight taps
// at once.
inline void taps_of_row(const Conv& g, const uint8_t* from, uint8_t* row) {
    const isize taps = g.taps(), cg = g.cg(), stored = ceil_div(g.k(), 8);
    for (isize c = 0; c < cg; c += 8)
        for (isize tap = 0; tap < taps; tap += 8) {
            const isize channels = least(8, cg - c), some = least(8, taps - tap);
            uint64_t bits = 0;
            for (isize i = 0; i < channels; ++i) {
                const isize bit = (c + i) * taps + tap, byte = bit / 8;
                const uint32_t two = from[byte] | (byte + 1 < stored ? (uint32_t)from[byte + 1] << 8 : 0);
                bits |= (uint64_t)(uint8_t)(two >> bit % 8) << 8 * i;
            }
            bits = transpose_bits(bits);
            for (isize t = 0; t < some; ++t) row[(tap + t) * g.tap_bytes() + c / 8] = (uint8_t)(bits >> 8 * t);
        }
}

// The number of ones in n bytes.
inline int32_t count_ones(const uint8_t* bytes, isize n) {
    int32_t ones = 0;
    isize k = 0;
    for (; k + 8 <= n; k += 8) ones += popcount_portable(load64(bytes + k));
    for (; k < n; ++k) ones += popcount_portable(bytes[k]);
    return ones;
}

// Makes a blob of stored weights: rows of ceil(K / 8) bytes in the order (c, kh, kw). blob: blob_bytes(v, g) bytes;
// scratch: prepack_scratch_bytes(g).
inline void prepack(const Variant& v, const Conv& g, const uint8_t* weights, uint8_t* blob, uint8_t* scratch) {
    const isize taps = g.taps(), cg = g.cg(), og = g.og(), stride = g.row_stride(), stored = ceil_div(g.k(), 8);
    const isize group_bytes = round_up(v.weight_bytes(og, g.row_bytes()), 64);
    BlobHeader head = {};
    write_name(head.magic, 8, "bnnblob");
    write_name(head.variant, 24, v.name);
    head.o = g.o, head.cg = cg, head.kh = g.kh, head.kw = g.kw, head.groups = g.groups, head.bytes = blob_bytes(v, g);
    fill(blob, 0, head.bytes);
    copy(blob, &head, sizeof head);
    int32_t* tap_counts = (int32_t*)(blob + sizeof head);
    for (isize group = 0; group < g.groups; ++group) {
        fill(scratch, 0, og * stride);
        for (isize o = 0; o < og; ++o) {
            const uint8_t* from = weights + (group * og + o) * stored;
            uint8_t* row = scratch + o * stride;
            if (taps == 1) {
                copy(row, from, stored);
                if (cg % 8) row[stored - 1] &= (uint8_t)((1 << (cg % 8)) - 1);
            } else {
                taps_of_row(g, from, row);
            }
            for (isize t = 0; t < taps; ++t)
                tap_counts[t * g.o + group * og + o] = count_ones(row + t * g.tap_bytes(), g.tap_bytes());
        }
        v.interleave(scratch, stride, og, g.row_bytes(), blob + blob_weights_offset(g) + group * group_bytes);
        if (v.images && g.groups == 1) interleave_for_images(g, scratch, stride, blob + blob_images_offset(v, g));
    }
}

// Fills `out` and returns null if `blob` holds the weights of g for v; else returns what is wrong.
inline const char* open_blob(const Variant& v, const Conv& g, const uint8_t* blob, isize bytes, Blob* out) {
    BlobHeader head, want = {};
    if (bytes < (isize)sizeof head) return "the prepacked weights are shorter than their header";
    copy(&head, blob, sizeof head);
    write_name(want.magic, 8, "bnnblob");
    write_name(want.variant, 24, v.name);
    if (__builtin_memcmp(head.magic, want.magic, 8)) return "these are not prepacked weights (use prepack)";
    if (__builtin_memcmp(head.variant, want.variant, 24))
        return "the weights were prepacked for another kernel variant (prepack again)";
    if (head.o != g.o || head.cg != g.cg() || head.kh != g.kh || head.kw != g.kw || head.groups != g.groups)
        return "the weights were prepacked for another shape";
    if (head.bytes != bytes || bytes != blob_bytes(v, g)) return "the prepacked weights have the wrong length";
    out->tap_counts = (const int32_t*)(blob + sizeof head);
    out->weights = blob + blob_weights_offset(g);
    out->group_bytes = round_up(v.weight_bytes(g.og(), g.row_bytes()), 64);
    out->for_images = blob + blob_images_offset(v, g);
    return nullptr;
}

}  // namespace bnn
