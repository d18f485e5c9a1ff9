// The kernels of Adam and AdamW.
#include "kernels.cuh"

namespace fused_sched {
namespace {

// 72 registers a thread for float16, whose conversions take more, and 80 with one more array.
template <bool kExtra, typename P, typename S>
struct BlocksPerProcessor<common::Adam, kExtra, P, S> {
  static constexpr int kCount =
      sizeof(P) == 8 ? 4 : kExtra ? 6 : std::is_same_v<S, Float16> ? 7 : 8;
};

}  // namespace

template const void* find_kernel<common::Adam>(int kind, bool extra);

}  // namespace fused_sched
