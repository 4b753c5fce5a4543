// Table-lookup kernel for instruction sets with a byte shuffle and no vector popcount. Two pixels share one byte.
//
// A weight row is cut into nibbles, one to a byte; a vector holds the same nibble of WIDTH output channels. The nibbles (a, b) of
// two pixels at that place select one of 256 tables, table[i] = popcount(a xor i) + 16 popcount(b xor i); a shuffle with the
// weights as indices then does 2 x 4 products a byte, and the xor has become part of the table. Three such bytes add up without
// overflow (3 x 4 <= 15). Their sum goes whole into x (modulo 256) and its upper half into h; at the end of at most 21 triples
//     second pixel = h,   first pixel = x - 16 h  (modulo 256; both at most 252)
// So nine instructions (3 shuffles, 4 additions, shift, and) do 24 products a byte lane, 85 products an instruction on AVX2; the
// usual shuffle popcount (xor, two ands, shift, two shuffles, two additions) does 32.
//
// Bytes 2i and 2i + 1 of a vector are channels i and i + WIDTH / 2, so that widening to 16 bits leaves channels in order.
//
// Included inside an instruction set's namespace and target attribute, which supply WIDTH, BLOCK (vectors a block), V and the
// functions v_*. BLOCK * WIDTH = LANES.

constexpr index TRIPLES = 21;

inline index steps(index row_bytes) { return round_up(2 * row_bytes, 3); }

inline index weight_bytes(index rows, index row_bytes) { return round_up(rows, WIDTH) * steps(row_bytes); }

inline void interleave(const uint8_t* weights, index stride, index rows, index row_bytes, uint8_t* to) {
    const index n = steps(row_bytes);
    fill(to, 0, weight_bytes(rows, row_bytes));
    for (index first = 0; first < rows; first += LANES) {
        const index vectors = ceil_div(least(LANES, rows - first), WIDTH);
        uint8_t* block = to + first * n;
        for (index o = first; o < least(rows, first + LANES); ++o) {
            const index vector = (o - first) / WIDTH, i = (o - first) % WIDTH;
            const index lane = i < WIDTH / 2 ? 2 * i : 2 * (i - WIDTH / 2) + 1;
            for (index k = 0; k < 2 * row_bytes; ++k)
                block[(k * vectors + vector) * WIDTH + lane] = (uint8_t)(weights[o * stride + k / 2] >> (4 * (k % 2)) & 15);
        }
    }
}

inline index scratch_bytes(index pixels, index row_bytes) {
    return ceil_div(pixels, 2) * steps(least(row_bytes, KBLOCK)) + ROW_SLACK;
}

// Nibbles of two rows side by side: one byte for each step.
inline void pair(const uint8_t* __restrict a, const uint8_t* __restrict b, index bytes, uint8_t* __restrict to) {
    for (index k = 0; k < bytes; ++k) {
        to[2 * k] = (uint8_t)((a[k] & 15) | b[k] << 4);
        to[2 * k + 1] = (uint8_t)(a[k] >> 4 | (b[k] & 0xf0));
    }
}
inline void pair_with_zero(const uint8_t* __restrict a, index bytes, uint8_t* __restrict to) {
    for (index k = 0; k < bytes; ++k) to[2 * k] = a[k] & 15, to[2 * k + 1] = a[k] >> 4;
}

inline void add_counts(uint16_t* to, V v, bool store) { v_store(to, store ? v : v_add16(v_load(to), v)); }

// `triples` (at most TRIPLES) triples of one block of C vectors against `pairs` pairs of pixels.
template <int C>
void count_block(const uint8_t* stream, index stream_stride, index pairs, bool odd, const uint8_t* weights, index triples,
                        uint16_t* counts, index stride, bool store) {
    const V low = v_set8(0x0f), high = v_set8((char)0xf0), byte = v_set16(0x00ff);
    for (index j = 0; j < pairs; ++j) {
        const uint8_t *a = stream + j * stream_stride, *w = weights;
        V x[C], h[C];
        BNN_UNROLL for (int c = 0; c < C; ++c) x[c] = h[c] = v_zero();
        for (index t = 0; t < triples; ++t, a += 3, w += 3 * C * WIDTH) {
            V sum[C];
            const V t0 = v_table(pair_tables.entry[a[0]]);
            BNN_UNROLL for (int c = 0; c < C; ++c) sum[c] = v_lookup(t0, v_load(w + c * WIDTH));
            const V t1 = v_table(pair_tables.entry[a[1]]);
            BNN_UNROLL for (int c = 0; c < C; ++c) sum[c] = v_add8(sum[c], v_lookup(t1, v_load(w + (C + c) * WIDTH)));
            const V t2 = v_table(pair_tables.entry[a[2]]);
            BNN_UNROLL for (int c = 0; c < C; ++c) sum[c] = v_add8(sum[c], v_lookup(t2, v_load(w + (2 * C + c) * WIDTH)));
            BNN_UNROLL for (int c = 0; c < C; ++c) {
                x[c] = v_add8(x[c], sum[c]);
                h[c] = v_add8(h[c], v_and(v_right4(sum[c]), low));
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

inline void count(const uint8_t* rows, index stride, index pixels, const uint8_t* weights, index row_bytes, index from, index to,
                  index first, index last, uint16_t* counts, index counts_stride, uint8_t* scratch) {
    const index n = steps(to - from), all = steps(row_bytes), pairs = ceil_div(pixels, 2);
    const bool odd = pixels % 2;
    for (index j = 0; j < pairs; ++j) {
        const uint8_t* a = rows + 2 * j * stride + from;
        uint8_t* stream = scratch + j * n;
        if (2 * j + 1 < pixels) pair(a, a + stride, to - from, stream);
        else pair_with_zero(a, to - from, stream);
        for (index k = 2 * (to - from); k < n; ++k) stream[k] = 0;
    }
    // Equal shares rather than full ones and a short rest.
    const index triples = n / 3, parts = ceil_div(triples, TRIPLES), share = ceil_div(triples, parts);
    for (index o = first; o < last; o += LANES) {
        const index vectors = ceil_div(least(LANES, last - o), WIDTH);
        const uint8_t* w = weights + o * all + 2 * from * vectors * WIDTH;
        for (index t = 0; t < triples; t += share) {
            const index some = least(share, triples - t);
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
