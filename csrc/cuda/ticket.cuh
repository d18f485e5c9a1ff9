// Tickets, by which the last block of a launch knows that it is the last.
#pragma once

namespace fused_sched {
namespace {

// Takes a ticket: how many blocks came before. What this block has read or written comes before
// what the block that takes the last ticket does after its `was_last`. Nothing waits for the answer
// before it is used.
__device__ inline unsigned long long take_ticket(int64_t* ticket) {
  unsigned long long before;
  asm volatile("atom.add.release.gpu.global.u64 %0, [%1], 1;"
               : "=l"(before)
               : "l"(__cvta_generic_to_global(ticket))
               : "memory");
  return before;
}

// By the thread that took the ticket: whether it was the last one. Then all tickets are taken back.
__device__ inline bool was_last(unsigned long long before, int64_t* ticket) {
  if (before != gridDim.x - 1) return false;
  asm volatile("atom.add.acquire.gpu.global.u64 %0, [%1], %2;"
               : "=l"(before)
               : "l"(__cvta_generic_to_global(ticket)), "l"(-static_cast<long long>(gridDim.x))
               : "memory");
  return true;
}

}  // namespace
}  // namespace fused_sched
