// Storage types and their conversion to and from the type that the update computes in.
//
// Conversions are integer arithmetic with selects only, so that compilers vectorise them on any
// target. They round to nearest even, keep NaN, and neither read nor make subnormal floats, which
// would be flushed under torch.set_flush_denormal.
#pragma once

#include "arithmetic.h"

namespace fused_sched {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

// The type in which an update of parameters stored as P is computed.
template <typename P>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};

namespace FUSED_SCHED_ISA {

FUSED_SCHED_HD inline uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}

FUSED_SCHED_HD inline float bits_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

FUSED_SCHED_HD inline float load(float x) { return x; }
FUSED_SCHED_HD inline double load(double x) { return x; }

FUSED_SCHED_HD inline float load(BFloat16 x) {
  return bits_float(static_cast<uint32_t>(x.bits) << 16);
}

FUSED_SCHED_HD inline float load(Float16 x) {
  constexpr uint32_t kExponent = 0x1fu << 23;  // the exponent bits, at a float's place
  constexpr uint32_t kRebias = (127u - 15u) << 23;
  const uint32_t half = x.bits;
  const uint32_t sign = (half & 0x8000u) << 16;
  const uint32_t magnitude = (half & 0x7fffu) << 13;
  const uint32_t exponent = magnitude & kExponent;
  const uint32_t normal = magnitude + kRebias;
  const uint32_t special = magnitude + 2 * kRebias;  // infinity and NaN: all exponent bits set
  // A subnormal's digits follow an implicit 0: put a 1 there and subtract it again.
  const float one_above = bits_float(magnitude + (113u << 23)) - bits_float(113u << 23);
  const uint32_t subnormal = float_bits(one_above);
  const uint32_t finite = exponent == 0 ? subnormal : normal;
  return bits_float((exponent == kExponent ? special : finite) | sign);
}

FUSED_SCHED_HD inline void store(float* out, float x) { *out = x; }
FUSED_SCHED_HD inline void store(double* out, double x) { *out = x; }

FUSED_SCHED_HD inline void store(BFloat16* out, float x) {
  const uint32_t bits = float_bits(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  out->bits = static_cast<uint16_t>(nan ? 0x7fc0u : rounded);
}

FUSED_SCHED_HD inline void store(Float16* out, float x) {
  constexpr uint32_t kSmallestNormal = 113u << 23;  // 2**-14
  constexpr uint32_t kOverflow = 143u << 23;        // 2**16
  constexpr uint32_t kHalf = 126u << 23;  // adding 0.5 leaves multiples of 2**-24 in the last bits
  const uint32_t sign = (float_bits(x) >> 16) & 0x8000u;
  const uint32_t magnitude = float_bits(x) & 0x7fffffffu;
  const uint32_t odd = (magnitude >> 13) & 1u;
  const uint32_t normal = (magnitude - ((127u - 15u) << 23) + 0xfffu + odd) >> 13;
  const uint32_t subnormal = float_bits(bits_float(magnitude) + bits_float(kHalf)) - kHalf;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < kSmallestNormal ? subnormal : normal;
  out->bits = static_cast<uint16_t>((magnitude >= kOverflow ? special : finite) | sign);
}

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
