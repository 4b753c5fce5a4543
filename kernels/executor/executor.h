// Runs a network (net.h). One unit of a program includes it.
//
// Activations lie in two areas of one memory, at offsets chosen by the caller, in which slots that are not needed at
// the same time share memory. `micro` holds a few images, so that activations stay in the cache from one operation to
// the next. `chunk` holds many images: for what follows the last map (linear layers, whose weights are read once for
// all images), and for what passes between the two phases.
#pragma once
#include "executor/binary_convolutions.h"
#include "executor/pixels.h"
#include "executor/real_quantized.h"

namespace bnn {

namespace net {

// Whether an operation multiplies bytes; else 16 bits, or floats.
inline bool in_bytes(const Net& n, const NetOp& o) { return o.sums && n.r->int8->size == 1; }

inline void run_item(const Net& n, const NetOp& o, const Frame& f, const Cut& c, isize item, uint8_t* memory) {
    switch (o.source) {
    case Source::binary_conv: return run_binary(n, o, f, c, item, memory);
    case Source::real_conv:
        if (!o.sums) return run_real(n, o, f, c, item, memory);
        return (in_bytes(n, o) ? run_quantized<uint8_t> : run_quantized<int16_t>)(n, o, f, c, item, memory);
    case Source::bit_pool:
    case Source::bit_pad: return run_bits(n, o, f, item);
    default: return run_floats(n, o, f, c, item, memory);
    }
}

}  // namespace net

// Calls body(item, memory) for items [0, n). Others in its place may use several threads, each with memory of its own.
struct Serial {
    uint8_t* memory;
    template <class Body>
    void operator()(isize, isize items, isize, const Body& body) const {
        for (isize i = 0; i < items; ++i) body(i, memory);
    }
};

struct Unwatched { void operator()(isize) const {} };

namespace net {

// Runs an operation, and returns way_of its plan.
template <class Parallel>
Way run_way(const Net& n, const NetOp& o, const Frame& f, isize threads, uint8_t* work, const Parallel& parallel,
            Way way) {
    const Cut c = cut(n, o, f, threads, way);
    if (o.source == Source::real_conv && o.kind == Weights::int8) {
        const auto quantize = in_bytes(n, o) ? quantize_image<uint8_t> : quantize_image<int16_t>;
        if (threads == 1 || f.n == 1) for (isize i = 0; i < f.n; ++i) quantize(n, o, f, i);
        else parallel(threads, f.n, 0, [&](isize i, uint8_t*) { quantize(n, o, f, i); });
    }
    if (threads == 1 || c.items == 1) {
        for (isize i = 0; i < c.items; ++i) run_item(n, o, f, c, i, work);
    } else {
        parallel(threads, c.items, c.work, [&](isize i, uint8_t* mine) { run_item(n, o, f, c, i, mine); });
    }
    return way_of(c.plan, way);
}

template <class Parallel>
void run_op(const Net& n, const NetOp& o, const Frame& f, isize threads, uint8_t* work, const Parallel& parallel) {
    const auto run = [&](Way way) { return run_way(n, o, f, threads, work, parallel, way); };
    if (!o.choice) {
        run(Way::counting);
    } else if (f.n < (o.phase ? f.chunk_room : f.micro_room)) {
        run(next_way(*o.choice, get(o.choice->key)));       // the last images, too few to compare
    } else {
        run_faster(*o.choice, (uint64_t)f.n << 32 | (uint64_t)threads, n.v->images->ticks, run);
    }
}

// Each area ends with room for its images' activations in 8 bits.
inline isize quantization_bytes(isize images) { return round_up(images * (isize)sizeof(Quantization), 64); }
inline isize quantized_bytes(const Net& n, isize phase, isize images) {
    return n.quantized[phase] ? quantization_bytes(images) + round_up(images * n.quantized[phase] + ROW_SLACK, 64) : 0;
}
inline Frame::Quantized quantized(const Net& n, isize phase, isize images, uint8_t* area_end) {
    uint8_t* const at = area_end - quantized_bytes(n, phase, images);
    return {(Quantization*)at, at + quantization_bytes(images)};
}

inline isize work_of(const Net& n, const Outside* outside, isize images, isize threads, isize phase) {
    if (images == 0) return 64;
    isize work = 64;
    static const uint8_t nowhere[1] = {0};
    for (isize i = 0; i < n.ops; ++i) {
        if (n.op[i].phase != phase) continue;
        Frame f = {(uint8_t*)nowhere, (uint8_t*)nowhere, 0, 0, 0, 0, images, outside, {}};
        work = most(work, cut(n, n.op[i], f, threads, Way::counting).work);
        if (n.op[i].choice) work = most(work, cut(n, n.op[i], f, threads, Way::images).work);
    }
    return round_up(work, 64);
}

}  // namespace net

RunPlan plan_run(const Net& n, const Outside* outside, isize images, isize threads) {
    RunPlan p = {};
    p.threads = most(1, threads);
    p.chunk_images = least(most(1, images), CHUNK);
    p.images = most(1, least(MICRO, ceil_div(p.chunk_images, p.threads)));
    p.micro = round_up(n.micro_bytes * p.images + ROW_SLACK, 64) + net::quantized_bytes(n, 0, p.images);
    p.chunk = round_up(n.chunk_bytes * p.chunk_images + ROW_SLACK, 64) + net::quantized_bytes(n, 1, p.chunk_images);
    p.by_image = p.threads > 1 && ceil_div(p.chunk_images, p.images) >= p.threads;
    static_assert(MICRO == 2, "pieces of one image and of two");
    p.work = 64;
    // the last piece may be smaller, and cut otherwise
    const isize some[] = {p.images, 1, p.chunk_images, images % p.chunk_images};
    for (isize i = 0; i < 8; ++i)
        p.work = most(p.work, net::work_of(n, outside, some[i % 4], i < 4 ? 1 : p.threads, i % 4 / 2));
    p.bytes = p.chunk + p.micro + p.work;
    return p;
}

// Runs a network. memory: plan.bytes, aligned to 64. outside: the arrays that slots of Area::outside name, of `images`
// images each. watch(k) is called after operation k; it means something on one thread only.
template <class Parallel, class Watch>
void run(const Net& n, const RunPlan& p, const Outside* outside, isize images, uint8_t* memory,
         const Parallel& parallel, const Watch& watch) {
    uint8_t *chunk = memory, *micro = memory + p.chunk, *work = micro + p.micro;
    isize maps = 0;                     // operations of the first phase
    while (maps < n.ops && n.op[maps].phase == 0) ++maps;
    for (isize start = 0; start < images; start += p.chunk_images) {
        const isize many = least(p.chunk_images, images - start), micros = ceil_div(many, p.images);
        const auto images_at = [&](isize i, uint8_t* area, uint8_t* mine, isize threads) {
            const isize first = i * p.images;
            const net::Frame f = {area,
                                  chunk,
                                  p.images,
                                  p.chunk_images,
                                  first,
                                  start + first,
                                  least(p.images, many - first),
                                  outside,
                                  net::quantized(n, 0, p.images, area + p.micro)};
            for (isize k = 0; k < maps; ++k) net::run_op(n, n.op[k], f, threads, mine, parallel), watch(k);
        };
        if (maps && p.by_image && micros > 1) {
            parallel(p.threads, micros, p.micro + p.work,
                     [&](isize i, uint8_t* mine) { images_at(i, mine, mine + p.micro, 1); });
        } else if (maps) {
            for (isize i = 0; i < micros; ++i) images_at(i, micro, work, p.threads);
        }
        const net::Frame f = {micro, chunk, p.images, p.chunk_images, 0, start, many, outside,
                              net::quantized(n, 1, p.chunk_images, chunk + p.chunk)};
        for (isize k = maps; k < n.ops; ++k) net::run_op(n, n.op[k], f, p.threads, work, parallel), watch(k);
    }
}

}  // namespace bnn
