// The update of one chunk by the threads of a block. Runs on the host too, for the tests.
#pragma once

#include <type_traits>

#include "../average.h"
#include "../stochastic.h"
#include "convert.h"
#include "step.h"
#include "walk.h"

namespace fused_sched {

// What an update needs where more goes around it.
template <typename T>
struct AroundScalars {
  T factor;          // by which gradients are multiplied
  Follow<T> follow;  // where there is an average
  int skipped;       // the step changes nothing, but may leave zeros
  int by_chance;     // parameters are rounded so
  Draw draw;         // then
  uint64_t number;   // of the draw for the chunk's first elements
};
struct Nothing {};

// What the threads of a block share about a chunk's record.
template <typename R, typename T, bool kAround>
struct ChunkScalars : std::conditional_t<kAround, AroundScalars<T>, Nothing> {
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

// What is done to a chunk beside its update.
template <typename P, bool kAround>
struct Beside {};
template <typename P>
struct Beside<P, true> {
  int64_t average;  // address; 0 if there is none
  int64_t master;   // the same
  int average_type;
  int master_type;  // a Master
  int zeroes;
};

namespace FUSED_SCHED_ISA {

// Part `part` of the scalars; each part may be another thread's.
template <typename R, typename T, bool kAround>
FUSED_SCHED_HD inline void chunk_scalars(const Step& step, const Record& r, int64_t count, int part,
                                         ChunkScalars<R, T, kAround>& s) {
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

template <typename T>
FUSED_SCHED_HD inline void around_scalars(const Step& step, const Record& r, int64_t start,
                                          AroundScalars<T>& s) {
  const double* row = row_of(step.control, r);
  s.by_chance = step.master == kByChance;
  if (s.by_chance != 0) {
    const int64_t* header = reinterpret_cast<const int64_t*>(step.control);
    s.draw = make_draw(header[kHeaderSeed], header[kHeaderUpdates], r.master);
    s.number = static_cast<uint64_t>(start) / kDrawn;
  }
  s.factor = step.clipped != 0 ? static_cast<T>(row[kMeasuredClipFactor]) : T(1);
  s.skipped = is_skipped<true>(step);
  if (step.average == kNoAverage) return;
  s.follow = follow_of<T>(read_field(row, kFieldEmaDecay));
}

// The gradients as T, divided by the scale (and written back) if a GradScaler gave one.
template <int kCount, typename G, typename T>
FUSED_SCHED_HD inline void load_gradients(G* grad, int scaled, T scale, T* g) {
  load_pack<kCount>(grad, g);
  if (scaled == 0) return;
  for (int k = 0; k < kCount; ++k) g[k] = g[k] / scale;
  store_pack<kCount>(g, grad);
}

// The same and clipped; what is written back may be zeros.
template <int kCount, typename G, typename T>
FUSED_SCHED_HD inline void take_gradients(G* grad, int scaled, T scale, T factor, int zeroes,
                                          T* g) {
  load_pack<kCount>(grad, g);
  if (scaled != 0) {
    for (int k = 0; k < kCount; ++k) g[k] = g[k] / scale;
  }
  if (zeroes != 0) {
    store_zeros<kCount>(grad);
  } else if (scaled != 0) {
    store_pack<kCount>(g, grad);
  }
  for (int k = 0; k < kCount; ++k) g[k] = g[k] * factor;
}

// Elements of an average as T, where there is one. It is float32 beside parameters of 16 bits, or
// has their type.
template <int kCount, typename P, typename T>
FUSED_SCHED_HD inline void load_average(const Beside<P, true>& beside, int i, T* a) {
  if (beside.average_type == kNoAverage) return;
  if constexpr (sizeof(P) == 2) {
    if (beside.average_type == kSingle) {
      return load_pieces<kCount>(reinterpret_cast<const float*>(beside.average) + i, a);
    }
  }
  load_pack<kCount>(reinterpret_cast<const P*>(beside.average) + i, a);
}

template <int kCount, typename P, typename T>
FUSED_SCHED_HD inline void store_average(const T* a, const Beside<P, true>& beside, int i) {
  if (beside.average_type == kNoAverage) return;
  if constexpr (sizeof(P) == 2) {
    if (beside.average_type == kSingle) {
      return store_pieces<kCount>(a, reinterpret_cast<float*>(beside.average) + i);
    }
  }
  store_pack<kCount>(a, reinterpret_cast<P*>(beside.average) + i);
}

// In the words of PTX: compilers make one access of these and those of a float32 master, and then forget that the
// address is a global one.
template <int kCount>
FUSED_SCHED_HD inline Pack<int16_t, kCount> load_remainder(int64_t address) {
  Pack<int16_t, kCount> pack;
#ifdef __CUDA_ARCH__
  static_assert(kCount == 1 || kCount == 4 || kCount == 8, "the widths that a walk has for bfloat16");
  if constexpr (kCount == 1) {
    asm volatile("ld.global.b16 %0, [%1];" : "=h"(pack.item[0]) : "l"(address) : "memory");
  } else if constexpr (kCount == 4) {
    uint2 words;
    asm volatile("ld.global.v2.b32 {%0, %1}, [%2];" : "=r"(words.x), "=r"(words.y) : "l"(address) : "memory");
    memcpy(&pack, &words, sizeof(pack));
  } else {
    uint4 words;
    asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w) : "l"(address) : "memory");
    memcpy(&pack, &words, sizeof(pack));
  }
#else
  pack = *reinterpret_cast<const Pack<int16_t, kCount>*>(address);
#endif
  return pack;
}

template <int kCount>
FUSED_SCHED_HD inline void store_remainder(const Pack<int16_t, kCount>& pack, int64_t address) {
#ifdef __CUDA_ARCH__
  if constexpr (kCount == 1) {
    asm volatile("st.global.b16 [%0], %1;" ::"l"(address), "h"(pack.item[0]) : "memory");
  } else if constexpr (kCount == 4) {
    uint2 words;
    memcpy(&words, &pack, sizeof(pack));
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(address), "r"(words.x), "r"(words.y) : "memory");
  } else {
    uint4 words;
    memcpy(&words, &pack, sizeof(pack));
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(words.x), "r"(words.y), "r"(words.z),
                 "r"(words.w) : "memory");
  }
#else
  *reinterpret_cast<Pack<int16_t, kCount>*>(address) = pack;
#endif
}

// Lets the elements of a parameter have the digits of their master, where there is one; see csrc/master.h.
template <int kCount, typename P, typename T>
FUSED_SCHED_HD inline void take_master(const Beside<P, true>& beside, int i, T* p) {
  if constexpr (sizeof(P) == 2) {
    if (beside.master_type == kNoMaster) return;
    if constexpr (std::is_same_v<P, BFloat16>) {
      if (beside.master_type == kRemainder) {
        const Pack<int16_t, kCount> remainder = load_remainder<kCount>(beside.master + i * 2);
        for (int k = 0; k < kCount; ++k) p[k] = joined(p[k], remainder.item[k]);
        return;
      }
    }
    T master[kCount], rounded[kCount];
    load_pieces<kCount>(reinterpret_cast<const float*>(beside.master) + i, master);
    round_to<kCount, P>(master, rounded);
    for (int k = 0; k < kCount; ++k) p[k] = current_value(p[k], master[k], rounded[k]);
  }
}

// Rounds elements i and the next ones of a chunk by chance.
template <int kCount, typename P>
FUSED_SCHED_HD inline void narrow_by_chance(const Draw& draw, uint64_t number, const float* p, int i,
                                            Pack<P, kCount>* out) {
  static_assert(kCount <= kDrawn, "one draw has the bits of all");
  const DrawnBits drawn = draw_bits(draw, number + static_cast<uint32_t>(i) / kDrawn);
  const int first = kCount == kDrawn ? 0 : i % kDrawn;
  for (int k = 0; k < kCount; ++k) store_by_chance(&out->item[k], p[k], drawn.of(first + k));
}

// New values as the parameter stores them; what is beside it is stored here. Then the numbers are what averages
// follow: the master, or what is stored.
template <int kCount, typename P, typename T>
FUSED_SCHED_HD inline void narrow_parameter(T* p, const Beside<P, true>& beside,
                                            const AroundScalars<T>& s, int i,
                                            Pack<P, kCount>* out) {
  if constexpr (std::is_same_v<P, BFloat16>) {
    if (beside.master_type == kRemainder) {
      Pack<int16_t, kCount> remainder;
      for (int k = 0; k < kCount; ++k) split(p[k], &out->item[k], &remainder.item[k]);
      store_remainder(remainder, beside.master + i * 2);
      return;
    }
  }
  if constexpr (sizeof(P) == 2) {
    if (s.by_chance != 0) {
      narrow_by_chance(s.draw, s.number, p, i, out);
      return widen(*out, p);
    }
    if (beside.master_type == kSingleMaster) {
      store_pieces<kCount>(p, reinterpret_cast<float*>(beside.master) + i);
      return narrow(p, out);
    }
  }
  narrow(p, out);
  widen(*out, p);
}

// The one place where new values become what the parameter stores; one store, since compilers that make one of several
// forget that its address is a global one.
template <int kCount, typename P, typename T>
FUSED_SCHED_HD inline void store_parameter(T* p, const Beside<P, true>& beside,
                                           const AroundScalars<T>& s, P* param, int i) {
  Pack<P, kCount> pack;
  narrow_parameter<kCount>(p, beside, s, i, &pack);
  *in_global_memory(reinterpret_cast<Pack<P, kCount>*>(param + i)) = pack;
}

template <int kCount, typename T>
FUSED_SCHED_HD inline void follow(const Follow<T>& f, const T* p, T* a) {
  for (int k = 0; k < kCount; ++k) a[k] = followed(f, p[k], a[k]);
}

template <typename R, int kMode, bool kAround, typename P, typename G, typename S>
struct Body {
  using T = typename ComputeType<P>::type;
  const Arrays<P, G, S>& arrays;
  const Beside<P, kAround>& beside;
  const ChunkScalars<R, T, kAround>& s;

  template <int kCount>
  FUSED_SCHED_HD void run(int i) const {
    T p[kCount], g[kCount], a[kCount], b[kCount], c[kCount], average[kCount];
    load_pack<kCount>(arrays.param + i, p);
    if constexpr (reads<R, kMode>(0)) load_pack<kCount>(arrays.state[0] + i, a);
    if constexpr (reads<R, kMode>(1)) load_pack<kCount>(arrays.state[1] + i, b);
    if constexpr (reads<R, kMode>(2)) load_pack<kCount>(arrays.state[2] + i, c);
    if constexpr (kAround) {
      take_master<kCount>(beside, i, p);
      load_average<kCount>(beside, i, average);
      take_gradients<kCount>(arrays.grad + i, s.scaled, s.scale, s.factor, beside.zeroes, g);
    } else {
      load_gradients<kCount>(arrays.grad + i, s.scaled, s.scale, g);
    }
    for (int k = 0; k < kCount; ++k) R::template element<kMode>(s.rule, g[k], p[k], a[k], b[k], c[k]);
    if constexpr (writes<R, kMode>(0)) store_pack<kCount>(a, arrays.state[0] + i);
    if constexpr (writes<R, kMode>(1)) store_pack<kCount>(b, arrays.state[1] + i);
    if constexpr (writes<R, kMode>(2)) store_pack<kCount>(c, arrays.state[2] + i);
    if constexpr (kAround) {
      store_parameter<kCount>(p, beside, s, arrays.param, i);
      follow<kCount>(s.follow, p, average);
      store_average<kCount>(average, beside, i);
    } else {
      store_pack<kCount>(p, arrays.param + i);
    }
  }
};

// The averages of parameters that get no update.
template <typename P>
struct AverageBody {
  using T = typename ComputeType<P>::type;
  const P* param;
  const Beside<P, true>& beside;
  const AroundScalars<T>& s;

  template <int kCount>
  FUSED_SCHED_HD void run(int i) const {
    T p[kCount], average[kCount];
    load_pack<kCount>(param + i, p);
    take_master<kCount>(beside, i, p);
    load_average<kCount>(beside, i, average);
    follow<kCount>(s.follow, p, average);
    store_average<kCount>(average, beside, i);
  }
};

// Gradients that are not applied.
template <typename G>
struct ZeroBody {
  G* grad;

  template <int kCount>
  FUSED_SCHED_HD void run(int i) const {
    store_zeros<kCount>(grad + i);
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

template <typename P>
FUSED_SCHED_HD inline Beside<P, true> beside_of(const Step& step, const Record& r, int64_t start) {
  const int64_t size = step.average == kSingle ? sizeof(float) : sizeof(P);
  const int master = step.master == kByChance ? kNoMaster : step.master;
  const int64_t master_size = master == kRemainder ? sizeof(int16_t) : sizeof(float);
  return {step.average == kNoAverage ? 0 : r.average + start * size,
          master == kNoMaster ? 0 : r.master + start * master_size, step.average, master, step.zeroes};
}

template <int kCount, typename P>
FUSED_SCHED_HD inline bool is_aligned(const Beside<P, false>&) {
  return true;
}
template <int kCount, typename P>
FUSED_SCHED_HD inline bool is_aligned(const Beside<P, true>& beside) {
  constexpr int kPiece = kPieceCount<kCount, float> * sizeof(float);
  const int width = beside.average_type == kSingle ? kPiece : kCount * sizeof(P);
  const int master_width = beside.master_type == kRemainder ? kCount * sizeof(int16_t) : kPiece;
  return beside.average % width == 0 && beside.master % master_width == 0;
}

// Calls with the body of the mode that the scalars say: kMode or a later one.
template <typename R, int kModes, int kMode, bool kAround, typename P, typename G, typename S,
          typename Run>
FUSED_SCHED_HD inline void run_mode(
    const Arrays<P, G, S>& arrays, const Beside<P, kAround>& beside,
    const ChunkScalars<R, typename ComputeType<P>::type, kAround>& s, const Run& run) {
  if constexpr (kMode + 1 < kModes) {
    if (s.mode != kMode) return run_mode<R, kModes, kMode + 1>(arrays, beside, s, run);
  }
  run(Body<R, kMode, kAround, P, G, S>{arrays, beside, s});
}

// Updates the elements of a chunk that are this thread's. kExtra: s.mode may be other than 0.
template <typename R, bool kExtra, bool kAround, typename P, typename G, typename S>
FUSED_SCHED_HD inline void update_elements(
    const Arrays<P, G, S>& a, const Beside<P, kAround>& beside,
    const ChunkScalars<R, typename ComputeType<P>::type, kAround>& s, int count, int thread,
    int n_threads) {
  constexpr int kCount = kPackCount<P, G, S>;
  const bool aligned = is_aligned<kCount>(a.param) && is_aligned<kCount>(a.grad) &&
                       is_aligned<kCount>(a.state[0]) && is_aligned<kCount>(a.state[1]) &&
                       is_aligned<kCount>(a.state[2]) && is_aligned<kCount>(beside);
  const auto run = [&](const auto& body) { walk<kCount>(body, count, aligned, thread, n_threads); };
  run_mode<R, kExtra ? R::kModes : 1, 0>(a, beside, s, run);
}

// What is done to a chunk that gets no update: an average follows where there is no gradient, and
// gradients are zeroed where the step is skipped.
template <typename P, typename G, typename T>
FUSED_SCHED_HD inline void go_without_update(const P* param, G* grad, const Beside<P, true>& beside,
                                             const AroundScalars<T>& s, int count, int thread,
                                             int n_threads) {
  if (grad == nullptr && s.skipped == 0 && beside.average_type != kNoAverage) {
    constexpr int kCount = kAccessBytes / sizeof(P);
    const bool aligned = is_aligned<kCount>(param) && is_aligned<kCount>(beside);
    walk<kCount>(AverageBody<P>{param, beside, s}, count, aligned, thread, n_threads);
  }
  if (grad != nullptr && s.skipped != 0 && beside.zeroes != 0) {
    constexpr int kCount = kAccessBytes / sizeof(G);
    walk<kCount>(ZeroBody<G>{grad}, count, is_aligned<kCount>(grad), thread, n_threads);
  }
}

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
