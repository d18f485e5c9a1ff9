// The update of one chunk by the threads of a block. Runs on the host too, for the tests.
#pragma once

#include "convert.h"
#include "step.h"
#include "walk.h"

namespace fused_sched {

// What the threads of a block share about a chunk's record.
template <typename R, typename T>
struct ChunkScalars {
  typename R::template Scalars<T> rule;
  T scale;     // to divide the gradients by, if scaled
  int scaled;
  int mode;    // of the rule
};

template <typename P, typename G, typename S>
struct Arrays {
  P* param;
  G* grad;
  S* state[3];
};

namespace FUSED_SCHED_ISA {

// Part `part` of the scalars; each part may be another thread's.
template <typename R, typename T>
FUSED_SCHED_HD inline void chunk_scalars(const Step& step, const Record& r, int64_t count, int part,
                                         ChunkScalars<R, T>& s) {
  const double* row = row_of(step.control, r);
  R::scalars(row, count, part, s.rule);
  if (part != 0) return;
  s.mode = 0;
  if constexpr (R::kModes > 1) {
    if (r.state[R::kRequiredStates] != 0) s.mode = R::mode(row, count);
  }
  s.scaled = step.grad_scale != nullptr;
  s.scale = s.scaled ? static_cast<T>(*step.grad_scale) : T(1);
}

// The gradients as T, divided by the scale (and written back) if a GradScaler gave one.
template <int kCount, typename G, typename T>
FUSED_SCHED_HD inline void load_gradients(G* grad, int scaled, T scale, T* g) {
  load_pack<kCount>(grad, g);
  if (scaled == 0) return;
  for (int k = 0; k < kCount; ++k) g[k] = g[k] / scale;
  store_pack<kCount>(g, grad);
}

template <typename R, int kMode, typename P, typename G, typename S>
struct Body {
  using T = typename ComputeType<P>::type;
  const Arrays<P, G, S>& arrays;
  const ChunkScalars<R, T>& s;

  template <int kCount>
  FUSED_SCHED_HD void run(int i) const {
    T p[kCount], g[kCount], a[kCount], b[kCount], c[kCount];
    load_pack<kCount>(arrays.param + i, p);
    if constexpr (reads<R, kMode>(0)) load_pack<kCount>(arrays.state[0] + i, a);
    if constexpr (reads<R, kMode>(1)) load_pack<kCount>(arrays.state[1] + i, b);
    if constexpr (reads<R, kMode>(2)) load_pack<kCount>(arrays.state[2] + i, c);
    load_gradients<kCount>(arrays.grad + i, s.scaled, s.scale, g);
    for (int k = 0; k < kCount; ++k) R::template element<kMode>(s.rule, g[k], p[k], a[k], b[k], c[k]);
    if constexpr (writes<R, kMode>(0)) store_pack<kCount>(a, arrays.state[0] + i);
    if constexpr (writes<R, kMode>(1)) store_pack<kCount>(b, arrays.state[1] + i);
    if constexpr (writes<R, kMode>(2)) store_pack<kCount>(c, arrays.state[2] + i);
    store_pack<kCount>(p, arrays.param + i);
  }
};

// Element `start` of the array at an address; null stays null.
template <typename T>
FUSED_SCHED_HD inline T* element(int64_t address, int64_t start) {
  return address == 0 ? nullptr : reinterpret_cast<T*>(address) + start;
}

template <typename P, typename G, typename S>
FUSED_SCHED_HD inline Arrays<P, G, S> arrays_of(const Record& r, int64_t grad, int64_t start) {
  return {element<P>(r.param, start),
          element<G>(grad, start),
          {element<S>(r.state[0], start), element<S>(r.state[1], start),
           element<S>(r.state[2], start)}};
}

// Calls with the body of the mode that the scalars say: kMode or a later one.
template <typename R, int kModes, int kMode, typename P, typename G, typename S, typename Run>
FUSED_SCHED_HD inline void run_mode(const Arrays<P, G, S>& arrays,
                                    const ChunkScalars<R, typename ComputeType<P>::type>& s,
                                    const Run& run) {
  if constexpr (kMode + 1 < kModes) {
    if (s.mode != kMode) return run_mode<R, kModes, kMode + 1>(arrays, s, run);
  }
  run(Body<R, kMode, P, G, S>{arrays, s});
}

// Updates the elements of a chunk that are this thread's. kExtra: s.mode may be other than 0.
template <typename R, bool kExtra, typename P, typename G, typename S>
FUSED_SCHED_HD inline void update_elements(const Arrays<P, G, S>& a,
                                           const ChunkScalars<R, typename ComputeType<P>::type>& s,
                                           int count, int thread, int n_threads) {
  constexpr int kCount = kPackCount<P, G, S>;
  const bool aligned = is_aligned<kCount>(a.param) && is_aligned<kCount>(a.grad) &&
                       is_aligned<kCount>(a.state[0]) && is_aligned<kCount>(a.state[1]) &&
                       is_aligned<kCount>(a.state[2]);
  const auto run = [&](const auto& body) { walk<kCount>(body, count, aligned, thread, n_threads); };
  run_mode<R, kExtra ? R::kModes : 1, 0>(a, s, run);
}

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
