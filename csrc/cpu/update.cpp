#include "update.h"

#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <new>
#include <vector>

#include "../control_block.h"
#include "parallel.h"

namespace fused_sched {
namespace {

// Below this many elements, waking the other threads costs more than they save.
constexpr int64_t kSerialElements = 32768;

// What to do with a record: no kernel if it has no gradient or no elements, and only then an average, if it has one.
struct Task {
  Kernel kernel;
  AverageKernel average;
  int64_t scalars;
  Around around;
};

// Kept from step to step, so that a step allocates nothing.
struct Plan {
  std::vector<Task> tasks;  // one a record
  std::vector<AnyScalars> scalars;
  int64_t elements;
};
thread_local Plan plan;

struct Work {
  const Update* update;
  const Task* tasks;
  const AnyScalars* scalars;
};

const double* row_of(const Update& u, const Record& r) {
  return u.control + kGroupsOffset + r.row * kGroupStride;
}

// What the work list has to know of a rule.
struct Facts {
  int required_states;
  void (*compute)(const double* row, int64_t count, AnyScalars* scalars);
  int (*mode)(const double* row, int64_t count);
  bool (*counts)(const double* row);
};

template <typename R>
void compute_scalars(const double* row, int64_t count, AnyScalars* scalars) {
  auto* own = new (scalars->bytes) typename R::template Scalars<double>;
  for (int part = 0; part < R::kScalarParts; ++part) R::scalars(row, count, part, *own);
}

template <typename... Rs>
const Facts& facts_of(int rule, List<Rs...>) {
  static constexpr Facts kFacts[] = {
      {Rs::kRequiredStates, compute_scalars<Rs>, Rs::mode, Rs::counts}...};
  return kFacts[rule];
}

const Facts& facts_of(const Update& u) { return facts_of(u.rule, common::Rules{}); }

// Consecutive records mostly share their row, count and kind, and then all of this.
struct Choice {
  int64_t row = -1;
  int64_t count = -1;
  int64_t kind = -1;
  int states_needed = 0;
  Task task = {};
  AverageKernel without_update = nullptr;  // for a record of it that has no gradient
};

bool same_choice(const Choice& c, const Record& r, int64_t count) {
  return c.row == r.row && c.count == count && c.kind == r.kind;
}

// count: updates applied so far. Returns what is wrong with a kind or row that is not known, else null.
const char* choose(const Update& u, const Record& r, int64_t count, Choice* choice) {
  const int kind = common::find_kind(r.kind);
  if (kind == kKindCount) return "has an unknown kind: use a supported combination of dtypes";
  if (r.row < 0 || r.row >= u.n_rows) {
    return "has a row outside of the control block: rebuild the records";
  }
  const double* row = row_of(u, r);
  const Facts& rule = facts_of(u);
  // Scalars cost calls of pow; the kind does not matter to them.
  if (choice->row != r.row || choice->count != count) {
    plan.scalars.emplace_back();
    rule.compute(row, count, &plan.scalars.back());
  }
  const int average = average_dtype(r.kind);
  const int param = param_dtype(r.kind);
  Around& around = choice->task.around;
  around = {u.grad_scale, u.clipped ? row[kMeasuredClipFactor] : 1.0, 0.0, u.scaled, average >= 0};
  choice->without_update = nullptr;
  if (around.averaged) {
    if (average != param && average != kFloat32) return "has an average of another dtype than its own or float32";
    if (average != param && param == kFloat64) return "has an average of fewer digits than its own";
    choice->without_update = u.kernels->averages[param];
    around.decay = common::read_field(row, kFieldEmaDecay);
  }
  if (!can_have_master(r.kind)) return "has a master that does not go with its parameter: float32 goes with 16 bits, a remainder with bfloat16";
  const int mode = rule.mode(row, count);
  choice->states_needed = rule.required_states + (mode != 0 ? 1 : 0);
  choice->task.kernel = u.kernels->kernels[u.rule][kind][mode];
  choice->task.scalars = static_cast<int64_t>(plan.scalars.size()) - 1;
  choice->row = r.row;
  choice->count = count;
  choice->kind = r.kind;
  return nullptr;
}

bool has_pointers(const Record& r, int states_needed) {
  for (int i = 0; i < states_needed; ++i) {
    if (r.state[i] == 0) return false;
  }
  return r.param != 0;
}

// As choose(), which it calls if the record is another choice than the last one.
const char* follow_record(const Update& u, const Record& r, Choice* choice) {
  if (r.count < 0 || r.count >= u.n_counts) {
    return "has a count outside of the counts: rebuild the records";
  }
  const int64_t count = u.counts[r.count];
  const char* problem = same_choice(*choice, r, count) ? nullptr : choose(u, r, count, choice);
  if (problem == nullptr && r.numel != 0 && !has_pointers(r, choice->states_needed)) {
    return "lacks the parameter's or a state's address: create the state first";
  }
  if (problem == nullptr && r.numel != 0 && choice->without_update != nullptr && r.average == 0) {
    return "lacks the average's address: create it first";
  }
  if (problem == nullptr && r.numel != 0 && (master_of(r.kind) != kNoMaster) != (r.master != 0)) {
    return "has a master's address without a master's kind, or the other way around: rebuild the records";
  }
  return problem;
}

bool prepare_records(const Update& u, char* message, int message_size) {
  plan.tasks.resize(u.n_records);
  plan.scalars.clear();
  Choice choice;
  for (int64_t i = 0; i < u.n_records; ++i) {
    const Record& r = u.records[i];
    plan.tasks[i] = {};
    if (u.skipped || (r.grad == 0 && average_dtype(r.kind) < 0)) continue;
    const char* problem = follow_record(u, r, &choice);
    if (problem != nullptr) {
      snprintf(message, message_size,
               "records[%lld] (row=%lld, count=%lld, kind=%lld, numel=%lld) %s",
               static_cast<long long>(i), static_cast<long long>(r.row),
               static_cast<long long>(r.count), static_cast<long long>(r.kind),
               static_cast<long long>(r.numel), problem);
      return false;
    }
    if (r.numel == 0) continue;
    plan.tasks[i] = choice.task;
    if (r.grad != 0) continue;
    plan.tasks[i].kernel = nullptr;
    plan.tasks[i].average = choice.without_update;
  }
  return true;
}

int64_t chunk_length(const Update& u, const Chunk& chunk) {
  return std::min(u.chunk_size, u.records[chunk.record].numel - chunk.start);
}

void zero(const Record& r, int64_t start, int64_t length) {
  static constexpr int64_t kSizes[] = {4, 8, 2, 2};  // by DType
  const int64_t size = kSizes[grad_dtype(r.kind)];
  memset(reinterpret_cast<char*>(r.grad) + start * size, 0, length * size);
}

void run_chunks(void* context, int64_t begin, int64_t end) {
  const Work& work = *static_cast<const Work*>(context);
  const Update& u = *work.update;
  for (int64_t i = begin; i < end; ++i) {
    const Chunk& chunk = u.chunks[i];
    const Task& task = work.tasks[chunk.record];
    const Record& r = u.records[chunk.record];
    const int64_t length = chunk_length(u, chunk);
    if (task.kernel != nullptr) {
      task.kernel(r, chunk.start, length, work.scalars[task.scalars], task.around);
    }
    if (task.average != nullptr) task.average(r, chunk.start, length, task.around.decay);
    // what follows finds the chunk in the core's cache
    if (u.zeroes && r.grad != 0) zero(r, chunk.start, length);
  }
}

}  // namespace

bool check_chunks(const Record* records, int64_t n_records, const Chunk* chunks, int64_t n_chunks,
                  char* message, int message_size) {
  for (int64_t i = 0; i < n_chunks; ++i) {
    const Chunk& chunk = chunks[i];
    const bool known = chunk.record >= 0 && chunk.record < n_records;
    if (known && chunk.start >= 0 && chunk.start < records[chunk.record].numel) continue;
    snprintf(message, message_size,
             "chunks[%lld] = (%lld, %lld) is outside of the records: rebuild the chunks",
             static_cast<long long>(i), static_cast<long long>(chunk.record),
             static_cast<long long>(chunk.start));
    return false;
  }
  return true;
}

bool prepare_update(const Update& u, char* message, int message_size) {
  if (!prepare_records(u, message, message_size) ||
      !check_chunks(u.records, u.n_records, u.chunks, u.n_chunks, message, message_size)) {
    return false;
  }
  plan.elements = 0;
  for (int64_t i = 0; i < u.n_chunks; ++i) {
    const Chunk& chunk = u.chunks[i];
    const Task& task = plan.tasks[chunk.record];
    const bool zeroed = u.zeroes && u.records[chunk.record].grad != 0;
    if (zeroed && grad_dtype(u.records[chunk.record].kind) >= kDTypeCount) {
      snprintf(message, message_size, "records[%lld] has an unknown kind: use a supported combination of dtypes",
               static_cast<long long>(chunk.record));
      return false;
    }
    if (task.kernel != nullptr || task.average != nullptr || zeroed) plan.elements += chunk_length(u, chunk);
  }
  return true;
}

void run_update(const Update& u) {
  Work work{&u, plan.tasks.data(), plan.scalars.data()};
  share_out(u.n_chunks, plan.elements, kSerialElements, run_chunks, &work);
  if (u.skipped) return;
  const Facts& rule = facts_of(u);
  int64_t row = -1;  // consecutive records mostly share it
  bool counted = false;
  for (int64_t i = 0; i < u.n_records; ++i) {
    const Record& r = u.records[i];
    if (r.grad == 0) continue;
    if (r.row != row) {
      row = r.row;
      counted = rule.counts(row_of(u, r));
    }
    u.counts[r.count] += counted ? 1 : 0;
  }
}

}  // namespace fused_sched
