// The kernels of SGD.
#include "kernels.cuh"

namespace fused_sched {

template const void* find_kernel<common::Sgd>(int kind, bool extra);

}  // namespace fused_sched
