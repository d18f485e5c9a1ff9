// The update kernel: one block a chunk, and the last block to finish ends the step.
//
// A block reads the control block before it takes its ticket, so the last one may write it: no
// reader is left. That block counts the update, notes whether it was skipped, and advances the
// fused schedules for the next step.
#pragma once

#include <stddef.h>

#include <type_traits>

#include "advance.cuh"
#include "chunk.h"
#include "launch.h"

namespace fused_sched {
namespace {

constexpr int kThreads = kBlockThreads;
// So many blocks have to fit a multiprocessor at a time: at most 64 registers a thread, 128 for double.
// A rule whose kernels take more has its own numbers in kernels_<rule>.cu.
template <typename R, bool kExtra, typename P, typename S>
struct BlocksPerProcessor {
  static constexpr int kCount = sizeof(P) == 8 ? 4 : 8;
};

template <typename R>
__device__ void finish_step(const Step& step) {
  const bool skipped = common::is_skipped(step);
  if (threadIdx.x == 0) {
    reinterpret_cast<int64_t*>(step.control)[kHeaderSkipped] = skipped ? 1 : 0;
  }
  if (!skipped) common::count_updates<R>(step, threadIdx.x, blockDim.x);
  // Its barrier comes first: a schedule may write a momentum that another thread was still reading.
  advance_all(step.schedules, step.n_schedules, step.control, skipped);
}

// Takes a ticket: how many blocks came before. What this block has read comes before what the block that
// takes the last ticket does after its `take_last`. Nothing waits for the answer before it is used.
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

// The words up to the number of elements; the others are not read.
__device__ inline Record load_record(const Record* record) {
  constexpr int kPacks = offsetof(Record, row) / sizeof(Pack<int64_t, 2>);
  union {
    Pack<int64_t, 2> packs[kPacks];
    Record record;
  } row;
  const auto* packs = reinterpret_cast<const Pack<int64_t, 2>*>(record);
  for (int k = 0; k < kPacks; ++k) row.packs[k] = packs[k];
  return row.record;
}

template <typename R, bool kExtra, typename P, typename G, typename S, typename Scalars>
__device__ void update_chunk(const Step& step, const ChunkPlace& place, const Scalars& scalars) {
  // Read here and not before the scalars: kept across the powers, they would be spilled.
  const int64_t grad = step.grads[place.record].address;
  const Record record = load_record(step.records + place.record);
  if (grad == 0) return;
  const int64_t start = static_cast<int64_t>(place.unit) * step.unit;
  const int64_t left = record.numel - start;
  const int count = left < step.chunk_size ? static_cast<int>(left) : step.chunk_size;
  const Arrays<P, G, S> arrays = common::arrays_of<P, G, S>(record, grad, start);
  common::update_elements<R, kExtra>(arrays, scalars, count, threadIdx.x, blockDim.x);
}

template <typename R, bool kExtra, typename P, typename G, typename S>
__global__ void __launch_bounds__(kThreads, (BlocksPerProcessor<R, kExtra, P, S>::kCount))
    update_kernel(const __grid_constant__ Step step) {
  using T = typename ComputeType<P>::type;
  __shared__ ChunkScalars<R, T> scalars;
  __shared__ bool ends_step;
  const ChunkPlace place = step.chunks[blockIdx.x];
  if (threadIdx.x < R::kScalarParts) {
    const int64_t count = step.counts[step.grads[place.record].count];
    common::chunk_scalars<R, T>(step, step.records[place.record], count, threadIdx.x, scalars);
  }
  __syncthreads();  // the scalars are there, and no thread reads the control block any more
  int64_t* ticket = reinterpret_cast<int64_t*>(step.control) + kHeaderTicket;
  unsigned long long before = 0;
  if (step.last != 0 && threadIdx.x == 0) before = take_ticket(ticket);
  if (!common::is_skipped(step)) update_chunk<R, kExtra, P, G, S>(step, place, scalars);
  if (step.last == 0) return;
  if (threadIdx.x == 0) ends_step = was_last(before, ticket);
  __syncthreads();
  if (ends_step) finish_step<R>(step);
}

// A step in which no tensor has elements.
template <typename R>
__global__ void __launch_bounds__(kThreads) finish_kernel(const __grid_constant__ Step step) {
  finish_step<R>(step);
}

template <typename R, typename K>
const void* kernel_for(bool extra) {
  using P = typename K::Param;
  using G = typename K::Grad;
  using S = typename K::State;
  return extra ? reinterpret_cast<const void*>(&update_kernel<R, true, P, G, S>)
               : reinterpret_cast<const void*>(&update_kernel<R, false, P, G, S>);
}

template <typename R, typename... Ks>
const void* kernel_at(int kind, bool extra, List<Ks...>) {
  using Get = const void* (*)(bool);
  static constexpr Get kGet[] = {kernel_for<R, Ks>...};
  return kind >= 0 && kind < kKindCount ? kGet[kind](extra) : nullptr;
}

}  // namespace

template <typename R>
const void* find_kernel(int kind, bool extra) {
  if (kind == -1) return reinterpret_cast<const void*>(&finish_kernel<R>);
  return kernel_at<R>(kind, extra, Kinds{});
}

}  // namespace fused_sched
