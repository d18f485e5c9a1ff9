// SGD, as csrc/rules.h wants a rule.
#pragma once

#include "arithmetic.h"
#include "fields.h"

namespace fused_sched {

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

struct Sgd {
  static constexpr const char* kName = "sgd";
  template <typename T>
  using Scalars = SgdScalars<T>;
  static constexpr int kScalarParts = 1;
  static constexpr int kRequiredStates = 0;  // the buffer is optional
  enum Momentum : int {
    kNone,     // no buffer
    kFirst,    // the buffer becomes the gradient
    kRunning,  // the buffer decays
  };
  static constexpr int kModes = 3;
  FUSED_SCHED_HD static constexpr bool reads_optional(int mode) { return mode == kRunning; }

  template <typename T>
  FUSED_SCHED_HD static void scalars(const double* row, int64_t, int, SgdScalars<T>& s) {
    const int flags = static_cast<int>(row[kFieldFlags]);
    s.sign = (flags & kFlagMaximize) != 0 ? T(-1) : T(1);
    s.weight_decay = static_cast<T>(read_field(row, kFieldWeightDecay));
    s.momentum = static_cast<T>(read_field(row, kFieldMomentum));
    s.grad_weight = static_cast<T>(1.0 - read_field(row, kFieldDampening));
    s.nesterov = (flags & kFlagNesterov) != 0 ? T(1) : T(0);
    s.step = static_cast<T>(-read_field(row, kFieldLr));
  }

  template <typename T>
  FUSED_SCHED_HD static SgdScalars<T> rounded(const SgdScalars<double>& s) {
    return {static_cast<T>(s.sign),        static_cast<T>(s.weight_decay),
            static_cast<T>(s.momentum),    static_cast<T>(s.grad_weight),
            static_cast<T>(s.nesterov),    static_cast<T>(s.step)};
  }

  FUSED_SCHED_HD static int mode(const double* row, int64_t count) {
    if (!counts(row)) return kNone;
    return count == 0 ? kFirst : kRunning;
  }

  FUSED_SCHED_HD static bool counts(const double* row) { return read_field(row, kFieldMomentum) != 0.0; }

  // Every branch is on a scalar of the same type as the elements; see Adam.
  template <int kMode, typename T, typename V>
  FUSED_SCHED_HD static void element(const SgdScalars<T>& s, V g, V& p, V& buffer, V&, V&) {
    g = s.sign < T(0) ? -g : g;
    g = s.weight_decay != T(0) ? multiply_add(s.weight_decay, p, g) : g;
    if (kMode != kNone) {
      buffer = kMode == kFirst ? g : multiply_add(s.grad_weight, g, s.momentum * buffer);
      g = s.nesterov != T(0) ? multiply_add(s.momentum, buffer, g) : buffer;
    }
    p = multiply_add(s.step, g, p);
  }
};

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
