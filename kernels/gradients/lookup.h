// gradient.h by look-ups: for one unit of a program.
//
// In both gradients a value of dy is added to many sums or taken from them, as their signs say. So the sums that a few
// values can give, a group of them, go into a table, and every place that needs one of them looks it up. How many
// values a table has, and what finds it, is the instruction set's: lookup_avx512.h, lookup_avx2.h. Which tables, and
// where, is the same for all: lookup.inl.
//
// Sums are integers. The values of a chunk (128 or 192 at most) are rounded to multiples of their step, a power of two
// such that even if all of them had one sign their sum would fit: nothing overflows. Chunks are added in float32. So a
// sum is off by half a step for each value at most, and by nothing where the values are multiples of it; on normally
// distributed values that is less than what rounding the result to bf16 takes away with AVX-512, whose sums have a bit
// more, and up to a third more than it with AVX2. A value that is not finite makes every sum it is in NaN.
#pragma once
#include "threads.h"

#if defined(__x86_64__)
#include "gradients/lookup_avx2.h"
#include "gradients/lookup_avx512.h"
#endif
