// Weights of real-valued convolutions in the order that matrix products read them.
#pragma once
#include "executor/loader.h"

namespace bnn::net {

// Arranges weights in panels, [O / panel][K][panel] for each group. They are stored as sign bits in the order (c, kh,
// kw), which become -1 and +1; or as float32, bf16 or int8 in the order (kh, kw, c).
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
    const NetOp* const same = l->prepared(f.weight, o);
    const isize panels = ceil_div(og, panel), bytes = o->groups * panels * k * panel * size;
    const bool whole = o->groups == 1 && og % panel == 0 && panels >= 4 && (uintptr_t)from % 64 == 0;
    if (same) {
        o->weights = same->weights, o->pairs = same->pairs;
    } else if (!bits && whole && l->t->constants[f.weight].ours) {
        uint8_t* const one = l->make<uint8_t>(panel * k * size);
        if (!one) return;
        for (uint8_t* at = (uint8_t*)from; at < from + bytes;
             at += panel * k * size) {  // where they lie, panel by panel
            copy(one, at, panel * k * size);
            for (isize j = 0; j < k; ++j)
                for (isize i = 0; i < panel; ++i) copy(at + (j * panel + i) * size, one + (i * k + j) * size, size);
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
                    uint8_t* at = to + (((group * panels + i / panel) * k + j) * panel + i % panel) * size;
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
    if (bf16 && !same && o->kind != Weights::float32 && k * o->c <= 1 << 16) {
        const isize each = round_up(k, BF16_DEPTH) * panel;
        uint16_t* const pairs = l->make<uint16_t>(o->groups * panels * each);
        if (!pairs) return;
        for (isize i = 0; i < o->groups * panels; ++i)
            bf16->pair(o->weights + i * k * panel * size, o->kind, k, pairs + i * each);
        o->pairs = pairs;
    }
    if (o->kind == Weights::int8) {
        o->scale = l->keep<float>(f.scale, o->c, o->c);
        if (!o->scale && !l->wrong) l->wrong = "the scale of int8 weights is missing";
    }
}

}  // namespace bnn::net
