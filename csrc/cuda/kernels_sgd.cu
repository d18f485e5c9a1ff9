// The kernels of SGD, and of a schedule's own step.
#include "kernels.cuh"

namespace fused_sched {
namespace {

__global__ void __launch_bounds__(kThreads)
    schedule_kernel(const DeviceSchedule* schedule, double* control) {
  const bool skipped = reinterpret_cast<const int64_t*>(control)[kHeaderSkipped] != 0;
  advance_all(schedule, 1, control, skipped);
}

}  // namespace

const void* sgd_kernel(int kind, bool extra) { return find_kernel<Rule::kSgd>(kind, extra); }

const void* advance_kernel() { return reinterpret_cast<const void*>(&schedule_kernel); }

}  // namespace fused_sched
