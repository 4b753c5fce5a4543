// Float work of the executor: matrix products on panels of weights, the stages of an epilogue, signs. Included once for
// each instruction set, inside its namespace and target attribute, which supply
//   VF, F           a vector of F floats (GNU vector extension)
//   ROWS, VECTORS   the register block: ROWS pixels x VECTORS vectors of sums
//   FUSED           1 where multiply-add rounds once
//   v_bfloat16, v_int8   F weights to floats
// Loops over channels are written so that the compiler vectorises them.

constexpr isize PANEL = F * VECTORS;

inline VF f_load(const float* p) { VF v; __builtin_memcpy(&v, p, sizeof v); return v; }
inline void f_store(float* p, VF v) { __builtin_memcpy(p, &v, sizeof v); }
inline VF f_set(float x) { return x - VF{}; }

typedef int32_t VI __attribute__((vector_size(4 * F)));
inline VI i_load(const void* p) { VI v; __builtin_memcpy(&v, p, sizeof v); return v; }
inline void i_store(void* p, VI v) { __builtin_memcpy(p, &v, sizeof v); }

template <Weights W>
inline VF f_weights(const uint8_t* p) {
    if constexpr (W == Weights::float32) return f_load((const float*)p);
    else if constexpr (W == Weights::bfloat16) return v_bfloat16(p);
    else return v_int8(p);
}

// c[R][ldc] (+)= a[R][n] b[n][PANEL]. With few rows, several steps of k have sums of their own: otherwise each addition
// would wait for the one before.
template <int R, Weights W>
void gemm_block(const float* a, isize lda, const uint8_t* b, isize n, float* c, isize ldc, bool add) {
    constexpr int STEPS = R == 1 ? 4 : R == 2 ? 2 : 1;
    constexpr isize SIZE = W == Weights::float32 ? 4 : W == Weights::bfloat16 ? 2 : 1;
    VF sum[STEPS][R][VECTORS];
    BNN_UNROLL for (int s = 0; s < STEPS; ++s)
        BNN_UNROLL for (int r = 0; r < R; ++r)
            BNN_UNROLL for (int v = 0; v < VECTORS; ++v) sum[s][r][v] = VF{};
    isize k = 0;
    for (; k + STEPS <= n; k += STEPS) {
        BNN_UNROLL for (int s = 0; s < STEPS; ++s) {
            VF weight[VECTORS];
            BNN_UNROLL for (int v = 0; v < VECTORS; ++v) weight[v] = f_weights<W>(b + ((k + s) * PANEL + v * F) * SIZE);
            BNN_UNROLL for (int r = 0; r < R; ++r) {
                const VF x = f_set(a[r * lda + k + s]);
                BNN_UNROLL for (int v = 0; v < VECTORS; ++v) sum[s][r][v] = f_fma(x, weight[v], sum[s][r][v]);
            }
        }
    }
    for (; k < n; ++k)
        BNN_UNROLL for (int r = 0; r < R; ++r)
            BNN_UNROLL for (int v = 0; v < VECTORS; ++v)
                sum[0][r][v] = f_fma(f_set(a[r * lda + k]), f_weights<W>(b + (k * PANEL + v * F) * SIZE), sum[0][r][v]);
    BNN_UNROLL for (int r = 0; r < R; ++r)
        BNN_UNROLL for (int v = 0; v < VECTORS; ++v) {
            VF total = sum[0][r][v];
            BNN_UNROLL for (int s = 1; s < STEPS; ++s) total += sum[s][r][v];
            float* to = c + r * ldc + v * F;
            f_store(to, add ? total + f_load(to) : total);
        }
}

template <Weights W>
void gemm_few(const float* a, isize lda, isize rows, const uint8_t* b, isize n, float* c, isize ldc, bool add) {
    isize r = 0;
    for (; r + 2 <= rows; r += 2) gemm_block<2, W>(a + r * lda, lda, b, n, c + r * ldc, ldc, add);
    if (r < rows) gemm_block<1, W>(a + r * lda, lda, b, n, c + r * ldc, ldc, add);
}

inline void gemm(const float* a, isize lda, isize rows, const uint8_t* b, Weights w, isize n, float* c, isize ldc,
                 bool add, float* scratch) {
    if (w != Weights::float32 && rows < 4)
        return w == Weights::int8 ? gemm_few<Weights::int8>(a, lda, rows, b, n, c, ldc, add)
                                  : gemm_few<Weights::bfloat16>(a, lda, rows, b, n, c, ldc, add);
    if (w == Weights::int8) {
        for (isize i = 0; i < n * PANEL; i += F) f_store(scratch + i, v_int8(b + i));
        b = (const uint8_t*)scratch;
    } else if (w == Weights::bfloat16) {
        for (isize i = 0; i < n * PANEL; i += F) f_store(scratch + i, v_bfloat16(b + 2 * i));
        b = (const uint8_t*)scratch;
    }
    isize r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        gemm_block<ROWS, Weights::float32>(a + r * lda, lda, b, n, c + r * ldc, ldc, add);
    for (; r + 4 <= rows; r += 4) gemm_block<4, Weights::float32>(a + r * lda, lda, b, n, c + r * ldc, ldc, add);
    gemm_few<Weights::float32>(a + r * lda, lda, rows - r, b, n, c + r * ldc, ldc, add);
}

inline float fused(float x, float a, float b) {
#if FUSED
    return __builtin_fmaf(x, a, b);
#else
    return (float)((double)x * a + b);      // the product is exact; in rare cases the sum is rounded twice
#endif
}

#include "executor/functions.inl"

inline VF f_fused(VF x, VF a, VF b) {
#if FUSED
    return f_fma(x, a, b);
#else
    VF y;
    for (int i = 0; i < F; ++i) y[i] = fused(x[i], a[i], b[i]);
    return y;
#endif
}

// How a vector is read and written: whole, or its first values alone.
struct Whole {
    VF load(const float* p) const { return f_load(p); }
    void store(float* p, VF v) const { f_store(p, v); }
};
struct First {
    isize n;
    VF load(const float* p) const { VF v = {}; copy(&v, p, n * 4); return v; }
    void store(float* p, VF v) const { copy(p, &v, n * 4); }
};

// Runs all steps on V vectors: channels from c on of row r.
template <int V, class Access>
inline void steps_block(const Access& at, const Step* steps, isize count, isize r, isize c, float* x) {
    VF v[V];
#define BNN_EACH(VALUE) \
    BNN_UNROLL for (int k = 0; k < V; ++k) v[k] = VALUE; \
    break
    BNN_UNROLL for (int k = 0; k < V; ++k) v[k] = at.load(x + k * F);
    for (const Step* s = steps; s < steps + count; ++s) {
        const auto a = [&](int k) { return at.load(s->a + c + k * F); };
        const auto b = [&](int k) { return at.load(s->b + c + k * F); };
        switch (s->what) {
        case Do::scale: BNN_EACH(v[k] * a(k));
        case Do::bias: BNN_EACH(v[k] + a(k));
        case Do::affine: BNN_EACH(v[k] * a(k) + b(k));
        case Do::affine_fused: BNN_EACH(f_fused(v[k], a(k), b(k)));
        case Do::relu: BNN_EACH(v[k] < VF{} ? VF{} : v[k]);
        case Do::prelu: BNN_EACH(v[k] > VF{} ? v[k] : v[k] * a(k));
        case Do::residual: BNN_EACH(v[k] + at.load(s->a + r * s->row + c + k * F));
        case Do::clamp: {
            const VF low = f_set(*s->a), high = f_set(*s->b);
            BNN_EACH(v[k] < low ? low : v[k] > high ? high : v[k]);
        }
        case Do::store: BNN_UNROLL for (int k = 0; k < V; ++k) at.store(s->to + r * s->row + c + k * F, v[k]); break;
        default: break;
        }
    }
#undef BNN_EACH
    BNN_UNROLL for (int k = 0; k < V; ++k) at.store(x + k * F, v[k]);
}

inline void steps(const Step* steps, isize count, float* x, isize rows, isize stride, isize n) {
    for (isize r = 0; r < rows; ++r, x += stride) {
        isize c = 0;
        for (; c + 4 * F <= n; c += 4 * F) steps_block<4>(Whole(), steps, count, r, c, x + c);
        for (; c + F <= n; c += F) steps_block<1>(Whole(), steps, count, r, c, x + c);
        if (c < n) steps_block<1>(First{n - c}, steps, count, r, c, x + c);
    }
}

// Runs one stage on the channels x[n] of a pixel. a, b: its parameters.
inline void stage(Do what, float* __restrict x, isize n, const float* __restrict a, const float* __restrict b) {
    switch (what) {
    case Do::step: for (isize i = 0; i < n; ++i) x[i] = ((x[i] >= a[i]) & (x[i] <= b[i])) ? 1.0f : -1.0f; break;
    case Do::divide: for (isize i = 0; i < n; ++i) x[i] /= a[i]; break;
    case Do::abs: return f_each<Do::abs>(x, n, 0);
    case Do::square: return f_each<Do::square>(x, n, 0);
    case Do::sqrt: return f_each<Do::sqrt>(x, n, 0);
    case Do::reciprocal: return f_each<Do::reciprocal>(x, n, 0);
    case Do::exp: return f_each<Do::exp>(x, n, 0);
    case Do::log: return f_each<Do::log>(x, n, 0);
    case Do::sigmoid: return f_each<Do::sigmoid>(x, n, 0);
    case Do::tanh: return f_each<Do::tanh>(x, n, 0);
    case Do::gelu: return f_each<Do::gelu>(x, n, 0);
    case Do::gelu_tanh: return f_each<Do::gelu_tanh>(x, n, 0);
    case Do::silu: return f_each<Do::silu>(x, n, 0);
    case Do::hard_sigmoid: return f_each<Do::hard_sigmoid>(x, n, 0);
    case Do::hard_swish: return f_each<Do::hard_swish>(x, n, 0);
    case Do::softplus: return f_each<Do::softplus>(x, n, 0);
    case Do::elu: return f_each<Do::elu>(x, n, a[0]);
    default: {
        const Step one = {what, a, b, nullptr, 0};
        steps(&one, 1, x, 1, 0, n);
    }
    }
}

inline void add(float* __restrict x, const float* __restrict y, isize n) { for (isize i = 0; i < n; ++i) x[i] += y[i]; }
inline void largest(float* to, const float* x, const float* rows, isize stride, isize count, isize n) {
    const auto some = [&](const auto& at, isize c) {
        VF most = at.load(x + c), none = {};        // none: the last NaN, which stays, as in PyTorch
        for (isize k = 0; k < count; ++k) {
            const VF y = at.load(rows + k * stride + c);
            most = y > most ? y : most, none = y == y ? none : y;
        }
        at.store(to + c, none == none ? most : none);
    };
    isize c = 0;
    for (; c + F <= n; c += F) some(Whole(), c);
    if (c < n && n >= F) some(Whole(), n - F);      // again for some, which changes nothing
    else if (c < n) some(First{n - c}, c);
}
inline void divide(float* x, float by, isize n) { for (isize i = 0; i < n; ++i) x[i] /= by; }
inline void rescale(float* __restrict x, float by, const float* __restrict scales, isize n) {
    for (isize i = 0; i < n; ++i) x[i] *= by * scales[i];
}

inline void range(const float* x, isize n, Range* r) {
    isize i = 0;
    if (n >= F) {
        VF low = f_set(r->low), high = f_set(r->high), finite = f_set(r->finite);
        for (; i + F <= n; i += F) {
            const VF v = f_load(x + i);
            low = v < low ? v : low, high = v > high ? v : high, finite += v * 0.0f;
        }
        for (int k = 0; k < F; ++k)
            r->low = low[k] < r->low ? low[k] : r->low, r->high = high[k] > r->high ? high[k] : r->high,
            r->finite += finite[k];
    }
    for (; i < n; ++i)
        r->low = x[i] < r->low ? x[i] : r->low, r->high = x[i] > r->high ? x[i] : r->high, r->finite += x[i] * 0.0f;
}

// Bytes, as floats. Adding 1.5 * 2^23 rounds to an integer, halves to even.
inline VF f_bytes(VF x, const Quantization& q) {
    const VF rounded = x * q.inverse + 12582912.0f - 12582912.0f + (float)q.zero_point, most = f_set(255.0f);
    return rounded < most ? rounded : most;
}
// T: uint8_t, or int16_t less the zero point
template <class T>
inline void quantize(const float* x, isize n, const Quantization& q, void* result) {
    typedef T VT __attribute__((vector_size(F * sizeof(T))));
    const float less = sizeof(T) == 1 ? 0 : (float)q.zero_point;
    const auto few_bits = [&](VF v) {
        return __builtin_convertvector(__builtin_convertvector(f_bytes(v, q) - less, VI), VT);
    };
    T* const to = (T*)result;
    if (n < F) {
        VF v = {};
        copy(&v, x, n * 4);
        const VT some = few_bits(v);
        return copy(to, &some, n * (isize)sizeof(T));
    }
    for (isize i = 0; i < n; i += F) {
        const isize at = least(i, n - F);                                       // the last vector may overlap
        const VT some = few_bits(f_load(x + at));
        copy(to + at, &some, sizeof some);
    }
}
// rows of x have room for whole vectors
inline void quantize_as_float(float* x, isize n, const Quantization& q) {
    for (isize i = 0; i < n; i += F) f_store(x + i, f_bytes(f_load(x + i), q) - (float)q.zero_point);
}

// x[n] = base - 2 counts + y; base - 2 counts is an exact integer.
inline void convert_add(const uint16_t* __restrict counts, const int32_t* __restrict base, isize n,
                        const float* __restrict y, float* __restrict x) {
    for (isize i = 0; i < n; ++i) x[i] = (float)(base[i] - 2 * (int32_t)counts[i]) + y[i];
}

// Turns sums of integers into floats as Int8Products::Last says, for F channels.
struct Ending {
    VI zero;
    VF factor;
    template <class T>
    void take(const Int8Products::Last& last, isize row, isize channel) {
        const Quantization q = last.rows[row];
        zero = sizeof(T) == 1 ? i_load(last.sums + channel) * q.zero_point : VI{};
        factor = f_load(last.scales + channel) * q.scale;
    }
    VF of(VI sum) const { return __builtin_convertvector(sum - zero, VF) * factor; }
};

constexpr Real real = {PANEL,    KBLOCK_REAL, gemm,        stage,     steps, add,      largest,           divide,
                       rescale,  combine,     convert_add, sign_bits, range, quantize_as_float, nullptr, nullptr};
constexpr Real with(const Int8Products& int8) {
    Real some = real;
    some.int8 = &int8;
    return some;
}
