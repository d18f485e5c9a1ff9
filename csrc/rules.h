// The update rules. A rule is a struct in a header of its own:
//
//   kName            as in fused_sched/rules.py
//   Scalars<T>       what is computed once for each parameter, then rounded once to the compute type T
//   kScalarParts     into how many parts these fall, so that a GPU computes them side by side
//   kRequiredStates  how many states every parameter has; one more is optional
//   kModes           kinds of update of one element; only mode 0 does without the optional state
//   reads_optional(mode)          whether it reads that before it writes it
//   scalars(row, count, part, s)  from the row of the control block and the number of updates so far
//   rounded<T>(s)                 scalars that were computed in double
//   mode(row, count)              of a parameter that has the optional state, or needs it
//   counts(row)                   whether an update counts
//   element<mode>(s, g, p, state0, state1, state2)   one element, or several of them side by side
#pragma once

#include "adam.h"
#include "kinds.h"
#include "sgd.h"

namespace fused_sched {
namespace FUSED_SCHED_ISA {

// The position is the rule's code.
using Rules = List<Sgd, Adam>;

// Whether an element's update reads a state; and whether it writes it.
template <typename R, int kMode>
FUSED_SCHED_HD constexpr bool reads(int state) {
  return state < R::kRequiredStates || (state == R::kRequiredStates && R::reads_optional(kMode));
}
template <typename R, int kMode>
FUSED_SCHED_HD constexpr bool writes(int state) {
  return state < R::kRequiredStates || (state == R::kRequiredStates && kMode != 0);
}

}  // namespace FUSED_SCHED_ISA

constexpr int kRuleCount = FUSED_SCHED_ISA::Rules::kCount;

}  // namespace fused_sched
