// Loading of the operations that move, join, sum and resample.
#pragma once
#include "executor/loader.h"

namespace bnn::net {

// Loads an operation that moves, joins, sums or resamples values. Checks that its shapes follow from one another and
// that no index points outside.
inline void load_tensor_op(Loader* l, const OpRecord& f, NetOp* o) {
    const NetSlot& in = l->net->slot[o->input];
    const isize inside = in.h * in.w * in.c, axis = o->axis;
    const isize from[] = {in.h, in.w, in.c}, to[] = {o->h, o->w, o->c};
    if (o->source == Source::reduce) {
        if (!named(f.reduction, BNN_TEXT_OF(BNN_REDUCTIONS))) { l->wrong = "a sum is of no known kind"; return; }
        o->reduction = (Reduction)f.reduction;
        for (int i = 0; i < 3; ++i)
            if (to[i] != from[i] && to[i] != 1) l->wrong = "a sum does not give the shape that is told";
        return;
    }
    if (o->source == Source::move) {
        const isize n = o->h * o->w * o->c;
        o->table = l->keep<int32_t>(f.table, n, n), o->values = l->keep<float>(f.values, 1, 1);
        if (!o->table || !o->values) { if (!l->wrong) l->wrong = "a table is missing"; return; }
        for (isize i = 0; i < n; ++i)
            if (o->table[i] < -1 || o->table[i] >= inside) { l->wrong = "a value is moved from outside"; return; }
        return;
    }
    const bool there = f.table >= 0 && f.table < l->t->constant_count;
    if (axis < 0 || axis > 2 || !there) { l->wrong = "an axis or a table is missing"; return; }
    if (o->source == Source::join) {
        o->count = l->t->constants[f.table].bytes / 4;
        o->table = l->keep<int32_t>(f.table, o->count, o->count);
        if (!o->table || o->count < 1) { if (!l->wrong) l->wrong = "a join has no slots"; return; }
        isize total = 0;
        for (isize i = 0; i < o->count; ++i) {
            if (o->table[i] < 0 || o->table[i] >= l->net->slots) { l->wrong = "a join names no slot"; return; }
            const NetSlot& s = l->net->slot[o->table[i]];
            const isize mine[] = {s.h, s.w, s.c};
            for (int d = 0; d < 3; ++d)
                if (s.bits || (d != axis && mine[d] != to[d])) { l->wrong = "a joined slot has another shape"; return; }
            total += mine[axis];
        }
        if (total != to[axis]) l->wrong = "a join does not give the shape that is told";
        return;
    }
    o->count = f.taps;
    const bool along = axis < 2 && to[1 - axis] == from[1 - axis] && to[2] == from[2];
    if (!along || o->count < 1 || o->count > from[axis]) {
        l->wrong = "a resampling does not give the shape that is told";
        return;
    }
    const isize taps = to[axis] * o->count;
    o->table = l->keep<int32_t>(f.table, to[axis], to[axis]), o->values = l->keep<float>(f.values, taps, taps);
    if (!o->table || !o->values) { if (!l->wrong) l->wrong = "a table is missing"; return; }
    for (isize i = 0; i < to[axis]; ++i)
        if (o->table[i] < 0 || o->table[i] > from[axis] - o->count) { l->wrong = "a tap lies outside"; return; }
}

}  // namespace bnn::net
