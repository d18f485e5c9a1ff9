// The kernels of csrc/cuda on the host: blocks and threads run one after another, with the
// barriers as ends of loops. Built and called by test_cuda_simulation.py.
#include <vector>

#include "../csrc/cuda/chunk.h"
#include "../csrc/cuda/launch.h"
#include "../csrc/cuda/plan.h"

namespace fused_sched {
namespace {

constexpr int kThreads = kBlockThreads;

template <typename R, bool kExtra, typename P, typename G, typename S>
void run_block(const Step& step, int block) {
  using T = typename ComputeType<P>::type;
  const ChunkPlace& place = step.chunks[block];
  const Gradient& grad = step.grads[place.record];
  if (grad.address == 0 || common::is_skipped(step)) return;
  const Record& r = step.records[place.record];
  ChunkScalars<R, T> scalars;
  for (int part = R::kScalarParts; part-- > 0;) {
    common::chunk_scalars<R, T>(step, r, step.counts[grad.count], part, scalars);
  }
  const int64_t start = static_cast<int64_t>(place.unit) * step.unit;
  const int count = static_cast<int>(std::min<int64_t>(r.numel - start, step.chunk_size));
  const Arrays<P, G, S> arrays = common::arrays_of<P, G, S>(r, grad.address, start);
  for (int thread = kThreads; thread-- > 0;) {
    common::update_elements<R, kExtra>(arrays, scalars, count, thread, kThreads);
  }
}

using Block = void (*)(const Step&, int);

template <typename R, bool kExtra, typename... Ks>
Block find_block(int kind, List<Ks...>) {
  static constexpr Block kBlocks[] = {
      run_block<R, kExtra, typename Ks::Param, typename Ks::Grad, typename Ks::State>...};
  return kBlocks[kind];
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
  const bool skipped = common::is_skipped(step);
  reinterpret_cast<int64_t*>(step.control)[kHeaderSkipped] = skipped ? 1 : 0;
  for (int thread = kThreads; !skipped && thread-- > 0;) {
    common::count_updates<R>(step, thread, kThreads);
  }
  for (int i = 0; i < step.n_schedules; ++i) advance(step.schedules[i], step.control, skipped);
}

template <typename R>
int run_launch(const Launch& l, const Step& step) {
  const int kind = find_kind(l.kind);
  if (kind == kKindCount) return 1;
  if (kind >= 0) {
    const Block block =
        l.extra != 0 ? find_block<R, true>(kind, Kinds{}) : find_block<R, false>(kind, Kinds{});
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

}  // namespace
}  // namespace fused_sched

extern "C" int simulate_update(const fused_sched::Launch* plan, int64_t count, double* control,
                               const float* grad_scale, const float* found_inf) {
  using namespace fused_sched;
  for (int64_t i = 0; i < count; ++i) {
    const Step step = step_of(plan[i], control, grad_scale, found_inf);
    if (run_rule(plan[i], step, common::Rules{}) != 0) return 1;
  }
  return 0;
}

extern "C" void simulate_advance(const fused_sched::DeviceSchedule* schedule, double* control) {
  const int64_t* header = reinterpret_cast<const int64_t*>(control);
  fused_sched::advance(*schedule, control, header[fused_sched::kHeaderSkipped] != 0);
}
