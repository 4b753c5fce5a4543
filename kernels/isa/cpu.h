// What this CPU and this operating system offer, asked once; and the spelling of target attributes.
//
// An instruction set counts only if CPUID reports it *and* XCR0 says that the operating system saves its registers.
// Without the second test, AVX-512 would also run under an operating system that does not save zmm registers, and a
// task switch would destroy its results.
#pragma once
#include "layout.h"

#if defined(__x86_64__) && !defined(BNN_EMULATE)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#define BNN_PRAGMA(x) _Pragma(#x)
#if defined(BNN_EMULATE) || !defined(__x86_64__)
#define BNN_TARGET_BEGIN(features)          // emulation and other CPUs: plain functions
#define BNN_TARGET_END
#elif defined(__clang__)
#define BNN_TARGET_BEGIN(features) \
    BNN_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define BNN_TARGET_END BNN_PRAGMA(clang attribute pop)
#else
#define BNN_TARGET_BEGIN(features) BNN_PRAGMA(GCC push_options) BNN_PRAGMA(GCC target(features))
#define BNN_TARGET_END BNN_PRAGMA(GCC pop_options)
#endif

#if defined(__clang__)
#define BNN_UNROLL _Pragma("unroll")
#else
#define BNN_UNROLL _Pragma("GCC unroll 16")
#endif

// Forces two vectors into registers at this place, so that the compiler does not mix what is computed before it with
// what is computed after it.
#if defined(__x86_64__) && !defined(BNN_EMULATE)
#define BNN_KEEP(a, b) __asm__("" : "+v"(a), "+v"(b))
#else
#define BNN_KEEP(a, b)
#endif

// Defined where the compiler has the intrinsics of tiles.
#if defined(BNN_EMULATE) || \
    (defined(__x86_64__) && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11))
#define BNN_AMX
#endif

namespace bnn {

// What CPU and operating system offer together.
struct Cpu {
    bool popcnt = false, avx2 = false, avx512bw = false, avx512vpopcntdq = false;
    bool gfni = false;                                              // with AVX-512
    bool fma = false, avx512bf16 = false;                           // for float work
    bool avx512vnni = false, avxvnniint8 = false;                   // the second for peaks.h alone
    bool amx_int8 = false, amx_bf16 = false;    // tiles; a process needs amx_permitted() as well
};

// Asks CPUID and XCR0.
inline Cpu ask_cpu() {
    Cpu c;
#if defined(__x86_64__) && !defined(BNN_EMULATE)
    unsigned a, b, cx, d;
    if (!__get_cpuid(1, &a, &b, &cx, &d)) return c;
    c.popcnt = cx >> 23 & 1;
    if (!(cx >> 27 & 1)) return c;                                  // OSXSAVE: XCR0 can be read
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    const bool ymm = (low & 0x06) == 0x06, zmm = (low & 0xe6) == 0xe6;
    const bool avx = cx >> 28 & 1;
    c.fma = avx && ymm && (cx >> 12 & 1);
    if (!__get_cpuid_count(7, 0, &a, &b, &cx, &d)) return c;
    c.avx2 = c.popcnt && avx && ymm && (b >> 5 & 1);
    c.avx512bw = c.avx2 && zmm && (b >> 16 & 1) && (b >> 30 & 1);   // F and BW
    c.avx512vpopcntdq = c.avx512bw && (cx >> 14 & 1);
    c.avx512vnni = c.avx512bw && (cx >> 11 & 1);
    c.gfni = c.avx512bw && (cx >> 8 & 1);
    const bool tiles = c.avx512bw && (low & 0x60000) == 0x60000 && (d >> 24 & 1);
    c.amx_int8 = tiles && (d >> 25 & 1), c.amx_bf16 = tiles && (d >> 22 & 1);
    if (__get_cpuid_count(7, 1, &a, &b, &cx, &d)) {
        c.avx512bf16 = c.avx512bw && (a >> 5 & 1);
        c.avxvnniint8 = c.avx2 && (d >> 4 & 1);
    }
#elif defined(BNN_EMULATE)
    c.popcnt = c.avx2 = c.avx512bw = c.avx512vpopcntdq = c.gfni = c.fma = true;
    c.avx512bf16 = c.amx_int8 = c.amx_bf16 = true;
#endif
    return c;
}

// The answer of ask_cpu(), asked once.
inline const Cpu& cpu() {
    static const Cpu c = ask_cpu();
    return c;
}

// Whether this process may use tiles. Linux saves their 8 KiB of registers only for a process that has asked for it.
// Asked once; the permission holds for all threads.
inline bool amx_permitted() {
#if defined(BNN_EMULATE)
    return true;
#elif defined(__x86_64__) && defined(__linux__)
    constexpr long request = 0x1023, tile_data = 18;                // ARCH_REQ_XCOMP_PERM, a component of XCR0
    static const bool permitted = syscall(SYS_arch_prctl, request, tile_data) == 0;
    return permitted;
#else
    return false;
#endif
}

}  // namespace bnn
