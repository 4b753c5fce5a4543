// Int8Products::multiply by vector instructions. Included once for each instruction set, inside its namespace and
// target attribute, which supply
//   T               a value of the left factor: uint8_t, or int16_t less the zero point
//   i_weights       F int8 weights of as many channels, for each of the products that one instruction adds
//   i_add_products  a sum and its products
// and, of real.inl, F, PANEL, VECTORS, ROWS, VI, i_load, i_store, Ending.

constexpr isize TOGETHER = 4 / sizeof(T);

// R rows, for one panel.
template <int R>
void multiply_rows(const T* a, isize lda, const uint8_t* b, isize n, float* c, isize ldc, bool add,
                   const Int8Products::Last* last, isize first_row) {
    // With few rows, several steps of k have sums of their own: otherwise each addition would wait for the one before.
    constexpr int STEPS = R == 1 ? 4 : R == 2 ? 2 : 1;
    VI sum[STEPS][R][VECTORS];
    BNN_UNROLL for (int s = 0; s < STEPS; ++s)
        BNN_UNROLL for (int r = 0; r < R; ++r)
            BNN_UNROLL for (int v = 0; v < VECTORS; ++v)
                sum[s][r][v] = add && s == 0 ? i_load(c + r * ldc + v * F) : VI{};
    const auto step = [&](int s, isize k) __attribute__((always_inline)) {
        VI weight[VECTORS];
        BNN_UNROLL for (int v = 0; v < VECTORS; ++v) weight[v] = i_weights(b + k * PANEL + v * F * TOGETHER);
        BNN_UNROLL for (int r = 0; r < R; ++r) {
            int32_t values;                             // TOGETHER of them
            copy(&values, a + r * lda + k, 4);
            const VI x = values - VI{};
            BNN_UNROLL for (int v = 0; v < VECTORS; ++v) sum[s][r][v] = i_add_products(sum[s][r][v], x, weight[v]);
        }
    };
    isize k = 0;
    for (; k + TOGETHER * STEPS <= n; k += TOGETHER * STEPS)
        BNN_UNROLL for (int s = 0; s < STEPS; ++s) step(s, k + TOGETHER * s);
    for (; k < n; k += TOGETHER) step(0, k);
    Ending ending[VECTORS];
    BNN_UNROLL for (int r = 0; r < R; ++r)
        BNN_UNROLL for (int v = 0; v < VECTORS; ++v) {
            if (last && (r == 0 || !last->one_image)) ending[v].template take<T>(*last, first_row + r, v * F);
            VI total = sum[0][r][v];
            BNN_UNROLL for (int s = 1; s < STEPS; ++s) total += sum[s][r][v];
            float* const to = c + r * ldc + v * F;
            if (last) f_store(to, ending[v].of(total));
            else i_store(to, total);
        }
}

inline void multiply(const void* left, isize lda, isize rows, const uint8_t* b, isize n, float* c, isize ldc, bool add,
                     const Int8Products::Last* last) {
    const T* const a = (const T*)left;
    isize r = 0;
    for (; r + ROWS <= rows; r += ROWS) multiply_rows<ROWS>(a + r * lda, lda, b, n, c + r * ldc, ldc, add, last, r);
    for (; r + 4 <= rows; r += 4) multiply_rows<4>(a + r * lda, lda, b, n, c + r * ldc, ldc, add, last, r);
    for (; r + 2 <= rows; r += 2) multiply_rows<2>(a + r * lda, lda, b, n, c + r * ldc, ldc, add, last, r);
    if (r < rows) multiply_rows<1>(a + r * lda, lda, b, n, c + r * ldc, ldc, add, last, r);
}
