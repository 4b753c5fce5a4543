// Which of two ways a convolution takes where its variant can multiply images of bytes and can also count bits. Both
// give the same result, so it is a matter of time alone.
//
// The first call follows the estimate of image_plan.h, which supposes a core that nobody shares. After it the times of
// the calls decide, since another program on the same core may use the unit that multiplies, and may come and go. The
// other way is tried soon, and then again whenever that takes at most a TRY_SHARE-th of the time since it was tried.
#pragma once
#include "layout.h"

namespace bnn {

enum class Way { estimated = -1, counting = 0, images = 1 };

// What is known of one convolution, by all threads that run it. Zeroed memory knows nothing. Threads read and write it
// at once: a lost update makes a time older, no more.
struct Choice {
    uint64_t key;                       // of what the times are
    uint64_t ticks[2];                  // of a call, lately, by way; 0: not known
    uint64_t since;                     // ticks of all calls since another way was taken
    uint64_t last;                      // the way taken last
};

constexpr uint64_t TRY_SHARE = 32;

inline uint64_t get(const uint64_t& from) { return __atomic_load_n(&from, __ATOMIC_RELAXED); }
inline void set(uint64_t& to, uint64_t value) { __atomic_store_n(&to, value, __ATOMIC_RELAXED); }

// The way for the next call. key: what makes times comparable; with another one than before, nothing is known.
inline Way next_way(Choice& c, uint64_t key) {
    if (get(c.key) != key) {
        set(c.ticks[0], 0), set(c.ticks[1], 0), set(c.since, 0);
        set(c.key, key);
    }
    const uint64_t counting = get(c.ticks[0]), images = get(c.ticks[1]), since = get(c.since);
    if (!counting && !images) return Way::estimated;
    if (!images) return since >= counting ? Way::images : Way::counting;
    if (!counting) return since >= images ? Way::counting : Way::images;
    const bool faster = images <= counting;
    return (Way)(since / TRY_SHARE >= (faster ? counting : images) ? !faster : faster);
}

// Notes the ticks of a call. A shorter time than the last counts at once. A longer one may be an interruption: the time
// rises by an eighth at most.
inline void note(Choice& c, Way way, uint64_t ticks) {
    uint64_t& mine = c.ticks[(int)way];
    const uint64_t before = get(mine);
    if (!before || ticks <= before) set(mine, ticks + !ticks);
    else set(mine, before + (ticks - before < before ? ticks - before : before) / 8 + 1);
    set(c.since, get(c.last) == (uint64_t)way ? get(c.since) + ticks : 0);
    set(c.last, (uint64_t)way);
}

// Calls run(way) with the way that seems faster or is to be tried. run returns the way that it took, or
// Way::estimated where there is no choice. ticks: Images::ticks.
template <class Run>
void run_faster(Choice& c, uint64_t key, uint64_t (*ticks)(), const Run& run) {
    const uint64_t before = ticks();
    const Way way = run(next_way(c, key));
    if (way != Way::estimated) note(c, way, ticks() - before);
}

}  // namespace bnn
