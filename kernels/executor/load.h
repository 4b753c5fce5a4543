// Loads a network: tables of integers and constants (net.h) become operations that can run, or a sentence says what is wrong. Nothing that
// the tables say is believed before it is compared with what is there.
#pragma once
#include "executor/net.h"

namespace bnn {

namespace net {

inline bool is_pool(Do d) { return d == Do::max_pool || d == Do::avg_pool; }
inline bool combines(Do d) { return d >= Do::plus; }
inline Conv geometry(const NetOp& o, const NetSlot& in, isize n, isize channels) {
    Conv g;
    g.n = n, g.h = in.h, g.w = in.w, g.c = in.c, g.o = channels;
    g.kh = o.kh, g.kw = o.kw, g.sh = o.sh, g.sw = o.sw, g.ph = o.ph, g.pw = o.pw, g.dh = o.dh, g.dw = o.dw, g.groups = o.groups;
    return g;
}

struct Loader {
    Net* net;
    const NetTables* t;
    Allocate allocate;
    void* context;
    const char* wrong = nullptr;
    struct Shared { const void* at; isize room; isize op; };    // copies of constants, and the last operation that names a weight
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
    // Copied, with room behind it: kernels read whole vectors. Once, however often it is named.
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
            if (t->ops[k * OP_FIELDS + 17] == index && p.source == o->source && p.kind == o->kind && p.c == o->c && p.kh == o->kh &&
                p.kw == o->kw && p.groups == o->groups && net->slot[p.input].c == c)
                return &p;
        }
        return nullptr;
    }
};

inline const char* load_slot(const int64_t* f, NetSlot* s, const NetTables& t) {
    if (f[0] < 0 || f[0] > 1 || f[4] < 0 || f[4] > 2) return "a slot is of no known kind";
    s->bits = f[0], s->h = f[1], s->w = f[2], s->c = f[3], s->area = (Area)f[4], s->offset = f[5];
    const isize limit = (isize)1 << 31;
    if (s->h < 1 || s->w < 1 || s->c < 1 || s->h >= limit || s->w >= limit || s->c >= limit) return "a slot has an impossible shape";
    if ((double)s->h * s->w * s->c >= (double)limit) return "a slot is too large";
    if (s->offset < 0) return "a slot lies before its area";
    const isize room = s->area == Area::micro ? t.micro_bytes : t.chunk_bytes;
    if (s->area != Area::outside && (s->offset % 64 || s->offset > room || s->bytes() > room - s->offset)) return "a slot does not lie in its area";
    return nullptr;
}

inline bool fits(const NetSlot& s, bool bits, isize h, isize w, isize c) { return s.bits == bits && s.h == h && s.w == w && s.c == c; }

// Stored sign bits (c, kh, kw) as -1 and +1; or stored floats, bf16, int8 (kh, kw, c): the weight of output o at position k.
inline void make_panels(Loader* l, NetOp* o, const NetSlot& in, const int64_t* f) {
    const isize panel = l->net->r->panel, og = o->c / o->groups, cg = in.c / o->groups, taps = o->kh * o->kw, k = taps * cg;
    const int64_t kind = f[18];
    if (kind < 0 || kind > 3) { l->wrong = "weights are of no known kind"; return; }
    const bool bits = kind == 3;
    o->kind = bits ? Weights::float32 : (Weights)kind;
    const isize size = o->kind == Weights::float32 ? 4 : o->kind == Weights::bfloat16 ? 2 : 1;
    const uint8_t* from = bits ? l->constant<uint8_t>(f[17], o->c * ceil_div(k, 8)) : l->constant<uint8_t>(f[17], o->c * k * size);
    if (!from) { if (!l->wrong) l->wrong = "a weight is missing"; return; }
    const NetOp* const same = l->prepared(f[17], o);
    const isize panels = ceil_div(og, panel), bytes = o->groups * panels * k * panel * size;
    if (same) {
        o->weights = same->weights;
    } else if (!bits && o->groups == 1 && og % panel == 0 && panels >= 4 && l->t->constants[f[17]].ours && (uintptr_t)from % 64 == 0) {
        uint8_t* const one = l->make<uint8_t>(panel * k * size);
        if (!one) return;
        for (uint8_t* at = (uint8_t*)from; at < from + bytes; at += panel * k * size) {       // where they lie, a panel after the other
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
    if (o->kind == Weights::int8) {
        o->scale = l->keep<float>(f[19], o->c, o->c);
        if (!o->scale && !l->wrong) l->wrong = "the scale of int8 weights is missing";
    }
}

// What moves, joins, sums and resamples values: the shapes follow from one another, and no index leaves what it points into.
inline void load_tensor_op(Loader* l, const int64_t* f, NetOp* o) {
    const NetSlot& in = l->net->slot[o->input];
    const isize inside = in.h * in.w * in.c, axis = o->repeat;
    const isize from[] = {in.h, in.w, in.c}, to[] = {o->h, o->w, o->c};
    if (o->source == Source::reduce) {
        if (axis < 0 || axis > 3) l->wrong = "a sum is of no known kind";
        for (int i = 0; i < 3; ++i) if (to[i] != from[i] && to[i] != 1) l->wrong = "a sum does not give the shape that is told";
        return;
    }
    if (o->source == Source::move) {
        const isize n = o->h * o->w * o->c;
        o->table = l->keep<int32_t>(f[17], n, n), o->values = l->keep<float>(f[19], 1, 1);
        if (!o->table || !o->values) { if (!l->wrong) l->wrong = "a table is missing"; return; }
        for (isize i = 0; i < n; ++i) if (o->table[i] < -1 || o->table[i] >= inside) { l->wrong = "a value is moved from outside"; return; }
        return;
    }
    if (axis < 0 || axis > 2 || f[17] < 0 || f[17] >= l->t->constant_count) { l->wrong = "an axis or a table is missing"; return; }
    if (o->source == Source::join) {
        o->count = l->t->constants[f[17]].bytes / 4;
        o->table = l->keep<int32_t>(f[17], o->count, o->count);
        if (!o->table || o->count < 1) { if (!l->wrong) l->wrong = "a join has no slots"; return; }
        isize total = 0;
        for (isize i = 0; i < o->count; ++i) {
            if (o->table[i] < 0 || o->table[i] >= l->net->slots) { l->wrong = "a join names no slot"; return; }
            const NetSlot& s = l->net->slot[o->table[i]];
            const isize mine[] = {s.h, s.w, s.c};
            for (int d = 0; d < 3; ++d) if (s.bits || (d != axis && mine[d] != to[d])) { l->wrong = "a joined slot has another shape"; return; }
            total += mine[axis];
        }
        if (total != to[axis]) l->wrong = "a join does not give the shape that is told";
        return;
    }
    o->count = o->kh;
    if (axis == 2 || to[1 - axis] != from[1 - axis] || to[2] != from[2] || o->count > from[axis]) { l->wrong = "a resampling does not give the shape that is told"; return; }
    o->table = l->keep<int32_t>(f[17], to[axis], to[axis]), o->values = l->keep<float>(f[19], to[axis] * o->count, to[axis] * o->count);
    if (!o->table || !o->values) { if (!l->wrong) l->wrong = "a table is missing"; return; }
    for (isize i = 0; i < to[axis]; ++i) if (o->table[i] < 0 || o->table[i] > from[axis] - o->count) { l->wrong = "a tap lies outside"; return; }
}

inline void load_op(Loader* l, const int64_t* f, NetOp* o) {
    Net& n = *l->net;
    if (f[0] < 0 || f[0] > (int)Source::resample) { l->wrong = "an operation is unknown"; return; }
    fill(o, 0, sizeof *o);
    o->source = (Source)f[0], o->input = f[1], o->h = f[2], o->w = f[3], o->c = f[4];
    o->kh = f[5], o->kw = f[6], o->sh = f[7], o->sw = f[8], o->ph = f[9], o->pw = f[10], o->dh = f[11], o->dw = f[12], o->groups = f[13];
    o->repeat = f[14], o->phase = f[15], o->output = f[16], o->pool = f[22];
    o->first_stage = f[23], o->stages = f[24];
    const isize limit = (isize)1 << 31;
    for (int i = 2; i < 9; ++i) if (f[i] < 1 || f[i] >= limit) { l->wrong = "a size is below 1 or too large"; return; }
    for (int i = 9; i < 11; ++i) if (f[i] < 0 || f[i] >= limit) { l->wrong = "a padding is negative or too large"; return; }
    if ((double)o->h * o->w * o->c >= (double)limit) { l->wrong = "an operation gives too much"; return; }
    if (o->input < 0 || o->input >= n.slots || o->output < -1 || o->output >= n.slots) { l->wrong = "an operation reads or writes no slot"; return; }
    if (o->first_stage < 0 || o->stages < 0 || o->first_stage > n.stages || o->stages > n.stages - o->first_stage) { l->wrong = "an operation has no such stages"; return; }
    if (o->pool < 1 || o->pool > 8) { l->wrong = "the pooling window is below 1 or above 8"; return; }
    if (o->phase < 0 || o->phase > 1) { l->wrong = "there are two phases"; return; }
    const NetSlot& in = n.slot[o->input];
    const bool own_bits = o->output >= 0;
    if (own_bits) {
        if (o->source != Source::binary_conv && o->source != Source::bit_pool && o->source != Source::bit_pad) { l->wrong = "only bit operations emit bits"; return; }
        if (!fits(n.slot[o->output], true, o->h / o->pool, o->w / o->pool, o->c)) { l->wrong = "the bits that an operation emits do not fit their slot"; return; }
        if (o->stages) { l->wrong = "an operation emits bits and has stages"; return; }
    }
    if (f[21] >= 0) {                                           // a bit to a channel, in bytes
        const uint8_t* bytes = l->constant<uint8_t>(f[21], ceil_div(o->c, 8));
        uint64_t* flip = bytes ? l->make<uint64_t>(words(o->c)) : nullptr;
        if (!flip) return;
        fill(flip, 0, words(o->c) * 8);
        copy(flip, bytes, ceil_div(o->c, 8));
        if (o->c % 64) flip[words(o->c) - 1] &= ((uint64_t)1 << (o->c % 64)) - 1;
        o->flip = flip;
    }
    const bool convolves = o->source == Source::real_conv || o->source == Source::binary_conv;
    const bool wants_bits = o->source == Source::binary_conv || o->source == Source::bit_pool || o->source == Source::bit_pad;
    if (o->source != Source::map && in.bits != wants_bits) { l->wrong = "an operation reads a slot of the other kind"; return; }
    if (convolves) {
        if (o->groups < 1) { l->wrong = "the groups are below 1"; return; }
        const Conv g = geometry(*o, in, 1, o->c);
        if ((l->wrong = check(g))) return;
        if ((double)g.k() * g.o >= 1099511627776.0) { l->wrong = "a weight is too large"; return; }
        if (g.oh() != o->h || g.ow() != o->w) { l->wrong = "a convolution does not give the shape that is told"; return; }
        if (o->source == Source::real_conv) return make_panels(l, o, in, f);
        const uint8_t* stored = l->constant<uint8_t>(f[17], g.o * ceil_div(g.k(), 8));
        if (!stored) { if (!l->wrong) l->wrong = "a weight is missing"; return; }
        const NetOp* const same = l->prepared(f[17], o);
        uint8_t* const blob = same ? (uint8_t*)same->plan.blob.tap_counts - sizeof(BlobHeader) : l->make<uint8_t>(blob_bytes(*n.v, g));
        uint8_t* const scratch = blob && !same ? l->make<uint8_t>(prepack_scratch_bytes(g)) : nullptr;
        uint8_t* const memory = same || scratch ? l->make<uint8_t>(plan_bytes(g)) : nullptr;
        if (!memory) return;
        if (!same) prepack(*n.v, g, stored, blob, scratch);
        Epilogue e;
        e.out = own_bits ? Out::bits : Out::float32;
        e.pool = own_bits ? o->pool : 1;
        e.flip = o->flip;
        if (own_bits) {
            e.threshold = l->constant<int32_t>(f[20], o->c);
            if (!e.threshold && !l->wrong) l->wrong = "the thresholds are missing";
            if (!l->wrong) l->wrong = check(g, e);
        } else {
            for (isize s = 0; s < o->stages; ++s)
                if (is_pool(n.stage[o->first_stage + s].what)) e.pool = n.stage[o->first_stage + s].size;
        }
        Blob b;
        if (!l->wrong) l->wrong = open_blob(*n.v, g, blob, blob_bytes(*n.v, g), &b);
        if (l->wrong) return;
        o->plan = make_plan(*n.v, g, e, b, nullptr, 1, memory, false);
        o->plan.e.threshold = own_bits ? l->keep<int32_t>(f[20], o->c, o->c) : nullptr;
        return;
    }
    const bool same = in.h == o->h && in.w == o->w;
    if (o->source >= Source::move) {
        load_tensor_op(l, f, o);
    } else if (o->source == Source::map) {
        if (o->repeat < 1 || !same || o->c % in.c || o->c / in.c != o->repeat) l->wrong = "a map changes the shape";
    } else if (o->source == Source::bit_pad) {
        if (!own_bits || o->h != in.h + 2 * o->ph || o->w != in.w + 2 * o->pw || o->c != in.c) l->wrong = "a border does not give the shape that is told";
    } else {
        if (o->c != in.c || 2 * o->ph > o->kh || 2 * o->pw > o->kw) l->wrong = "a pooling has an impossible padding";
        else if ((o->h - 1) * o->sh >= in.h + o->ph || (o->w - 1) * o->sw >= in.w + o->pw) l->wrong = "a pooling window lies outside";
        else if (o->source == Source::bit_pool && !own_bits) l->wrong = "a pooling of bits has no output";
    }
}

inline void load_stage(Loader* l, const int64_t* f, NetStage* s) {
    if (f[0] < 0 || f[0] > (int)Do::smaller) { l->wrong = "a stage is unknown"; return; }
    fill(s, 0, sizeof *s);
    s->what = (Do)f[0], s->slot = f[1], s->size = f[4];
    s->spatial_a = f[5], s->spatial_b = f[6];
    if (is_pool(s->what) && (s->size < 1 || s->size > 8)) l->wrong = "the pooling window is below 1 or above 8";
}

// Follows the shape through an operation's stages, fetches their parameters.
inline void check_stages(Loader* l, NetOp* o) {
    Net& n = *l->net;
    isize h = o->h, w = o->w;
    bool pooled = false;
    for (isize i = 0; i < o->stages && !l->wrong; ++i) {
        NetStage& s = n.stage[o->first_stage + i];
        const int64_t* f = l->t->stages + (o->first_stage + i) * STAGE_FIELDS;
        if (is_pool(s.what)) {
            const bool convolves = o->source == Source::real_conv || o->source == Source::binary_conv;
            if (pooled || !convolves) { l->wrong = "pooling stages belong to convolutions, one to each"; return; }
            pooled = true, h /= s.size, w /= s.size;
            if (h < 1 || w < 1) { l->wrong = "a pooling window is larger than its map"; return; }
            continue;
        }
        if (combines(s.what)) {
            if (s.slot < 0 || s.slot >= n.slots) { l->wrong = "a stage names no slot"; return; }
            const NetSlot& t = n.slot[s.slot];
            if (t.bits || (t.h != h && t.h != 1) || (t.w != w && t.w != 1) || (t.c != o->c && t.c != 1)) { l->wrong = "a stage's slot has another shape"; return; }
        }
        if (s.what == Do::residual || s.what == Do::store || s.what == Do::sign) {
            if (s.slot < 0 || s.slot >= n.slots) { l->wrong = "a stage names no slot"; return; }
            const NetSlot& t = n.slot[s.slot];
            if (s.what == Do::residual ? t.bits || t.h != h || t.w != w || o->c % t.c : !fits(t, s.what == Do::sign, h, w, o->c)) {
                l->wrong = "a stage's slot has another shape";
                return;
            }
        }
        for (isize j = i + 1; j < o->stages && s.slot >= 0; ++j)
            if (is_pool(n.stage[o->first_stage + j].what)) { l->wrong = "a stage with a slot stands before a pooling"; return; }
        const isize room = round_up(o->c, 64);
        const bool one = s.what == Do::clamp || s.what == Do::elu;
        for (int which = 0; which < 2; ++which) {
            const bool spatial = which ? s.spatial_b : s.spatial_a;
            const isize values = one ? 1 : spatial ? h * w * o->c : o->c;
            (which ? s.b : s.a) = l->keep<float>(f[2 + which], values, most(room, values + 64));
            if (l->wrong) return;
        }
        const bool two = s.what == Do::affine || s.what == Do::affine_fused || s.what == Do::clamp || s.what == Do::step;
        const bool needs_a = two || s.what == Do::divide || s.what == Do::elu || s.what == Do::scale || s.what == Do::bias || s.what == Do::prelu || s.what == Do::sign;
        if ((needs_a && !s.a) || (two && !s.b)) l->wrong = "a stage lacks its parameters";
    }
}

}  // namespace net

const char* load(const Variant& v, const NetTables& t, Allocate allocate, void* context, Net* out) {
    fill(out, 0, sizeof *out);
    out->v = &v, out->r = &real_for(v.name);
    net::Loader l{out, &t, allocate, context};
    out->micro_bytes = t.micro_bytes, out->chunk_bytes = t.chunk_bytes;
    // bytes of one image: times the images of a chunk and the threads, they stay far from overflowing
    const isize limit = (isize)1 << 40;
    if (t.micro_bytes < 0 || t.chunk_bytes < 0 || t.micro_bytes > limit || t.chunk_bytes > limit) return "an area has an impossible size";
    out->slot = l.make<NetSlot>(t.slot_count), out->op = l.make<NetOp>(t.op_count), out->stage = l.make<NetStage>(t.stage_count);
    l.shared = l.make<net::Loader::Shared>(t.constant_count);
    if (l.wrong) return l.wrong;
    for (isize i = 0; i < t.constant_count; ++i) l.shared[i] = {nullptr, 0, -1};
    for (isize i = 0; i < t.slot_count; ++i)
        if (const char* wrong = net::load_slot(t.slots + i * SLOT_FIELDS, out->slot + i, t)) return wrong;
    out->slots = t.slot_count, out->stages = t.stage_count;
    for (isize i = 0; i < t.stage_count && !l.wrong; ++i) net::load_stage(&l, t.stages + i * STAGE_FIELDS, out->stage + i);
    for (isize i = 0; i < t.op_count && !l.wrong; ++i) {
        net::load_op(&l, t.ops + i * OP_FIELDS, out->op + i);
        if (!l.wrong) net::check_stages(&l, out->op + i);
        // a phase runs to its end before the next begins
        if (!l.wrong && i && out->op[i].phase < out->op[i - 1].phase) l.wrong = "the phases are out of order";
    }
    out->ops = t.op_count;
    return l.wrong;
}

}  // namespace bnn
