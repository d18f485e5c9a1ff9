// The update loops. Each kernels_*.cpp includes this once, with a namespace (FUSED_SCHED_ISA) and
// compiler flags of its own; the compiler vectorises the loops.
#include "../dtypes.h"
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

template <Momentum kMomentum, bool kScaled, typename P, typename G, typename S>
void sgd_loop(P* __restrict param, G* __restrict grad, S* __restrict buffer, int64_t count,
              const SgdScalars<double>& scalars, double grad_scale) {
  using T = typename ComputeType<P>::type;
  const SgdScalars<T> s = round_scalars<T>(scalars);
  const T scale = static_cast<T>(grad_scale);
  for (int64_t i = 0; i < count; ++i) {
    T p = load(param[i]);
    T b = kMomentum == Momentum::kRunning ? load(buffer[i]) : T(0);
    sgd_element<kMomentum>(s, load_gradient<kScaled>(grad + i, scale), p, b);
    if (kMomentum != Momentum::kNone) store(buffer + i, b);
    store(param + i, p);
  }
}

template <bool kAmsgrad, bool kScaled, typename P, typename G, typename S>
void adam_loop(P* __restrict param, G* __restrict grad, S* __restrict first, S* __restrict second,
               S* __restrict largest, int64_t count, const AdamScalars<double>& scalars,
               double grad_scale) {
  using T = typename ComputeType<P>::type;
  const AdamScalars<T> s = round_scalars<T>(scalars);
  const T scale = static_cast<T>(grad_scale);
  for (int64_t i = 0; i < count; ++i) {
    T p = load(param[i]);
    T m = load(first[i]);
    T v = load(second[i]);
    T v_max = kAmsgrad ? load(largest[i]) : T(0);
    adam_element<kAmsgrad>(s, load_gradient<kScaled>(grad + i, scale), p, m, v, v_max);
    store(first + i, m);
    store(second + i, v);
    if (kAmsgrad) store(largest + i, v_max);
    store(param + i, p);
  }
}

template <typename T>
inline T* at(int64_t address, int64_t start) {
  return address == 0 ? nullptr : reinterpret_cast<T*>(address) + start;
}

template <Momentum kMomentum, bool kScaled, typename P, typename G, typename S>
void sgd(const Record& r, int64_t start, int64_t count, const Scalars& scalars, double grad_scale) {
  sgd_loop<kMomentum, kScaled>(at<P>(r.param, start), at<G>(r.grad, start),
                               at<S>(r.state[0], start), count, scalars.sgd, grad_scale);
}

template <bool kAmsgrad, bool kScaled, typename P, typename G, typename S>
void adam(const Record& r, int64_t start, int64_t count, const Scalars& scalars,
          double grad_scale) {
  adam_loop<kAmsgrad, kScaled>(at<P>(r.param, start), at<G>(r.grad, start),
                               at<S>(r.state[0], start), at<S>(r.state[1], start),
                               at<S>(r.state[2], start), count, scalars.adam, grad_scale);
}

#define FUSED_SCHED_SGD_MODES(scaled, ...)               \
  {                                                      \
    sgd<Momentum::kNone, scaled, __VA_ARGS__>,           \
        sgd<Momentum::kFirst, scaled, __VA_ARGS__>,      \
        sgd<Momentum::kRunning, scaled, __VA_ARGS__>     \
  }
#define FUSED_SCHED_SGD(...) \
  { FUSED_SCHED_SGD_MODES(false, __VA_ARGS__), FUSED_SCHED_SGD_MODES(true, __VA_ARGS__) }
#define FUSED_SCHED_ADAM(...)                                          \
  {                                                                    \
    {adam<false, false, __VA_ARGS__>, adam<true, false, __VA_ARGS__>}, \
    {adam<false, true, __VA_ARGS__>, adam<true, true, __VA_ARGS__>},   \
  }
// In the order of kKinds.
#define FUSED_SCHED_EACH_KIND(f)                                                      \
  {                                                                                   \
    f(float, float, float), f(double, double, double), f(BFloat16, BFloat16, BFloat16), \
        f(Float16, Float16, Float16), f(BFloat16, BFloat16, float),                   \
        f(Float16, Float16, float), f(float, BFloat16, float), f(float, Float16, float) \
  }

}  // namespace

extern const KernelTable kKernels = {FUSED_SCHED_EACH_KIND(FUSED_SCHED_SGD),
                                     FUSED_SCHED_EACH_KIND(FUSED_SCHED_ADAM)};

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
