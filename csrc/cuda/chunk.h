// The update of one chunk by the threads of a block. Runs on the host too, for the tests.
#pragma once

#include "convert.h"
#include "step.h"
#include "walk.h"

namespace fused_sched {

// What the threads of a block share about a chunk's record.
template <typename RuleScalars, typename T>
struct ChunkScalars {
  RuleScalars rule;
  T scale;     // to divide the gradients by, if scaled
  int scaled;
  int extra;   // SGD: Momentum. Adam: whether the largest square is kept.
};

template <Rule kRule, typename T>
struct ScalarsOf {
  using type = ChunkScalars<SgdScalars<T>, T>;
};
template <typename T>
struct ScalarsOf<Rule::kAdam, T> {
  using type = ChunkScalars<AdamScalars<T>, T>;
};

// Into how many parts the scalars fall: one for each power.
template <Rule kRule>
constexpr int kScalarParts = kRule == Rule::kAdam ? 2 : 1;

template <typename P, typename G, typename S>
struct Arrays {
  P* param;
  G* grad;
  S* state[3];
};

namespace FUSED_SCHED_ISA {

// Part `part` of the scalars; each part may be another thread's.
template <Rule kRule, typename T>
FUSED_SCHED_HD inline void chunk_scalars(const Step& step, const Record& r, int64_t count, int part,
                                         typename ScalarsOf<kRule, T>::type& s) {
  const double* row = row_of(step.control, r);
  if constexpr (kRule == Rule::kAdam) adam_scalars(row, count, part, s.rule);
  if (part != 0) return;
  if constexpr (kRule == Rule::kSgd) {
    s.rule = round_scalars<T>(sgd_scalars(row));
    s.extra = r.state[0] != 0 ? static_cast<int>(momentum_mode(row, count)) : 0;
  } else {
    s.extra = r.state[2] != 0 && (static_cast<int>(row[kFieldFlags]) & kFlagAmsgrad) != 0;
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

template <Momentum kMomentum, typename P, typename G, typename S>
struct SgdBody {
  using T = typename ComputeType<P>::type;
  const Arrays<P, G, S>& a;
  const ChunkScalars<SgdScalars<T>, T>& s;

  template <int kCount>
  FUSED_SCHED_HD void run(int i) const {
    T p[kCount], g[kCount], b[kCount];
    load_pack<kCount>(a.param + i, p);
    if constexpr (kMomentum == Momentum::kRunning) load_pack<kCount>(a.state[0] + i, b);
    load_gradients<kCount>(a.grad + i, s.scaled, s.scale, g);
    for (int k = 0; k < kCount; ++k) sgd_element<kMomentum>(s.rule, g[k], p[k], b[k]);
    if constexpr (kMomentum != Momentum::kNone) store_pack<kCount>(b, a.state[0] + i);
    store_pack<kCount>(p, a.param + i);
  }
};

template <bool kAmsgrad, typename P, typename G, typename S>
struct AdamBody {
  using T = typename ComputeType<P>::type;
  const Arrays<P, G, S>& a;
  const ChunkScalars<AdamScalars<T>, T>& s;

  template <int kCount>
  FUSED_SCHED_HD void run(int i) const {
    T p[kCount], g[kCount], m[kCount], v[kCount], v_max[kCount];
    load_pack<kCount>(a.param + i, p);
    load_pack<kCount>(a.state[0] + i, m);
    load_pack<kCount>(a.state[1] + i, v);
    if constexpr (kAmsgrad) load_pack<kCount>(a.state[2] + i, v_max);
    load_gradients<kCount>(a.grad + i, s.scaled, s.scale, g);
    for (int k = 0; k < kCount; ++k) {
      adam_element<kAmsgrad>(s.rule, g[k], p[k], m[k], v[k], v_max[k]);
    }
    store_pack<kCount>(m, a.state[0] + i);
    store_pack<kCount>(v, a.state[1] + i);
    if constexpr (kAmsgrad) store_pack<kCount>(v_max, a.state[2] + i);
    store_pack<kCount>(p, a.param + i);
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

// Updates the elements of a chunk that are this thread's. kExtra: s.extra may be other than 0.
template <Rule kRule, bool kExtra, typename P, typename G, typename S, typename Scalars>
FUSED_SCHED_HD inline void update_elements(const Arrays<P, G, S>& a, const Scalars& s, int count,
                                           int thread, int n_threads) {
  constexpr int kCount = kPackCount<P, G, S>;
  const bool aligned = is_aligned<kCount>(a.param) && is_aligned<kCount>(a.grad) &&
                       is_aligned<kCount>(a.state[0]) && is_aligned<kCount>(a.state[1]) &&
                       is_aligned<kCount>(a.state[2]);
  const auto run = [&](const auto& body) { walk<kCount>(body, count, aligned, thread, n_threads); };
  if constexpr (kRule == Rule::kAdam) {
    if (kExtra && s.extra != 0) return run(AdamBody<kExtra, P, G, S>{a, s});
    run(AdamBody<false, P, G, S>{a, s});
  } else {
    const Momentum momentum = kExtra ? static_cast<Momentum>(s.extra) : Momentum::kNone;
    switch (momentum) {
      case Momentum::kNone: run(SgdBody<Momentum::kNone, P, G, S>{a, s}); break;
      case Momentum::kFirst: run(SgdBody<Momentum::kFirst, P, G, S>{a, s}); break;
      case Momentum::kRunning: run(SgdBody<Momentum::kRunning, P, G, S>{a, s}); break;
    }
  }
}

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
