// A master: what is kept beside a parameter of 16 bits, so that the two have all digits of a float32.
#pragma once

#include "dtypes.h"

namespace fused_sched {

// Codes of Record::kind.
enum Master : int {
  kNoMaster = 0,
  kSingleMaster = 1,  // the float32, whose rounding the parameter is
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

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
