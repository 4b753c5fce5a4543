// The WebAssembly shell of the executor: a packed network is loaded once, then run with one call. A host (a page,
// wasmtime) writes tables and constants into the memory of the module and reads results from it; an instance holds one
// network. Every slot has its place in this memory, so that a host can look at each activation.
//
// Linked without a library: the functions of one that the compiler calls stand at the end.
#include "executor/executor.h"
#include "executor/real_variants.h"
#include "isa/variants.h"

#define EXPORT(name) extern "C" __attribute__((export_name(#name)))

namespace {

using bnn::isize;

extern "C" uint8_t __heap_base;
constexpr isize PAGE = 65536, LIMIT = (isize)1 << 31;

uint8_t* top = &__heap_base;
bnn::Net net;
bnn::Outside* places = nullptr;
bnn::RunPlan plan;
uint8_t* memory = nullptr;
isize room = 0;                         // images that the slots hold; 0: nothing is loaded
const char* wrong = "nothing is loaded";

void* take(void*, isize bytes) {
    const isize start = bnn::round_up((isize)(uintptr_t)top, 64), end = start + bnn::round_up(bytes, 64);
    if (bytes < 0 || bytes > LIMIT || end > LIMIT) return nullptr;
    const isize have = (isize)__builtin_wasm_memory_size(0) * PAGE;
    if (end > have && __builtin_wasm_memory_grow(0, (size_t)bnn::ceil_div(end - have, PAGE)) == (size_t)-1)
        return nullptr;
    top = (uint8_t*)(uintptr_t)end;
    return (void*)(uintptr_t)start;
}

const char* place_slots(int32_t images) {
    places = (bnn::Outside*)take(nullptr, net.slots * (isize)sizeof(bnn::Outside));
    if (!places) return "there is not enough memory for the network";
    for (isize i = 0; i < net.slots; ++i) {
        const bnn::NetSlot& s = net.slot[i];
        if (s.area != bnn::Area::outside || s.offset != i) return "a slot has no place of its own";
        uint8_t* at = (uint8_t*)take(nullptr, s.bytes() * images + bnn::ROW_SLACK);
        if (!at) return "there is not enough memory for the activations";
        places[i] = {at, s.h * s.w * s.c, 1, s.w * s.c, s.c};
    }
    plan = bnn::plan_run(net, places, images, 1);
    memory = (uint8_t*)take(nullptr, plan.bytes);
    return memory ? nullptr : "there is not enough memory for a run";
}

}  // namespace

// Gives bytes that last as long as the instance, aligned to 64; 0 where there is no memory left.
EXPORT(allocate) void* allocate(int32_t bytes) { return take(nullptr, bytes); }

// The names of the records' fields and of enumerations, each with its names in order: "slot: kind, h, ...; op: ...".
EXPORT(names) const char* names() {
    return "slot: " BNN_TEXT_OF(BNN_SLOT_FIELDS)
           "; op: " BNN_TEXT_OF(BNN_OP_FIELDS)
           "; stage: " BNN_TEXT_OF(BNN_STAGE_FIELDS)
           "; slots: " BNN_TEXT_OF(BNN_SLOT_KINDS)
           "; areas: " BNN_TEXT_OF(BNN_AREAS)
           "; operations: " BNN_TEXT_OF(BNN_OPERATIONS)
           "; stages: " BNN_TEXT_OF(BNN_STAGES)
           "; stored: " BNN_TEXT_OF(BNN_STORED_WEIGHTS);
}

// Loads a network. Records are those of executor/records.h, slots of Area::outside with their own number as offset;
// constants: pairs of address and bytes, int32. Returns 1, or 0 and error() says why.
EXPORT(load)
int32_t load(const char* variant, const bnn::SlotRecord* slots, int32_t slot_count, const bnn::OpRecord* ops,
             int32_t op_count, const bnn::StageRecord* stages, int32_t stage_count, const int32_t* constants,
             int32_t constant_count, int32_t images) {
    room = 0;
    const bnn::Variant* v = bnn::find_variant(variant);
    if (!v) return wrong = "the kernel variant is unknown", 0;
    if (images < 1) return wrong = "the number of images is below 1", 0;
    bnn::Constant* list = (bnn::Constant*)take(nullptr, constant_count * (isize)sizeof(bnn::Constant));
    if (!list) return wrong = "there is not enough memory for the network", 0;
    for (int32_t i = 0; i < constant_count; ++i)
        list[i] = {(const void*)(uintptr_t)constants[2 * i], constants[2 * i + 1], false};
    const bnn::NetTables tables = {slots, ops, stages, slot_count, op_count, stage_count, 0, 0, list, constant_count};
    if ((wrong = bnn::load(*v, tables, take, nullptr, &net)) || (wrong = place_slots(images))) return 0;
    room = images;
    return 1;
}

// Where the values of a slot lie: float32 [images][H][W][C], or words of bits [images][H][W][ceil(C / 64)].
EXPORT(slot) uint8_t* slot(int32_t number) {
    return room && number >= 0 && number < net.slots ? places[number].at : nullptr;
}

// Runs the network on the images in its input slots. Returns 1, or 0 and error() says why.
EXPORT(run) int32_t run(int32_t images) {
    if (!room) return 0;
    if (images < 1 || images > room) return wrong = "there is no room for so many images", 0;
    bnn::run(net, plan, places, images, memory, bnn::Serial{memory + plan.chunk + plan.micro}, bnn::Unwatched{});
    return 1;
}

EXPORT(error) const char* error() { return wrong; }

extern "C" int strcmp(const char* a, const char* b) {
    while (*a && *a == *b) ++a, ++b;
    return (unsigned char)*a - (unsigned char)*b;
}

extern "C" int memcmp(const void* a, const void* b, size_t n) {
    const unsigned char *x = (const unsigned char*)a, *y = (const unsigned char*)b;
    for (size_t i = 0; i < n; ++i)
        if (x[i] != y[i]) return x[i] - y[i];
    return 0;
}
