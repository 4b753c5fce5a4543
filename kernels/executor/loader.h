// What loading a network (load.h) keeps at hand: the records, the constants, memory that lasts, and what is wrong.
#pragma once
#include "executor/net.h"

namespace bnn::net {

struct Loader {
    Net* net;
    const NetTables* t;
    Allocate allocate;
    void* context;
    const char* wrong = nullptr;
    struct Shared {
        const void* at;
        isize room;
        isize op;
    };    // copies of constants, and the last operation that names a weight
    Shared* shared = nullptr;

    template <class T>
    T* make(isize n) {
        void* p = allocate(context, most(64, n * (isize)sizeof(T)));
        if (!p) wrong = "there is not enough memory for the network";
        return (T*)p;
    }
    template <class T>
    const T* constant(int64_t index, isize values) {            // null if absent (-1) or wrong
        if (index == -1) return nullptr;
        if (index < 0 || index >= t->constant_count || t->constants[index].bytes != values * (isize)sizeof(T)) {
            wrong = "a constant is missing or has the wrong length";
            return nullptr;
        }
        return (const T*)t->constants[index].at;
    }
    // How many fields of the records name a constant.
    isize uses(int64_t index) const {
        isize users = 0;
        for (isize k = 0; k < t->op_count; ++k) {
            const OpRecord& o = t->ops[k];
            const int64_t named[] = {o.threshold, o.flip, o.weight, o.scale, o.table, o.values};
            for (int64_t one : named) users += one == index;
        }
        for (isize k = 0; k < t->stage_count; ++k)
            users += (t->stages[k].first == index) + (t->stages[k].second == index);
        return users;
    }
    // A copy of a constant with room behind it, since kernels read whole vectors. Made once, however often the constant
    // is named.
    template <class T>
    const T* keep(int64_t index, isize values, isize rounded) {
        const T* from = constant<T>(index, values);
        if (!from) return nullptr;
        if (shared[index].at && shared[index].room >= rounded * (isize)sizeof(T)) return (const T*)shared[index].at;
        T* to = make<T>(rounded);
        if (!to) return nullptr;
        fill(to, 0, rounded * (isize)sizeof(T));
        copy(to, from, values * (isize)sizeof(T));
        shared[index].at = to, shared[index].room = rounded * (isize)sizeof(T);
        return to;
    }
    // The operation before `o` that has prepared this weight in the same way, or null.
    const NetOp* prepared(int64_t index, const NetOp* o) {
        const isize last = shared[index].op, c = net->slot[o->input].c;
        shared[index].op = o - net->op;
        for (isize k = last; k >= 0; --k) {
            const NetOp& p = net->op[k];
            const bool same = p.source == o->source && p.kind == o->kind && p.c == o->c && p.groups == o->groups;
            if (same && t->ops[k].weight == index && p.kh == o->kh && p.kw == o->kw && net->slot[p.input].c == c)
                return &p;
        }
        return nullptr;
    }
};

}  // namespace bnn::net
