// A schedule as Python hands it over: an encoded program and its memory.
#pragma once

#include "python.h"

namespace fused_sched {

constexpr int64_t kMaxGroups = 1 << 20;

struct Schedule {
  const int32_t* code;
  int n_ops;
  int n_uniform;
  double* memory;
  bool guarded;  // stands still when the update was skipped
};

// Both return false with a Python exception set. The code is trusted: see check_program.
bool read_schedule(PyObject* code, PyObject* n_uniform, PyObject* memory, PyObject* guarded,
                   Schedule* schedule);
bool read_control(PyObject* object, int64_t n_groups, double** control);

void run_schedule(const Schedule& schedule, double* control, int n_groups);

}  // namespace fused_sched
