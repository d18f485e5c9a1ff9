// The kernels as the host sees them.
#pragma once

#include "step.h"

namespace fused_sched {

// kind: position among Kinds, or -1 for a step in which no tensor has elements; null for others.
// around: the kernel can do what goes around an update, as the step says. Each rule has its own in
// kernels_<rule>.cu.
template <typename R>
const void* find_kernel(int kind, bool extra, bool around);
// dtype: of the gradients, or -1 where none has elements; null for others.
const void* find_norm_kernel(int dtype);
const void* advance_kernel();

constexpr int kBlockThreads = 128;

}  // namespace fused_sched
