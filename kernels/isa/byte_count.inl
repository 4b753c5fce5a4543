// Counting for instruction sets whose vectors have a popcount of bytes. A byte of the row is broadcast against the same
// byte of 16 output channels a vector: xor, count, add do 128 products. PIXELS x BLOCK vectors of 8-bit sums stay in
// registers for at most 31 bytes (31 x 8 = 248), then widen.
//
// Included inside an instruction set's namespace, which supplies the vector V of 16 bytes and
//   v_zero, v_load, v_broadcast     zeros; 16 bytes; one byte, 16 times
//   v_count(sum, a, b)              sum + popcount(a xor b), byte by byte
//   v_widen(sum, to, store)         16 bytes to to[16], stored or added

constexpr isize WIDTH = 16, BLOCK = 4, STRETCH = 31;
constexpr int PIXELS = 4;

inline isize weight_bytes(isize rows, isize row_bytes) { return round_up(rows, WIDTH) * row_bytes; }

inline void interleave(const uint8_t* weights, isize stride, isize rows, isize row_bytes, uint8_t* to) {
    fill(to, 0, weight_bytes(rows, row_bytes));
    for (isize first = 0; first < rows; first += BLOCK * WIDTH) {
        const isize lanes = round_up(least(BLOCK * WIDTH, rows - first), WIDTH);
        for (isize o = first; o < least(rows, first + lanes); ++o)
            for (isize k = 0; k < row_bytes; ++k)
                to[first * row_bytes + k * lanes + o - first] = weights[o * stride + k];
    }
}

// Counts P pixels against C vectors of channels over n bytes, at most STRETCH.
template <int P, int C>
void count_block(const uint8_t* rows, isize stride, const uint8_t* w, isize n, uint16_t* counts, isize counts_stride,
                 bool store) {
    V sum[P][C];
    BNN_UNROLL for (int p = 0; p < P; ++p)
        BNN_UNROLL for (int c = 0; c < C; ++c) sum[p][c] = v_zero();
    for (isize k = 0; k < n; ++k, w += WIDTH * C) {
        V weight[C];
        BNN_UNROLL for (int c = 0; c < C; ++c) weight[c] = v_load(w + WIDTH * c);
        BNN_UNROLL for (int p = 0; p < P; ++p) {
            const V a = v_broadcast(rows + p * stride + k);
            BNN_UNROLL for (int c = 0; c < C; ++c) sum[p][c] = v_count(sum[p][c], a, weight[c]);
        }
    }
    BNN_UNROLL for (int p = 0; p < P; ++p)
        BNN_UNROLL for (int c = 0; c < C; ++c) v_widen(sum[p][c], counts + p * counts_stride + WIDTH * c, store);
}

// The same for any number of pixels.
template <int C>
void count_pixels(const uint8_t* rows, isize stride, isize pixels, const uint8_t* w, isize n, uint16_t* counts,
                  isize counts_stride, bool store) {
    isize p = 0;
    for (; p + PIXELS <= pixels; p += PIXELS)
        count_block<PIXELS, C>(rows + p * stride, stride, w, n, counts + p * counts_stride, counts_stride, store);
    for (; p < pixels; ++p)
        count_block<1, C>(rows + p * stride, stride, w, n, counts + p * counts_stride, counts_stride, store);
}

inline void count(const uint8_t* rows, isize stride, isize pixels, const uint8_t* weights, isize row_bytes, isize from,
                  isize to, isize first, isize last, uint16_t* counts, isize counts_stride, uint8_t*) {
    for (isize o = first; o < last; o += BLOCK * WIDTH) {
        const isize vectors = ceil_div(least(BLOCK * WIDTH, last - o), WIDTH);
        const auto pixel_loop = vectors == 1   ? count_pixels<1>
                                : vectors == 2 ? count_pixels<2>
                                : vectors == 3 ? count_pixels<3>
                                               : count_pixels<4>;
        for (isize k = from; k < to; k += STRETCH)
            pixel_loop(rows + k, stride, pixels, weights + o * row_bytes + k * vectors * WIDTH, least(STRETCH, to - k),
                       counts + o - first, counts_stride, k == from);
    }
}

inline isize scratch_bytes(isize, isize) { return 0; }
inline bool supported() { return true; }
