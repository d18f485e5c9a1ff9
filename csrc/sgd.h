// SGD: the scalars of one parameter, and the update of one element.
#pragma once

#include "arithmetic.h"
#include "control_block.h"

namespace fused_sched {

enum class Momentum : int {
  kNone,     // no buffer
  kFirst,    // the buffer becomes the gradient
  kRunning,  // the buffer decays
};

// Computed in double once for each parameter, then rounded once to the compute type.
template <typename T>
struct SgdScalars {
  T sign;  // -1 to maximize
  T weight_decay;
  T momentum;
  T grad_weight;  // 1 - dampening
  T nesterov;     // 0 or 1
  T step;         // -lr
};

namespace FUSED_SCHED_ISA {

// row: the group's row of the control block.
FUSED_SCHED_HD inline SgdScalars<double> sgd_scalars(const double* row) {
  const int flags = static_cast<int>(row[kFieldFlags]);
  SgdScalars<double> s;
  s.sign = (flags & kFlagMaximize) != 0 ? -1.0 : 1.0;
  s.weight_decay = row[kFieldWeightDecay];
  s.momentum = row[kFieldMomentum];
  s.grad_weight = 1.0 - row[kFieldDampening];
  s.nesterov = (flags & kFlagNesterov) != 0 ? 1.0 : 0.0;
  s.step = -row[kFieldLr];
  return s;
}

// count: updates applied to the parameter so far.
FUSED_SCHED_HD inline Momentum momentum_mode(const double* row, int64_t count) {
  if (row[kFieldMomentum] == 0.0) return Momentum::kNone;
  return count == 0 ? Momentum::kFirst : Momentum::kRunning;
}

template <typename T>
FUSED_SCHED_HD inline SgdScalars<T> round_scalars(const SgdScalars<double>& s) {
  return {static_cast<T>(s.sign),        static_cast<T>(s.weight_decay),
          static_cast<T>(s.momentum),    static_cast<T>(s.grad_weight),
          static_cast<T>(s.nesterov),    static_cast<T>(s.step)};
}

// Every branch is on a scalar of the same type as the elements; see adam_element.
template <Momentum kMomentum, typename T>
FUSED_SCHED_HD inline void sgd_element(const SgdScalars<T>& s, T g, T& p, T& buffer) {
  g = s.sign < T(0) ? -g : g;
  g = s.weight_decay != T(0) ? multiply_add(s.weight_decay, p, g) : g;
  if (kMomentum != Momentum::kNone) {
    buffer = kMomentum == Momentum::kFirst
                 ? g
                 : multiply_add(s.grad_weight, g, s.momentum * buffer);
    g = s.nesterov != T(0) ? multiply_add(s.momentum, buffer, g) : buffer;
  }
  p = multiply_add(s.step, g, p);
}

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
