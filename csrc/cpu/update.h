// One update of all parameters: the work list, and the threads that share it.
#pragma once

#include "capability.h"

namespace fused_sched {

struct Chunk {
  int64_t record;
  int64_t start;  // first element; the chunk ends chunk_size elements later or with the tensor
};

struct Update {
  const KernelTable* kernels;
  int rule;  // its position among Rules
  const double* control;
  int64_t n_rows;  // of the control block
  int64_t* counts;
  int64_t n_counts;
  const Record* records;
  int64_t n_records;
  const Chunk* chunks;
  int64_t n_chunks;
  int64_t chunk_size;
  bool scaled;
  double grad_scale;
  bool clipped;  // rows have the factors that gradients are multiplied by
  bool zeroes;   // gradients are left as zeros
  bool skipped;  // nothing is updated; gradients may still be zeroed
};

// Returns false and sets message if a chunk is not one of a record.
bool check_chunks(const Record* records, int64_t n_records, const Chunk* chunks, int64_t n_chunks,
                  char* message, int message_size);

// Checks the work list and computes the scalars of each record, for the next run_update of this
// thread. Returns false and sets message if a record or chunk is invalid; nothing is changed then.
bool prepare_update(const Update& update, char* message, int message_size);

// Updates every record that has a gradient and counts the update; averages also those that have none.
void run_update(const Update& update);

}  // namespace fused_sched
