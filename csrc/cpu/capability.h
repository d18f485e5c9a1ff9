// Chooses the instruction set at run time.
#pragma once

#include "kernels.h"

namespace fused_sched {

struct Capability {
  const char* name;
  const KernelTable* kernels;
};

// The best instruction set of this processor, or the one that FUSED_SCHED_CPU_CAPABILITY names.
// Returns false and sets message if the variable names one that is unknown or not supported here.
bool choose_capability(Capability* chosen, char* message, int message_size);

}  // namespace fused_sched
