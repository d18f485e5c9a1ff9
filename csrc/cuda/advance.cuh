// One advance of a schedule by all threads of a block.
#pragma once

#include "step.h"

namespace fused_sched {
namespace {

// For code and values of a program; a larger one uses global memory.
constexpr int kSharedDoubles = 512;

// Copies the program's code to shared memory if everything fits there, else uses it where it is.
// Returns the place for the values.
__device__ inline double* place_program(const DeviceSchedule& s, int workers, double* shared,
                                        const int32_t** code) {
  const int64_t n_words = s.n_ops * kCodeWidth;
  const int64_t code_doubles = (n_words + 1) / 2;
  *code = s.code;
  if (code_doubles + workers * common::value_stride(s.n_ops) > kSharedDoubles) return s.scratch;
  int32_t* words = reinterpret_cast<int32_t*>(shared);
  for (int i = threadIdx.x; i < n_words; i += blockDim.x) words[i] = s.code[i];
  *code = words;
  return shared + code_doubles;
}

// One advance by all threads of a block.
__device__ inline void advance_one(const DeviceSchedule& s, double* control, double* shared) {
  const int workers = common::worker_count(s.n_lanes, blockDim.x);
  const int32_t* code;
  double* values = place_program(s, workers, shared, &code);
  __syncthreads();
  if (threadIdx.x == 0) common::advance_uniform(s, code, values);
  __syncthreads();
  if (threadIdx.x < workers) common::advance_lanes(s, code, control, values, threadIdx.x, workers);
}

// Lets tensors have what an advance wrote to the fields that follow them. Not inlined, for the registers' sake.
__device__ __noinline__ void export_all(const DeviceSchedule& s, double* control) {
  common::export_bound(s.code, s.n_ops, s.memory + s.rows_offset, s.n_lanes, control, threadIdx.x,
                       blockDim.x);
}

// Advances schedules in turn, by all threads of a block. Not inlined: its registers are none of the
// update loop's concern.
__device__ __noinline__ void advance_all(const DeviceSchedule* schedules, int count,
                                         double* control, bool skipped) {
  __shared__ double shared[kSharedDoubles];
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    __syncthreads();  // what one schedule wrote, the next may read
    if (skipped && schedules[i].guarded != 0) continue;
    advance_one(schedules[i], control, shared);
    if (schedules[i].exports == 0) continue;
    __syncthreads();  // lanes may share a tensor
    export_all(schedules[i], control);
  }
}

}  // namespace
}  // namespace fused_sched
