// The CUDA kernels on a CPU: what kernels/cuda/*.cu use of CUDA C++, as plain C++ on one thread.
//
// The threads of a block are coroutines, resumed in turn; each runs until it waits: at __syncthreads() for its block, in a warp's
// function for its warp. So a block's threads pass a barrier together, in any of several orders (`order`), and a result that
// depends on the order shows a missing barrier. Shared memory holds garbage when a block begins, with gaps between arrays that
// AddressSanitizer watches. A block in which some threads wait for others that never come is an error, as is a launch that no GPU
// takes.
#pragma once
#define BNN_EMULATED 1

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

namespace emulated {

struct Three { int x, y, z; };

// Switching from one stack to another. The C library's swapcontext() does, but asks the kernel for the signal mask each time.
#if defined(__x86_64__)
struct Context { void* stack_pointer; };
asm(".text\n"
    ".type bnn_switch_stack, @function\n"
    "bnn_switch_stack:\n"
    "pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
    "movq %rsp, (%rdi)\n"
    "movq %rsi, %rsp\n"
    "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp\n"
    "ret\n");
extern "C" void bnn_switch_stack(void** from, void* to);
inline void switch_to(Context* from, Context* to) { bnn_switch_stack(&from->stack_pointer, to->stack_pointer); }
inline void prepare(Context* c, char* stack, size_t size, void (*enter)()) {
    void** top = (void**)((uintptr_t)(stack + size) / 16 * 16);
    *--top = nullptr, *--top = (void*)enter;
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    c->stack_pointer = top;
}
#else
using Context = ucontext_t;
inline void switch_to(Context* from, Context* to) { swapcontext(from, to); }
inline __attribute__((noinline)) void prepare(Context* c, char* stack, size_t size, void (*enter)()) {
    getcontext(c);
    c->uc_stack.ss_sp = stack, c->uc_stack.ss_size = size, c->uc_link = nullptr;
    makecontext(c, enter, 0);
}
#endif

constexpr size_t SHARED = 48 << 10, STACK = 96 << 10, GAP = 64;

struct Warp { int size = 0, arrived = 0; unsigned generation = 0; uint64_t in[32][8], out[32][8]; };

struct Thread {
    Context context;
    std::unique_ptr<char[]> stack;
    Three at;
    Warp* warp;
    int lane;
    size_t shared;
    bool done;
    const unsigned* waits_on;       // null: may run; else until that counter differs from `since`
    unsigned since;
    void* fake_stack;
};

struct Block {
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    int size = 0, arrived = 0, alive = 0;
    unsigned generation = 0;
    Three grid, dimensions, at;
    std::vector<char> memory = std::vector<char>(SHARED + 16 * GAP);
    Context scheduler;
    void* scheduler_fake = nullptr;
    const void* scheduler_stack = nullptr;
    size_t scheduler_size = 0;
    Thread* current = nullptr;
    std::function<void()> body;
    std::string wrong;
};

inline Block block;
inline int order = 0;

inline void to_scheduler(bool last = false) {
    Thread* me = block.current;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &me->fake_stack, block.scheduler_stack, block.scheduler_size);
#endif
    (void)last;
    switch_to(&me->context, &block.scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(me->fake_stack, &block.scheduler_stack, &block.scheduler_size);
#endif
}

inline void wait_for(const unsigned* counter) {
    block.current->waits_on = counter, block.current->since = *counter;
    to_scheduler();
}

inline void barrier() {
    if (++block.arrived == block.size) block.arrived = 0, ++block.generation;
    else wait_for(&block.generation);
}

// Every lane of the warp gives values, the last of them computes, all take results.
template <class Give, class Combine>
void together(const Give& give, const Combine& combine) {
    Warp& w = *block.current->warp;
    give(w.in[block.current->lane]);
    if (++w.arrived == w.size) {
        w.arrived = 0;
        combine(w);
        ++w.generation;
    } else {
        wait_for(&w.generation);
    }
}
inline const uint64_t* mine() { return block.current->warp->out[block.current->lane]; }

inline void enter() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_stack, &block.scheduler_size);
#endif
    block.body();
    block.current->done = true, --block.alive;
    to_scheduler(true);
}

inline void resume(Thread& t) {
    block.current = &t;
    t.waits_on = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&block.scheduler_fake, t.stack.get(), STACK);
#endif
    switch_to(&block.scheduler, &t.context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(block.scheduler_fake, nullptr, nullptr);
#endif
}

inline void run_block() {
    const int n = block.size;
    block.arrived = 0, block.alive = n;
    ASAN_UNPOISON_MEMORY_REGION(block.memory.data(), block.memory.size());
    std::memset(block.memory.data(), 0xa5, block.memory.size());
    ASAN_POISON_MEMORY_REGION(block.memory.data(), block.memory.size());
    for (Warp& w : block.warps) w.arrived = 0;
    for (int i = 0; i < n; ++i) {
        Thread& t = block.threads[(size_t)i];
        if (!t.stack) t.stack.reset(new char[STACK]);
        t.at = {i % block.dimensions.x, i / block.dimensions.x % block.dimensions.y, i / block.dimensions.x / block.dimensions.y};
        t.warp = &block.warps[(size_t)i / 32], t.lane = i % 32, t.shared = 0, t.done = false, t.waits_on = nullptr, t.fake_stack = nullptr;
        prepare(&t.context, t.stack.get(), STACK, enter);
    }
    while (block.alive) {
        bool moved = false;
        for (int k = 0; k < n; ++k) {
            const int i = order == 0 ? k : order == 1 ? n - 1 - k : (k * 37 + order) % n;      // 37 and n, a power of two, share no factor
            Thread& t = block.threads[(size_t)i];
            if (t.done || (t.waits_on && *t.waits_on == t.since)) continue;
            resume(t);
            moved = true;
        }
        if (!moved) {
            block.wrong = std::to_string(block.alive) + " threads of a block wait for others that never come";
            return;
        }
    }
    if (block.arrived) block.wrong = "a block ended inside a barrier";
}

template <class Args>
void launch(void (*kernel)(const Args), Three grid, Three dimensions, const void* args) {
    block.wrong.clear();
    const long long size = (long long)dimensions.x * dimensions.y * dimensions.z;
    if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535 || size < 1 || size > 1024 || size % 32) {
        block.wrong = "no GPU takes such a grid";
        return;
    }
    Args given;
    std::memcpy((void*)&given, args, sizeof given);
    block.grid = grid, block.dimensions = dimensions, block.size = (int)size;
    block.threads.resize((size_t)size), block.warps.resize((size_t)size / 32);
    for (Warp& w : block.warps) w.size = 32;
    block.body = [&] { kernel(given); };
    for (int z = 0; z < grid.z; ++z)
        for (int y = 0; y < grid.y; ++y)
            for (int x = 0; x < grid.x && block.wrong.empty(); ++x) {
                block.at = {x, y, z};
                run_block();
            }
}

template <class T>
T* shared(size_t count) {
    size_t& at = block.current->shared;
    char* start = (char*)(((uintptr_t)block.memory.data() + 15) / 16 * 16) + at;
    const size_t bytes = (count * sizeof(T) + 15) / 16 * 16;
    at += bytes + GAP;
    if (at > block.memory.size()) std::fprintf(stderr, "more shared memory than a block has\n"), std::abort();
    ASAN_UNPOISON_MEMORY_REGION(start, count * sizeof(T));
    return (T*)start;
}

}  // namespace emulated

#define __global__
#define __device__
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define BNN_SHARED(type, name, count) type* const name = emulated::shared<type>(count)
#define threadIdx emulated::block.current->at
#define blockIdx emulated::block.at
#define gridDim emulated::block.grid
#define blockDim emulated::block.dimensions

inline void __syncthreads() { emulated::barrier(); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline float __fmul_rn(float a, float b) { return a * b; }      // compiled without contraction
inline float __fadd_rn(float a, float b) { return a + b; }
inline unsigned __float_as_uint(float v) { unsigned u; return std::memcpy(&u, &v, 4), u; }
template <class T>
T atomicAdd(T* at, T v) { const T before = *at; return *at += v, before; }
inline unsigned atomicOr(unsigned* at, unsigned v) { const unsigned before = *at; return *at |= v, before; }

inline unsigned __ballot_sync(unsigned, bool v) {
    emulated::together([&](uint64_t* in) { in[0] = v; }, [](emulated::Warp& w) {
        uint64_t bits = 0;
        for (int l = 0; l < 32; ++l) bits |= w.in[l][0] << l;
        for (int l = 0; l < 32; ++l) w.out[l][0] = bits;
    });
    return (unsigned)emulated::mine()[0];
}

inline int __shfl_xor_sync(unsigned, int v, int by) {
    emulated::together([&](uint64_t* in) { in[0] = (uint32_t)v, in[1] = (uint64_t)by; }, [](emulated::Warp& w) {
        for (int l = 0; l < 32; ++l) w.out[l][0] = w.in[l ^ (int)w.in[l][1]][0];
    });
    return (int)(uint32_t)emulated::mine()[0];
}

// kernels/cuda/warp.cuh has these as PTX; the layouts are those of the PTX ISA, "Matrix Fragments for mma.m16n8k256" and "ldmatrix".
#define BNN_TENSOR_CORES 1

inline void multiply_and(int (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    const auto give = [&](uint64_t* in) { for (int i = 0; i < 4; ++i) in[i] = a[i]; in[4] = b0, in[5] = b1; };
    emulated::together(give, [](emulated::Warp& w) {
        uint32_t rows[16][8], columns[8][8];                // by PTX: element i of a lane's 128 bits of A, 64 bits of B
        for (int l = 0; l < 32; ++l)
            for (int i = 0; i < 4; ++i) {
                const int group = l >> 2, in_group = l % 4, row = i == 0 || i == 2 ? group : group + 8, word = in_group + (i < 2 ? 0 : 4);
                rows[row][word] = (uint32_t)w.in[l][i];
                if (i < 2) columns[group][in_group + 4 * i] = (uint32_t)w.in[l][4 + i];
            }
        for (int l = 0; l < 32; ++l)
            for (int i = 0; i < 4; ++i) {
                const int row = (l >> 2) + (i < 2 ? 0 : 8), column = l % 4 * 2 + (i & 1);
                int sum = 0;
                for (int k = 0; k < 8; ++k) sum += __builtin_popcount(rows[row][k] & columns[column][k]);
                w.out[l][i] = (uint64_t)sum;
            }
    });
    for (int i = 0; i < 4; ++i) c[i] += (int)emulated::mine()[i];
}

inline void load_matrices(unsigned (&r)[4], const unsigned* row) {
    if ((uintptr_t)row % 16) std::fprintf(stderr, "a row of a matrix is not aligned to 16 bytes\n"), std::abort();
    const auto give = [&](uint64_t* in) {
        for (int i = 0; i < 4; ++i) in[i] = row[i];
    };
    emulated::together(give, [](emulated::Warp& w) {
        for (int l = 0; l < 32; ++l)
            for (int i = 0; i < 4; ++i) w.out[l][i] = w.in[8 * i + l / 4][l % 4];
    });
    for (int i = 0; i < 4; ++i) r[i] = (unsigned)emulated::mine()[i];
}

#include "cuda/all.cu"

// Null, or what went wrong. Called by name, as a GPU's driver does.
extern "C" inline const char* bnn_emulated_launch(const char* name, const int* grid, const int* dimensions, const void* args, int order) {
    using namespace emulated;
    emulated::order = order;
    const Three g = {grid[0], grid[1], grid[2]}, d = {dimensions[0], dimensions[1], dimensions[2]};
#define BNN_KERNEL(kernel) if (!std::strcmp(name, #kernel)) return launch(kernel, g, d, args), block.wrong.empty() ? nullptr : block.wrong.c_str();
    BNN_KERNEL(bnn_pack) BNN_KERNEL(bnn_prepack) BNN_KERNEL(bnn_tap_counts) BNN_KERNEL(bnn_or_pool) BNN_KERNEL(bnn_product_tiles)
    BNN_KERNEL(bnn_product_registers_128) BNN_KERNEL(bnn_product_registers_64) BNN_KERNEL(bnn_product_registers_32)
    BNN_KERNEL(bnn_product_carry_save_128) BNN_KERNEL(bnn_product_carry_save_64) BNN_KERNEL(bnn_product_carry_save_32)
    BNN_KERNEL(bnn_product_tensor_128) BNN_KERNEL(bnn_product_tensor_64) BNN_KERNEL(bnn_product_tensor_32)
    BNN_KERNEL(bnn_peak_popcount) BNN_KERNEL(bnn_peak_carry_save) BNN_KERNEL(bnn_peak_tensor)
    return "no such kernel";
}
