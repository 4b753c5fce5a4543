// Threads and per-thread memory for shells that have an operating system. The kernels themselves know neither.
//
// One OpenMP runtime in a process: compiled with plain -fopenmp this is the libgomp that PyTorch has already loaded, so
// both share one pool of threads. After fork() that pool is gone in the child and libgomp would wait for it: a child
// runs serially.
#pragma once
#include <stdlib.h>

#include <atomic>
#include <new>
#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "layout.h"

namespace bnn {

// Memory that grows, never shrinks, and is freed when its thread ends.
struct Memory {
    uint8_t* at = nullptr;
    isize size = 0;
    uint8_t* need(isize bytes) {
        if (bytes > size) {
            free(at);
            size = round_up(bytes, 4096);
            at = (uint8_t*)aligned_alloc(64, (size_t)size);
            if (!at) {
                size = 0;
                throw std::bad_alloc();
            }
        }
        return at;
    }
    void release() { free(at), at = nullptr, size = 0; }
    ~Memory() { free(at); }
};

inline std::atomic<bool> in_forked_child{false};

// Makes every forked child note that it is one, so that parallel_for runs serially there.
inline void watch_forks() {
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; });
#endif
}

// Calls body(item, memory) for each item, on at most `threads` threads, each with `bytes` bytes of its own memory. Each
// thread takes one stretch of the items, the same in every call of a layer. With items handed out one by one, half of
// the result's cache lines moved from core to core in every call, and 1 x 1 layers took a fifth longer.
template <class Body>
void parallel_for(isize threads, isize items, isize bytes, const Body& body) {
    static thread_local Memory memory;
    if (in_forked_child) threads = 1;
    threads = least(threads, items);
#if defined(_OPENMP)
    if (threads > 1 && !omp_in_parallel()) {
        std::atomic<bool> failed{false};
#pragma omp parallel num_threads((int)threads)
        {
            uint8_t* mine = nullptr;
            bool ready = true;
            try {
                mine = memory.need(bytes);
            } catch (const std::bad_alloc&) {
                ready = false, failed = true;
            }
#pragma omp for schedule(static) nowait
            for (isize i = 0; i < items; ++i)
                if (ready) body(i, mine);
        }
        if (failed) throw std::bad_alloc();
        return;
    }
#endif
    uint8_t* mine = memory.need(bytes);
    for (isize i = 0; i < items; ++i) body(i, mine);
}

}  // namespace bnn
