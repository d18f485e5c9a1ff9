// The kernels of Adam and AdamW.
#include "kernels.cuh"

namespace fused_sched {
namespace {

// 72 registers a thread for float16, whose conversions take more, and 80 with one more array. An
// average is one more still, a master beside 16 bits too, and 16-bit types have 8 elements of each at a time: up to 96,
// and 128. A gradient of 32 bits beside a parameter of 16 takes as much as narrow states where there is one more array.
template <bool kExtra, bool kAround, typename P, typename G, typename S>
struct BlocksPerProcessor<common::Adam, kExtra, kAround, P, G, S> {
  static constexpr int kAlone = kExtra ? 6 : std::is_same_v<S, Float16> ? 7 : 8;
  static constexpr bool kMany = sizeof(P) == 2 || kExtra;
  static constexpr bool kMixed = sizeof(P) == 2 && sizeof(G) == 4 && sizeof(S) == 4 && kExtra;
  static constexpr int kWithMore =
      sizeof(P) == 2 && sizeof(S) == 2 ? (kExtra ? 4 : 5) : kMixed ? 5 : kMany ? 6 : 7;
  static constexpr int kCount = sizeof(P) == 8 ? 4 : kAround ? kWithMore : kAlone;
};

}  // namespace

template const void* find_kernel<common::Adam>(int kind, bool extra, bool around);

}  // namespace fused_sched
