// Both gradients by look-up, for one instruction set. Included where its vectors, its tables and these are defined:
//
//   find<V>(tables, heads, index, stride, words, channels, to)
//       to[r][c] += what the words of the index, `stride` bytes apart, find in the tables of row r, for V * H channels
//       or `channels`
//   tabulate(values, stride, to)        a table from GROUP values in steps, `stride` apart
//   make_word(rows, vectors, to)        a word of the index, for `vectors` times H channels: rows[r] has the signs of
//   value r
//
// A table holds twice the sum of the values whose sign is +1; a sum starts from all signs being -1.

// The number of steps that make 1, for values whose sizes sum up to `total`: all of them, with half a step more for
// each, stay within LARGEST. NaN where a value is not finite; then every sum is NaN.
inline Floats steps_in_one(Floats total) {
    return nan_unless_finite(power_of_two(lower(divide(same(LARGEST - CHUNK * WORD / 2), total), same(0x1p126f))),
                             total);
}

template <int V>
struct Count { static constexpr int value = V; };

// Calls body(v, Count<V>()) for blocks of V vectors that begin at vector v. There are as few blocks as possible, and
// their sizes differ by one at most.
template <class Body>
void in_blocks(isize vectors, const Body& body) {
    for (isize v = 0; v < vectors;) {
        const isize left = vectors - v, some = ceil_div(left, ceil_div(left, VECTORS));
        switch (some) {
            case 1: body(v, Count<1>()); break;
            case 2: body(v, Count<2>()); break;
            case 3: body(v, Count<3>()); break;
            default: body(v, Count<VECTORS>());
        }
        v += some;
    }
}

// The gradient of the input. An item is some lines of dx of one image. A few lines are made at a time; a ring holds the
// tables of the lines of dy that they need.
struct Input {
    Conv g;                     // where no pixel has a neighbour: all pixels as one image, ROWS to a line
    const uint16_t* dy;
    const float* scale;
    uint16_t* dx;
    const uint8_t* index;                               // [tap][word][vector]
    isize words, chunks, vectors, head, pixel;          // pixel: bytes of a pixel's heads and tables
    isize padded;                                       // values of a pixel of dy, with those that tables need more
    isize lines, ring, part;    // lines: made at a time; ring: of dy, with tables; part: of an item
    isize oh, ow;               // of dy: Conv's would divide in every tap

    Input(const Conv& conv, const uint16_t* dy, const float* scale, uint16_t* dx, isize threads)
        : g(conv), dy(dy), scale(scale), dx(dx) {
        const bool alone = g.n && g.taps() * g.sh * g.sw == 1 && !g.ph && !g.pw;
        if (alone) {
            const isize pixels = g.n * g.h * g.w;
            g.n = 1, g.w = pixels % ROWS ? 1 : ROWS, g.h = pixels / g.w;
        }
        words = ceil_div(g.o, WORD), chunks = ceil_div(words, CHUNK), vectors = ceil_div(g.c, H);
        head = round_up(chunks * (isize)sizeof(Head), 64), pixel = head + words * GROUPS * TABLE;
        padded = round_up(words * WORD, F);
        oh = g.oh(), ow = g.ow();
        lines = least(g.h, most(1, ((alone ? NEAR : CACHED) / (ow * pixel) - 1) * g.sh - (g.kh - 2)));
        ring = (lines + g.kh - 2) / g.sh + 1;
        part = g.n < threads ? ceil_div(g.h, threads) : g.h;
    }
    isize items() const { return g.n * ceil_div(g.h, part); }
    isize bytes() const { return (ring * ow + 1) * pixel + PIXELS * padded * 6; }

    void item(isize k, uint8_t* mine) const {
        const isize parts = ceil_div(g.h, part), image = k / parts, begin = k % parts * part,
                    end = least(g.h, begin + part);
        uint8_t* const nothing = mine;
        uint8_t* const tables = mine + pixel;
        float* const values = (float*)(tables + ring * ow * pixel);
        fill(nothing, 0, pixel);
        fill(values, 0, PIXELS * padded * 6);
        isize line = ceil_div(most(0, begin + g.ph - (g.kh - 1)), g.sh);        // of dy, the next without tables
        for (isize top = begin; top < end; top += lines) {
            const isize bottom = least(end, top + lines);
            for (const isize last = least(oh, (bottom - 1 + g.ph) / g.sh + 1); line < last; ++line)
                for (isize x = 0; x < ow; x += PIXELS)
                    prepare(dy + ((image * oh + line) * ow + x) * g.o, least(PIXELS, ow - x), values,
                            tables + (line % ring * ow + x) * pixel);
            uint16_t* const to = dx + image * g.h * g.w * g.c;
            for (isize i = 0; i < g.sh; ++i)                            // of the taps that a pixel has, the first
                for (isize j = 0; j < g.sw; ++j) {
                    const Pixels some = {i, j, at_least(top, i - g.ph, g.sh), bottom, at_least(0, j - g.pw, g.sw)};
                    if (some.y < bottom && some.x < g.w)
                        in_blocks(vectors, [&](isize v, auto count) { sums<count.value>(v, some, tables, nothing, to); });
                }
        }
    }

    // Pixels of dx that have the same taps: the first tap, the first line and the end of the lines, the first column.
    struct Pixels {
        isize i, j, y, end, x;
    };
    // The least number from `low` on that is `remainder` more or less than a multiple of `step`.
    static isize at_least(isize low, isize remainder, isize step) {
        return low + ((remainder - low) % step + step) % step;
    }

    // Makes the heads and tables of some pixels, step by step for all, so that none waits for another.
    void prepare(const uint16_t* from, isize pixels, float* values, uint8_t* to) const {
        int16_t* const whole = (int16_t*)(values + PIXELS * padded);
        const isize channels = g.o, padded = this->padded, pixel = this->pixel, tables = words * GROUPS;
        for (isize k = 0; k < chunks; ++k) {
            const isize begin = k * CHUNK * WORD, end = least(channels, begin + CHUNK * WORD);
            Floats total[PIXELS], unit[PIXELS];
            for (isize p = 0; p < pixels; ++p) {
                const uint16_t* const row = from + p * channels;
                float* const to = values + p * padded;
                for (isize o = begin; o < end; o += LINE / 2) __builtin_prefetch(row + PIXELS * channels + o);
                Floats all = same(0);
                for (isize o = begin; o < end; o += F) {
                    const Floats value = multiply(load_bf16(row + o, end - o), load(scale + o, end - o));
                    all = add(all, size(value));
                    store(to + o, value);
                }
                total[p] = all;
            }
            for (isize p = 0; p < pixels; ++p) unit[p] = steps_in_one(same(sum(total[p])));
            for (isize p = 0; p < pixels; ++p) {
                Ints all = none();
                for (isize o = begin; o < end; o += F) {
                    const Ints value = nearest(multiply(load(values + p * padded + o, F), unit[p]));
                    all = add(all, value);
                    store16(whole + p * padded + o, value);
                }
                Head* const it = (Head*)(to + p * pixel) + k;
                it->step = 1 / first(unit[p]), it->start = -sum(all);
            }
        }
        for (isize p = 0; p < pixels; ++p)
            for (isize k = 0; k < tables; ++k)
                tabulate(whole + p * padded + k * GROUP, 1, to + p * pixel + head + k * TABLE);
    }

    template <int V>
    void sums(isize vector, const Pixels& some, const uint8_t* tables, const uint8_t* nothing, uint16_t* to) const {
        const isize pixels = ceil_div(some.end - some.y, g.sh) * ceil_div(g.w - some.x, g.sw), width = ow * pixel;
        isize down = some.y, across = some.x;                           // from the first pixel to the next
        for (isize p = 0; p < pixels; p += ROWS) {
            isize y[ROWS], slot[ROWS], x[ROWS], at_pixel[ROWS];         // of dy at the first tap, y also in the ring
            alignas(64) float sum[ROWS][V * H];
            float* const row[ROWS] = {sum[0], sum[1], sum[2], sum[3]};
            for (isize k = 0; k < ROWS * V * H; k += F) store(sum[0] + k, same(0));
            for (int r = 0; r < ROWS; ++r) {                            // the last once more, and not stored
                y[r] = (down + g.ph) / g.sh, x[r] = (across + g.pw) / g.sw;
                slot[r] = y[r] % ring, at_pixel[r] = down * g.w + across;
                if (p + r + 1 < pixels && (across += g.sw) >= g.w) across = some.x, down += g.sh;
            }
            for (isize k = 0; k < chunks; ++k)      // outside: the taps share most tables, which then are near
                for (isize i = some.i, back = 0; i < g.kh; i += g.sh, ++back) {
                    const uint8_t* line[ROWS];
                    bool any = false;
                    for (int r = 0; r < ROWS; ++r) {
                        const isize there = y[r] - back, at = slot[r] - back;
                        line[r] = there < 0 || there >= oh ? nullptr : tables + (at < 0 ? at + ring : at) * width;
                        any |= line[r] != nullptr;
                    }
                    if (!any) continue;                                 // lines that see nothing but padding
                    for (isize j = some.j, left = 0; j < g.kw; j += g.sw, ++left) {
                        const uint8_t* table[ROWS];
                        Head heads[ROWS];
                        for (int r = 0; r < ROWS; ++r) {
                            const isize there = x[r] - left;
                            const uint8_t* const it =
                                line[r] && there >= 0 && there < ow ? line[r] + there * pixel : nothing;
                            table[r] = it + head + k * CHUNK * GROUPS * TABLE, heads[r] = ((const Head*)it)[k];
                        }
                        const isize word = (i * g.kw + j) * words + k * CHUNK;
                        find<V>(table, heads, index + (word * vectors + vector) * INDEX, vectors * INDEX,
                                least(CHUNK, words - k * CHUNK), V * H, row);
                    }
                }
            for (int r = 0; r < least(ROWS, pixels - p); ++r)
                avx2::plain::to_bf16(sum[r], least(V * H, g.c - vector * H), to + at_pixel[r] * g.c + vector * H);
        }
    }
};

// The gradient of the weights. A team is a thread with its share of the rows of dw, H at a time, and of their taps. It
// works off some positions at a time: first the index of their signs, then tables and sums for its rows. Each makes the
// index that it needs: reading another core's takes longer.
struct Weight {
    const Conv g;
    const uint16_t* dy;
    const uint64_t* signs;
    float* dw;
    const uint64_t* zeros;                              // signs of what lies outside, not used
    isize vectors, units, teams, most_words;            // units: taps of H rows of dw
    isize oh, ow;                                       // of dy: Conv's would divide in every tap

    // Some positions: the first, words of them from there, the index [tap][word][vector], and of [tap][word] which
    // positions have no sign at this tap.
    struct Positions {
        isize begin, words;
        uint8_t* index;
        uint16_t* outside;
    };

    Weight(const Conv& g, const uint16_t* dy, const uint64_t* signs, float* dw, const uint64_t* zeros, isize threads)
        : g(g), dy(dy), signs(signs), dw(dw), zeros(zeros) {
        oh = g.oh(), ow = g.ow();
        vectors = ceil_div(g.c, H), units = ceil_div(g.o, H) * g.taps(), teams = least(threads, units);
        most_words = round_up(
            least(most(1, CACHED / (g.taps() * vectors * INDEX)), least(96, ceil_div(g.pixels(), WORD))), CHUNK);
    }
    isize index_bytes() const { return round_up(g.taps() * most_words * (vectors * INDEX + 2), 64); }
    isize bytes() const {
        return index_bytes() + CHUNK * WORD * H * 2 + ROWS * CHUNK * GROUPS * TABLE + H * 4 + g.taps() * H * 4 +
               round_up(g.c, H) * 4;
    }

    void item(isize team, uint8_t* mine) const {
        const isize begin = team * units / teams, last = (team + 1) * units / teams - 1;
        const isize first_block = begin / g.taps(), last_block = last / g.taps();
        const isize first_tap = begin % g.taps(), end_tap = last % g.taps() + 1;
        const bool one = first_block == last_block;
        Positions at = {0, 0, mine, (uint16_t*)(mine + g.taps() * most_words * vectors * INDEX)};
        for (; at.begin < g.pixels(); at.begin += most_words * WORD) {
            at.words = least(most_words, ceil_div(g.pixels() - at.begin, WORD));
            for (isize word = 0; word < at.words; ++word)
                make_index(at, word, one ? first_tap : 0, one ? end_tap : g.taps());
            for (isize block = first_block; block <= last_block; ++block)
                rows(at, block, block == first_block ? first_tap : 0, block == last_block ? end_tap : g.taps(),
                     mine + index_bytes());
        }
    }

    void make_index(const Positions& at, isize word, isize begin_tap, isize end_tap) const {
        const isize q = at.begin + word * WORD, row_words = bnn::words(g.c);
        const isize image = q / (oh * ow), line = q / ow % oh, column = q % ow;
        for (isize tap = begin_tap; tap < end_tap; ++tap) {
            const uint64_t* rows[WORD];
            uint16_t missing = 0;
            const isize i = tap / g.kw - g.ph, j = tap % g.kw - g.pw;
            isize n = image, y = line * g.sh + i, x = column * g.sw + j;
            if (n < g.n && y >= 0 && y < g.h && x >= 0 && x + (WORD - 1) * g.sw < g.w && column + WORD <= ow) {
                const uint64_t* const from = signs + ((n * g.h + y) * g.w + x) * row_words;
                for (isize r = 0; r < WORD; ++r) rows[r] = from + r * g.sw * row_words;
            } else {
                for (isize r = 0; r < WORD; ++r) {
                    const bool there = n < g.n && y >= 0 && y < g.h && x >= 0 && x < g.w;
                    rows[r] = there ? signs + ((n * g.h + y) * g.w + x) * row_words : zeros;
                    missing |= (uint16_t)(!there << r);
                    if ((x += g.sw) == ow * g.sw + j) {
                        x = j;
                        if ((y += g.sh) == oh * g.sh + i) y = i, ++n;
                    }
                }
            }
            make_word(rows, vectors, at.index + (tap * at.words + word) * vectors * INDEX);
            at.outside[tap * at.words + word] = missing;
        }
    }

    void rows(const Positions& at, isize block, isize begin_tap, isize end_tap, uint8_t* tables) const {
        constexpr isize each = CHUNK * GROUPS * TABLE;                          // of a row's tables: [ROWS][group]
        const isize channels = least(H, g.o - block * H);
        int16_t* const values = (int16_t*)(tables + ROWS * each);               // [position][H], in steps
        float* const steps = (float*)(values + CHUNK * WORD * H);               // [H]
        int32_t* const starts = (int32_t*)(steps + H);                          // [tap][H]
        float* const nowhere = (float*)(starts + g.taps() * H);
        for (isize from = 0; from < at.words; from += CHUNK) {
            const isize some = least(CHUNK, at.words - from);
            prepare(at, block, from, begin_tap, end_tap, values, steps, starts);
            for (isize o = 0; o < channels; o += ROWS) {
                for (isize r = 0; r < ROWS; ++r)
                    for (isize k = 0; k < some * GROUPS; ++k)
                        tabulate(values + k * GROUP * H + o + r, H, tables + r * each + k * TABLE);
                const uint8_t* const table[ROWS] = {tables, tables + each, tables + 2 * each, tables + 3 * each};
                for (isize tap = begin_tap; tap < end_tap; ++tap) {
                    float* rows[ROWS];
                    Head heads[ROWS];
                    for (isize r = 0; r < ROWS; ++r) {
                        rows[r] = o + r < channels ? dw + ((block * H + o + r) * g.taps() + tap) * g.c : nowhere;
                        heads[r] = {steps[o + r], starts[tap * H + o + r]};
                    }
                    in_blocks(vectors, [&](isize v, auto count) {
                        float* const to[ROWS] = {rows[0] + v * H, rows[1] + v * H, rows[2] + v * H, rows[3] + v * H};
                        const uint8_t* const words = at.index + ((tap * at.words + from) * vectors + v) * INDEX;
                        find<count.value>(table, heads, words, vectors * INDEX, some, g.c - v * H, to);
                    });
                }
            }
        }
    }

    // Writes a chunk's values in steps, for up to H channels, and where the sums start at each tap: the index says -1
    // where there is no sign.
    void prepare(const Positions& where, isize block, isize from, isize begin_tap, isize end_tap, int16_t* values,
                 float* steps, int32_t* starts) const {
        const isize first = where.begin + from * WORD, count = least(CHUNK * WORD, g.pixels() - first);
        const uint16_t* const at = dy + first * g.o + block * H;
        constexpr int some = H / F;
        const isize left = g.o - block * H;
        Floats total[some], unit[some];
        Ints all[some];
        BNN_UNROLL for (int v = 0; v < some; ++v) total[v] = same(0), all[v] = none();
        for (isize q = 0; q < count; ++q)
            BNN_UNROLL for (int v = 0; v < some; ++v) total[v] =
                add(total[v], size(load_bf16(at + q * g.o + v * F, left - v * F)));
        BNN_UNROLL for (int v = 0; v < some; ++v) unit[v] = steps_in_one(total[v]);
        for (isize q = 0; q < count; ++q)
            BNN_UNROLL for (int v = 0; v < some; ++v) {
                const Ints value = nearest(multiply(load_bf16(at + q * g.o + v * F, left - v * F), unit[v]));
                all[v] = subtract(all[v], value);
                store16(values + q * H + v * F, value);
            }
        fill(values + count * H, 0, (CHUNK * WORD - count) * H * 2);
        BNN_UNROLL for (int v = 0; v < some; ++v) {
            store(steps + v * F, divide(same(1), unit[v]));
            for (isize tap = begin_tap; tap < end_tap; ++tap) {
                Ints start = all[v];
                for (isize k = from; k < least(where.words, from + CHUNK); ++k)
                    for (unsigned left = where.outside[tap * where.words + k]; left; left &= left - 1) {
                        const int16_t* const value = values + ((k - from) * WORD + __builtin_ctz(left)) * H + v * F;
                        start = add(start, load16(value));
                    }
                store(starts + tap * H + v * F, start);
            }
        }
    }
};

// Memory that all threads read: an index, and behind it a row of zeros.
struct Shared {
    uint8_t* index;
    uint64_t* zeros;
    Shared(Memory& memory, isize bytes, isize channels) {
        index = memory.need(bytes + words(channels) * 8), zeros = (uint64_t*)(index + bytes);
        fill(zeros, 0, words(channels) * 8);
    }
};

inline void gradient_of_input(const Conv& g, const uint16_t* dy, const uint64_t* weights, const float* scale,
                              uint16_t* dx, isize threads) {
    static thread_local Memory memory;
    Input work(g, dy, scale, dx, threads);
    const Shared shared(memory, g.taps() * work.words * work.vectors * INDEX, g.c);
    work.index = shared.index;
    parallel_for(threads, g.taps() * work.words, 0, [&](isize item, uint8_t*) {
        const uint64_t* rows[WORD];
        for (isize r = 0; r < WORD; ++r) {
            const isize o = item % work.words * WORD + r;
            rows[r] = o < g.o ? weights + (o * g.taps() + item / work.words) * words(g.c) : shared.zeros;
        }
        make_word(rows, work.vectors, shared.index + item * work.vectors * INDEX);
    });
    parallel_for(threads, work.items(), work.bytes(), [&](isize item, uint8_t* mine) { work.item(item, mine); });
}

inline void gradient_of_weight(const Conv& g, const uint16_t* dy, const uint64_t* signs, float* dw, isize threads) {
    fill(dw, 0, g.o * g.k() * 4);
    static thread_local Memory memory;
    const Shared shared(memory, 0, g.c);
    const Weight work(g, dy, signs, dw, shared.zeros, threads);
    parallel_for(threads, work.teams, work.bytes(), [&](isize item, uint8_t* mine) { work.item(item, mine); });
}
