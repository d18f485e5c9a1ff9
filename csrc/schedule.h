// A schedule as Python hands it over: an encoded program and its memory.
#pragma once

#include "python.h"

namespace fused_sched {

// code, n_uniform, memory, n_lanes, rows_offset, guarded
constexpr int kScheduleArguments = 6;

struct Schedule {
  const int32_t* code;
  int n_ops;
  int n_uniform;
  double* memory;
  const double* rows;  // of the control block, one for each lane; a part of the memory
  int n_lanes;
  bool guarded;  // stands still when the update was skipped
};

struct Control {
  double* data;
  int64_t n_rows;
};

// Both return false with a Python exception set. The code of a schedule is trusted: see
// check_program. Whether the control block has the rows that it drives is looked at each time.
bool read_control(PyObject* object, Control* control);
bool read_schedule(PyObject* tuple, const Control& control, Schedule* schedule);

void run_schedule(const Schedule& schedule, double* control);

}  // namespace fused_sched
