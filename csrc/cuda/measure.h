// One launch of a measurement as the kernels get it, and the sum of one thread. Runs on the host
// too, for the tests.
#pragma once

#include "../norm.h"
#include "convert.h"
#include "step.h"
#include "walk.h"

namespace fused_sched {

struct NormChunk {
  int32_t record;
  int32_t unit;   // first element, divided by Measure::unit
  int32_t place;  // of its sum
};

struct alignas(4 * sizeof(int32_t)) NormGroup {
  int32_t row;
  int32_t first;  // of its sums, which lie side by side
  int32_t end;
  int32_t clips;  // whether it has a max_grad_norm
};

struct Measure {
  double* control;
  const Record* records;
  const Gradient* grads;  // one a record
  const NormChunk* chunks;
  double* sums;  // of the squares of each chunk of all launches
  const NormGroup* groups;
  const float* grad_scale;  // or null
  const float* found_inf;   // or null
  Spikes spikes;
  int n_sums;
  int n_groups;
  int chunk_size;
  int unit;
  int each;         // a norm of each group's gradients, else one of all
  int only_finite;  // a norm that is not finite skips the step
  int last;         // whether this launch sees what comes of it
};

namespace FUSED_SCHED_ISA {

template <int kCount, typename G, typename T>
FUSED_SCHED_HD inline void add_squares(const G* grad, T* sums) {
  T g[kCount];
  load_pack<kCount>(grad, g);
  for (int k = 0; k < kCount; ++k) sums[k] = multiply_add(g[k], g[k], sums[k]);
}

// The sum of the squares of those of `count` gradients that are this thread's. Sums side by side
// are in the type that an update computes in, as each is of few numbers; these are added in double.
template <typename G>
FUSED_SCHED_HD inline double sum_of_squares(const G* grad, int count, int thread, int n_threads) {
  using T = typename ComputeType<G>::type;
  constexpr int kCount = kAccessBytes / sizeof(G);
  const int wide = is_aligned<kCount>(grad) ? count - count % kCount : 0;
  T sums[kCount] = {}, rest = T(0);
#pragma unroll 4
  for (int i = thread * kCount; i < wide; i += n_threads * kCount) {
    add_squares<kCount>(grad + i, sums);
  }
#pragma unroll 4
  for (int i = wide + thread; i < count; i += n_threads) add_squares<1>(grad + i, &rest);
  double sum = rest;
  for (int k = 0; k < kCount; ++k) sum += sums[k];
  return sum;
}

FUSED_SCHED_HD inline double scale_of(const Measure& m) {
  return m.grad_scale == nullptr ? 1.0 : static_cast<double>(*m.grad_scale);
}

FUSED_SCHED_HD inline void note_norm_of(const Measure& m, const NormGroup& group, double norm) {
  double* row = m.control + kGroupsOffset + static_cast<int64_t>(group.row) * kGroupStride;
  note_group_norm(row, group.clips != 0, norm);
}

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
