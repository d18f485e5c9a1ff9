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

constexpr int32_t kNoTask = 0;

// Kept from step to step, so that a step allocates nothing.
struct Plan {
  std::vector<Task> tasks;       // the first is that of a record with which nothing is done
  std::vector<int32_t> task_of;  // by record
  std::vector<int64_t> counted;  // slots of the counts of updates that count
  std::vector<AnyScalars> scalars;
  int64_t elements;
};
thread_local Plan kept;  // each use of it is a call

struct Work {
  const Update* update;
  const Task* tasks;
  const int32_t* task_of;
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
  bool counts = false;
  bool averaged = false;
  int32_t task = kNoTask;
  int32_t without_gradient = kNoTask;
};

int32_t add_task(Plan& plan, const Task& task) {
  plan.tasks.push_back(task);
  return static_cast<int32_t>(plan.tasks.size() - 1);
}

bool same_choice(const Choice& c, const Record& r, int64_t count) {
  return c.row == r.row && c.count == count && c.kind == r.kind;
}

// count: updates applied so far. Returns what is wrong with a kind or row that is not known, else null.
const char* choose(const Update& u, const Record& r, int64_t count, Plan& plan, Choice* choice) {
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
  const int mode = rule.mode(row, count);
  const bool averaged = average >= 0;
  Task task = {u.kernels->kernels[u.rule][kind][mode], nullptr, static_cast<int64_t>(plan.scalars.size()) - 1,
               {u.grad_scale, u.clipped ? row[kMeasuredClipFactor] : 1.0, 0.0, u.scaled, averaged,
                 reinterpret_cast<const int64_t*>(u.control)}};
  if (averaged) {
    if (average != param && average != kFloat32) return "has an average of another dtype than its own or float32";
    if (average != param && param == kFloat64) return "has an average of fewer digits than its own";
    task.around.decay = common::read_field(row, kFieldEmaDecay);
  }
  if (!can_have_master(r.kind)) {
    return "has a master that does not go with its parameter: float32 goes with 16 bits, a remainder with bfloat16";
  }
  choice->task = add_task(plan, task);
  choice->without_gradient =
      averaged ? add_task(plan, {nullptr, u.kernels->averages[param], task.scalars, task.around}) : kNoTask;
  choice->states_needed = rule.required_states + (mode != 0 ? 1 : 0);
  choice->counts = rule.counts(row);
  choice->averaged = averaged;
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
const char* follow_record(const Update& u, const Record& r, Plan& plan, Choice* choice) {
  if (r.count < 0 || r.count >= u.n_counts) {
    return "has a count outside of the counts: rebuild the records";
  }
  const int64_t count = u.counts[r.count];
  const char* problem = same_choice(*choice, r, count) ? nullptr : choose(u, r, count, plan, choice);
  if (problem == nullptr && r.numel != 0 && !has_pointers(r, choice->states_needed)) {
    return "lacks the parameter's or a state's address: create the state first";
  }
  if (problem == nullptr && r.numel != 0 && choice->averaged && r.average == 0) {
    return "lacks the average's address: create it first";
  }
  const int master = master_of(r.kind);  // rounding by chance has a number there, which may be any
  if (problem == nullptr && r.numel != 0 && master != kByChance && (master != kNoMaster) != (r.master != 0)) {
    return "has a master's address without a master's kind, or the other way around: rebuild the records";
  }
  return problem;
}

bool prepare_records(const Update& u, Plan& plan, char* message, int message_size) {
  plan.tasks.assign(1, {});
  plan.task_of.assign(u.n_records, kNoTask);
  plan.counted.clear();
  plan.scalars.clear();
  Choice choice;
  for (int64_t i = 0; i < u.n_records; ++i) {
    const Record& r = u.records[i];
    if (u.skipped || (r.grad == 0 && average_dtype(r.kind) < 0)) continue;
    const char* problem = follow_record(u, r, plan, &choice);
    if (problem != nullptr) {
      snprintf(message, message_size,
               "records[%lld] (row=%lld, count=%lld, kind=%lld, numel=%lld) %s",
               static_cast<long long>(i), static_cast<long long>(r.row),
               static_cast<long long>(r.count), static_cast<long long>(r.kind),
               static_cast<long long>(r.numel), problem);
      return false;
    }
    if (r.grad != 0 && choice.counts) plan.counted.push_back(r.count);
    if (r.numel != 0) plan.task_of[i] = r.grad != 0 ? choice.task : choice.without_gradient;
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

// Lets the memory of a chunk be on its way: small tensors lie scattered, and no core knows which is next.
void fetch_ahead(const Update& u, const Chunk& chunk) {
  constexpr int64_t kLine = 64;
  constexpr int64_t kMostBytes = 4 * kLine;  // from then on a core sees that it walks
  const Record& r = u.records[chunk.record];
  const int64_t size = param_dtype(r.kind) == kFloat64 ? sizeof(double) : sizeof(float);  // or less, as of 16 bits
  const int64_t end = std::min(kMostBytes, size * chunk_length(u, chunk));
  for (const int64_t address : {r.grad, r.param, r.state[0], r.state[1]}) {
    if (address == 0) continue;
    const int64_t first = address + size * chunk.start;
    for (int64_t i = 0; i < end; i += kLine) __builtin_prefetch(reinterpret_cast<const void*>(first + i));
  }
}

void run_chunks(void* context, int64_t begin, int64_t end) {
  const Work& work = *static_cast<const Work*>(context);
  const Update& u = *work.update;
  constexpr int64_t kAhead = 4;
  for (int64_t i = begin; i < end; ++i) {
    if (i + kAhead < u.n_chunks) fetch_ahead(u, u.chunks[i + kAhead]);
    const Chunk& chunk = u.chunks[i];
    const Task& task = work.tasks[work.task_of[chunk.record]];
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
  Plan& plan = kept;
  if (!prepare_records(u, plan, message, message_size) ||
      !check_chunks(u.records, u.n_records, u.chunks, u.n_chunks, message, message_size)) {
    return false;
  }
  plan.elements = 0;
  for (int64_t i = 0; i < u.n_chunks; ++i) {
    const Chunk& chunk = u.chunks[i];
    const Task& task = plan.tasks[plan.task_of[chunk.record]];
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
  const Plan& plan = kept;
  Work work{&u, plan.tasks.data(), plan.task_of.data(), plan.scalars.data()};
  share_out(u.n_chunks, plan.elements, kSerialElements, run_chunks, &work);
  for (const int64_t slot : plan.counted) ++u.counts[slot];
}

}  // namespace fused_sched
