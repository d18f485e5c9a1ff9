// The update kernel: one block a chunk, and the last block to finish ends the step.
//
// A block reads the control block before it takes its ticket, so the last one may write it: no
// reader is left. That block counts the update, notes whether it was skipped, and advances the
// fused schedules for the next step.
//
// Each kernel is there twice. With kAround it does what the step says around an update: clips
// gradients, lets averages follow, leaves zeros. Without, none of that costs anything.
#pragma once

#include <stddef.h>

#include <type_traits>

#include "advance.cuh"
#include "chunk.h"
#include "launch.h"
#include "ticket.cuh"

namespace fused_sched {
namespace {

constexpr int kThreads = kBlockThreads;
constexpr int kWarp = 32;
// So many blocks have to fit a multiprocessor at a time: at most 64 registers a thread, 128 for double.
// A rule whose kernels take more has its own numbers in kernels_<rule>.cu.
template <typename R, bool kExtra, bool kAround, typename P, typename G, typename S>
struct BlocksPerProcessor {
  static constexpr int kCount = sizeof(P) == 8 ? 4 : 8;
};

template <typename R, bool kAround>
__device__ void finish_step(const Step& step) {
  const bool skipped = common::is_skipped<kAround>(step);
  // Where a measurement has said so, it stands there, and other threads may be reading it.
  if (threadIdx.x == 0 && !(kAround && step.measured != 0)) {
    reinterpret_cast<int64_t*>(step.control)[kHeaderSkipped] = skipped ? 1 : 0;
  }
  if (!skipped) common::count_updates<R>(step, threadIdx.x, blockDim.x);
  if (kAround && step.draws != 0 && !skipped && threadIdx.x == 0) {
    reinterpret_cast<int64_t*>(step.control)[kHeaderUpdates] += 1;
  }
  // Its barrier comes first: a schedule may write a momentum that another thread was still reading.
  advance_all(step.schedules, step.n_schedules, step.control, skipped);
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

template <typename R, bool kExtra, bool kAround, typename P, typename G, typename S,
          typename Scalars>
__device__ void update_chunk(const Step& step, const ChunkPlace& place, const Scalars& scalars) {
  // Read here and not before the scalars: kept across the powers, they would be spilled.
  const int64_t grad = step.grads[place.record].address;
  const Record record = load_record(step.records + place.record);
  if (!kAround && grad == 0) return;
  const int64_t start = static_cast<int64_t>(place.unit) * step.unit;
  const int64_t left = record.numel - start;
  const int count = left < step.chunk_size ? static_cast<int>(left) : step.chunk_size;
  const Arrays<P, G, S> arrays = common::arrays_of<P, G, S>(record, grad, start);
  Beside<P, kAround> beside;
  if constexpr (kAround) {
    beside = common::beside_of<P>(step, step.records[place.record], start);
    if (grad == 0 || scalars.skipped != 0) {
      common::go_without_update(arrays.param, arrays.grad, beside, scalars, count, threadIdx.x,
                                blockDim.x);
      return;
    }
  }
  common::update_elements<R, kExtra>(arrays, beside, scalars, count, threadIdx.x, blockDim.x);
}

template <typename R, bool kExtra, bool kAround, typename P, typename G, typename S>
__global__ void __launch_bounds__(kThreads, (BlocksPerProcessor<R, kExtra, kAround, P, G, S>::kCount))
    update_kernel(const __grid_constant__ Step step) {
  using T = typename ComputeType<P>::type;
  __shared__ ChunkScalars<R, T, kAround> scalars;
  __shared__ bool ends_step;
  const ChunkPlace place = step.chunks[blockIdx.x];
  if (threadIdx.x < R::kScalarParts) {
    const int64_t count = step.counts[step.grads[place.record].count];
    common::chunk_scalars<R, T>(step, step.records[place.record], count, threadIdx.x, scalars);
  }
  if constexpr (kAround) {  // by another warp, side by side with the powers
    if (threadIdx.x == kWarp) {
      const int64_t start = static_cast<int64_t>(place.unit) * step.unit;
      common::around_scalars<T>(step, step.records[place.record], start, scalars);
    }
  }
  __syncthreads();  // the scalars are there, and no thread reads the control block any more
  int64_t* ticket = reinterpret_cast<int64_t*>(step.control) + kHeaderTicket;
  unsigned long long before = 0;
  if (step.last != 0 && threadIdx.x == 0) before = take_ticket(ticket);
  if (kAround || !common::is_skipped<false>(step)) {
    update_chunk<R, kExtra, kAround, P, G, S>(step, place, scalars);
  }
  if (step.last == 0) return;
  if (threadIdx.x == 0) ends_step = was_last(before, ticket);
  __syncthreads();
  if (ends_step) finish_step<R, kAround>(step);
}

// A step in which no tensor has elements.
template <typename R>
__global__ void __launch_bounds__(kThreads) finish_kernel(const __grid_constant__ Step step) {
  finish_step<R, true>(step);
}

template <typename R, typename K>
const void* kernel_for(bool extra, bool around) {
  using P = typename K::Param;
  using G = typename K::Grad;
  using S = typename K::State;
  static const void* const kKernels[2][2] = {
      {reinterpret_cast<const void*>(&update_kernel<R, false, false, P, G, S>),
       reinterpret_cast<const void*>(&update_kernel<R, false, true, P, G, S>)},
      {reinterpret_cast<const void*>(&update_kernel<R, true, false, P, G, S>),
       reinterpret_cast<const void*>(&update_kernel<R, true, true, P, G, S>)}};
  return kKernels[extra ? 1 : 0][around ? 1 : 0];
}

template <typename R, typename... Ks>
const void* kernel_at(int kind, bool extra, bool around, List<Ks...>) {
  using Get = const void* (*)(bool, bool);
  static constexpr Get kGet[] = {kernel_for<R, Ks>...};
  return kind >= 0 && kind < kKindCount ? kGet[kind](extra, around) : nullptr;
}

}  // namespace

template <typename R>
const void* find_kernel(int kind, bool extra, bool around) {
  if (kind == -1) return reinterpret_cast<const void*>(&finish_kernel<R>);
  return kernel_at<R>(kind, extra, around, Kinds{});
}

}  // namespace fused_sched
