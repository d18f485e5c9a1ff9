// The update loops. Each kernels_*.cpp includes this once, with a namespace (FUSED_SCHED_ISA) and
// compiler flags of its own. lanes.h has what is updated side by side; else the compiler vectorises the loops.
#include <algorithm>
#include <type_traits>
#include <utility>

#include "../average.h"
#include "../control_block.h"
#include "kernels.h"
#include "lanes.h"
#include "parameters.h"

namespace fused_sched {
namespace FUSED_SCHED_ISA {
namespace {

template <typename T>
inline T* at(int64_t address, int64_t start) {
  return address == 0 ? nullptr : reinterpret_cast<T*>(address) + start;
}

// Elements of an average of P, or of float beside P of 16 bits.
template <typename P, typename E>
inline typename E::Value get_average(const E& elements, const Record& r, bool wide, int64_t i) {
  if constexpr (sizeof(P) == 2) {
    if (wide) return elements.get(at<float>(r.average, i));
  }
  return elements.get(at<P>(r.average, i));
}

template <typename P, typename E>
inline void put_average(const E& elements, const Record& r, bool wide, int64_t i, typename E::Value average) {
  if constexpr (sizeof(P) == 2) {
    if (wide) return elements.put(at<float>(r.average, i), average);
  }
  elements.put(at<P>(r.average, i), average);
}

// Lets elements of the average follow those of the parameter.
template <typename P, typename E, typename T>
inline void follow_elements(const E& elements, const Record& r, bool wide, int64_t i, typename E::Value p,
                            const Follow<T>& follow) {
  put_average<P>(elements, r, wide, i, followed(follow, p, get_average<P>(elements, r, wide, i)));
}

// What the elements of a record's update share.
template <typename R, typename T>
struct Shared {
  typename R::template Scalars<T> rule;
  T scale;
  T factor;
  Follow<T> follow;
  bool scaled;
  bool averaged;
  bool wide;
};

// Updates elements from i on, as many as E accesses. kPlain: there is nothing around the update; where elements are
// updated one by one, compilers vectorise only that.
template <typename R, int kMode, bool kPlain, typename Kept, typename E, typename G, typename S, typename T>
inline void update_elements(const E& elements, const Record& r, int64_t i, typename Kept::Param* param,
                            typename Kept::Rest* rest, G* grad, S* state0, S* state1, S* state2,
                            const Shared<R, T>& s) {
  using V = typename E::Value;
  V p = Kept::get(elements, param, rest, i), g = elements.get(grad + i);
  V a = T(0), b = T(0), c = T(0);
  if constexpr (reads<R, kMode>(0)) a = elements.get(state0 + i);
  if constexpr (reads<R, kMode>(1)) b = elements.get(state1 + i);
  if constexpr (reads<R, kMode>(2)) c = elements.get(state2 + i);
  if (!kPlain && s.scaled) {
    g = g / s.scale;
    elements.put(grad + i, g);
  }
  R::template element<kMode>(s.rule, g * s.factor, p, a, b, c);
  if constexpr (writes<R, kMode>(0)) elements.put(state0 + i, a);
  if constexpr (writes<R, kMode>(1)) elements.put(state1 + i, b);
  if constexpr (writes<R, kMode>(2)) elements.put(state2 + i, c);
  Kept::put(elements, param, rest, i, p);
  if (kPlain || !s.averaged) return;
  follow_elements<typename Kept::Param>(elements, r, s.wide, i, Kept::stored(elements, param, i, p), s.follow);
}

// Returns where fewer elements are left than E accesses.
template <typename R, int kMode, bool kPlain, typename Kept, typename E, typename G, typename S, typename T>
inline int64_t update_loop(const E& elements, const Record& r, int64_t i, int64_t end,
                           typename Kept::Param* __restrict param, typename Kept::Rest* __restrict rest,
                           G* __restrict grad, S* __restrict state0, S* __restrict state1, S* __restrict state2,
                           const Shared<R, T>& s) {
  for (; i + E::kCount <= end; i += E::kCount) {
    update_elements<R, kMode, kPlain, Kept>(elements, r, i, param, rest, grad, state0, state1, state2, s);
  }
  return i;
}

// Whether there are instructions for the first elements of a register in arrays of all these types.
template <typename... Ts>
constexpr bool can_access_first() {
#if FUSED_SCHED_LANES
  return First::kHasWords || ((sizeof(Ts) != sizeof(uint16_t)) && ...);
#else
  return false;
#endif
}

template <typename R, int kMode, bool kPlain, typename Kept, typename G, typename S, typename T>
inline void update_range(const Record& r, int64_t start, int64_t end, typename Kept::Rest* rest,
                         const Shared<R, T>& s) {
  using P = typename Kept::Param;
  P* const param = at<P>(r.param, 0);
  G* const grad = at<G>(r.grad, 0);
  S *const state0 = at<S>(r.state[0], 0), *const state1 = at<S>(r.state[1], 0), *const state2 = at<S>(r.state[2], 0);
  const auto run = [&](const auto& elements, int64_t first) {
    return update_loop<R, kMode, kPlain, Kept>(elements, r, first, end, param, rest, grad, state0, state1, state2, s);
  };
  const int64_t left = run(Access<Lanes<T>, Whole>(), start);
  if constexpr (can_access_first<P, typename Kept::Rest, G, S>()) {
    if (left == end) return;
    const Access<Lanes<T>, First> elements{First(end - left)};
    update_elements<R, kMode, kPlain, Kept>(elements, r, left, param, rest, grad, state0, state1, state2, s);
  } else {
    run(Access<T>(), left);
  }
}

// As update_range, a part at a time.
template <typename R, int kMode, bool kPlain, typename Kept, typename G, typename S, typename T>
inline void update_by_chance(const Record& r, int64_t start, int64_t end, const int64_t* header,
                             const Shared<R, T>& s) {
  const Draw draw = make_draw(header[kHeaderSeed], header[kHeaderUpdates], r.master);
  uint16_t bits[kPart + Access<Lanes<T>, Whole>::kCount];  // those behind are read, and do nothing
  while (start < end) {
    const int64_t part = start / kPart * kPart, next = std::min(part + kPart, end);
    draw_part(draw, part, bits);
    update_range<R, kMode, kPlain, Kept, G, S>(r, start, next, bits, s);
    start = next;
  }
}

template <typename R, int kMode, typename P, typename G, typename S>
void update(const Record& r, int64_t start, int64_t count, const AnyScalars& scalars, const Around& around) {
  using T = typename ComputeType<P>::type;
  const auto& own = *reinterpret_cast<const typename R::template Scalars<double>*>(scalars.bytes);
  const Shared<R, T> s = {R::template rounded<T>(own),       static_cast<T>(around.scale),
                          static_cast<T>(around.factor),     follow_of<T>(around.decay),
                          around.scaled,                     around.averaged,
                          average_dtype(r.kind) != DTypeOf<P>::kCode};
  run_as_kept<P>(r.kind, [&](auto kept) {
    using Kept = decltype(kept);
    const auto run = [&](auto plain) {
      if constexpr (std::is_same_v<Kept, ByChance<P>>) {
        update_by_chance<R, kMode, plain.value, Kept, G, S>(r, start, start + count, around.header, s);
      } else {
        update_range<R, kMode, plain.value, Kept, G, S>(r, start, start + count, at<typename Kept::Rest>(r.master, 0),
                                                       s);
      }
    };
    if (FUSED_SCHED_LANES || around.scaled || around.averaged) run(std::false_type());
    else run(std::true_type());
  });
}

template <typename P>
void average(const Record& r, int64_t start, int64_t count, double decay) {
  using T = typename ComputeType<P>::type;
  const auto follow = follow_of<T>(decay);
  const bool wide = average_dtype(r.kind) != DTypeOf<P>::kCode;
  run_as_kept<P>(r.kind, [&](auto kept) {
    using Kept = decltype(kept);
    const P* const param = at<P>(r.param, 0);
    const auto* const rest = at<typename Kept::Rest>(r.master, 0);
    const auto run = [&](const auto& elements, int64_t i) {
      constexpr int kCount = std::decay_t<decltype(elements)>::kCount;
      for (; i + kCount <= start + count; i += kCount) {
        follow_elements<P>(elements, r, wide, i, Kept::get(elements, param, rest, i), follow);
      }
      return i;
    };
    run(Access<T>(), run(Access<Lanes<T>, Whole>(), start));
  });
}

// Elements are converted before their squares are added, a part of them at a time.
template <typename T, typename G>
inline const T* converted(const G* from, int64_t count, T* part) {
  if constexpr (sizeof(G) == sizeof(T)) return from;
  else {
    const Access<Lanes<T>, Whole> elements{};
    int64_t i = 0;
    for (; i + elements.kCount <= count; i += elements.kCount) elements.put(part + i, elements.get(from + i));
    for (; i < count; ++i) part[i] = load(from[i]);
    return part;
  }
}

// sum + g * g, with the same bits on every instruction set: the square of a float is exact in double,
// so it does not matter whether it is rounded, and that of a double is rounded everywhere.
template <typename G>
inline double add_square(double g, double sum) {
#if FUSED_SCHED_HARDWARE_FMA
  if (sizeof(G) < sizeof(double)) return multiply_add(g, g, sum);
#endif
  return sum + g * g;
}

// Many sums side by side, added up in one order. One stream of memory: cores fetch ahead best in it.
template <typename G>
double sum_of_squares(int64_t address, int64_t start, int64_t count) {
  using T = typename ComputeType<G>::type;
  constexpr int kSums = 32;
  static_assert(kPart % kSums == 0, "a part has as many elements for each sum");
  double sums[kSums] = {};
  T part[kPart];
  for (int64_t first = 0; first < count; first += kPart) {
    const int64_t n = std::min(kPart, count - first);
    const T* const g = converted<T>(at<G>(address, start + first), n, part);
    const int64_t whole = n / kSums * kSums;
    for (int64_t i = 0; i < whole; i += kSums) {
      for (int k = 0; k < kSums; ++k) sums[k] = add_square<T>(g[i + k], sums[k]);
    }
    for (int64_t i = whole; i < n; ++i) sums[i - whole] = add_square<T>(g[i], sums[i - whole]);
  }
  double sum = 0.0;
  for (int k = 0; k < kSums; ++k) sum += sums[k];
  return sum;
}

template <typename R, typename K, int... kModes>
constexpr void fill_kind(Kernel (&table)[kMostModes], std::integer_sequence<int, kModes...>) {
  ((table[kModes] = update<R, kModes, typename K::Param, typename K::Grad, typename K::State>), ...);
}

template <typename R, typename... Ks>
constexpr void fill_rule(Kernel (&table)[kKindCount][kMostModes], List<Ks...>) {
  int kind = 0;
  (fill_kind<R, Ks>(table[kind++], std::make_integer_sequence<int, R::kModes>{}), ...);
}

template <typename... Ts>
constexpr void fill_dtypes(KernelTable& table, List<Ts...>) {
  ((table.sums[DTypeOf<Ts>::kCode] = sum_of_squares<Ts>), ...);
  ((table.averages[DTypeOf<Ts>::kCode] = average<Ts>), ...);
}

template <typename... Rs>
constexpr KernelTable make_table(List<Rs...>) {
  KernelTable table = {};
  fill_dtypes(table, DTypes{});
  int rule = 0;
  (fill_rule<Rs>(table.kernels[rule++], Kinds{}), ...);
  return table;
}

constexpr KernelTable kTable = make_table(Rules{});

}  // namespace

extern const KernelTable kKernels = kTable;

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
