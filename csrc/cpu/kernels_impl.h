// The update loops. Each kernels_*.cpp includes this once, with a namespace (FUSED_SCHED_ISA) and
// compiler flags of its own; the compiler vectorises the loops.
#include <utility>

#include "kernels.h"

namespace fused_sched {
namespace FUSED_SCHED_ISA {
namespace {

// The gradient as T, divided by the scale (and written back) if a GradScaler gave one.
template <bool kScaled, typename T, typename G>
inline T load_gradient(G* grad, T scale) {
  T g = load(*grad);
  if (kScaled) {
    g = g / scale;
    store(grad, g);
  }
  return g;
}

template <typename R, int kMode, bool kScaled, typename P, typename G, typename S>
void update_loop(P* __restrict param, G* __restrict grad, S* __restrict state0, S* __restrict state1,
                 S* __restrict state2, int64_t count,
                 const typename R::template Scalars<double>& scalars, double grad_scale) {
  using T = typename ComputeType<P>::type;
  const auto s = R::template rounded<T>(scalars);
  const T scale = static_cast<T>(grad_scale);
  for (int64_t i = 0; i < count; ++i) {
    T p = load(param[i]);
    T a = reads<R, kMode>(0) ? load(state0[i]) : T(0);
    T b = reads<R, kMode>(1) ? load(state1[i]) : T(0);
    T c = reads<R, kMode>(2) ? load(state2[i]) : T(0);
    R::template element<kMode>(s, load_gradient<kScaled>(grad + i, scale), p, a, b, c);
    if (writes<R, kMode>(0)) store(state0 + i, a);
    if (writes<R, kMode>(1)) store(state1 + i, b);
    if (writes<R, kMode>(2)) store(state2 + i, c);
    store(param + i, p);
  }
}

template <typename T>
inline T* at(int64_t address, int64_t start) {
  return address == 0 ? nullptr : reinterpret_cast<T*>(address) + start;
}

template <typename R, int kMode, bool kScaled, typename P, typename G, typename S>
void update(const Record& r, int64_t start, int64_t count, const AnyScalars& scalars,
            double grad_scale) {
  using Scalars = typename R::template Scalars<double>;
  update_loop<R, kMode, kScaled>(
      at<P>(r.param, start), at<G>(r.grad, start), at<S>(r.state[0], start),
      at<S>(r.state[1], start), at<S>(r.state[2], start), count,
      *reinterpret_cast<const Scalars*>(scalars.bytes), grad_scale);
}

template <typename R, typename K, int... kModes>
constexpr void fill_kind(Kernel (&table)[2][kMostModes], std::integer_sequence<int, kModes...>) {
  ((table[0][kModes] =
        update<R, kModes, false, typename K::Param, typename K::Grad, typename K::State>),
   ...);
  ((table[1][kModes] =
        update<R, kModes, true, typename K::Param, typename K::Grad, typename K::State>),
   ...);
}

template <typename R, typename... Ks>
constexpr void fill_rule(Kernel (&table)[kKindCount][2][kMostModes], List<Ks...>) {
  int kind = 0;
  (fill_kind<R, Ks>(table[kind++], std::make_integer_sequence<int, R::kModes>{}), ...);
}

template <typename... Rs>
constexpr KernelTable make_table(List<Rs...>) {
  KernelTable table = {};
  int rule = 0;
  (fill_rule<Rs>(table.kernels[rule++], Kinds{}), ...);
  return table;
}

constexpr KernelTable kTable = make_table(Rules{});

}  // namespace

extern const KernelTable kKernels = kTable;

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
