// The update loops for any processor of the target architecture.
#define FUSED_SCHED_ISA portable
#include "kernels_impl.h"
