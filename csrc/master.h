// A master: what is kept beside a parameter of 16 bits, so that the two have all digits of a float32.
#pragma once

#include "dtypes.h"

namespace fused_sched {

// Codes of Record::kind.
enum Master : int {
  kNoMaster = 0,
  kSingleMaster = 1,  // the float32, whose rounding the parameter is
  kRemainder = 2,     // what its bits are more or less than those of a bfloat16 that it is rounded to
  kByChance = 15,     // there is none, and the parameter is rounded by chance: see stochastic.h
};

namespace FUSED_SCHED_ISA {

// A number as P stores it.
template <typename P>
FUSED_SCHED_HD inline float rounded(float x) {
  P stored;
  store(&stored, x);
  return load(stored);
}

// The value of a parameter that has a master: the parameter itself where it is no rounding of that, since
// somebody else wrote to it.
FUSED_SCHED_HD inline float current_value(float param, float master, float rounded_master) {
  return float_bits(rounded_master) == float_bits(param) ? master : param;
}

// The float32 that a bfloat16, as one, and its remainder stand for. Halves were rounded away from zero, so
// 16 bits have all that rounds to it. What is none of these holds the remainder of another parameter, and comes out
// as NaN: it is beside 0, where that was written, or beyond infinity.
FUSED_SCHED_HD inline float joined(float param, int16_t remainder) {
  const float x = bits_float(float_bits(param) + static_cast<uint32_t>(static_cast<int32_t>(remainder)));
  return where_nan(x, param, x);
}

FUSED_SCHED_HD inline void split(float x, BFloat16* param, int16_t* remainder) {
  const uint32_t bits = float_bits(x);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  param->bits = static_cast<uint16_t>(nan ? 0x7fc0u : (bits + 0x8000u) >> 16);
  *remainder = static_cast<int16_t>(nan ? 0u : bits);
}

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
