// How the threads of a block share the elements of a chunk. Runs on the host too, for the tests.
#pragma once

#include <stdint.h>

#include "convert.h"

namespace fused_sched {

constexpr int larger(int a, int b) { return a > b ? a : b; }

// Elements a thread handles at a time: 16 bytes of the widest type, and as many of the others.
template <typename P, typename G, typename S>
constexpr int kPackCount =
    kAccessBytes / larger(sizeof(P), larger(sizeof(G), sizeof(S)));

namespace FUSED_SCHED_ISA {

template <int kCount, typename T>
FUSED_SCHED_HD inline bool is_aligned(const T* address) {
  return reinterpret_cast<uintptr_t>(address) % (kCount * sizeof(T)) == 0;
}

// Makes the compiler read shared scalars anew in every iteration. Kept in registers, they and the
// copies of the loop for each outcome of the branches on them would make it spill.
FUSED_SCHED_HD inline void forget_shared_values() {
#ifdef __CUDA_ARCH__
  asm volatile("" ::: "memory");
#endif
}

// Calls body.run<kCount>(i) for packs and body.run<1>(i) for single elements, so that all threads
// together cover [0, count) once. Packs start at multiples of kCount.
template <int kCount, typename Body>
FUSED_SCHED_HD inline void walk(const Body& body, int count, bool aligned, int thread,
                                int n_threads) {
  const int wide = aligned ? count - count % kCount : 0;
#pragma unroll 1
  for (int i = thread * kCount; i < wide; i += n_threads * kCount) {
    forget_shared_values();
    body.template run<kCount>(i);
  }
#pragma unroll 1
  for (int i = wide + thread; i < count; i += n_threads) {
    forget_shared_values();
    body.template run<1>(i);
  }
}

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
