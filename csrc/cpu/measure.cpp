#include "measure.h"

#include <math.h>
#include <stdio.h>

#include <algorithm>

#include "parallel.h"

namespace fused_sched {
namespace {

// Below this many elements, waking the other threads costs more than they save.
constexpr int64_t kSerialElements = 65536;

struct Work {
  const Measurement* m;
  const Gradients* table;
  double* sums;  // one a chunk
};

int64_t chunk_length(const Measurement& m, const Gradients& t, const Chunk& chunk) {
  return std::min(m.chunk_size, t.records[chunk.record].numel - chunk.start);
}

double sum_of_chunk(const Measurement& m, const Gradients& t, const Chunk& chunk) {
  const Record& r = t.records[chunk.record];
  if (r.grad == 0) return 0.0;
  return m.kernels->sums[grad_dtype(r.kind)](r.grad, chunk.start, chunk_length(m, t, chunk));
}

void sum_chunks(void* context, int64_t begin, int64_t end) {
  const Work& work = *static_cast<const Work*>(context);
  for (int64_t i = begin; i < end; ++i) {
    work.sums[i] = sum_of_chunk(*work.m, *work.table, work.table->chunks[i]);
  }
}

int64_t elements_of(const Measurement& m, const Gradients& t) {
  int64_t elements = 0;
  for (int64_t i = 0; i < t.n_chunks; ++i) elements += chunk_length(m, t, t.chunks[i]);
  return elements;
}

// Kept from step to step, so that a step allocates nothing.
thread_local std::vector<double> chunk_sums;
thread_local std::vector<double> row_sums;

// Adds the sums of squares of a table's gradients to those of their rows, chunk after chunk.
void add_squares(const Measurement& m, const Gradients& t) {
  chunk_sums.resize(t.n_chunks);
  Work work{&m, &t, chunk_sums.data()};
  share_out(t.n_chunks, elements_of(m, t), kSerialElements, sum_chunks, &work);
  for (int64_t i = 0; i < t.n_chunks; ++i) {
    const Record& r = t.records[t.chunks[i].record];
    if (r.grad != 0) row_sums[r.row] += chunk_sums[i];  // of others, nobody has looked at the row
  }
}

bool has_sane_record(const Measurement& m, const Gradients& t, int64_t i) {
  const Record& r = t.records[i];
  if (r.grad == 0 || r.numel == 0) return true;
  return r.row >= 0 && r.row < m.n_rows && grad_dtype(r.kind) < kDTypeCount;
}

}  // namespace

bool check_measurement(const Measurement& m, char* message, int message_size) {
  for (int64_t i = 0; i < m.n_groups; ++i) {
    if (m.groups[i].row >= 0 && m.groups[i].row < m.n_rows) continue;
    snprintf(message, message_size, "groups[%lld] has row %lld, but the control block has rows 0 to %lld",
             static_cast<long long>(i), static_cast<long long>(m.groups[i].row),
             static_cast<long long>(m.n_rows - 1));
    return false;
  }
  for (const Gradients& t : m.tables) {
    for (int64_t i = 0; i < t.n_records; ++i) {
      if (has_sane_record(m, t, i)) continue;
      snprintf(message, message_size, "records[%lld] (row=%lld, kind=%lld) has an unknown row or kind: rebuild them",
               static_cast<long long>(i), static_cast<long long>(t.records[i].row),
               static_cast<long long>(t.records[i].kind));
      return false;
    }
    if (!check_chunks(t.records, t.n_records, t.chunks, t.n_chunks, message, message_size)) return false;
  }
  return true;
}

void sum_squares(const Measurement& m, double* sums) {
  row_sums.assign(m.n_rows, 0.0);
  for (const Gradients& t : m.tables) add_squares(m, t);
  for (int64_t i = 0; i < m.n_groups; ++i) sums[i] = row_sums[m.groups[i].row];
}

void run_measurement(const Measurement& m) {
  row_sums.assign(m.n_rows, 0.0);
  for (const Gradients& t : m.tables) add_squares(m, t);
  for (int64_t i = 0; m.sums != nullptr && i < m.n_groups; ++i) row_sums[m.groups[i].row] += m.sums[i];
  double squares = 0.0;
  for (int64_t i = 0; i < m.n_groups; ++i) squares += row_sums[m.groups[i].row];
  const double norm = sqrt(squares) / m.grad_scale;
  for (int64_t i = 0; i < m.n_groups; ++i) {
    const int64_t row = m.groups[i].row;
    const double own = m.each ? sqrt(row_sums[row]) / m.grad_scale : norm;
    common::note_group_norm(m.control + kGroupsOffset + row * kGroupStride, m.groups[i].clips != 0, own);
  }
  common::decide(m.control, norm, m.found_inf, m.only_finite, m.spikes);
}

}  // namespace fused_sched
