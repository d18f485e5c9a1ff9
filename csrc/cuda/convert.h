// Several neighbouring elements at a time: one wide access, and the GPU's own conversions.
//
// They give the values of load() and store() in dtypes.h, which the host uses; only a NaN's bits
// differ.
#pragma once

#include "../dtypes.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace fused_sched {

constexpr int kAccessBytes = 16;  // the widest access of one thread

template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T item[kCount];
};

namespace FUSED_SCHED_ISA {

template <int kCount>
FUSED_SCHED_HD inline void widen(const Pack<float, kCount>& in, float* out) {
  for (int k = 0; k < kCount; ++k) out[k] = in.item[k];
}

template <int kCount>
FUSED_SCHED_HD inline void widen(const Pack<double, kCount>& in, double* out) {
  for (int k = 0; k < kCount; ++k) out[k] = in.item[k];
}

template <int kCount>
FUSED_SCHED_HD inline void widen(const Pack<BFloat16, kCount>& in, float* out) {
  for (int k = 0; k < kCount; ++k) out[k] = load(in.item[k]);  // a shift: no instruction is shorter
}

template <int kCount>
FUSED_SCHED_HD inline void widen(const Pack<Float16, kCount>& in, float* out) {
  for (int k = 0; k < kCount; ++k) {
#ifdef __CUDA_ARCH__
    out[k] = __half2float(__ushort_as_half(in.item[k].bits));
#else
    out[k] = load(in.item[k]);
#endif
  }
}

template <typename T, int kCount>
FUSED_SCHED_HD inline void narrow(const T* in, Pack<T, kCount>* out) {
  for (int k = 0; k < kCount; ++k) out->item[k] = in[k];
}

template <int kCount>
FUSED_SCHED_HD inline void narrow(const float* in, Pack<BFloat16, kCount>* out) {
#ifdef __CUDA_ARCH__
  for (int k = 0; k + 1 < kCount; k += 2) {  // one instruction converts two
    const __nv_bfloat162 pair = __floats2bfloat162_rn(in[k], in[k + 1]);
    out->item[k].bits = __bfloat16_as_ushort(pair.x);
    out->item[k + 1].bits = __bfloat16_as_ushort(pair.y);
  }
  if (kCount == 1) out->item[0].bits = __bfloat16_as_ushort(__float2bfloat16_rn(in[0]));
#else
  for (int k = 0; k < kCount; ++k) store(&out->item[k], in[k]);
#endif
}

template <int kCount>
FUSED_SCHED_HD inline void narrow(const float* in, Pack<Float16, kCount>* out) {
#ifdef __CUDA_ARCH__
  for (int k = 0; k + 1 < kCount; k += 2) {
    const __half2 pair = __floats2half2_rn(in[k], in[k + 1]);
    out->item[k].bits = __half_as_ushort(pair.x);
    out->item[k + 1].bits = __half_as_ushort(pair.y);
  }
  if (kCount == 1) out->item[0].bits = __half_as_ushort(__float2half_rn(in[0]));
#else
  for (int k = 0; k < kCount; ++k) store(&out->item[k], in[k]);
#endif
}

// The pointer with what the compiler cannot know of one made from an integer: else accesses would
// test which address space it belongs to.
template <typename T>
FUSED_SCHED_HD inline T* in_global_memory(T* address) {
#ifdef __CUDA_ARCH__
  __builtin_assume(__isGlobal(address));
#endif
  return address;
}

// Elements [0, kCount) at an address that is a multiple of the size of all of them.
template <int kCount, typename Storage, typename T>
FUSED_SCHED_HD inline void load_pack(const Storage* address, T* out) {
  const auto* packs = reinterpret_cast<const Pack<Storage, kCount>*>(address);
  const Pack<Storage, kCount> pack = *in_global_memory(packs);
  widen(pack, out);
}

template <int kCount, typename Storage, typename T>
FUSED_SCHED_HD inline void store_pack(const T* in, Storage* address) {
  Pack<Storage, kCount> pack;
  narrow(in, &pack);
  *in_global_memory(reinterpret_cast<Pack<Storage, kCount>*>(address)) = pack;
}

// Numbers as they would be stored.
template <int kCount, typename Storage, typename T>
FUSED_SCHED_HD inline void round_to(const T* numbers, T* out) {
  Pack<Storage, kCount> pack;
  narrow(numbers, &pack);
  widen(pack, out);
}

template <int kCount, typename Storage>
FUSED_SCHED_HD inline void store_zeros(Storage* address) {
  *in_global_memory(reinterpret_cast<Pack<Storage, kCount>*>(address)) = {};
}

// Elements of an array that is wider than the others, of which a pack takes several accesses.
template <int kCount, typename Storage>
constexpr int kPieceCount = kCount * sizeof(Storage) > kAccessBytes ? kAccessBytes / sizeof(Storage)
                                                                    : kCount;

template <int kCount, typename Storage, typename T>
FUSED_SCHED_HD inline void load_pieces(const Storage* address, T* out) {
  constexpr int kPiece = kPieceCount<kCount, Storage>;
  for (int k = 0; k < kCount; k += kPiece) load_pack<kPiece>(address + k, out + k);
}

template <int kCount, typename Storage, typename T>
FUSED_SCHED_HD inline void store_pieces(const T* in, Storage* address) {
  constexpr int kPiece = kPieceCount<kCount, Storage>;
  for (int k = 0; k < kCount; k += kPiece) store_pack<kPiece>(in + k, address + k);
}

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
