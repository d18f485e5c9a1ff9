// The kernels as the host sees them.
#pragma once

#include "step.h"

namespace fused_sched {

// kind: position in kKinds, or -1 for a step in which no tensor has elements; null for others.
const void* sgd_kernel(int kind, bool extra);
const void* adam_kernel(int kind, bool extra);
const void* advance_kernel();

constexpr int kBlockThreads = 128;

}  // namespace fused_sched
