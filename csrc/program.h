// Evaluates an encoded program (fused_sched/program/program.py) in double, bit for bit as Python does.
#pragma once

#include "arithmetic.h"
#include "fields.h"

namespace fused_sched {

// In the order of OPERATIONS in fused_sched/program/program.py.
enum Op : int {
  kOpLoad,
  kOpLoadGroup,
  kOpField,
  kOpLookup,
  kOpStore,
  kOpStoreGroup,
  kOpStoreField,
  kOpAdd,
  kOpSub,
  kOpMul,
  kOpDiv,
  kOpPow,
  kOpMod,
  kOpFloordiv,
  kOpMin,
  kOpMax,
  kOpLt,
  kOpLe,
  kOpEq,
  kOpNe,
  kOpAnd,
  kOpOr,
  kOpNot,
  kOpNeg,
  kOpAbs,
  kOpSqrt,
  kOpExp,
  kOpExpm1,
  kOpLog,
  kOpLog2,
  kOpLog10,
  kOpLog1p,
  kOpCos,
  kOpSin,
  kOpTan,
  kOpAtan,
  kOpTanh,
  kOpFloor,
  kOpCeil,
  kOpTrunc,
  kOpRound,
  kOpWhere,
  kOpBoundField,
  kOpStoreBound,
  kOpCount,
};

constexpr int kMaxOperations = 4096;
constexpr int kCodeWidth = 5;  // op code, then four words

namespace FUSED_SCHED_ISA {

// Python's %: the sign of the divisor.
FUSED_SCHED_HD inline double python_mod(double a, double b) {
  const double rest = fmod(a, b);
  if (rest == 0.0) return copysign(0.0, b);
  return (b < 0.0) != (rest < 0.0) ? rest + b : rest;
}

// Python's //, with the IEEE quotient where Python raises.
FUSED_SCHED_HD inline double python_floordiv(double a, double b) {
  if (b == 0.0) return a / b;
  const double rest = fmod(a, b);
  double quotient = (a - rest) / b;
  if (rest != 0.0 && (b < 0.0) != (rest < 0.0)) quotient -= 1.0;
  if (quotient == 0.0) return copysign(0.0, a / b);
  const double whole = floor(quotient);
  return quotient - whole > 0.5 ? whole + 1.0 : whole;
}

// Row of a table: clamped, and row 0 for NaN.
FUSED_SCHED_HD inline int64_t table_row(double x, int rows) {
  const double last = static_cast<double>(rows - 1);
  return x > 0.0 ? static_cast<int64_t>(x < last ? x : last) : 0;
}

// Arithmetic of one operation. Only the operands that it has are read.
FUSED_SCHED_HD inline double apply(const int32_t* word, const double* values) {
  const auto operand = [=](int k) { return values[word[k]]; };
  const double a = operand(1);
  switch (word[0]) {
    case kOpAdd: return a + operand(2);
    case kOpSub: return a - operand(2);
    case kOpMul: return a * operand(2);
    case kOpDiv: return a / operand(2);
    case kOpPow: return pow(a, operand(2));
    case kOpMod: return python_mod(a, operand(2));
    case kOpFloordiv: return python_floordiv(a, operand(2));
    case kOpMin: return operand(2) < a ? operand(2) : a;
    case kOpMax: return operand(2) > a ? operand(2) : a;
    case kOpLt: return a < operand(2) ? 1.0 : 0.0;
    case kOpLe: return a <= operand(2) ? 1.0 : 0.0;
    case kOpEq: return a == operand(2) ? 1.0 : 0.0;
    case kOpNe: return a != operand(2) ? 1.0 : 0.0;
    case kOpAnd: return a != 0.0 && operand(2) != 0.0 ? 1.0 : 0.0;
    case kOpOr: return a != 0.0 || operand(2) != 0.0 ? 1.0 : 0.0;
    case kOpNot: return a == 0.0 ? 1.0 : 0.0;
    case kOpNeg: return -a;
    case kOpAbs: return fabs(a);
    case kOpSqrt: return sqrt(a);
    case kOpExp: return exp(a);
    case kOpExpm1: return expm1(a);
    case kOpLog: return log(a);
    case kOpLog2: return log2(a);
    case kOpLog10: return log10(a);
    case kOpLog1p: return log1p(a);
    case kOpCos: return cos(a);
    case kOpSin: return sin(a);
    case kOpTan: return tan(a);
    case kOpAtan: return atan(a);
    case kOpTanh: return tanh(a);
    case kOpFloor: return floor(a);
    case kOpCeil: return ceil(a);
    case kOpTrunc: return trunc(a);
    case kOpRound: return nearbyint(a);
    case kOpWhere: return a != 0.0 ? operand(2) : operand(3);
    default: return 0.0;  // loads and stores: see run_operation
  }
}

// row: what the lane drives of the control block; null where an operation runs once. values: one for
// each operation of the program.
FUSED_SCHED_HD inline void run_operation(const int32_t* word, int64_t lane, double* memory,
                                         double* row, double* values, double* result) {
  switch (word[0]) {
    case kOpLoad: *result = memory[word[1]]; break;
    case kOpLoadGroup: *result = memory[word[1] + lane]; break;
    case kOpField: *result = row[word[1]]; break;
    case kOpBoundField: *result = read_field(row, word[1]); break;
    case kOpLookup: {
      const int64_t cell = table_row(values[word[2]], word[3]) * word[4];
      *result = memory[word[1] + cell + (word[4] > 1 ? lane : 0)];
      break;
    }
    case kOpStore: memory[word[1]] = values[word[2]]; break;
    case kOpStoreGroup: memory[word[1] + lane] = values[word[2]]; break;
    case kOpStoreField:
    case kOpStoreBound: row[word[1]] = values[word[2]]; break;  // the tensor: see export_bound
    default: *result = apply(word, values);
  }
}

// The row of the control block that a lane drives. rows: one whole number for each lane.
FUSED_SCHED_HD inline double* driven_row(double* control, const double* rows, int64_t lane) {
  return control + kGroupsOffset + static_cast<int64_t>(rows[lane]) * kGroupStride;
}

// Lets tensors have what the lanes from `first` on, in steps, wrote to the fields that follow them. When no lane reads
// any more: lanes may share a tensor. The last operation is such a one, if any is.
FUSED_SCHED_HD inline void export_bound(const int32_t* code, int64_t n_ops, const double* rows,
                                        int64_t n_lanes, double* control, int64_t first,
                                        int64_t step) {
  if (n_ops == 0 || code[(n_ops - 1) * kCodeWidth] != kOpStoreBound) return;
  for (int64_t i = 0; i < n_ops; ++i) {
    if (code[i * kCodeWidth] != kOpStoreBound) continue;
    for (int64_t lane = first; lane < n_lanes; lane += step) {
      export_field(driven_row(control, rows, lane), code[i * kCodeWidth + 1]);
    }
  }
}

// One advance: operations [0, n_uniform) once, the others for each lane.
// values: scratch memory of n_ops doubles.
FUSED_SCHED_HD inline void advance(const int32_t* code, int n_ops, int n_uniform, double* memory,
                                   const double* rows, int n_lanes, double* control,
                                   double* values) {
  for (int i = 0; i < n_uniform; ++i) {
    run_operation(code + i * kCodeWidth, 0, memory, nullptr, values, values + i);
  }
  for (int lane = 0; lane < n_lanes; ++lane) {
    double* row = driven_row(control, rows, lane);
    for (int i = n_uniform; i < n_ops; ++i) {
      run_operation(code + i * kCodeWidth, lane, memory, row, values, values + i);
    }
  }
  export_bound(code, n_ops, rows, n_lanes, control, 0, 1);
}

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
