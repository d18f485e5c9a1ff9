// The update loops. Each kernels_*.cpp includes this once, with a namespace (FUSED_SCHED_ISA) and
// compiler flags of its own; the compiler vectorises the loops.
#include <type_traits>
#include <utility>

#include "../average.h"
#include "kernels.h"

namespace fused_sched {
namespace FUSED_SCHED_ISA {
namespace {

// The gradient as T, as an update applies it.
template <int kUse, typename T, typename G>
inline T load_gradient(G* grad, T scale, T factor) {
  T g = load(*grad);
  if (kUse == kUnscaled) {
    g = g / scale;
    store(grad, g);
  }
  return kUse == kAsTheyAre ? g : g * factor;
}

// A: type of the average that follows in the same loop; void for none.
template <typename R, int kMode, int kUse, typename P, typename G, typename S, typename A>
void update_loop(P* __restrict param, G* __restrict grad, S* __restrict state0, S* __restrict state1,
                 S* __restrict state2, A* __restrict average, int64_t count,
                 const typename R::template Scalars<double>& scalars, const GradientUse& use) {
  using T = typename ComputeType<P>::type;
  const auto s = R::template rounded<T>(scalars);
  const T scale = static_cast<T>(use.scale);
  const T factor = static_cast<T>(use.factor);
  const Follow<T> follow = follow_of<T>(use.decay);
  for (int64_t i = 0; i < count; ++i) {
    T p = load(param[i]);
    T a = reads<R, kMode>(0) ? load(state0[i]) : T(0);
    T b = reads<R, kMode>(1) ? load(state1[i]) : T(0);
    T c = reads<R, kMode>(2) ? load(state2[i]) : T(0);
    R::template element<kMode>(s, load_gradient<kUse>(grad + i, scale, factor), p, a, b, c);
    if (writes<R, kMode>(0)) store(state0 + i, a);
    if (writes<R, kMode>(1)) store(state1 + i, b);
    if (writes<R, kMode>(2)) store(state2 + i, c);
    store(param + i, p);
    if constexpr (!std::is_void_v<A>) {
      P stored;
      store(&stored, p);
      store(average + i, followed(follow, load(stored), load(average[i])));
    }
  }
}

template <typename T>
inline T* at(int64_t address, int64_t start) {
  return address == 0 ? nullptr : reinterpret_cast<T*>(address) + start;
}

template <typename A>
inline A* average_at(const Record& r, int64_t start) {
  if constexpr (std::is_void_v<A>) return nullptr;
  else return at<A>(r.average, start);
}

template <typename R, int kMode, int kUse, typename P, typename G, typename S, typename A = void>
void update(const Record& r, int64_t start, int64_t count, const AnyScalars& scalars,
            const GradientUse& use) {
  using Scalars = typename R::template Scalars<double>;
  update_loop<R, kMode, kUse>(
      at<P>(r.param, start), at<G>(r.grad, start), at<S>(r.state[0], start),
      at<S>(r.state[1], start), at<S>(r.state[2], start), average_at<A>(r, start), count,
      *reinterpret_cast<const Scalars*>(scalars.bytes), use);
}

template <typename P, typename A>
void average_loop(const P* __restrict param, A* __restrict average, int64_t count, double decay) {
  const auto follow = follow_of<typename ComputeType<P>::type>(decay);
  for (int64_t i = 0; i < count; ++i) {
    store(average + i, followed(follow, load(param[i]), load(average[i])));
  }
}

template <typename P, typename A>
void average(const Record& r, int64_t start, int64_t count, double decay) {
  average_loop(at<P>(r.param, start), at<A>(r.average, start), count, decay);
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
  constexpr int kLanes = 32;
  const G* grad = at<G>(address, start);
  double sums[kLanes] = {};
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) sums[k] = add_square<G>(load(grad[i + k]), sums[k]);
  }
  for (int64_t i = whole; i < count; ++i) {
    sums[i - whole] = add_square<G>(load(grad[i]), sums[i - whole]);
  }
  double sum = 0.0;
  for (int k = 0; k < kLanes; ++k) sum += sums[k];
  return sum;
}

template <typename R, typename K, int... kModes>
constexpr void fill_kind(Kernel (&table)[kUses][kMostModes], std::integer_sequence<int, kModes...>) {
  using P = typename K::Param;
  using G = typename K::Grad;
  using S = typename K::State;
  ((table[kAsTheyAre][kModes] = update<R, kModes, kAsTheyAre, P, G, S>), ...);
  ((table[kUnscaled][kModes] = update<R, kModes, kUnscaled, P, G, S>), ...);
  ((table[kClipped][kModes] = update<R, kModes, kClipped, P, G, S>), ...);
  ((table[kAveraged][kModes] = update<R, kModes, kClipped, P, G, S, P>), ...);
  if constexpr (sizeof(P) == 2) {
    ((table[kAveragedWide][kModes] = update<R, kModes, kClipped, P, G, S, float>), ...);
  }
}

template <typename R, typename... Ks>
constexpr void fill_rule(Kernel (&table)[kKindCount][kUses][kMostModes], List<Ks...>) {
  int kind = 0;
  (fill_kind<R, Ks>(table[kind++], std::make_integer_sequence<int, R::kModes>{}), ...);
}

template <typename T>
constexpr void fill_dtype(KernelTable& table) {
  constexpr int kCode = DTypeOf<T>::kCode;
  table.sums[kCode] = sum_of_squares<T>;
  table.averages[kCode][0] = average<T, T>;
  if constexpr (sizeof(T) == 2) table.averages[kCode][1] = average<T, float>;
}

template <typename... Ts>
constexpr void fill_dtypes(KernelTable& table, List<Ts...>) {
  (fill_dtype<Ts>(table), ...);
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
