// Schedules: checks a program once, its rows each time, and advances it.
#include "schedule.h"

#include <math.h>

#include "program_check.h"
#include "python.h"

namespace fused_sched {
namespace {

bool read_code(PyObject* object, Argument* code) {
  if (!read_tensor(object, {"code", kDLInt, 32, "int32", kCodeWidth, 0}, code)) return false;
  if (code->count <= kMaxOperations * kCodeWidth) return true;
  PyErr_Format(PyExc_ValueError, "code has %lld operations, but at most %d are supported",
               static_cast<long long>(code->count / kCodeWidth), kMaxOperations);
  return false;
}

// How many rows, and where they are in a memory of a size.
bool read_lanes(PyObject* n_lanes, PyObject* rows_offset, int64_t memory_size, int64_t* lanes,
                int64_t* offset) {
  if (!read_int(n_lanes, "n_lanes", 0, kMaxLanes, lanes) ||
      !read_int(rows_offset, "rows_offset", 0, INT64_MAX - kMaxLanes, offset)) {
    return false;
  }
  if (*offset + *lanes <= memory_size) return true;
  PyErr_Format(PyExc_ValueError,
               "rows_offset=%lld + n_lanes=%lld is beyond the %lld element(s) of the schedule's memory",
               static_cast<long long>(*offset), static_cast<long long>(*lanes),
               static_cast<long long>(memory_size));
  return false;
}

void refuse_row(int lane, double row, int64_t n_rows) {
  PyObject* number = PyFloat_FromDouble(row);
  if (number == nullptr) return;
  PyErr_Format(PyExc_IndexError,
               "lane %d of the schedule drives row %R, but the control block has rows 0 to %lld: "
               "name whole numbers in that range with Schedule.drive",
               lane, number, static_cast<long long>(n_rows - 1));
  Py_DecRef(number);
}

// Whether the control block has the rows that a schedule drives.
bool check_rows(const Schedule& schedule, const Control& control) {
  for (int lane = 0; lane < schedule.n_lanes; ++lane) {
    const double row = schedule.rows[lane];
    if (row >= 0.0 && row < control.n_rows && row == floor(row)) continue;
    refuse_row(lane, row, control.n_rows);
    return false;
  }
  return true;
}

}  // namespace

bool read_control(PyObject* object, Control* control) {
  Argument argument;
  if (!read_tensor(object, {"control", kDLFloat, 64, "float64", 0, kGroupsOffset}, &argument)) {
    return false;
  }
  *control = {static_cast<double*>(argument.data), (argument.count - kGroupsOffset) / kGroupStride};
  return true;
}

bool read_schedule(PyObject* tuple, const Control& control, Schedule* schedule) {
  if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != kScheduleArguments) {
    PyErr_Format(PyExc_TypeError,
                 "schedule=%R must be a tuple "
                 "(code, n_uniform, memory, n_lanes, rows_offset, guarded)",
                 tuple);
    return false;
  }
  PyObject* arguments[kScheduleArguments];
  for (int k = 0; k < kScheduleArguments; ++k) arguments[k] = PyTuple_GetItem(tuple, k);
  Argument code, memory;
  int64_t uniform, n_lanes, rows_offset, guarded;
  if (!read_code(arguments[0], &code)) return false;
  const int64_t n_ops = code.count / kCodeWidth;
  if (!read_int(arguments[1], "n_uniform", 0, n_ops, &uniform) ||
      !read_tensor(arguments[2], {"memory", kDLFloat, 64, "float64", 0, 1}, &memory) ||
      !read_lanes(arguments[3], arguments[4], memory.count, &n_lanes, &rows_offset) ||
      !read_int(arguments[5], "guarded", 0, 1, &guarded)) {
    return false;
  }
  double* data = static_cast<double*>(memory.data);
  *schedule = {static_cast<const int32_t*>(code.data), static_cast<int>(n_ops),
               static_cast<int>(uniform), data, data + rows_offset, static_cast<int>(n_lanes),
               guarded != 0};
  return check_rows(*schedule, control);
}

void run_schedule(const Schedule& schedule, double* control) {
  const bool skipped = reinterpret_cast<const int64_t*>(control)[kHeaderSkipped] != 0;
  if (schedule.guarded && skipped) return;
  double values[kMaxOperations];
  common::advance(schedule.code, schedule.n_ops, schedule.n_uniform, schedule.memory, schedule.rows,
                  schedule.n_lanes, control, values);
}

PyObject* advance_schedule(PyObject*, PyObject* const* args, Py_ssize_t n_args) {
  Control control;
  Schedule schedule;
  if (!check_argument_count("advance", n_args, 2) || !read_control(args[0], &control) ||
      !read_schedule(args[1], control, &schedule)) {
    return nullptr;
  }
  run_schedule(schedule, control.data);
  Py_RETURN_NONE;
}

PyObject* check_program(PyObject*, PyObject* const* args, Py_ssize_t n_args) {
  Argument code;
  Encoded program;
  if (!check_argument_count("check_program", n_args, 5) || !read_code(args[0], &code)) {
    return nullptr;
  }
  program.code = static_cast<const int32_t*>(code.data);
  program.n_ops = code.count / kCodeWidth;
  if (!read_int(args[1], "n_uniform", 0, program.n_ops, &program.n_uniform) ||
      !read_int(args[2], "memory_size", 0, INT64_MAX, &program.memory_size) ||
      !read_lanes(args[3], args[4], program.memory_size, &program.n_lanes, &program.rows_offset)) {
    return nullptr;
  }
  for (int64_t i = 0; i < program.n_ops; ++i) {
    const char* problem = find_problem(program, i);
    if (problem == nullptr) continue;
    const int32_t* word = program.code + i * kCodeWidth;
    PyErr_Format(PyExc_ValueError,
                 "operation %lld of the program (%d, %d, %d, %d, %d) %s: encode the program again",
                 static_cast<long long>(i), word[0], word[1], word[2], word[3], word[4], problem);
    return nullptr;
  }
  Py_RETURN_NONE;
}

}  // namespace fused_sched
