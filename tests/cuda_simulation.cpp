// The kernels of csrc/cuda on the host: blocks and threads run one after another, with the
// barriers as ends of loops. Built and called by test_cuda_simulation.py.
#include <vector>

#include "../csrc/cuda/chunk.h"
#include "../csrc/cuda/launch.h"
#include "../csrc/cuda/plan.h"

namespace fused_sched {
namespace {

constexpr int kThreads = kBlockThreads;

template <typename R, bool kExtra, bool kAround, typename P, typename G, typename S>
void run_block(const Step& step, int block) {
  using T = typename ComputeType<P>::type;
  const ChunkPlace& place = step.chunks[block];
  const Gradient& grad = step.grads[place.record];
  if (!kAround && (grad.address == 0 || common::is_skipped<false>(step))) return;
  const Record& r = step.records[place.record];
  ChunkScalars<R, T, kAround> scalars;
  for (int part = R::kScalarParts; part-- > 0;) {
    common::chunk_scalars<R, T>(step, r, step.counts[grad.count], part, scalars);
  }
  const int64_t start = static_cast<int64_t>(place.unit) * step.unit;
  const int count = static_cast<int>(std::min<int64_t>(r.numel - start, step.chunk_size));
  const Arrays<P, G, S> arrays = common::arrays_of<P, G, S>(r, grad.address, start);
  Beside<P, kAround> beside;
  if constexpr (kAround) {
    common::around_scalars<T>(step, r, start, scalars);
    beside = common::beside_of<P>(step, r, start);
    for (int thread = kThreads; thread-- > 0;) {
      common::go_without_update(arrays.param, arrays.grad, beside, scalars, count, thread,
                                kThreads);
    }
    if (grad.address == 0 || scalars.skipped != 0) return;
  }
  for (int thread = kThreads; thread-- > 0;) {
    common::update_elements<R, kExtra>(arrays, beside, scalars, count, thread, kThreads);
  }
}

using Block = void (*)(const Step&, int);

template <typename R, bool kExtra, bool kAround, typename... Ks>
Block find_block(int kind, List<Ks...>) {
  static constexpr Block kBlocks[] = {
      run_block<R, kExtra, kAround, typename Ks::Param, typename Ks::Grad, typename Ks::State>...};
  return kBlocks[kind];
}

template <typename R>
Block find_block(const Launch& l, int kind) {
  if (has_around(l)) {
    return l.extra != 0 ? find_block<R, true, true>(kind, Kinds{})
                        : find_block<R, false, true>(kind, Kinds{});
  }
  return l.extra != 0 ? find_block<R, true, false>(kind, Kinds{})
                      : find_block<R, false, false>(kind, Kinds{});
}

void advance(const DeviceSchedule& s, double* control, bool skipped) {
  if (skipped && s.guarded != 0) return;
  const int workers = common::worker_count(s.n_lanes, kThreads);
  std::vector<double> values(workers * common::value_stride(s.n_ops));
  common::advance_uniform(s, s.code, values.data());
  for (int worker = 0; worker < workers; ++worker) {
    common::advance_lanes(s, s.code, control, values.data(), worker, workers);
  }
  if (s.exports == 0) return;
  common::export_bound(s.code, s.n_ops, s.memory + s.rows_offset, s.n_lanes, control, 0, 1);
}

template <typename R>
void finish(const Step& step) {
  const bool skipped = common::is_skipped<true>(step);
  reinterpret_cast<int64_t*>(step.control)[kHeaderSkipped] = skipped ? 1 : 0;
  for (int thread = kThreads; !skipped && thread-- > 0;) {
    common::count_updates<R>(step, thread, kThreads);
  }
  if (step.draws != 0 && !skipped) reinterpret_cast<int64_t*>(step.control)[kHeaderUpdates] += 1;
  for (int i = 0; i < step.n_schedules; ++i) advance(step.schedules[i], step.control, skipped);
}

template <typename R>
int run_launch(const Launch& l, const Step& step) {
  const int kind = find_kind(l.kind);
  if (kind == kKindCount) return 1;
  if (kind >= 0) {
    const Block block = find_block<R>(l, kind);
    for (int i = static_cast<int>(l.n_blocks); i-- > 0;) block(step, i);
  }
  if (step.last != 0) finish<R>(step);
  return 0;
}

template <typename... Rs>
int run_rule(const Launch& l, const Step& step, List<Rs...>) {
  using Run = int (*)(const Launch&, const Step&);
  static constexpr Run kRun[] = {run_launch<Rs>...};
  return kRun[l.rule](l, step);
}

template <typename G>
void measure_block(const Measure& m, int block) {
  const NormChunk& chunk = m.chunks[block];
  const Record& r = m.records[chunk.record];
  const int64_t grad = m.grads[chunk.record].address;
  const int64_t start = static_cast<int64_t>(chunk.unit) * m.unit;
  const int count = static_cast<int>(std::min<int64_t>(r.numel - start, m.chunk_size));
  double sum = 0.0;
  for (int thread = kThreads; grad != 0 && thread-- > 0;) {
    const G* first = reinterpret_cast<const G*>(grad) + start;
    sum += common::sum_of_squares(first, count, thread, kThreads);
  }
  m.sums[chunk.place] = sum;
}

template <typename... Gs>
void measure_block_at(int dtype, const Measure& m, int block, List<Gs...>) {
  static constexpr void (*kBlocks[])(const Measure&, int) = {measure_block<Gs>...};
  kBlocks[dtype](m, block);
}

void conclude(const Measure& m) {
  std::vector<double> squares(m.n_groups);
  double all = 0.0;
  for (int i = 0; i < m.n_groups; ++i) {
    for (int k = m.groups[i].first; k < m.groups[i].end; ++k) squares[i] += m.sums[k];
    all += squares[i];
  }
  const double norm = sqrt(all) / common::scale_of(m);
  for (int i = 0; i < m.n_groups; ++i) {
    const double own = m.each != 0 ? sqrt(squares[i]) / common::scale_of(m) : norm;
    common::note_norm_of(m, m.groups[i], own);
  }
  const bool found_inf = m.found_inf != nullptr && *m.found_inf != 0.0f;
  common::decide(m.control, norm, found_inf, m.only_finite != 0, m.spikes);
}

}  // namespace
}  // namespace fused_sched

extern "C" int simulate_update(const fused_sched::Launch* plan, int64_t count, double* control,
                               const float* grad_scale, const float* found_inf) {
  using namespace fused_sched;
  for (int64_t i = 0; i < count; ++i) {
    const Step step = argument_of(plan[i], control, grad_scale, found_inf);
    if (run_rule(plan[i], step, common::Rules{}) != 0) return 1;
  }
  return 0;
}

extern "C" void simulate_measure(const fused_sched::NormLaunch* plan, int64_t count,
                                 double* control, const float* grad_scale,
                                 const float* found_inf) {
  using namespace fused_sched;
  for (int64_t i = 0; i < count; ++i) {
    const Measure m = argument_of(plan[i], control, grad_scale, found_inf);
    const int blocks = plan[i].dtype == kNoDType ? 0 : static_cast<int>(plan[i].n_blocks);
    for (int block = blocks; block-- > 0;) {
      measure_block_at(static_cast<int>(plan[i].dtype), m, block, DTypes{});
    }
    if (m.last != 0) conclude(m);
  }
}

extern "C" void simulate_advance(const fused_sched::DeviceSchedule* schedule, double* control) {
  const int64_t* header = reinterpret_cast<const int64_t*>(control);
  fused_sched::advance(*schedule, control, header[fused_sched::kHeaderSkipped] != 0);
}
