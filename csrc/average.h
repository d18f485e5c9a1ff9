// How an average follows its parameter.
#pragma once

#include "arithmetic.h"

namespace fused_sched {

// Of a decay, as type T.
template <typename T>
struct Follow {
  T weight;          // of torch.lerp, from the nearer end
  int near_average;  // whether that is the average
};

namespace FUSED_SCHED_ISA {

template <typename T>
FUSED_SCHED_HD inline Follow<T> follow_of(double decay) {
  const T share = static_cast<T>(1.0 - decay);
  const bool near_average = share < T(0.5);
  return {near_average ? share : share - T(1), near_average};
}

// The average a that comes of parameter p. NaN holds nothing yet: then it begins as the parameter.
template <typename T, typename V>
FUSED_SCHED_HD inline V followed(const Follow<T>& f, V p, V a) {
  const V moved = multiply_add(f.weight, p - a, selected(f.near_average != 0, a, p));
  return where_nan(a, p, moved);
}

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
