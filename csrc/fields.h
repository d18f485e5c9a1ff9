// Fields of a row of the control block, some of which follow a tensor of the user's: see memory/bindings.py.
#pragma once

#include "arithmetic.h"
#include "control_block.h"

namespace fused_sched {
namespace FUSED_SCHED_ISA {

// The address of the tensor that a field follows, with the bits of control_block.h; 0 if there is none.
FUSED_SCHED_HD inline int64_t bound_word(const double* row, int field) {
  return reinterpret_cast<const int64_t*>(row)[kBound + field];
}

FUSED_SCHED_HD inline int64_t bound_address(int64_t word) {
  return word & ~(kBoundSingle | kBoundSilent);
}

FUSED_SCHED_HD inline double imported(double kept, int64_t word) {
  const int64_t address = bound_address(word);
  if ((word & kBoundSingle) == 0) {
    const double given = *reinterpret_cast<const double*>(address);
    return given == kept ? kept : given;
  }
  const float given = *reinterpret_cast<const float*>(address);
  return given == static_cast<float>(kept) ? kept : static_cast<double>(given);
}

// A field's value, which is the tensor's where somebody wrote to that.
FUSED_SCHED_HD inline double read_field(const double* row, int field) {
  const double kept = row[field];
  const int64_t word = bound_word(row, field);
  return word == 0 ? kept : imported(kept, word);
}

// Lets the tensor that a field follows have its value.
FUSED_SCHED_HD inline void export_field(const double* row, int field) {
  const int64_t word = bound_word(row, field);
  if (word == 0 || (word & kBoundSilent) != 0) return;
  const int64_t address = bound_address(word);
  if ((word & kBoundSingle) == 0) {
    *reinterpret_cast<double*>(address) = row[field];
  } else {
    *reinterpret_cast<float*>(address) = static_cast<float>(row[field]);
  }
}

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
