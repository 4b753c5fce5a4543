// The gradients of gradient.h by look-up. One unit of a program includes it.
//
// In both gradients a value of dy is added to many sums or subtracted from them, as their signs say. So a table holds
// all sums that a few values (a group) can give, and every place that needs one of these sums looks it up. The
// instruction set decides how many values a group has and how a sum is found: lookup_avx512.h, lookup_avx2.h.
// lookup.inl says which tables are made and where they are used, the same for all.
//
// Sums are integers. The values of a chunk (128 or 192 at most) are rounded to multiples of a step. The step is a power
// of two with which the sum would fit even if all values had one sign, so nothing overflows. Chunks are added in
// float32. So a sum is off by at most half a step for each value, and exact where the values are multiples of the step.
// On normally distributed values this error is smaller than that of rounding the result to bf16 with AVX-512, whose
// sums have one bit more, and up to a third larger with AVX2. A value that is not finite makes every sum that it is
// part of NaN.
#pragma once
#include "threads.h"

#if defined(__x86_64__)
#include "gradients/lookup_avx2.h"
#include "gradients/lookup_avx512.h"
#endif
