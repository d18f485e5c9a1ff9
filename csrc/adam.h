// Adam and AdamW, as csrc/rules.h wants a rule.
#pragma once

#include "arithmetic.h"
#include "fields.h"

namespace fused_sched {

// Computed in double once for each parameter, then rounded once to the compute type.
template <typename T>
struct AdamScalars {
  T sign;           // -1 to maximize
  T decay;          // decoupled weight decay: 1 - lr * weight_decay, else 1
  T coupled_decay;  // weight decay added to the gradient, else 0
  T grad_weight;    // 1 - beta1
  T beta2;
  T square_weight;   // 1 - beta2
  T root_correction;  // sqrt(1 - beta2**t)
  T eps;
  T step;  // -lr / (1 - beta1**t)
};

namespace FUSED_SCHED_ISA {

// Python's ** 0.5, as torch has it, is pow, which may differ from the square root in the last place. On
// a GPU pow is no more exact than that and takes far longer.
FUSED_SCHED_HD inline double square_root_of_correction(double x) {
#ifdef __CUDA_ARCH__
  return sqrt(x);
#else
  return pow(x, 0.5);
#endif
}

struct Adam {
  static constexpr const char* kName = "adam";
  template <typename T>
  using Scalars = AdamScalars<T>;
  static constexpr int kScalarParts = 2;  // one for each power: on a GPU there is the time of one
  static constexpr int kRequiredStates = 2;
  static constexpr int kModes = 2;  // 1: with the largest square
  FUSED_SCHED_HD static constexpr bool reads_optional(int mode) { return mode != 0; }

  // Part 0 goes with the power of beta1, part 1 with that of beta2.
  template <typename T>
  FUSED_SCHED_HD static void scalars(const double* row, int64_t count, int part, AdamScalars<T>& s) {
    const double beta = read_field(row, part == 0 ? kFieldBeta1 : kFieldBeta2);
    const double correction = 1.0 - pow(beta, static_cast<double>(count) + 1.0);
    if (part == 1) {
      s.beta2 = static_cast<T>(beta);
      s.square_weight = static_cast<T>(1.0 - beta);
      s.root_correction = static_cast<T>(square_root_of_correction(correction));
      return;
    }
    const int flags = static_cast<int>(row[kFieldFlags]);
    const bool decoupled = (flags & kFlagDecoupledWeightDecay) != 0;
    const double lr = read_field(row, kFieldLr);
    const double decay = read_field(row, kFieldWeightDecay);
    s.sign = (flags & kFlagMaximize) != 0 ? T(-1) : T(1);
    s.decay = static_cast<T>(decoupled && decay != 0.0 ? 1.0 - lr * decay : 1.0);
    s.coupled_decay = static_cast<T>(decoupled ? 0.0 : decay);
    s.grad_weight = static_cast<T>(1.0 - beta);
    s.eps = static_cast<T>(read_field(row, kFieldEps));
    s.step = static_cast<T>(-(lr / correction));
  }

  template <typename T>
  FUSED_SCHED_HD static AdamScalars<T> rounded(const AdamScalars<double>& s) {
    return {static_cast<T>(s.sign),          static_cast<T>(s.decay),
            static_cast<T>(s.coupled_decay), static_cast<T>(s.grad_weight),
            static_cast<T>(s.beta2),         static_cast<T>(s.square_weight),
            static_cast<T>(s.root_correction), static_cast<T>(s.eps),
            static_cast<T>(s.step)};
  }

  FUSED_SCHED_HD static int mode(const double* row, int64_t) {
    return (static_cast<int>(row[kFieldFlags]) & kFlagAmsgrad) != 0 ? 1 : 0;
  }

  FUSED_SCHED_HD static bool counts(const double*) { return true; }

  // Every branch is on a scalar of the same type as the elements: compilers turn those into selects
  // with a mask that stays the same for the whole loop.
  template <int kMode, typename T, typename V>
  FUSED_SCHED_HD static void element(const AdamScalars<T>& s, V g, V& p, V& m, V& v, V& v_max) {
    g = s.sign < T(0) ? -g : g;
    p = p * s.decay;
    g = s.coupled_decay != T(0) ? multiply_add(s.coupled_decay, p, g) : g;
    // torch.lerp(m, g, w) starts from the nearer end.
    const bool near_m = s.grad_weight < T(0.5);
    const T weight = near_m ? s.grad_weight : s.grad_weight - T(1);
    m = multiply_add(weight, g - m, selected(near_m, m, g));
    v = multiply_add(s.square_weight * g, g, s.beta2 * v);
    if (kMode == 1) v_max = maximum(v_max, v);
    const V root = square_root(kMode == 1 ? v_max : v);
    p = p + (s.step * m) / (root / s.root_correction + s.eps);
  }
};

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
