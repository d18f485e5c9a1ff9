// The few operations whose rounding the update rules rely on, the same on every target.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define FUSED_SCHED_HD __host__ __device__
#else
#define FUSED_SCHED_HD
#endif

// Sources compiled for one instruction set define this to a name of their own. Inline functions
// then have distinct symbols: the linker cannot replace portable code by a copy that uses AVX-512.
#ifndef FUSED_SCHED_ISA
#define FUSED_SCHED_ISA common
#endif

#if defined(__CUDACC__) || defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__aarch64__)
#define FUSED_SCHED_HARDWARE_FMA 1
#else
#define FUSED_SCHED_HARDWARE_FMA 0
#endif

namespace fused_sched {
namespace FUSED_SCHED_ISA {

// a * b + c with one rounding.
FUSED_SCHED_HD inline double multiply_add(double a, double b, double c) { return fma(a, b, c); }

#if FUSED_SCHED_HARDWARE_FMA
FUSED_SCHED_HD inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
#else
// In double the product is exact. Rounding the sum to double and then to float could round twice,
// so the double is rounded to odd, which makes the last rounding the only one. libm's fmaf has the
// same bits, but without the instruction it is many times slower.
inline float multiply_add(float a, float b, float c) {
  const double product = static_cast<double>(a) * b;
  const double sum = product + c;
  const double addend = sum - product;
  const double error = (product - (sum - addend)) + (c - addend);
  uint64_t bits;
  memcpy(&bits, &sum, sizeof(bits));
  const bool away_from_zero = (error > 0.0) == (sum > 0.0);
  const bool inexact = error > 0.0 || error < 0.0;  // false for NaN
  if (inexact && (bits & 1) == 0) bits += away_from_zero ? 1 : -1;
  double odd;
  memcpy(&odd, &bits, sizeof(odd));
  return static_cast<float>(odd);
}
#endif

FUSED_SCHED_HD inline float square_root(float x) { return sqrtf(x); }
FUSED_SCHED_HD inline double square_root(double x) { return sqrt(x); }

// One of two numbers, as something says that is the same for many of them.
template <typename T>
FUSED_SCHED_HD inline T selected(bool first, T a, T b) {
  return first ? a : b;
}

// The larger of two numbers; NaN if either is, as torch.maximum.
template <typename T>
FUSED_SCHED_HD inline T maximum(T a, T b) {
  return (a > b || a != a) ? a : b;
}

// `then` where x is a NaN.
template <typename T>
FUSED_SCHED_HD inline T where_nan(T x, T then, T other) {
  return x != x ? then : other;
}

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
