// Operations of PTX on values that are not C++'s.
#pragma once
#include "thread.h"

// -- registers hold bits; these read them as numbers and back

template <typename To, typename From>
static inline To bits(From x) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To y;
  memcpy(&y, &x, sizeof y);
  return y;
}
static inline uint32_t of(float x) { return x != x ? 0x7fffffffu : bits<uint32_t>(x); }  // a GPU's NaN
static inline uint64_t of(double x) { return bits<uint64_t>(x); }
static inline float from_f32(uint32_t x) { return bits<float>(x); }
static inline double from_f64(uint64_t x) { return bits<double>(x); }
static inline float from_f16(uint16_t x) { return static_cast<float>(bits<_Float16>(x)); }
static inline float from_bf16(uint16_t x) { return bits<float>(static_cast<uint32_t>(x) << 16); }
static inline uint16_t to_f16(float x) { return x != x ? 0x7fff : bits<uint16_t>(static_cast<_Float16>(x)); }
static inline uint16_t to_bf16(float x) {
  if (x != x) return 0x7fff;
  const uint32_t u = bits<uint32_t>(x);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}
static inline float ftz(float x) { return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0.0f, x) : x; }

// Float to integer: saturates; NaN as the PTX manual says.
template <typename I, typename F>
static inline I to_int(F x) {
  constexpr int n = sizeof(I) * 8;
  constexpr bool is_signed = static_cast<I>(-1) < 0;
  constexpr uint64_t top_bit = static_cast<uint64_t>(1) << (n - 1);
  if (x != x) return sizeof(F) == 8 || n == 64 ? static_cast<I>(top_bit) : I(0);
  const F top = static_cast<F>(__builtin_ldexp(1.0, is_signed ? n - 1 : n));
  if (x >= top) return is_signed ? static_cast<I>(top_bit - 1) : static_cast<I>(-1);
  if (is_signed ? x < -top : x <= F(-1)) return is_signed ? static_cast<I>(top_bit) : I(0);
  return static_cast<I>(x);
}

template <typename F>
static inline F least(F a, F b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return __builtin_signbit(a) ? a : b;
  return a < b ? a : b;
}
template <typename F>
static inline F largest(F a, F b) {
  return -least(-a, -b);
}

// -- approximate instructions: within their documented error, moved by ptx_perturbation

// rcp and rsqrt of float64 read the upper half of the argument and give the upper half of the result.
static inline double upper_half(double x) {
  uint64_t u = bits<uint64_t>(x) & 0xffffffff00000000ull;
  if ((u & 0x7ff0000000000000ull) == 0) u &= 0x8000000000000000ull;
  return bits<double>(u);
}
static inline double rounded_upper_half(double r) {
  if (r != r || __builtin_isinf(r) || r == 0) return r;
  const double half = upper_half(bits<double>(bits<uint64_t>(r) + 0x80000000ull));
  if (half == 0) return half;
  return bits<double>(bits<uint64_t>(half) + (static_cast<int64_t>(ptx_perturbation) << 32));
}
static inline double rcp_approx(double x) { return rounded_upper_half(1.0 / upper_half(x)); }
static inline double rsqrt_approx(double x) { return rounded_upper_half(1.0 / __builtin_sqrt(upper_half(x))); }
static inline float perturbed(float x) {
  const bool exact = (bits<uint32_t>(x) & 0x7fffff) == 0;  // zero, infinity, a power of two
  return exact || x != x ? x : bits<float>(bits<uint32_t>(x) + ptx_perturbation);
}

// -- bits

template <typename U>
static inline U shl(U x, uint32_t n) {
  return n >= sizeof(U) * 8 ? U(0) : static_cast<U>(x << n);
}
template <typename I>
static inline I shr(I x, uint32_t n) {
  return n >= sizeof(I) * 8 ? (x < 0 ? I(-1) : I(0)) : static_cast<I>(x >> n);
}
static inline uint32_t shf_l(uint32_t a, uint32_t b, uint32_t n) {
  return ((static_cast<uint64_t>(b) << 32 | a) << n) >> 32;
}
static inline uint32_t shf_r(uint32_t a, uint32_t b, uint32_t n) { return (static_cast<uint64_t>(b) << 32 | a) >> n; }
static inline uint32_t bfe(uint32_t a, uint32_t position, uint32_t length) {
  position &= 255, length &= 255;
  if (length == 0 || position > 31) return 0;
  const uint32_t x = a >> position;
  return length >= 32 ? x : x & ((1u << length) - 1);
}
static inline int32_t bfe(int32_t a, uint32_t position, uint32_t length) {
  position &= 255, length &= 255;
  if (length == 0) return 0;
  const uint32_t last = position + length - 1 < 31 ? position + length - 1 : 31;
  const uint32_t sign = (static_cast<uint32_t>(a) >> last) & 1;
  uint32_t out = 0;
  for (uint32_t i = 0; i < 32; ++i) {
    const bool inside = i < length && position + i <= 31;
    out |= (inside ? (static_cast<uint32_t>(a) >> (position + i)) & 1 : sign) << i;
  }
  return static_cast<int32_t>(out);
}
static inline uint32_t bfi(uint32_t a, uint32_t b, uint32_t position, uint32_t length) {
  position &= 255, length &= 255;
  for (uint32_t i = 0; i < length && position + i < 32; ++i) {
    b = (b & ~(1u << (position + i))) | (((a >> i) & 1) << (position + i));
  }
  return b;
}
static inline uint32_t prmt(uint32_t a, uint32_t b, uint32_t selection) {
  const uint64_t both = (static_cast<uint64_t>(b) << 32) | a;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t chosen = (selection >> (4 * i)) & 15;
    uint32_t byte = (both >> (8 * (chosen & 7))) & 255;
    if (chosen & 8) byte = byte & 128 ? 255 : 0;
    out |= byte << (8 * i);
  }
  return out;
}
static inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t out = 0;
  for (int k = 0; k < 8; ++k) {
    if ((table >> k) & 1) out |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
  }
  return out;
}
static inline uint32_t clz(uint32_t x) { return x ? __builtin_clz(x) : 32; }
static inline uint32_t clz(uint64_t x) { return x ? __builtin_clzll(x) : 64; }
