// Functions of one value, for the stages of the same name. Part of real.inl: written without branches and without a
// library, so that the compiler vectorises the loops around them, and every instruction set gives nearly the same.
// Errors: exp, log, sigmoid, silu and tanh are within 4 units in the last place, erf within 2e-7; results below 2^-126
// are 0. The polynomials of exp and log are those of the Cephes library (expf, logf).

inline float f_bits(int32_t i) { float x; __builtin_memcpy(&x, &i, 4); return x; }
inline int32_t f_pattern(float x) { int32_t i; __builtin_memcpy(&i, &x, 4); return i; }

inline float f_exp(float x) {
    const float inside = x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x;          // a NaN passes both
    const float shifted = inside * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    const float r = inside - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const float y = p * r * r + r + 1.0f;
    const int32_t e = f_pattern(shifted) - 0x4b400000, half = e >> 1;            // 2^e in two steps: 2^128 is none
    const float up = f_bits((half + 127) << 23), rest = f_bits((e - half + 127) << 23);
    return y * up * rest;
}

inline float f_log(float x) {
    const float tiny = x < 1.17549435e-38f ? x * 8388608.0f : x;
    const int32_t raw = f_pattern(tiny), i = raw - 0x3f3504f3;                   // mantissa into [sqrt(1/2), sqrt(2))
    const float e = (float)(i >> 23) - (x < 1.17549435e-38f ? 23.0f : 0.0f),
                m = f_bits((i & 0x007fffff) + 0x3f3504f3) - 1.0f;
    const float z = m * m;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    const float y = m * z * p - 2.12194440e-4f * e - 0.5f * z + m + 0.693359375f * e;
    const float inf = __builtin_inff();
    return x > 0 ? (x < inf ? y : x) : x == 0 ? -inf : __builtin_nanf("");
}

inline float f_sigmoid(float x) { return 1.0f / (1.0f + f_exp(-x)); }

inline float f_tanh(float x) {
    const float size = x < 0 ? -x : x, z = x * x;
    const float near =
        x +
        x * z * (-0.333333333f + z * (0.133333333f + z * (-0.0539682540f + z * (0.0218694885f - z * 0.00886323553f))));
    const float far = 1.0f - 2.0f / (f_exp(2.0f * size) + 1.0f);
    return size < 0.4f ? near : x < 0 ? -far : far;
}

inline float f_erf(float x) {                                                    // Abramowitz and Stegun 7.1.26
    const float size = x < 0 ? -x : x, t = 1.0f / (1.0f + 0.3275911f * size);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const float y = 1.0f - p * t * f_exp(-size * size);
    return x < 0 ? -y : y;
}

inline float f_function(Do what, float x, float a) {
    const auto relu6 = [](float v) { return v < 0 ? 0.0f : v > 6 ? 6.0f : v; };
    switch (what) {
    case Do::abs: return x < 0 ? -x : x + 0.0f;
    case Do::square: return x * x;
    case Do::sqrt: return __builtin_sqrtf(x);
    case Do::reciprocal: return 1.0f / x;
    case Do::exp: return f_exp(x);
    case Do::log: return f_log(x);
    case Do::sigmoid: return f_sigmoid(x);
    case Do::tanh: return f_tanh(x);
    case Do::gelu: return x * 0.5f * (1.0f + f_erf(x * 0.70710678f));
    case Do::gelu_tanh: return 0.5f * x * (1.0f + f_tanh(0.79788456f * (x + 0.044715f * x * x * x)));
    case Do::silu: return x * f_sigmoid(x);
    case Do::hard_sigmoid: return relu6(x + 3) / 6;
    case Do::hard_swish: return x * relu6(x + 3) / 6;
    case Do::softplus: return x > 20 ? x : f_log(1.0f + f_exp(x));
    case Do::elu: return x > 0 ? x : a * (f_exp(x) - 1.0f);
    default: return x;
    }
}

template <Do what>
inline void f_each(float* __restrict x, isize n, float a) {
    for (isize i = 0; i < n; ++i) x[i] = f_function(what, x[i], a);
}

template <class Function>
inline void f_pairs(float* __restrict x, const float* __restrict y, isize n, bool one, const Function& f) {
    if (one) for (isize i = 0; i < n; ++i) x[i] = f(x[i], *y);
    else for (isize i = 0; i < n; ++i) x[i] = f(x[i], y[i]);
}

// Combines x[n] with y[n], or with the one value y[0].
inline void combine(Do what, float* __restrict x, const float* __restrict y, isize n, bool one) {
    switch (what) {
    case Do::plus: return f_pairs(x, y, n, one, [](float p, float q) { return p + q; });
    case Do::minus: return f_pairs(x, y, n, one, [](float p, float q) { return p - q; });
    case Do::minus_from: return f_pairs(x, y, n, one, [](float p, float q) { return q - p; });
    case Do::times: return f_pairs(x, y, n, one, [](float p, float q) { return p * q; });
    case Do::over: return f_pairs(x, y, n, one, [](float p, float q) { return p / q; });
    case Do::over_from: return f_pairs(x, y, n, one, [](float p, float q) { return q / p; });
    case Do::larger: return f_pairs(x, y, n, one, [](float p, float q) { return q > p || q != q ? q : p; });
    case Do::smaller: return f_pairs(x, y, n, one, [](float p, float q) { return q < p || q != q ? q : p; });
    default: return;
    }
}
