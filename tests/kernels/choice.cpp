// Choice (kernels/conv/choice.h) against times that a test makes up. For each case it prints: the share of calls that counted, and the
// time of all calls over that of always taking the faster way.
#include <cmath>
#include <cstdio>
#include <random>

#include "conv/choice.h"

static std::mt19937 generator(1);
static uint64_t now;
static uint64_t ticks() { return now; }

// What a call takes: by the time of day in calls, and the way.
template <class Times>
static void simulate(const char* name, bool estimate, int calls, const Times& times) {
    bnn::Choice choice = {};
    double spent = 0, least = 0;
    int counted = 0;
    for (int i = 0; i < calls; ++i) {
        const double both[2] = {times(i, 0), times(i, 1)};
        bnn::run_faster(choice, 7, ticks, [&](bnn::Way way) {
            if (way == bnn::Way::estimated) way = (bnn::Way)estimate;
            now += (uint64_t)both[(int)way];
            spent += both[(int)way], counted += way == bnn::Way::counting;
            return way;
        });
        least += std::fmin(both[0], both[1]);
    }
    std::printf("%s: %.4f %.4f\n", name, (double)counted / calls, spent / least);
}

int main() {
    const auto noisy = [](double time, double deviation) {
        return time * std::exp(std::normal_distribution<double>(0, deviation)(generator));
    };
    const int calls = 20000;
    for (const bool estimate : {false, true}) {
        simulate("images", estimate, calls, [&](int, int way) { return way ? 1e5 : 1.66e5; });
        simulate("counting", estimate, calls, [&](int, int way) { return way ? 4e5 : 1.66e5; });
        simulate("far apart", estimate, calls, [&](int, int way) { return way ? 1e7 : 1e4; });
        simulate("noise", estimate, calls, [&](int, int way) { return noisy(way ? 1e5 : 1.66e5, 0.2); });
        simulate("cold", estimate, calls, [&](int i, int way) { return (way ? 1e5 : 1.66e5) * (i < 3 ? 50 : 1); });
        simulate("interrupted", estimate, calls,
                 [&](int i, int way) { return (way ? 1e5 : 1.66e5) * (i % 37 == 20 ? 300 : 1); });
        // a neighbour comes and goes every 1000 calls
        simulate("neighbour", estimate, calls, [&](int i, int way) { return !way ? 1.66e5 : i / 1000 % 2 ? 4e5 : 1e5; });
    }
    bnn::Choice choice = {};
    bnn::note(choice, bnn::Way::images, 0);                              // a clock that did not move
    std::printf("zero: %d\n", (int)bnn::next_way(choice, choice.key));
    std::printf("another key: %d\n", (int)bnn::next_way(choice, 1));
    return 0;
}
