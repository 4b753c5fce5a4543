// Runs a network that tests/test_executor.py wrote to a file, without Python: the shell of the sanitizer build of the executor. Every
// constant lies in a buffer of exactly its size and is the net's own. Usage: run_net FILE VARIANT OUT, prints nothing, exits with 1 and a message if it cannot.
#if defined(BNN_EMULATE)
#include "emulate.h"
#include <simde/x86/fma.h>
BNN_EMULATED(__m512i, cvtepi8_epi32, (__m128i a), int32_t, 16, BNN_LANE(int8_t, 16, a))
#define _mm512_cvtepi8_epi32 emulated_cvtepi8_epi32
#define _mm512_mask_cmp_ps_mask(m, a, b, how) ((__mmask16)((m) & _mm512_cmp_ps_mask(a, b, how)))
#include "amx_emulate.h"
#endif
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "executor/executor.h"
#include "executor/real_variants.h"
#include "isa/variants.h"

using bnn::isize;

static FILE* file;
static int64_t number() {
    int64_t v = 0;
    if (fread(&v, 8, 1, file) != 1) exit(2);
    return v;
}
template <class T>
static std::vector<T> records(int64_t n) {
    std::vector<T> v((size_t)n);
    if (n && fread(v.data(), sizeof(T), (size_t)n, file) != (size_t)n) exit(2);
    return v;
}
struct Free {
    void operator()(void* p) const { free(p); }
};
static std::vector<std::unique_ptr<void, Free>> blocks;
static void* allocate(void*, isize bytes) {
    blocks.emplace_back(aligned_alloc(64, (size_t)bnn::round_up(bytes, 64)));
    return blocks.back().get();
}

int main(int, char** argv) {
    file = fopen(argv[1], "rb");
    const bnn::Variant* v = bnn::find_variant(argv[2]);
    if (!file || !v) return 2;
    if (!v->supported()) return puts("not on this CPU"), 0;
    const int64_t slots = number(), ops = number(), stages = number(), count = number(), micro = number(), chunk = number(), outside = number(),
                  images = number();
    const auto slot = records<bnn::SlotRecord>(slots);
    const auto op = records<bnn::OpRecord>(ops);
    const auto stage = records<bnn::StageRecord>(stages);
    std::vector<bnn::Constant> constants;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t bytes = number();
        void* p = nullptr;
        if (posix_memalign(&p, 64, (size_t)bnn::most(1, bytes))) return 2;
        blocks.emplace_back(p);
        if (bytes && fread(p, (size_t)bytes, 1, file) != 1) return 2;
        constants.push_back({p, bytes, true});
    }
    const bnn::NetTables tables = {slot.data(), op.data(), stage.data(), slots, ops, stages, micro, chunk, constants.data(), count};
    bnn::Net net;
    if (const char* wrong = bnn::load(*v, tables, allocate, nullptr, &net)) return puts(wrong), 1;
    std::vector<bnn::Outside> arrays;
    std::vector<isize> bytes;
    for (int64_t i = 0; i < outside; ++i) {
        const bnn::NetSlot& s = net.slot[number()];
        bytes.push_back(s.bytes() * images);
        uint8_t* p = (uint8_t*)malloc((size_t)bytes.back());
        blocks.emplace_back(p);
        const bool input = number();
        if (input && fread(p, (size_t)bytes.back(), 1, file) != 1) return 2;        // float32 [N, C, H, W]
        if (input) arrays.push_back({p, s.h * s.w * s.c, s.h * s.w, s.w, 1});
        else arrays.push_back({p, s.h * s.w * s.c, 1, s.w * s.c, s.c});
    }
    const bnn::RunPlan plan = bnn::plan_run(net, arrays.data(), images, 1);
    uint8_t* memory = (uint8_t*)allocate(nullptr, plan.bytes);
    bnn::run(net, plan, arrays.data(), images, memory, bnn::Serial{memory}, bnn::Unwatched());
    FILE* out = fopen(argv[3], "wb");
    if (!out || fwrite(arrays.back().at, (size_t)bytes.back(), 1, out) != 1) return 2;
    return fclose(out);
}
