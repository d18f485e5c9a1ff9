// The kernels of SGD.
#include "kernels.cuh"

namespace fused_sched {
namespace {

// 72 registers a thread where 16-bit types, 8 elements at a time, may have a master and an average; 80 with a buffer.
template <bool kExtra, bool kAround, typename P, typename G, typename S>
struct BlocksPerProcessor<common::Sgd, kExtra, kAround, P, G, S> {
  static constexpr bool kMany = kAround && sizeof(S) == 2;
  static constexpr int kCount = sizeof(P) == 8 ? 4 : !kMany ? 8 : kExtra ? 6 : 7;
};

}  // namespace

template const void* find_kernel<common::Sgd>(int kind, bool extra, bool around);

}  // namespace fused_sched
