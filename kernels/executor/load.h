// Loads a network: records and constants (records.h) become operations that can run, or a sentence says what is wrong.
// Nothing that the records say is believed before it is compared with what is there.
#pragma once
#include "executor/load_tensors.h"
#include "executor/load_weights.h"

namespace bnn {

namespace net {

inline bool is_pool(Do d) { return d == Do::max_pool || d == Do::avg_pool; }
inline bool combines(Do d) { return d >= Do::plus; }
inline bool uses_slot(Do d) { return combines(d) || d == Do::residual || d == Do::store || d == Do::sign; }
// The convolution of an operation on n images.
inline Conv geometry(const NetOp& o, const NetSlot& in, isize n, isize channels) {
    Conv g;
    g.n = n, g.h = in.h, g.w = in.w, g.c = in.c, g.o = channels;
    g.kh = o.kh, g.kw = o.kw, g.sh = o.sh, g.sw = o.sw, g.ph = o.ph, g.pw = o.pw, g.dh = o.dh, g.dw = o.dw,
    g.groups = o.groups;
    return g;
}

// Fills s and returns null, or returns what is wrong.
inline const char* load_slot(const SlotRecord& f, NetSlot* s, const NetTables& t) {
    const bool known = named(f.kind, BNN_TEXT_OF(BNN_SLOT_KINDS)) && named(f.area, BNN_TEXT_OF(BNN_AREAS));
    if (!known) return "a slot is of no known kind";
    s->bits = f.kind == (int)SlotKind::bits, s->h = f.h, s->w = f.w, s->c = f.c, s->area = (Area)f.area,
    s->offset = f.offset;
    const isize limit = (isize)1 << 31;
    if (s->h < 1 || s->w < 1 || s->c < 1 || s->h >= limit || s->w >= limit || s->c >= limit)
        return "a slot has an impossible shape";
    if ((double)s->h * s->w * s->c >= (double)limit) return "a slot is too large";
    if (s->offset < 0) return "a slot lies before its area";
    const isize room = s->area == Area::micro ? t.micro_bytes : t.chunk_bytes;
    const bool inside = s->offset % 64 == 0 && s->offset <= room && s->bytes() <= room - s->offset;
    return s->area == Area::outside || inside ? nullptr : "a slot does not lie in its area";
}

// Whether a slot has this kind and shape.
inline bool fits(const NetSlot& s, bool bits, isize h, isize w, isize c) {
    return s.bits == bits && s.h == h && s.w == w && s.c == c;
}

// Fills o from its record, or sets l->wrong where a number alone is impossible.
inline void load_fields(Loader* l, const OpRecord& f, NetOp* o) {
    const Net& n = *l->net;
    if (!named(f.kind, BNN_TEXT_OF(BNN_OPERATIONS))) { l->wrong = "an operation is unknown"; return; }
    fill(o, 0, sizeof *o);
    o->source = (Source)f.kind, o->input = f.input, o->h = f.h, o->w = f.w, o->c = f.c;
    o->kh = f.kernel_h, o->kw = f.kernel_w, o->sh = f.stride_h, o->sw = f.stride_w, o->ph = f.padding_h,
    o->pw = f.padding_w;
    o->dh = f.dilation_h, o->dw = f.dilation_w, o->groups = f.groups, o->phase = f.phase, o->output = f.output,
    o->pool = f.pool;
    o->repeat = f.repeat, o->border = f.border, o->count_padding = f.count_padding != 0, o->axis = f.axis;
    o->first_stage = f.first_stage, o->stages = f.stages;
    const isize limit = (isize)1 << 31;
    const isize sizes[] = {o->h, o->w, o->c, o->kh, o->kw, o->sh, o->sw}, paddings[] = {o->ph, o->pw};
    for (isize size : sizes)
        if (size < 1 || size >= limit) { l->wrong = "a size is below 1 or too large"; return; }
    for (isize padding : paddings)
        if (padding < 0 || padding >= limit) { l->wrong = "a padding is negative or too large"; return; }
    if ((double)o->h * o->w * o->c >= (double)limit) { l->wrong = "an operation gives too much"; return; }
    const bool slots = o->input >= 0 && o->input < n.slots && o->output >= -1 && o->output < n.slots;
    if (!slots) { l->wrong = "an operation reads or writes no slot"; return; }
    const bool before = o->first_stage >= 0 && o->stages >= 0 && o->first_stage <= n.stages;
    if (!before || o->stages > n.stages - o->first_stage) { l->wrong = "an operation has no such stages"; return; }
    if (o->pool < 1 || o->pool > 8) { l->wrong = "the pooling window is below 1 or above 8"; return; }
    if (o->phase < 0 || o->phase > 1) l->wrong = "there are two phases";
}

// Whether an operation reads bits; `map` may.
inline bool wants_bits(const NetOp& o) {
    return o.source == Source::binary_conv || o.source == Source::bit_pool || o.source == Source::bit_pad;
}

// Checks the slot of bits that an operation emits itself.
inline void check_own_bits(Loader* l, const NetOp& o) {
    const bool own_bits = o.output >= 0;
    if (o.pool != 1 && (o.source != Source::binary_conv || !own_bits))
        l->wrong = "only binary convolutions pool their bits";
    else if (own_bits && !wants_bits(o))
        l->wrong = "only bit operations emit bits";
    else if (own_bits && !fits(l->net->slot[o.output], true, o.h / o.pool, o.w / o.pool, o.c))
        l->wrong = "the bits that an operation emits do not fit their slot";
    else if (own_bits && o.stages)
        l->wrong = "an operation emits bits and has stages";
}

// Turns a flip, stored as bytes, a bit to a channel, into words.
inline void load_flip(Loader* l, int64_t constant, NetOp* o) {
    if (constant == -1) return;
    const uint8_t* bytes = l->constant<uint8_t>(constant, ceil_div(o->c, 8));
    uint64_t* flip = bytes ? l->make<uint64_t>(words(o->c)) : nullptr;
    if (!flip) return;
    fill(flip, 0, words(o->c) * 8);
    copy(flip, bytes, ceil_div(o->c, 8));
    if (o->c % 64) flip[words(o->c) - 1] &= ((uint64_t)1 << (o->c % 64)) - 1;
    o->flip = flip;
}

// Prepares the weights and the plan of a binary convolution, unless an operation before has these weights.
inline void load_binary(Loader* l, const OpRecord& f, const Conv& g, NetOp* o) {
    const Net& n = *l->net;
    const bool own_bits = o->output >= 0;
    const uint8_t* stored = l->constant<uint8_t>(f.weight, g.o * ceil_div(g.k(), 8));
    if (!stored) { if (!l->wrong) l->wrong = "a weight is missing"; return; }
    const NetOp* const same = l->prepared(f.weight, o);
    uint8_t* const blob = same ? (uint8_t*)same->plan.blob.tap_counts - sizeof(BlobHeader)
                               : l->make<uint8_t>(blob_bytes(*n.v, g));
    uint8_t* const scratch = blob && !same ? l->make<uint8_t>(prepack_scratch_bytes(g)) : nullptr;
    uint8_t* const memory = same || scratch ? l->make<uint8_t>(plan_bytes(g)) : nullptr;
    if (!memory) return;
    if (!same) prepack(*n.v, g, stored, blob, scratch);
    Epilogue e;
    e.out = own_bits ? Out::bits : Out::float32;
    e.pool = own_bits ? o->pool : 1;
    e.flip = o->flip;
    if (own_bits) {
        e.threshold = l->constant<int32_t>(f.threshold, o->c);
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
    if (n.v->images && (o->choice = l->make<Choice>(1))) *o->choice = {};
    o->plan.e.threshold = own_bits ? l->keep<int32_t>(f.threshold, o->c, o->c) : nullptr;
}

// Checks a convolution's geometry and prepares its weights.
inline void load_convolution(Loader* l, const OpRecord& f, const NetSlot& in, NetOp* o) {
    Net& n = *l->net;
    if (o->groups < 1) { l->wrong = "the groups are below 1"; return; }
    const Conv g = geometry(*o, in, 1, o->c);
    if ((l->wrong = check(g))) return;
    if ((double)g.k() * g.o >= 1099511627776.0) { l->wrong = "a weight is too large"; return; }
    if (g.oh() != o->h || g.ow() != o->w) {
        l->wrong = "a convolution does not give the shape that is told";
        return;
    }
    if (o->source == Source::binary_conv) return load_binary(l, f, g, o);
    make_panels(l, o, in, f);
    const isize bytes = o->sums ? quantized_values(*o, in) * n.r->int8->size : 1;
    if (o->kind == Weights::int8) n.quantized[o->phase] = most(n.quantized[o->phase], bytes);
}

// Checks that every window of a pooling begins in the input or in the border before it.
inline void check_pooling(Loader* l, const NetOp& o, const NetSlot& in) {
    if (o.c != in.c || 2 * o.ph > o.kh || 2 * o.pw > o.kw)
        l->wrong = "a pooling has an impossible padding";
    else if ((o.h - 1) * o.sh >= in.h + o.ph || (o.w - 1) * o.sw >= in.w + o.pw)
        l->wrong = "a pooling window lies outside";
    else if (o.source == Source::bit_pool && o.output < 0)
        l->wrong = "a pooling of bits has no output";
}

// Fills o from its record, or sets l->wrong.
inline void load_op(Loader* l, const OpRecord& f, NetOp* o) {
    load_fields(l, f, o);
    if (!l->wrong) check_own_bits(l, *o);
    if (!l->wrong) load_flip(l, f.flip, o);
    if (l->wrong) return;
    const NetSlot& in = l->net->slot[o->input];
    if (o->source != Source::map && in.bits != wants_bits(*o)) {
        l->wrong = "an operation reads a slot of the other kind";
    } else if (o->source == Source::real_conv || o->source == Source::binary_conv) {
        load_convolution(l, f, in, o);
    } else if (o->source >= Source::move) {
        load_tensor_op(l, f, o);
    } else if (o->source == Source::map) {
        const bool same = in.h == o->h && in.w == o->w;
        if (o->repeat < 1 || !same || o->c % in.c || o->c / in.c != o->repeat) l->wrong = "a map changes the shape";
    } else if (o->source == Source::bit_pad) {
        const bool fit = o->h == in.h + 2 * o->ph && o->w == in.w + 2 * o->pw && o->c == in.c;
        if (o->output < 0 || !fit) l->wrong = "a border does not give the shape that is told";
    } else {
        check_pooling(l, *o, in);
    }
}

// Fills s from its record, or sets l->wrong. Its parameters are fetched by check_stages.
inline void load_stage(Loader* l, const StageRecord& f, NetStage* s) {
    if (!named(f.kind, BNN_TEXT_OF(BNN_STAGES))) { l->wrong = "a stage is unknown"; return; }
    fill(s, 0, sizeof *s);
    s->what = (Do)f.kind, s->slot = f.slot, s->size = f.size;
    s->spatial_a = f.spatial_first != 0, s->spatial_b = f.spatial_second != 0;
    if (is_pool(s->what) && (s->size < 1 || s->size > 8)) l->wrong = "the pooling window is below 1 or above 8";
}

// Follows the shape through an operation's stages and fetches their parameters.
inline void check_stages(Loader* l, NetOp* o) {
    Net& n = *l->net;
    isize h = o->h, w = o->w;
    bool pooled = false;
    for (isize i = 0; i < o->stages && !l->wrong; ++i) {
        NetStage& s = n.stage[o->first_stage + i];
        const StageRecord& f = l->t->stages[o->first_stage + i];
        if (is_pool(s.what)) {
            const bool convolves = o->source == Source::real_conv || o->source == Source::binary_conv;
            if (pooled || !convolves) { l->wrong = "pooling stages belong to convolutions, one to each"; return; }
            pooled = true, h /= s.size, w /= s.size;
            if (h < 1 || w < 1) { l->wrong = "a pooling window is larger than its map"; return; }
            continue;
        }
        if (uses_slot(s.what) && (s.slot < 0 || s.slot >= n.slots)) { l->wrong = "a stage names no slot"; return; }
        if (combines(s.what)) {
            const NetSlot& t = n.slot[s.slot];
            const bool broadcast = (t.h == h || t.h == 1) && (t.w == w || t.w == 1) && (t.c == o->c || t.c == 1);
            if (t.bits || !broadcast) { l->wrong = "a stage's slot has another shape"; return; }
        }
        if (uses_slot(s.what) && !combines(s.what)) {
            const NetSlot& t = n.slot[s.slot];
            const bool fit = s.what == Do::residual ? !t.bits && t.h == h && t.w == w && o->c % t.c == 0
                                                    : fits(t, s.what == Do::sign, h, w, o->c);
            if (!fit) { l->wrong = "a stage's slot has another shape"; return; }
        }
        for (isize j = i + 1; j < o->stages && s.slot >= 0; ++j)
            if (is_pool(n.stage[o->first_stage + j].what)) {
                l->wrong = "a stage with a slot stands before a pooling";
                return;
            }
        const isize room = round_up(o->c, 64);
        const bool one = s.what == Do::clamp || s.what == Do::elu;
        for (int which = 0; which < 2; ++which) {
            const bool spatial = which ? s.spatial_b : s.spatial_a;
            const isize values = one ? 1 : spatial ? h * w * o->c : o->c;
            (which ? s.b : s.a) = l->keep<float>(which ? f.second : f.first, values, most(room, values + 64));
            if (l->wrong) return;
        }
        const bool two =
            s.what == Do::affine || s.what == Do::affine_fused || s.what == Do::clamp || s.what == Do::step;
        const bool needs_a = two || s.what == Do::divide || s.what == Do::elu || s.what == Do::scale ||
                             s.what == Do::bias || s.what == Do::prelu || s.what == Do::sign;
        if ((needs_a && !s.a) || (two && !s.b)) l->wrong = "a stage lacks its parameters";
        else if ((s.spatial_a || s.spatial_b) && (one || !needs_a))
            l->wrong = "a stage has no parameters that differ from pixel to pixel";
    }
}

// Checks that an operation of the second phase uses no slot of the first area, which has no room for so many images.
inline void check_phase(Loader* l, const NetOp& o) {
    if (o.phase == 0) return;
    const auto check = [&](isize slot) {
        if (slot >= 0 && l->net->slot[slot].area == Area::micro)
            l->wrong = "an operation of the second phase uses a slot of the first area";
    };
    check(o.input), check(o.output);
    for (isize i = 0; i < o.count && o.source == Source::join; ++i) check(o.table[i]);
    for (isize i = 0; i < o.stages; ++i) {
        const NetStage& s = l->net->stage[o.first_stage + i];
        if (uses_slot(s.what)) check(s.slot);
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
    if (t.micro_bytes < 0 || t.chunk_bytes < 0 || t.micro_bytes > limit || t.chunk_bytes > limit)
        return "an area has an impossible size";
    out->slot = l.make<NetSlot>(t.slot_count), out->op = l.make<NetOp>(t.op_count);
    out->stage = l.make<NetStage>(t.stage_count);
    l.shared = l.make<net::Loader::Shared>(t.constant_count);
    if (l.wrong) return l.wrong;
    for (isize i = 0; i < t.constant_count; ++i) l.shared[i] = {nullptr, 0, -1};
    for (isize i = 0; i < t.slot_count; ++i)
        if (const char* wrong = net::load_slot(t.slots[i], out->slot + i, t)) return wrong;
    out->slots = t.slot_count, out->stages = t.stage_count;
    for (isize i = 0; i < t.stage_count && !l.wrong; ++i) net::load_stage(&l, t.stages[i], out->stage + i);
    for (isize i = 0; i < t.op_count && !l.wrong; ++i) {
        net::load_op(&l, t.ops[i], out->op + i);
        if (!l.wrong) net::check_stages(&l, out->op + i);
        if (!l.wrong) net::check_phase(&l, out->op[i]);
        // a phase runs to its end before the next begins
        if (!l.wrong && i && out->op[i].phase < out->op[i - 1].phase) l.wrong = "the phases are out of order";
    }
    out->ops = t.op_count;
    return l.wrong;
}

}  // namespace bnn
