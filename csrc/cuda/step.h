// One launch as the kernels get it, and the parts of it that need no other threads.
#pragma once

#include "../cpu/kernels.h"
#include "../program.h"

namespace fused_sched {

// A row of the schedules' table, as Python writes it.
struct DeviceSchedule {
  const int32_t* code;
  double* memory;
  double* scratch;  // for the values of a program that is too large for the block's shared memory
  int64_t n_ops;
  int64_t n_uniform;
  int64_t n_lanes;
  int64_t guarded;  // stands still when the update was skipped
  int64_t rows_offset;  // in memory: the rows of the control block, one for each lane
  int64_t exports;  // writes fields that follow a tensor
};
static_assert(sizeof(DeviceSchedule) == 9 * sizeof(int64_t), "a schedule is a row of 9 int64");

// What an update and its end need of every record: it moves more often than the rest of a record.
struct alignas(2 * sizeof(int64_t)) Gradient {
  int64_t address;  // 0: no gradient this step
  int64_t count;    // slot of the parameter's count
};

struct ChunkPlace {
  int32_t record;
  int32_t unit;  // first element, divided by Step::unit
};

// Of the averaged copies that a launch updates too: none, of the parameters' type, or float32
// beside parameters of 16 bits.
enum AverageType : int { kNoAverage, kOwnType, kSingle };

struct Step {
  double* control;
  int64_t* counts;
  const Record* records;  // their `grad` and `count` are not used: see Gradient
  const Gradient* grads;  // one a record
  const ChunkPlace* chunks;
  const DeviceSchedule* schedules;
  const float* grad_scale;  // or null
  const float* found_inf;   // or null
  int n_records;
  int n_schedules;
  int chunk_size;
  int unit;
  int last;  // whether this launch ends the step
  // What is done around the update. Kernels without kAround read none of it.
  int measured;  // a measurement has said whether the step is skipped
  int clipped;   // and by what gradients are multiplied
  int zeroes;    // zeros are left in gradients
  int average;   // an AverageType
  int master;    // a Master
  int draws;     // the header counts the update
};

namespace FUSED_SCHED_ISA {

template <bool kAround>
FUSED_SCHED_HD inline bool is_skipped(const Step& step) {
  if (kAround && step.measured != 0) {
    return reinterpret_cast<const int64_t*>(step.control)[kHeaderSkipped] != 0;
  }
  return step.found_inf != nullptr && *step.found_inf != 0.0f;
}

FUSED_SCHED_HD inline const double* row_of(const double* control, const Record& r) {
  return control + kGroupsOffset + r.row * kGroupStride;
}

// Counts the update of every record that was updated, as csrc/cpu/update.cpp does.
template <typename R>
FUSED_SCHED_HD inline void count_updates(const Step& step, int thread, int n_threads) {
  for (int i = thread; i < step.n_records; i += n_threads) {
    const Gradient grad = step.grads[i];
    if (grad.address == 0) continue;
    if (R::counts(row_of(step.control, step.records[i]))) step.counts[grad.count] += 1;
  }
}

// The values of a program in memory: those of the operations that run once come first in the array
// of every worker. The odd stride keeps workers off each other's banks of shared memory.
FUSED_SCHED_HD inline int64_t value_stride(int64_t n_ops) { return n_ops | 1; }

// Threads that run a program's lanes in turns; at least one, for the operations that run once.
FUSED_SCHED_HD inline int worker_count(int64_t n_lanes, int n_threads) {
  if (n_lanes >= n_threads) return n_threads;
  return n_lanes < 1 ? 1 : static_cast<int>(n_lanes);
}

// First half of an advance, by one thread: the operations that run once, into worker 0's values.
FUSED_SCHED_HD inline void advance_uniform(const DeviceSchedule& s, const int32_t* code,
                                           double* values) {
  for (int i = 0; i < s.n_uniform; ++i) {
    run_operation(code + i * kCodeWidth, 0, s.memory, nullptr, values, values + i);
  }
}

// Second half: the lanes of one worker. Worker 0's first values must be there, and it leaves them.
FUSED_SCHED_HD inline void advance_lanes(const DeviceSchedule& s, const int32_t* code,
                                         double* control, double* values, int worker,
                                         int workers) {
  double* mine = values + worker * value_stride(s.n_ops);
  if (worker != 0) {
    for (int i = 0; i < s.n_uniform; ++i) mine[i] = values[i];
  }
  for (int64_t lane = worker; lane < s.n_lanes; lane += workers) {
    double* row = driven_row(control, s.memory + s.rows_offset, lane);
    for (int64_t i = s.n_uniform; i < s.n_ops; ++i) {
      run_operation(code + i * kCodeWidth, lane, s.memory, row, mine, mine + i);
    }
  }
}

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
