// The launches of a step, as Python hands them over.
#pragma once

#include <string.h>

#include "../ways.h"
#include "measure.h"
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
  int64_t ways;  // as in ways.h
  int64_t unused;
};
constexpr int64_t kLaunchWidth = 16;
static_assert(sizeof(Launch) == kLaunchWidth * sizeof(int64_t), "a launch is a row of 16 int64");

constexpr int64_t kNoKind = -1;  // no tensor has elements: one block ends the step

// Of the averages that go with a kind; -1 for those that there are no kernels for.
inline int average_type(int64_t kind) {
  const int average = kind == kNoKind ? -1 : average_dtype(kind), param = param_dtype(kind);
  if (average < 0) return kNoAverage;
  if (average == param) return kOwnType;
  const bool narrow = param == kBFloat16 || param == kFloat16;
  return average == kFloat32 && narrow ? kSingle : -1;
}

inline int master_type(int64_t kind) { return kind == kNoKind ? kNoMaster : master_of(kind); }

// Whether anything is done around the update.
inline bool has_around(const Launch& l) {
  return l.ways != 0 || average_type(l.kind) != kNoAverage || master_type(l.kind) != kNoMaster;
}

// Position among Kinds; -1 for kNoKind, kKindCount for what is unknown.
inline int find_kind(int64_t kind) { return kind == kNoKind ? -1 : common::find_kind(kind); }

inline Step argument_of(const Launch& l, double* control, const float* grad_scale,
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
  step.measured = (l.ways & kWayMeasured) != 0;
  step.clipped = (l.ways & kWayClipped) != 0;
  step.zeroes = (l.ways & kWayZeroes) != 0;
  step.average = average_type(l.kind);
  step.master = master_type(l.kind);
  step.draws = (l.ways & kWayDraws) != 0;
  return step;
}

// A row of the plan of a measurement.
struct NormLaunch {
  int64_t dtype;  // of the gradients, or kNoDType
  int64_t last;
  int64_t n_blocks;
  int64_t chunks;
  int64_t chunk_size;
  int64_t unit;
  int64_t records;
  int64_t grads;
  int64_t sums;
  int64_t n_sums;
  int64_t groups;
  int64_t n_groups;
  int64_t each;
  int64_t only_finite;
  int64_t norms;
  int64_t window;
  int64_t least;
  int64_t deviations;  // the bits of a double
};
constexpr int64_t kNormLaunchWidth = 18;
static_assert(kNormLaunchWidth != kLaunchWidth, "cuda_prepare tells plans apart by it");
static_assert(sizeof(NormLaunch) == kNormLaunchWidth * sizeof(int64_t),
              "a launch of a measurement is a row of 18 int64");

constexpr int64_t kNoDType = -1;  // no gradient has elements: one block sees what comes of it

inline Measure argument_of(const NormLaunch& l, double* control, const float* grad_scale,
                           const float* found_inf) {
  Measure m = {};
  m.control = control;
  m.records = reinterpret_cast<const Record*>(l.records);
  m.grads = reinterpret_cast<const Gradient*>(l.grads);
  m.chunks = reinterpret_cast<const NormChunk*>(l.chunks);
  m.sums = reinterpret_cast<double*>(l.sums);
  m.groups = reinterpret_cast<const NormGroup*>(l.groups);
  m.grad_scale = grad_scale;
  m.found_inf = found_inf;
  m.spikes.norms = reinterpret_cast<double*>(l.norms);
  m.spikes.window = l.window;
  m.spikes.least = l.least;
  memcpy(&m.spikes.deviations, &l.deviations, sizeof(double));
  m.n_sums = static_cast<int>(l.n_sums);
  m.n_groups = static_cast<int>(l.n_groups);
  m.chunk_size = static_cast<int>(l.chunk_size);
  m.unit = static_cast<int>(l.unit);
  m.each = l.each != 0;
  m.only_finite = l.only_finite != 0;
  m.last = l.last != 0;
  return m;
}

}  // namespace fused_sched
