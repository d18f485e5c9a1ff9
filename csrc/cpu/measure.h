// The norm of the gradients of all parameters.
#pragma once

#include <vector>

#include "../norm.h"
#include "update.h"

namespace fused_sched {

// Records and their chunks, as of an Update.
struct Gradients {
  const Record* records;
  int64_t n_records;
  const Chunk* chunks;
  int64_t n_chunks;
};

struct MeasuredGroup {
  int64_t row;    // of the control block
  int64_t clips;  // whether it has a max_grad_norm
};

struct Measurement {
  const KernelTable* kernels;
  std::vector<Gradients> tables;
  int64_t chunk_size;
  double* control;
  int64_t n_rows;
  const MeasuredGroup* groups;
  int64_t n_groups;
  bool each;  // a norm of each group's gradients, else one of all
  const double* sums;  // of the squares of each group's gradients, added to those of the tables; or null
  double grad_scale;
  bool found_inf;
  bool only_finite;
  Spikes spikes;
};

// Returns false and sets message if a record, chunk or group is invalid; nothing is changed then.
bool check_measurement(const Measurement& m, char* message, int message_size);

// Writes the sum of the squares of each group's gradients, as they are.
void sum_squares(const Measurement& m, double* sums);

// Writes the norms, the clip factors and whether the step is skipped to the control block. The same
// bits whatever the number of threads and the instruction set.
void run_measurement(const Measurement& m);

}  // namespace fused_sched
