// Table-lookup kernel for instruction sets with a byte shuffle and no vector popcount. Two pixels share one byte.
//
// A weight row is cut into nibbles, one to a byte; a vector holds the same nibble of WIDTH output channels. The nibbles
// (a, b) of two pixels at that place select one of 256 tables, table[i] = popcount(a xor i) + 16 popcount(b xor i); a
// shuffle with the weights as indices then does 2 x 4 products a byte, and the xor has become part of the table. Three
// such bytes add up without overflow (3 x 4 <= 15). Their sum goes whole into x (modulo 256) and its upper half into h;
// at the end of at most 21 triples
//     second pixel = h,   first pixel = x - 16 h  (modulo 256; both at most 252)
// So nine instructions (3 shuffles, 4 additions, shift, and) do 24 products a byte lane, 85 products an instruction on
// AVX2; the usual shuffle popcount (xor, two ands, shift, two shuffles, two additions) does 32.
//
// Bytes 2i and 2i + 1 of a vector are channels i and i + WIDTH / 2, so that widening to 16 bits leaves channels in
// order.
//
// Included inside an instruction set's namespace and target attribute, which supply WIDTH, BLOCK (vectors a block), V
// and the functions v_*. BLOCK * WIDTH = LANES.

constexpr isize TRIPLES = 21, STEP = 3;         // STEP: bytes that are whole triples of nibbles

// Nibbles of a row, filled up to whole triples.
inline isize steps(isize row_bytes) { return round_up(2 * row_bytes, 3); }

inline isize weight_bytes(isize rows, isize row_bytes) { return round_up(rows, WIDTH) * steps(row_bytes); }

inline void interleave(const uint8_t* weights, isize stride, isize rows, isize row_bytes, uint8_t* to) {
    const isize n = steps(row_bytes);
    fill(to, 0, weight_bytes(rows, row_bytes));
    for (isize first = 0; first < rows; first += LANES) {
        const isize vectors = ceil_div(least(LANES, rows - first), WIDTH);
        uint8_t* block = to + first * n;
        for (isize o = first; o < least(rows, first + LANES); ++o) {
            const isize vector = (o - first) / WIDTH, i = (o - first) % WIDTH;
            const isize lane = i < WIDTH / 2 ? 2 * i : 2 * (i - WIDTH / 2) + 1;
            for (isize k = 0; k < 2 * row_bytes; ++k)
                block[(k * vectors + vector) * WIDTH + lane] =
                    (uint8_t)(weights[o * stride + k / 2] >> (4 * (k % 2)) & 15);
        }
    }
}

inline isize scratch_bytes(isize pixels, isize row_bytes) {
    return ceil_div(pixels, 2) * steps(least(row_bytes, KBLOCK)) + ROW_SLACK;
}

// Puts the nibbles of two rows side by side, one byte for each step; b may be null, for zeros. Works on whole words of
// eight bytes: rows are zero-filled to that, and the next stream overwrites what is written too far.
inline void pair(const uint8_t* a, const uint8_t* b, isize bytes, uint8_t* to) {
    const __m128i low = _mm_set1_epi8(0x0f), high = _mm_set1_epi8((char)0xf0);
    for (isize k = 0; k < bytes; k += 8) {
        const __m128i x = _mm_loadl_epi64((const __m128i*)(a + k));
        const __m128i y = b ? _mm_loadl_epi64((const __m128i*)(b + k)) : _mm_setzero_si128();
        const __m128i even = _mm_or_si128(_mm_and_si128(x, low), _mm_and_si128(_mm_slli_epi16(y, 4), high));
        const __m128i odd = _mm_or_si128(_mm_and_si128(_mm_srli_epi16(x, 4), low), _mm_and_si128(y, high));
        _mm_storeu_si128((__m128i*)(to + 2 * k), _mm_unpacklo_epi8(even, odd));
    }
}

inline void add_counts(uint16_t* to, V v, bool store) { v_store(to, store ? v : v_add16(v_load(to), v)); }

// Counts `pairs` pairs of pixels against one block of C vectors, over `triples` (at most TRIPLES) triples of nibbles.
// odd: the last pair is one pixel only.
template <int C>
void count_block(const uint8_t* stream, isize stream_stride, isize pairs, bool odd, const uint8_t* weights,
                 isize triples, uint16_t* counts, isize stride, bool store) {
    const V low = v_set8(0x0f), high = v_set8((char)0xf0), byte = v_set16(0x00ff);
    for (isize j = 0; j < pairs; ++j) {
        const uint8_t *a = stream + j * stream_stride, *w = weights;
        V x[C], h[C];
        BNN_UNROLL for (int c = 0; c < C; ++c) x[c] = h[c] = v_zero();
        for (isize t = 0; t < triples; ++t, a += 3, w += 3 * C * WIDTH) {
            const V t0 = v_table(pair_tables.entry[a[0]]), t1 = v_table(pair_tables.entry[a[1]]),
                    t2 = v_table(pair_tables.entry[a[2]]);
            BNN_UNROLL for (int c = 0; c < C; ++c) {
                V sum = v_lookup(t0, v_load(w + c * WIDTH));
                sum = v_add8(sum, v_lookup(t1, v_load(w + (C + c) * WIDTH)));
                sum = v_add8(sum, v_lookup(t2, v_load(w + (2 * C + c) * WIDTH)));
                x[c] = v_add8(x[c], sum);
                h[c] = v_add8(h[c], v_and(v_right4(sum), low));
                BNN_KEEP(x[c],
                         h[c]);    // else gcc interleaves the vectors, runs out of registers and spills: 10 % slower
            }
        }
        uint16_t *first = counts + 2 * j * stride, *second = first + stride;
        BNN_UNROLL for (int c = 0; c < C; ++c) {
            const V y = v_sub8(x[c], v_and(v_left4(h[c]), high));
            add_counts(first + c * WIDTH, v_and(y, byte), store);
            add_counts(first + c * WIDTH + WIDTH / 2, v_right8(y), store);
            if (odd && j == pairs - 1) continue;
            add_counts(second + c * WIDTH, v_and(h[c], byte), store);
            add_counts(second + c * WIDTH + WIDTH / 2, v_right8(h[c]), store);
        }
    }
}

inline void count(const uint8_t* rows, isize stride, isize pixels, const uint8_t* weights, isize row_bytes, isize from,
                  isize to, isize first, isize last, uint16_t* counts, isize counts_stride, uint8_t* scratch) {
    const isize n = steps(to - from), all = steps(row_bytes), pairs = ceil_div(pixels, 2);
    const bool odd = pixels % 2;
    for (isize j = 0; j < pairs; ++j) {
        const uint8_t* a = rows + 2 * j * stride + from;
        uint8_t* stream = scratch + j * n;
        pair(a, 2 * j + 1 < pixels ? a + stride : nullptr, to - from, stream);
        for (isize k = 2 * (to - from); k < n; ++k) stream[k] = 0;
    }
    // The triples are cut into equal shares, rather than into full ones and a short rest.
    const isize triples = n / 3, parts = ceil_div(triples, TRIPLES), share = ceil_div(triples, parts);
    for (isize o = first; o < last; o += LANES) {
        const isize vectors = ceil_div(least(LANES, last - o), WIDTH);
        const uint8_t* w = weights + o * all + 2 * from * vectors * WIDTH;
        for (isize t = 0; t < triples; t += share) {
            const isize some = least(share, triples - t);
            const uint8_t* part = w + 3 * t * vectors * WIDTH;
            uint16_t* c = counts + (o - first);
            switch (vectors) {
            case 1: count_block<1>(scratch + 3 * t, n, pairs, odd, part, some, c, counts_stride, t == 0); break;
            case 2: count_block<2>(scratch + 3 * t, n, pairs, odd, part, some, c, counts_stride, t == 0); break;
#if BNN_BLOCK > 2
            case 3: count_block<3>(scratch + 3 * t, n, pairs, odd, part, some, c, counts_stride, t == 0); break;
            default: count_block<4>(scratch + 3 * t, n, pairs, odd, part, some, c, counts_stride, t == 0); break;
#endif
            }
        }
    }
}
