// The kernel of a schedule's own step.
#include "advance.cuh"
#include "launch.h"

namespace fused_sched {
namespace {

__global__ void __launch_bounds__(kBlockThreads)
    schedule_kernel(const DeviceSchedule* schedule, double* control) {
  const bool skipped = reinterpret_cast<const int64_t*>(control)[kHeaderSkipped] != 0;
  advance_all(schedule, 1, control, skipped);
}

}  // namespace

const void* advance_kernel() { return reinterpret_cast<const void*>(&schedule_kernel); }

}  // namespace fused_sched
