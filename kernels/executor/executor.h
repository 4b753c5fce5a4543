// Runs a network (net.h). For one unit of a program.
//
// Activations lie in two areas of one memory, offsets chosen by the caller (slots whose lives do not meet share memory): `micro`
// holds a few images, so that activations stay in the cache from one operation to the next; `chunk` holds many, for what follows
// the last map (linear layers, whose weights are read once for all images), and for what passes between the two phases.
#pragma once
#include "executor/net.h"

namespace bnn {

namespace net {

inline bool is_pool(Do d) { return d == Do::max_pool || d == Do::avg_pool; }
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

inline void load_op(Loader* l, const int64_t* f, NetOp* o) {
    Net& n = *l->net;
    if (f[0] < 0 || f[0] > 6) { l->wrong = "an operation is unknown"; return; }
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
    if (o->source == Source::map) {
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
    if (f[0] < 0 || f[0] > (int)Do::sign) { l->wrong = "a stage is unknown"; return; }
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
        if (s.what == Do::residual || s.what == Do::store || s.what == Do::sign) {
            if (s.slot < 0 || s.slot >= n.slots) { l->wrong = "a stage names no slot"; return; }
            const NetSlot& t = n.slot[s.slot];
            if (s.what == Do::residual ? t.bits || t.h != h || t.w != w || o->c % t.c : !fits(t, s.what == Do::sign, h, w, o->c)) {
                l->wrong = "a stage's slot has another shape";
                return;
            }
            for (isize j = i + 1; j < o->stages; ++j)
                if (is_pool(n.stage[o->first_stage + j].what)) { l->wrong = "a stage with a slot stands before a pooling"; return; }
        }
        const isize room = round_up(o->c, 64);
        const bool one = s.what == Do::clamp;
        for (int which = 0; which < 2; ++which) {
            const bool spatial = which ? s.spatial_b : s.spatial_a;
            const isize values = one ? 1 : spatial ? h * w * o->c : o->c;
            (which ? s.b : s.a) = l->keep<float>(f[2 + which], values, most(room, values + 64));
            if (l->wrong) return;
        }
        const bool two = s.what == Do::affine || s.what == Do::affine_fused || s.what == Do::clamp || s.what == Do::step;
        const bool needs_a = two || s.what == Do::scale || s.what == Do::bias || s.what == Do::prelu || s.what == Do::sign;
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

namespace net {

// The images that an operation works on.
struct Frame {
    uint8_t *micro, *chunk;
    isize micro_room, chunk_room;       // images that the areas hold
    isize in_chunk, in_all;             // the first image's place in its chunk and among all
    isize n;
    const Outside* outside;
};

inline uint8_t* locate(const NetSlot& s, const Frame& f) {
    if (s.area == Area::micro) return f.micro + s.offset * f.micro_room;
    if (s.area == Area::chunk) return f.chunk + s.offset * f.chunk_room + f.in_chunk * s.bytes();
    const Outside& o = f.outside[s.offset];
    return o.at + f.in_all * (s.bits ? s.bytes() : o.sn * 4);
}

struct View { const float* at; isize sn, sc, sh, sw; };

inline View view(const NetSlot& s, const Frame& f) {
    const float* at = (const float*)locate(s, f);
    if (s.area == Area::outside) return {at, f.outside[s.offset].sn, f.outside[s.offset].sc, f.outside[s.offset].sh, f.outside[s.offset].sw};
    return {at, s.h * s.w * s.c, 1, s.w * s.c, s.c};
}

inline bool joined(const View& v, const NetSlot& s) {      // an image is one stretch of memory, channels side by side
    return (v.sc == 1 || s.c == 1) && (v.sw == s.c || s.w == 1) && (v.sh == s.w * s.c || s.h == 1);
}

// How an operation is cut into pieces of work.
struct Cut {
    isize items, work;                  // work: bytes of memory of a piece
    isize tile, tiles, chunk, chunks;   // pixels (windows) and channels of a piece
    isize window, float_stride;
    bool direct;                        // real_conv: rows are the input itself
    isize lda;
    Plan plan;
};

inline isize stage_window(const Net& n, const NetOp& o) {
    for (isize i = 0; i < o.stages; ++i)
        if (is_pool(n.stage[o.first_stage + i].what)) return n.stage[o.first_stage + i].size;
    return 1;
}

inline Cut cut(const Net& n, const NetOp& o, const Frame& f, isize threads) {
    Cut c = {};
    const NetSlot& in = n.slot[o.input];
    const isize pool = o.output >= 0 ? o.pool : stage_window(n, o);
    c.window = pool * pool;
    const isize all = f.n * (o.h / pool) * (o.w / pool);
    if (o.source == Source::binary_conv) {
        c.plan = o.plan;
        c.plan.g.n = f.n;
        c.plan.activations = (const uint64_t*)locate(in, f);
        c.plan.e.to = o.output >= 0 ? (void*)locate(n.slot[o.output], f) : nullptr;
        choose_tiles(&c.plan, threads);
        c.tile = c.plan.tile, c.tiles = c.plan.tiles, c.chunk = c.plan.chunk, c.chunks = c.plan.chunks;
        c.float_stride = round_up(c.chunk, 64);
        const isize rows = c.plan.images.use ? image_pixels(c.plan.images) : most(ROWS_AT_ONCE, c.window);
        c.work = round_up(work_bytes(c.plan), 64) + (o.output >= 0 ? 0 : rows * (c.plan.images.use ? 64 : c.float_stride) * 4 + 64);
    } else if (o.source == Source::real_conv) {
        const isize k = o.kh * o.kw * in.c / o.groups, panel = n.r->panel;
        const View v = view(in, f);
        const bool whole = o.kh == in.h && o.kw == in.w && o.ph == 0 && o.pw == 0 && o.dh == 1 && o.dw == 1;
        const bool point = o.kh == 1 && o.kw == 1 && o.ph == 0 && o.pw == 0 && o.sh == 1 && o.sw == 1;
        // all images' pixels evenly apart
        c.direct = o.groups == 1 && joined(v, in) && c.window == 1 && (whole || (point && (v.sn == in.h * in.w * in.c || f.n == 1)));
        c.lda = !c.direct ? round_up(k, 16) + 16 : whole ? v.sn : in.c;
        // gathered rows stay in the cache; large weights are read once for many rows
        isize tile = !c.direct ? least(48, most(12, (1 << 18) / (k * 4) / 12 * 12)) : k * o.c > 1 << 18 ? 128 : 48;
        c.chunk = o.c;
        if (o.groups == 1) {
            if (c.direct) c.chunk = 256;
            c.chunk = round_up(least(c.chunk, 512), LANES);
            while (threads > 1 && tile > 16 && ceil_div(all * c.window, tile) * ceil_div(o.c, c.chunk) < 2 * threads) tile /= 2;
            while (threads > 1 && c.chunk > LANES && ceil_div(all * c.window, tile) * ceil_div(o.c, c.chunk) < 2 * threads) c.chunk = round_up(c.chunk / 2, LANES);
            c.chunk = least(c.chunk, o.c);
        }
        c.tile = most(1, tile / c.window);
        c.tiles = ceil_div(all, c.tile), c.chunks = ceil_div(o.c, c.chunk);
        c.float_stride = round_up(c.chunk, LANES) + panel;
        const isize rows = c.tile * c.window;
        c.work = round_up(rows * c.float_stride * 4, 64) + (c.direct ? 0 : round_up(rows * c.lda * 4 + 64, 64)) + n.r->kblock * panel * 4 +
                 round_up(k * 8, 64);
    } else {
        const bool bits = o.output >= 0;
        c.tile = bits ? o.w : ROWS_AT_ONCE;
        c.tiles = ceil_div(all, c.tile), c.chunk = o.c, c.chunks = 1;
        c.float_stride = round_up(o.c, 64);
        c.work = bits ? 0 : round_up(ROWS_AT_ONCE * c.float_stride * 4, 64) + round_up(o.c * 4, 64);
    }
    c.items = c.tiles * c.chunks;
    return c;
}

// Runs the stages from `from` on over `many` windows from window `start` on, channels [first, first + channels), x[window * many][stride].
inline void finish(const Net& n, const NetOp& o, const Frame& f, isize from, float* x, isize stride, isize start, isize many, isize window,
                   isize first, isize channels) {
    const Real& r = *n.r;
    isize rows = many * window;
    bool pooled = window == 1;
    const isize size = stage_window(n, o), plane = (o.h / size) * (o.w / size);
    for (isize i = from; i < o.stages; ++i) {
        const NetStage& s = n.stage[o.first_stage + i];
        switch (s.what) {
        case Do::max_pool:
        case Do::avg_pool:
            for (isize p = 0; p < many && window > 1; ++p) {
                if (p) copy(x + p * stride, x + p * window * stride, channels * 4);
                for (isize k = 1; k < window; ++k)
                    (s.what == Do::max_pool ? r.larger : r.add)(x + p * stride, x + (p * window + k) * stride, channels);
                if (s.what == Do::avg_pool) r.divide(x + p * stride, (float)window, channels);
            }
            rows = many, pooled = true;
            break;
        case Do::residual: {
            const NetSlot& t = n.slot[s.slot];
            const View v = view(t, f);
            for (isize p = 0; p < rows; ++p) {
                const isize at = start + p, image = at / plane, y = at % plane / t.w, xx = at % plane % t.w;
                const float* from_row = v.at + image * v.sn + y * v.sh + xx * v.sw;
                float* to = x + p * stride;
                if (v.sc == 1 && t.c == o.c) {
                    r.add(to, from_row + first, channels);
                } else if (v.sc == 1) {
                    for (isize c = first; c < first + channels;) {
                        const isize inner = c % t.c, some = least(t.c - inner, first + channels - c);
                        r.add(to + c - first, from_row + inner, some);
                        c += some;
                    }
                } else {
                    for (isize c = 0; c < channels; ++c) to[c] += from_row[(first + c) % t.c * v.sc];
                }
            }
            break;
        }
        case Do::store: {
            const NetSlot& t = n.slot[s.slot];
            float* to = (float*)locate(t, f) + start * t.c + first;
            if (to != x)
                for (isize p = 0; p < rows; ++p) copy(to + p * t.c, x + p * stride, channels * 4);
            break;
        }
        case Do::sign: {
            const NetSlot& t = n.slot[s.slot];
            uint64_t* to = (uint64_t*)locate(t, f) + first / 64;
            const isize line = words(t.c);
            for (isize p = 0; p < rows; ++p) {
                const isize at = (start + p) % plane * o.c;
                r.sign(x + p * stride, s.a + (s.spatial_a ? at : 0) + first, s.b ? s.b + (s.spatial_b ? at : 0) + first : nullptr, channels,
                       to + (start + p) * line);
            }
            break;
        }
        case Do::clamp:
            for (isize p = 0; p < rows; ++p) r.stage(s.what, x + p * stride, channels, s.a, s.b);
            break;
        default:
            for (isize p = 0; p < rows; ++p) {
                isize at = 0;
                if (s.spatial_a || s.spatial_b) {
                    if (pooled) {
                        at = (start + p) % plane;
                    } else {                            // row p is pixel k of window start + p / window
                        const isize k = p % window, w = (start + p / window) % plane, across = o.w / size;
                        at = (w / across * size + k / size) * o.w + w % across * size + k % size;
                    }
                }
                r.stage(s.what, x + p * stride, channels, s.a ? s.a + (s.spatial_a ? at * o.c : 0) + first : nullptr,
                        s.b ? s.b + (s.spatial_b ? at * o.c : 0) + first : nullptr);
            }
        }
    }
}

// The slot that an operation's values can be computed in, without a copy: the stages behind its only store write nothing but bits.
inline const NetSlot* home(const Net& n, const NetOp& o, isize window) {
    const NetSlot* found = nullptr;
    for (isize i = 0; i < o.stages; ++i) {
        const NetStage& s = n.stage[o.first_stage + i];
        if (found && s.what != Do::sign) return nullptr;
        if (s.what == Do::store) found = &n.slot[s.slot];
    }
    return window == 1 ? found : nullptr;
}

// The same where images are multiplied: 64 channels of all pixels of an item are floats at once.
inline void run_binary_images(const Net& n, const NetOp& o, const Frame& f, const Cut& c, isize item, uint8_t* memory) {
    const Plan& p = c.plan;
    const isize low = item % p.chunks * p.chunk, high = least(o.c, low + p.chunk);
    float* const floats = (float*)(memory + round_up(work_bytes(p), 64));
    const NetStage* s = n.stage + o.first_stage;
    isize fused = 0;
    const float *scale = nullptr, *bias = nullptr, *residual = nullptr;
    if (fused < o.stages && s[fused].what == Do::scale && !s[fused].spatial_a) scale = s[fused++].a;
    if (fused < o.stages && s[fused].what == Do::bias && !s[fused].spatial_a) bias = s[fused++].a;
    if (fused < o.stages && c.window == 1 && s[fused].what == Do::residual) {
        const NetSlot& other = n.slot[s[fused].slot];
        const View v = view(other, f);
        if (v.sc == 1 && other.c == o.c && joined(v, other) && v.sn == other.h * other.w * other.c) residual = v.at, ++fused;
    }
    const NetSlot* const to = home(n, o, c.window);
    const isize stride = to ? to->c : 64;
    isize start = 0, many = 0;
    const auto place = [&](isize first) { return to ? (float*)locate(*to, f) + start * to->c + first : floats; };
    const auto begin = [&](isize from, isize some) { start = from, many = some; };
    const auto follow = [&](const Sums& sums, isize first) {
        const isize from = first / 64 * 64;
        Finish f = {};
        f.kind = Finish::float32, f.s = sums, f.to = place(from) + first - from, f.stride = stride;
        f.scale = scale ? scale + first : nullptr, f.bias = bias ? bias + first : nullptr;
        f.residual = residual ? residual + start * o.c + first : nullptr;
        if (residual && stride != o.c) {                                // laid out otherwise than the sums
            f.residual = nullptr;
            p.v->images->finish(f);
            for (isize i = 0; i < sums.pixels; ++i)
                if (sums.at[i] >= 0) n.r->add((float*)f.to + sums.at[i] * stride, residual + (start + sums.at[i]) * o.c + first, sums.channels);
            f.kind = Finish::nothing;
        }
        return f;
    };
    const auto done = [&](isize first, isize channels) {
        const isize at_once = most(1, ROWS_AT_ONCE / c.window);
        for (isize i = 0; i < many; i += at_once)
            finish(n, o, f, fused, place(first) + i * c.window * stride, stride, start + i, least(at_once, many - i), c.window, first, channels);
    };
    run_images(*p.v->images, p.images, p.activations, p.blob.for_images, p.e.pool, c.window > 1, low, high, item / p.chunks, memory, begin, follow, done);
}

inline void run_binary(const Net& n, const NetOp& o, const Frame& f, const Cut& c, isize item, uint8_t* memory) {
    if (o.output >= 0) return run(c.plan, item, memory);
    if (c.plan.images.use) return run_binary_images(n, o, f, c, item, memory);
    Tile t;
    count_tile(c.plan, item, memory, &t);
    float* x = (float*)(memory + round_up(work_bytes(c.plan), 64));
    // The first stages, if they are the usual ones, are part of the conversion from integers.
    const NetStage* s = n.stage + o.first_stage;
    isize done = 0;
    const float *scale = nullptr, *bias = nullptr;
    if (done < o.stages && s[done].what == Do::scale && !s[done].spatial_a) scale = s[done++].a + t.first;
    if (done < o.stages && s[done].what == Do::bias && !s[done].spatial_a) bias = s[done++].a + t.first;
    const NetSlot* other = nullptr;
    View v = {};
    if (!done && o.stages && c.window == 1 && s[0].what == Do::residual) {
        v = view(n.slot[s[0].slot], f);
        if (v.sc == 1 && n.slot[s[0].slot].c == o.c && joined(v, n.slot[s[0].slot])) other = &n.slot[s[0].slot], done = 1;
    }
    const isize at_once = most(1, ROWS_AT_ONCE / c.window), plane = o.h * o.w;
    const NetSlot* to = home(n, o, c.window);
    const isize stride = to ? to->c : c.float_stride;
    for (isize i = 0; i < t.many; i += at_once) {
        const isize some = least(at_once, t.many - i);
        if (to) x = (float*)locate(*to, f) + (t.start + i) * to->c + t.first;
        for (isize p = 0; p < some * c.window; ++p) {
            const isize at = i * c.window + p;
            const uint16_t* counts = t.w.counts + at * t.w.count_stride;
            if (other) {
                const isize pixel = t.start + at;
                n.r->convert_add(counts, t.base[at], t.channels, v.at + pixel / plane * v.sn + pixel % plane * v.sw + t.first, x + p * stride);
            } else {
                n.v->to_float(counts, t.base[at], t.channels, scale, bias, nullptr, x + p * stride);
            }
        }
        finish(n, o, f, done, x, stride, t.start + i, some, c.window, t.first, t.channels);
    }
}

// The receptive field of one pixel and one group, in the order (kh, kw, c).
inline void gather_floats(const NetOp& o, const NetSlot& in, const View& v, isize image, isize y0, isize x0, isize group, const isize* offsets, float* to) {
    const isize cg = in.c / o.groups, k = o.kh * o.kw * cg;
    const float* base = v.at + image * v.sn + group * cg * v.sc;
    const isize y = y0 * o.sh - o.ph, x = x0 * o.sw - o.pw;
    const isize top = y >= 0 ? 0 : ceil_div(-y, o.dh), left = x >= 0 ? 0 : ceil_div(-x, o.dw);      // taps [top, bottom) x [left, right)
    const isize bottom = y >= in.h ? 0 : least(o.kh, ceil_div(in.h - y, o.dh)), right = x >= in.w ? 0 : least(o.kw, ceil_div(in.w - x, o.dw));
    const bool inside = top == 0 && left == 0 && bottom == o.kh && right == o.kw;
    const float* from = base + y * v.sh + x * v.sw;
    if (v.sc != 1) {
        if (inside) {
            for (isize i = 0; i < k; ++i) to[i] = from[offsets[i]];
            return;
        }
        fill(to, 0, k * 4);
        for (isize i = top; i < bottom; ++i)
            for (isize j = left; j < right; ++j)
                for (isize q = 0, at = (i * o.kw + j) * cg; q < cg; ++q) to[at + q] = from[offsets[at + q]];
        return;
    }
    if (!inside) fill(to, 0, k * 4);
    const bool runs = o.dw == 1 && v.sw == cg;              // a row of taps is one stretch of memory
    for (isize i = top; i < bottom; ++i) {
        if (runs) copy(to + (i * o.kw + left) * cg, from + i * o.dh * v.sh + left * v.sw, most(0, right - left) * cg * 4);
        else for (isize j = left; j < right; ++j) copy(to + (i * o.kw + j) * cg, from + i * o.dh * v.sh + j * o.dw * v.sw, cg * 4);
    }
}

inline void run_real(const Net& n, const NetOp& o, const Frame& f, const Cut& c, isize item, uint8_t* memory) {
    const NetSlot& in = n.slot[o.input];
    const View v = view(in, f);
    const Real& r = *n.r;
    const isize size = stage_window(n, o), oh = o.h / size, ow = o.w / size, all = f.n * oh * ow;
    const isize start = item / c.chunks * c.tile, many = least(c.tile, all - start), rows = many * c.window;
    const isize first = item % c.chunks * c.chunk, channels = least(c.chunk, o.c - first);
    const isize og = o.c / o.groups, cg = in.c / o.groups, k = o.kh * o.kw * cg, panels = ceil_div(og, r.panel);
    const isize bytes = o.kind == Weights::float32 ? 4 : o.kind == Weights::bfloat16 ? 2 : 1;
    float* x = (float*)memory;
    isize stride = c.float_stride;
    if (const NetSlot* to = home(n, o, c.window); to && og % r.panel == 0)      // whole panels are written
        x = (float*)locate(*to, f) + start * to->c + first, stride = to->c;
    memory += round_up(c.tile * c.window * c.float_stride * 4, 64);
    float* gathered = (float*)memory;
    memory += c.direct ? 0 : round_up(c.tile * c.window * c.lda * 4 + 64, 64);
    float* scratch = (float*)memory;
    isize* offsets = (isize*)(memory + r.kblock * r.panel * 4);
    if (!c.direct && v.sc != 1)
        for (isize i = 0, at = 0; i < o.kh; ++i)
            for (isize j = 0; j < o.kw; ++j)
                for (isize q = 0; q < cg; ++q) offsets[at++] = i * o.dh * v.sh + j * o.dw * v.sw + q * v.sc;

    for (isize group = 0; group < o.groups; ++group) {
        const float* a = c.direct ? v.at + start * c.lda : gathered;
        if (!c.direct) {
            isize xx = start % ow, y = start / ow % oh, image = start / ow / oh;
            float* to = gathered;
            for (isize i = 0; i < many; ++i) {
                for (isize p = 0; p < size; ++p)
                    for (isize q = 0; q < size; ++q, to += c.lda) gather_floats(o, in, v, image, y * size + p, xx * size + q, group, offsets, to);
                if (++xx == ow) {
                    xx = 0;
                    if (++y == oh) y = 0, ++image;
                }
            }
        }
        // Each group writes whole panels beyond its last channel, which the next group overwrites.
        const isize low = o.groups == 1 ? first : 0, high = o.groups == 1 ? first + channels : og, shift = o.groups == 1 ? 0 : group * og;
        // few rows: weights are read once, in one stream; many: a block of them stays in the cache for all rows
        const isize block = rows < 4 ? k : r.kblock;
        for (isize from = 0; from < k; from += block) {
            const isize some = least(block, k - from);
            for (isize at = low; at < high; at += r.panel)
                r.gemm(a + from, c.lda, rows, o.weights + ((group * panels + at / r.panel) * k + from) * r.panel * bytes, o.kind, some,
                       x + shift + at - low, stride, from > 0, scratch);
        }
    }
    if (o.scale) for (isize p = 0; p < rows; ++p) r.stage(Do::scale, x + p * stride, channels, o.scale + first, nullptr);
    finish(n, o, f, 0, x, stride, start, many, c.window, first, channels);
}

// Windows of a pooling that lie in the input: rows or columns [low, high); size: its length where padding counts.
struct Reach { isize low, high, size; };
inline Reach reach(isize at, isize kernel, isize stride, isize padding, isize length) {
    const isize start = at * stride - padding, end = least(start + kernel, length + padding);
    return {most(0, start), least(end, length), end - start};
}

inline void load_channels(const View& v, isize image, isize y, isize x, isize channels, float* to) {
    const float* from = v.at + image * v.sn + y * v.sh + x * v.sw;
    if (v.sc == 1) copy(to, from, channels * 4);
    else for (isize c = 0; c < channels; ++c) to[c] = from[c * v.sc];
}

inline void run_floats(const Net& n, const NetOp& o, const Frame& f, const Cut& c, isize item, uint8_t* memory) {
    const NetSlot& in = n.slot[o.input];
    const Real& r = *n.r;
    float* x = (float*)memory;
    float* row = (float*)(memory + round_up(ROWS_AT_ONCE * c.float_stride * 4, 64));
    const isize all = f.n * o.h * o.w, start = item * c.tile, many = least(c.tile, all - start);
    const uint64_t* bits = in.bits ? (const uint64_t*)locate(in, f) : nullptr;
    const View v = in.bits ? View{} : view(in, f);
    isize xx = start % o.w, y = start / o.w % o.h, image = start / o.w / o.h;
    for (isize p = 0; p < many; ++p) {
        float* to = x + p * c.float_stride;
        if (o.source == Source::map) {
            if (bits) {
                const uint64_t* from = bits + (start + p) * words(in.c);
                for (isize i = 0; i < in.c; ++i) to[i] = from[i / 64] >> (i % 64) & 1 ? 1.0f : -1.0f;
            } else {
                load_channels(v, image, y, xx, in.c, to);
            }
            for (isize i = 1; i < o.repeat; ++i) copy(to + i * in.c, to, in.c * 4);
        } else {
            const Reach down = reach(y, o.kh, o.sh, o.ph, in.h), across = reach(xx, o.kw, o.sw, o.pw, in.w);
            bool begun = false;
            for (isize i = down.low; i < down.high; ++i)
                for (isize j = across.low; j < across.high; ++j) {
                    if (!begun) {
                        load_channels(v, image, i, j, o.c, to);
                        begun = true;
                        continue;
                    }
                    const float* from = v.at + image * v.sn + i * v.sh + j * v.sw;
                    if (v.sc != 1) load_channels(v, image, i, j, o.c, row), from = row;
                    (o.source == Source::max_pool ? r.larger : r.add)(to, from, o.c);
                }
            if (!begun) fill(to, 0, o.c * 4);
            if (o.source == Source::avg_pool)
                r.divide(to, (float)(o.repeat ? down.size * across.size : (down.high - down.low) * (across.high - across.low)), o.c);
        }
        if (++xx == o.w) {
            xx = 0;
            if (++y == o.h) y = 0, ++image;
        }
    }
    finish(n, o, f, 0, x, c.float_stride, start, many, 1, 0, o.c);
}

inline void run_bits(const Net& n, const NetOp& o, const Frame& f, isize line) {        // one line of the result
    const NetSlot& in = n.slot[o.input];
    const isize count = words(o.c), image = line / o.h, y = line % o.h;
    const uint64_t* from = (const uint64_t*)locate(in, f) + image * in.h * in.w * count;
    uint64_t* to = (uint64_t*)locate(n.slot[o.output], f) + line * o.w * count;
    const uint64_t last = o.c % 64 ? ((uint64_t)1 << (o.c % 64)) - 1 : ~(uint64_t)0;
    for (isize x = 0; x < o.w; ++x, to += count) {
        if (o.source == Source::bit_pad) {
            const isize yy = y - o.ph, xx = x - o.pw;
            if (yy >= 0 && yy < in.h && xx >= 0 && xx < in.w) {
                copy(to, from + (yy * in.w + xx) * count, count * 8);
            } else {
                fill(to, o.repeat > 0 ? 0xff : 0, count * 8);
                to[count - 1] &= last;
            }
        } else {
            const Reach down = reach(y, o.kh, o.sh, o.ph, in.h), across = reach(x, o.kw, o.sw, o.pw, in.w);
            fill(to, 0, count * 8);
            for (isize i = down.low; i < down.high; ++i)
                for (isize j = across.low; j < across.high; ++j)
                    for (isize k = 0; k < count; ++k) to[k] |= from[(i * in.w + j) * count + k];
        }
        if (o.flip) for (isize k = 0; k < count; ++k) to[k] ^= o.flip[k];
    }
}

inline void run_item(const Net& n, const NetOp& o, const Frame& f, const Cut& c, isize item, uint8_t* memory) {
    switch (o.source) {
    case Source::binary_conv: return run_binary(n, o, f, c, item, memory);
    case Source::real_conv: return run_real(n, o, f, c, item, memory);
    case Source::bit_pool:
    case Source::bit_pad: return run_bits(n, o, f, item);
    default: return run_floats(n, o, f, c, item, memory);
    }
}

}  // namespace net

// Calls body(item, memory) for items [0, n), on however many threads it likes, each with memory of its own.
struct Serial {
    uint8_t* memory;
    template <class Body>
    void operator()(isize, isize items, isize, const Body& body) const { for (isize i = 0; i < items; ++i) body(i, memory); }
};

struct Unwatched { void operator()(isize) const {} };

namespace net {

template <class Parallel>
void run_op(const Net& n, const NetOp& o, const Frame& f, isize threads, uint8_t* work, const Parallel& parallel) {
    const Cut c = cut(n, o, f, threads);
    if (threads == 1 || c.items == 1) {
        for (isize i = 0; i < c.items; ++i) run_item(n, o, f, c, i, work);
    } else {
        parallel(threads, c.items, c.work, [&](isize i, uint8_t* mine) { run_item(n, o, f, c, i, mine); });
    }
}

inline isize work_of(const Net& n, const Outside* outside, isize images, isize threads, isize phase) {
    if (images == 0) return 64;
    isize work = 64;
    static const uint8_t nowhere[1] = {0};
    for (isize i = 0; i < n.ops; ++i) {
        if (n.op[i].phase != phase) continue;
        Frame f = {(uint8_t*)nowhere, (uint8_t*)nowhere, 0, 0, 0, 0, images, outside};
        work = most(work, cut(n, n.op[i], f, threads).work);
    }
    return round_up(work, 64);
}

}  // namespace net

RunPlan plan_run(const Net& n, const Outside* outside, isize images, isize threads) {
    RunPlan p = {};
    p.threads = most(1, threads);
    p.chunk_images = least(most(1, images), CHUNK);
    p.images = most(1, least(MICRO, ceil_div(p.chunk_images, p.threads)));
    p.micro = round_up(n.micro_bytes * p.images + ROW_SLACK, 64);
    p.chunk = round_up(n.chunk_bytes * p.chunk_images + ROW_SLACK, 64);
    p.by_image = p.threads > 1 && ceil_div(p.chunk_images, p.images) >= p.threads;
    static_assert(MICRO == 2, "pieces of one image and of two");
    p.work = 64;
    const isize some[] = {p.images, 1, p.chunk_images, images % p.chunk_images};         // the last piece may be smaller, and cut otherwise
    for (isize i = 0; i < 8; ++i) p.work = most(p.work, net::work_of(n, outside, some[i % 4], i < 4 ? 1 : p.threads, i % 4 / 2));
    p.bytes = p.chunk + p.micro + p.work;
    return p;
}

// memory: plan.bytes, aligned to 64. outside: the arrays that slots of Area::outside name, of `images` images each. watch(k) is called
// after operation k; of more than one thread it makes sense of none.
template <class Parallel, class Watch>
void run(const Net& n, const RunPlan& p, const Outside* outside, isize images, uint8_t* memory, const Parallel& parallel, const Watch& watch) {
    uint8_t *chunk = memory, *micro = memory + p.chunk, *work = micro + p.micro;
    isize maps = 0;                     // operations of the first phase
    while (maps < n.ops && n.op[maps].phase == 0) ++maps;
    for (isize start = 0; start < images; start += p.chunk_images) {
        const isize many = least(p.chunk_images, images - start), micros = ceil_div(many, p.images);
        const auto images_at = [&](isize i, uint8_t* area, uint8_t* mine, isize threads) {
            const isize first = i * p.images;
            const net::Frame f = {area, chunk, p.images, p.chunk_images, first, start + first, least(p.images, many - first), outside};
            for (isize k = 0; k < maps; ++k) net::run_op(n, n.op[k], f, threads, mine, parallel), watch(k);
        };
        if (maps && p.by_image && micros > 1) {
            parallel(p.threads, micros, p.micro + p.work, [&](isize i, uint8_t* mine) { images_at(i, mine, mine + p.micro, 1); });
        } else if (maps) {
            for (isize i = 0; i < micros; ++i) images_at(i, micro, work, p.threads);
        }
        const net::Frame f = {micro, chunk, p.images, p.chunk_images, 0, start, many, outside};
        for (isize k = maps; k < n.ops; ++k) net::run_op(n, n.op[k], f, p.threads, work, parallel), watch(k);
    }
}

}  // namespace bnn
