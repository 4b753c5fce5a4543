// Runs networks that tests/test_executor.py wrote to files, without Python: the shell of the sanitizer build of the executor. Every
// constant and every array lies in a buffer of exactly its size, and constants are the net's own. Usage: run_net VARIANT OUT FILE...
// Writes the last output of the last network to OUT. Of a network that is refused it prints why.
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
#include <cstring>
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

static int refused(const char* why) { return printf("refused: %s\n", why), 0; }

static int run(const char* path, const bnn::Variant* v, const char* result) {
    blocks.clear();
    file = fopen(path, "rb");
    if (!file) return 2;
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
    if (const char* wrong = bnn::load(*v, tables, allocate, nullptr, &net)) return fclose(file), refused(wrong);
    std::vector<bnn::Outside> arrays;
    std::vector<isize> bytes, named;
    for (int64_t i = 0; i < outside; ++i) {
        named.push_back(number());
        const bool planes = number();                                              // an input: float32 [N, C, H, W]
        const bnn::NetSlot& s = net.slot[named.back()];
        bytes.push_back(s.bytes() * images);
        uint8_t* p = (uint8_t*)malloc((size_t)bytes.back());
        if (!p) return fclose(file), refused("there is not enough memory");
        blocks.emplace_back(p);
        memset(p, 0, (size_t)bytes.back());
        const int64_t given = number();
        const auto values = records<uint8_t>(given);
        if (given) memcpy(p, values.data(), (size_t)bnn::least(given, bytes.back()));
        if (planes) arrays.push_back({p, s.h * s.w * s.c, s.h * s.w, s.w, 1});
        else arrays.push_back({p, s.h * s.w * s.c, 1, s.w * s.c, s.c});
    }
    fclose(file);
    for (isize i = 0; i < net.slots; ++i) {
        const bnn::NetSlot& s = net.slot[i];
        if (s.area == bnn::Area::outside && (s.offset >= (isize)named.size() || named[(size_t)s.offset] != i))
            return refused("a slot from outside has no array");
    }
    const bnn::RunPlan plan = bnn::plan_run(net, arrays.data(), images, 1);
    uint8_t* memory = (uint8_t*)allocate(nullptr, plan.bytes);
    if (!memory) return refused("there is not enough memory");
    // Where convolutions choose between two ways by their times, every choice gives the same.
    std::vector<uint8_t> first;
    for (int repeat = 0; repeat < (v->images ? 8 : 1); ++repeat) {
        bnn::run(net, plan, arrays.data(), images, memory, bnn::Serial{memory + plan.chunk + plan.micro}, bnn::Unwatched());
        const std::vector<uint8_t> got(arrays.back().at, arrays.back().at + bytes.back());
        if (repeat && got != first) return printf("run %d gives another result\n", repeat), 1;
        first = got;
        memset(arrays.back().at, 0, (size_t)bytes.back());
    }
    memcpy(arrays.back().at, first.data(), first.size());
    FILE* out = fopen(result, "wb");
    if (!out || fwrite(arrays.back().at, (size_t)bytes.back(), 1, out) != 1) return 2;
    return fclose(out);
}

int main(int count, char** arguments) {
    const bnn::Variant* v = count > 3 ? bnn::find_variant(arguments[1]) : nullptr;
    if (!v) return 2;
    if (!v->supported()) return puts("not on this CPU"), 0;
    for (int i = 3; i < count; ++i)
        if (const int wrong = run(arguments[i], v, arguments[2])) return wrong;
    return 0;
}
