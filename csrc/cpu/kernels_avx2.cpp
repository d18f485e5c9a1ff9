// The update loops for the avx2 instruction set; setup.py gives this file its compiler flags.
#define FUSED_SCHED_ISA avx2
#include "kernels_impl.h"
