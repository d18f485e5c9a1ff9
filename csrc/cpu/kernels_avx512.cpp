// The update loops for the avx512 instruction set; setup.py gives this file its compiler flags.
#define FUSED_SCHED_ISA avx512
#include "kernels_impl.h"
