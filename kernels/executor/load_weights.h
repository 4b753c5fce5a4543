// Weights of real-valued convolutions in the order that matrix products read them.
#pragma once
#include "executor/loader.h"

namespace bnn::net {

// The values of an image with its border, where real_conv multiplies 8 bits.
inline isize quantized_values(const NetOp& o, const NetSlot& in) {
    return (in.h + 2 * o.ph) * (in.w + 2 * o.pw) * in.c;
}
// Whether a copy of an image with its border is worth its memory.
inline bool small_border(const NetOp& o, const NetSlot& in) { return o.ph <= in.h && o.pw <= in.w; }

// Arranges weights in panels, [O / panel][K][panel] for each group; int8 in the order of Int8Products. They are stored
// as sign bits in the order (c, kh, kw), which become -1 and +1; or as float32, bf16 or int8 in the order (kh, kw, c).
inline void make_panels(Loader* l, NetOp* o, const NetSlot& in, const OpRecord& f) {
    const isize panel = l->net->r->panel, og = o->c / o->groups, cg = in.c / o->groups, taps = o->kh * o->kw,
                k = taps * cg;
    if (!named(f.stored, BNN_TEXT_OF(BNN_STORED_WEIGHTS))) { l->wrong = "weights are of no known kind"; return; }
    const Stored stored = (Stored)f.stored;
    const bool bits = stored == Stored::bits;
    o->kind = stored == Stored::bfloat16 ? Weights::bfloat16
              : stored == Stored::int8   ? Weights::int8
                                         : Weights::float32;
    const isize size = o->kind == Weights::float32 ? 4 : o->kind == Weights::bfloat16 ? 2 : 1;
    const uint8_t* from = l->constant<uint8_t>(f.weight, o->c * (bits ? ceil_div(k, 8) : k * size));
    if (!from) { if (!l->wrong) l->wrong = "a weight is missing"; return; }
    const bool integers = o->kind == Weights::int8 && k <= INT8_LONGEST && small_border(*o, in);
    const Int8Products* const products = integers ? l->net->r->int8 : nullptr;
    const NetOp* same = l->prepared(f.weight, o);
    if (same && !same->sums != !products) same = nullptr;                       // in another order
    const isize deep = products ? round_up(k, products->depth) : k;
    const isize panels = ceil_div(og, panel), bytes = o->groups * panels * deep * panel * size;
    const bool whole = o->groups == 1 && og % panel == 0 && panels >= 4 && (uintptr_t)from % 64 == 0 && deep == k;
    // where product j of channel i lies in its panel
    const auto place = [&](isize j, isize i) {
        const isize together = products ? products->together() : 1;
        return (j / together * panel + i) * together * size + j % together;
    };
    if (same) {
        o->weights = same->weights, o->pairs = same->pairs, o->sums = same->sums;
    } else if (!bits && whole && l->t->constants[f.weight].ours) {
        if (l->uses(f.weight) > 1) { l->wrong = "weights that may be rearranged have two users"; return; }
        uint8_t* const one = l->make<uint8_t>(panel * k * size);
        if (!one) return;
        for (uint8_t* at = (uint8_t*)from; at < from + bytes;
             at += panel * k * size) {  // where they lie, panel by panel
            copy(one, at, panel * k * size);
            for (isize j = 0; j < k; ++j)
                for (isize i = 0; i < panel; ++i) copy(at + place(j, i), one + (i * k + j) * size, size);
        }
        o->weights = from;
    } else {
        uint8_t* to = l->make<uint8_t>(bytes + 64);
        if (!to) return;
        fill(to, 0, bytes + 64);
        for (isize group = 0; group < o->groups; ++group)
            for (isize i = 0; i < og; ++i)
                for (isize j = 0; j < k; ++j) {
                    const isize row = group * og + i;
                    uint8_t* at = to + (group * panels + i / panel) * deep * panel * size + place(j, i % panel);
                    if (bits) {
                        const isize bit = j % cg * taps + j / cg;
                        const float v = from[row * ceil_div(k, 8) + bit / 8] >> (bit % 8) & 1 ? 1.0f : -1.0f;
                        copy(at, &v, 4);
                    } else {
                        copy(at, from + (row * k + j) * size, size);
                    }
                }
        o->weights = to;
    }
    // Small weights are made pairs here. Large ones are made pairs as they are used: stored as pairs, they would take
    // more memory, and more time to read.
    const Bf16Products* const bf16 = l->net->r->bf16;
    if (bf16 && !same && o->kind == Weights::bfloat16 && k * o->c <= 1 << 16) {
        const isize each = round_up(k, BF16_DEPTH) * panel;
        uint16_t* const pairs = l->make<uint16_t>(o->groups * panels * each);
        if (!pairs) return;
        for (isize i = 0; i < o->groups * panels; ++i)
            bf16->pair(o->weights + i * k * panel * size, k, pairs + i * each);
        o->pairs = pairs;
    }
    if (products && !same) {
        int32_t* const sums = l->make<int32_t>(o->groups * panels * panel);
        if (!sums) return;
        for (isize p = 0; p < o->groups * panels; ++p)
            for (isize i = 0; i < panel; ++i) {
                sums[p * panel + i] = 0;
                for (isize j = 0; j < deep; ++j)
                    sums[p * panel + i] += (int8_t)o->weights[p * deep * panel + place(j, i)];
            }
        o->sums = sums;
    }
    if (o->kind == Weights::int8) {
        o->scale = l->keep<float>(f.scale, o->c, o->c + panel);                 // whole panels are read
        if (!o->scale && !l->wrong) l->wrong = "the scale of int8 weights is missing";
    }
}

}  // namespace bnn::net
