// The kernels of Adam and AdamW.
#include "kernels.cuh"

namespace fused_sched {

const void* adam_kernel(int kind, bool extra) { return find_kernel<Rule::kAdam>(kind, extra); }

}  // namespace fused_sched
