// Schedules: checks a program once, and advances it.
#include "schedule.h"

#include "program.h"
#include "python.h"

namespace fused_sched {
namespace {

// The words after the op code; -1 where a word is not used.
struct Shape {
  int values;        // how many words are positions of operands, from word `first`
  int first;
  bool memory;       // word 1 is an offset into the memory
  bool per_group;    // ... of one element for each group
  bool field;        // word 1 is a field of the control block
};

Shape shape_of(int op) {
  switch (op) {
    case kOpLoad: return {0, 1, true, false, false};
    case kOpLoadGroup: return {0, 1, true, true, false};
    case kOpField: return {0, 1, false, false, true};
    case kOpLookup: return {1, 2, true, false, false};
    case kOpStore: return {1, 2, true, false, false};
    case kOpStoreGroup: return {1, 2, true, true, false};
    case kOpStoreField: return {1, 2, false, false, true};
    case kOpWhere: return {3, 1, false, false, false};
    default: return {op >= kOpNot && op <= kOpRound ? 1 : 2, 1, false, false, false};
  }
}

bool depends_on_group(const int32_t* word, const Shape& shape) {
  return shape.per_group || shape.field || (word[0] == kOpLookup && word[4] > 1);
}

// How many elements of memory the operation may touch, from its offset on.
int64_t extent(const int32_t* word, const Shape& shape, int64_t n_groups) {
  if (word[0] == kOpLookup) return static_cast<int64_t>(word[3]) * word[4];
  return shape.per_group ? n_groups : 1;
}

// Returns what is wrong with operation i, or null.
const char* find_problem(const int32_t* word, int64_t i, int64_t n_uniform, int64_t memory_size,
                         int64_t n_groups) {
  if (word[0] < 0 || word[0] >= kOpCount) return "has an unknown op code";
  const Shape shape = shape_of(word[0]);
  for (int k = 0; k < shape.values; ++k) {
    const int32_t operand = word[shape.first + k];
    if (operand < 0 || operand >= i) return "uses a value that is not computed before it";
  }
  if (i < n_uniform && depends_on_group(word, shape)) {
    return "depends on the group, but is among the operations that run once";
  }
  if (word[0] == kOpLookup && (word[3] < 1 || (word[4] != 1 && word[4] != n_groups))) {
    return "reads a table without rows, or one whose width is not 1 or the number of groups";
  }
  if (shape.field && (word[1] < 0 || word[1] >= kGroupStride)) {
    return "names a field outside of the group's row";
  }
  if (shape.memory &&
      (word[1] < 0 || word[1] + extent(word, shape, n_groups) > memory_size)) {
    return "reads or writes outside of the schedule's memory";
  }
  return nullptr;
}

bool read_code(PyObject* object, Argument* code) {
  if (!read_tensor(object, {"code", kDLInt, 32, "int32", kCodeWidth, 0}, code)) return false;
  if (code->count <= kMaxOperations * kCodeWidth) return true;
  PyErr_Format(PyExc_ValueError, "code has %lld operations, but at most %d are supported",
               static_cast<long long>(code->count / kCodeWidth), kMaxOperations);
  return false;
}

}  // namespace

bool read_schedule(PyObject* code, PyObject* n_uniform, PyObject* memory, PyObject* guarded,
                   Schedule* schedule) {
  Argument code_argument, memory_argument;
  int64_t uniform, is_guarded;
  if (!read_code(code, &code_argument)) return false;
  const int64_t n_ops = code_argument.count / kCodeWidth;
  if (!read_int(n_uniform, "n_uniform", 0, n_ops, &uniform) ||
      !read_tensor(memory, {"memory", kDLFloat, 64, "float64", 0, 1}, &memory_argument) ||
      !read_int(guarded, "guarded", 0, 1, &is_guarded)) {
    return false;
  }
  *schedule = {static_cast<const int32_t*>(code_argument.data), static_cast<int>(n_ops),
               static_cast<int>(uniform), static_cast<double*>(memory_argument.data),
               is_guarded != 0};
  return true;
}

void run_schedule(const Schedule& schedule, double* control, int n_groups) {
  const bool skipped = reinterpret_cast<const int64_t*>(control)[kHeaderSkipped] != 0;
  if (schedule.guarded && skipped) return;
  double values[kMaxOperations];
  common::advance(schedule.code, schedule.n_ops, schedule.n_uniform, schedule.memory, control,
                  n_groups, values);
}

bool read_control(PyObject* object, int64_t n_groups, double** control) {
  Argument argument;
  const int64_t size = kGroupsOffset + n_groups * kGroupStride;
  if (!read_tensor(object, {"control", kDLFloat, 64, "float64", 0, size}, &argument)) return false;
  *control = static_cast<double*>(argument.data);
  return true;
}

PyObject* advance_schedule(PyObject*, PyObject* const* args, Py_ssize_t n_args) {
  int64_t n_groups;
  double* control;
  Schedule schedule;
  if (!check_argument_count("advance", n_args, 6) ||
      !read_int(args[1], "n_groups", 0, kMaxGroups, &n_groups) ||
      !read_control(args[0], n_groups, &control) ||
      !read_schedule(args[2], args[3], args[4], args[5], &schedule)) {
    return nullptr;
  }
  run_schedule(schedule, control, static_cast<int>(n_groups));
  Py_RETURN_NONE;
}

PyObject* check_program(PyObject*, PyObject* const* args, Py_ssize_t n_args) {
  Argument code;
  int64_t n_uniform, memory_size, n_groups;
  if (!check_argument_count("check_program", n_args, 4) || !read_code(args[0], &code)) {
    return nullptr;
  }
  const int64_t n_ops = code.count / kCodeWidth;
  if (!read_int(args[1], "n_uniform", 0, n_ops, &n_uniform) ||
      !read_int(args[2], "memory_len", 0, INT64_MAX, &memory_size) ||
      !read_int(args[3], "n_groups", 0, kMaxGroups, &n_groups)) {
    return nullptr;
  }
  const int32_t* words = static_cast<const int32_t*>(code.data);
  for (int64_t i = 0; i < n_ops; ++i) {
    const int32_t* word = words + i * kCodeWidth;
    const char* problem = find_problem(word, i, n_uniform, memory_size, n_groups);
    if (problem == nullptr) continue;
    PyErr_Format(PyExc_ValueError,
                 "operation %lld of the program (%d, %d, %d, %d, %d) %s: encode the program again",
                 static_cast<long long>(i), word[0], word[1], word[2], word[3], word[4], problem);
    return nullptr;
  }
  Py_RETURN_NONE;
}

}  // namespace fused_sched
