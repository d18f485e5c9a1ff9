// The launches of a step, as Python hands them over.
#pragma once

#include "step.h"

namespace fused_sched {

// A row of the plan. Addresses are integers.
struct Launch {
  int64_t rule;  // position among Rules
  int64_t kind;  // as in Record, or kNoKind
  int64_t extra;  // whether some parameter has the rule's optional state
  int64_t last;
  int64_t n_blocks;
  int64_t chunks;
  int64_t chunk_size;
  int64_t unit;
  int64_t records;
  int64_t grads;
  int64_t n_records;
  int64_t counts;
  int64_t schedules;
  int64_t n_schedules;
  int64_t unused[2];
};
constexpr int64_t kLaunchWidth = 16;
static_assert(sizeof(Launch) == kLaunchWidth * sizeof(int64_t), "a launch is a row of 16 int64");

constexpr int64_t kNoKind = -1;  // no tensor has elements: one block ends the step

// Position among Kinds; -1 for kNoKind, kKindCount for what is unknown.
inline int find_kind(int64_t kind) { return kind == kNoKind ? -1 : common::find_kind(kind); }

inline Step step_of(const Launch& l, double* control, const float* grad_scale,
                    const float* found_inf) {
  Step step = {};
  step.control = control;
  step.counts = reinterpret_cast<int64_t*>(l.counts);
  step.records = reinterpret_cast<const Record*>(l.records);
  step.grads = reinterpret_cast<const Gradient*>(l.grads);
  step.chunks = reinterpret_cast<const ChunkPlace*>(l.chunks);
  step.schedules = reinterpret_cast<const DeviceSchedule*>(l.schedules);
  step.grad_scale = grad_scale;
  step.found_inf = found_inf;
  step.n_records = static_cast<int>(l.n_records);
  step.n_schedules = static_cast<int>(l.n_schedules);
  step.chunk_size = static_cast<int>(l.chunk_size);
  step.unit = static_cast<int>(l.unit);
  step.last = l.last != 0;
  return step;
}

}  // namespace fused_sched
