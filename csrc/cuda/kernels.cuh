// The update kernel: one block a chunk, and the last block to finish ends the step.
//
// A block reads the control block before it takes its ticket, so the last one may write it: no
// reader is left. That block counts the update, notes whether it was skipped, and advances the
// fused schedules for the next step.
#pragma once

#include <stddef.h>

#include <type_traits>

#include "chunk.h"
#include "launch.h"

namespace fused_sched {
namespace {

constexpr int kThreads = kBlockThreads;
// So many blocks have to fit a multiprocessor at a time: at most 64 registers a thread. Adam gets 72
// for float16, whose conversions take more, and 80 with one more array, double gets 128.
template <Rule kRule, bool kExtra, typename P, typename S>
constexpr int blocks_per_processor() {
  if (sizeof(P) == 8) return 4;
  if (kRule == Rule::kAdam && kExtra) return 6;
  return kRule == Rule::kAdam && std::is_same_v<S, Float16> ? 7 : 8;
}

// For code and values of a program; a larger one uses global memory.
constexpr int kSharedDoubles = 512;

// Copies the program's code to shared memory if everything fits there, else uses it where it is.
// Returns the place for the values.
__device__ inline double* place_program(const DeviceSchedule& s, int workers, double* shared,
                                        const int32_t** code) {
  const int64_t n_words = s.n_ops * kCodeWidth;
  const int64_t code_doubles = (n_words + 1) / 2;
  *code = s.code;
  if (code_doubles + workers * common::value_stride(s.n_ops) > kSharedDoubles) return s.scratch;
  int32_t* words = reinterpret_cast<int32_t*>(shared);
  for (int i = threadIdx.x; i < n_words; i += blockDim.x) words[i] = s.code[i];
  *code = words;
  return shared + code_doubles;
}

// One advance by all threads of a block.
__device__ inline void advance_one(const DeviceSchedule& s, double* control, double* shared) {
  const int workers = common::worker_count(s.n_lanes, blockDim.x);
  const int32_t* code;
  double* values = place_program(s, workers, shared, &code);
  __syncthreads();
  if (threadIdx.x == 0) common::advance_uniform(s, code, values);
  __syncthreads();
  if (threadIdx.x < workers) common::advance_lanes(s, code, control, values, threadIdx.x, workers);
}

// Advances schedules in turn, by all threads of a block. Not inlined: its registers are none of the
// update loop's concern.
__device__ __noinline__ void advance_all(const DeviceSchedule* schedules, int count,
                                         double* control, bool skipped) {
  __shared__ double shared[kSharedDoubles];
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    __syncthreads();  // what one schedule wrote, the next may read
    if (!skipped || schedules[i].guarded == 0) advance_one(schedules[i], control, shared);
  }
}

template <Rule kRule>
__device__ void finish_step(const Step& step) {
  const bool skipped = common::is_skipped(step);
  if (threadIdx.x == 0) {
    reinterpret_cast<int64_t*>(step.control)[kHeaderSkipped] = skipped ? 1 : 0;
  }
  if (!skipped) common::count_updates<kRule>(step, threadIdx.x, blockDim.x);
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

template <Rule kRule, bool kExtra, typename P, typename G, typename S, typename Scalars>
__device__ void update_chunk(const Step& step, const ChunkPlace& place, int64_t grad,
                             const Scalars& scalars) {
  // Read here and not before the scalars: kept across the powers, it would be spilled.
  const Record record = load_record(step.records + place.record);
  const int64_t start = static_cast<int64_t>(place.unit) * step.unit;
  const int64_t left = record.numel - start;
  const int count = left < step.chunk_size ? static_cast<int>(left) : step.chunk_size;
  const Arrays<P, G, S> arrays = common::arrays_of<P, G, S>(record, grad, start);
  common::update_elements<kRule, kExtra>(arrays, scalars, count, threadIdx.x, blockDim.x);
}

template <Rule kRule, bool kExtra, typename P, typename G, typename S>
__global__ void __launch_bounds__(kThreads, (blocks_per_processor<kRule, kExtra, P, S>()))
    update_kernel(const __grid_constant__ Step step) {
  using T = typename ComputeType<P>::type;
  __shared__ typename ScalarsOf<kRule, T>::type scalars;
  __shared__ bool ends_step;
  const ChunkPlace place = step.chunks[blockIdx.x];
  const Gradient grad = step.grads[place.record];
  if (threadIdx.x < kScalarParts<kRule>) {
    const Record& record = step.records[place.record];
    common::chunk_scalars<kRule, T>(step, record, step.counts[grad.count], threadIdx.x, scalars);
  }
  __syncthreads();  // the scalars are there, and no thread reads the control block any more
  int64_t* ticket = reinterpret_cast<int64_t*>(step.control) + kHeaderTicket;
  unsigned long long before = 0;
  if (step.last != 0 && threadIdx.x == 0) before = take_ticket(ticket);
  if (grad.address != 0 && !common::is_skipped(step)) {
    update_chunk<kRule, kExtra, P, G, S>(step, place, grad.address, scalars);
  }
  if (step.last == 0) return;
  if (threadIdx.x == 0) ends_step = was_last(before, ticket);
  __syncthreads();
  if (ends_step) finish_step<kRule>(step);
}

// A step in which no tensor has elements.
template <Rule kRule>
__global__ void __launch_bounds__(kThreads) finish_kernel(const __grid_constant__ Step step) {
  finish_step<kRule>(step);
}

template <Rule kRule, typename P, typename G, typename S>
const void* choose(bool extra) {
  return extra ? reinterpret_cast<const void*>(&update_kernel<kRule, true, P, G, S>)
               : reinterpret_cast<const void*>(&update_kernel<kRule, false, P, G, S>);
}

// kind: position in kKinds, or -1 for a step in which no tensor has elements.
template <Rule kRule>
const void* find_kernel(int kind, bool extra) {
  switch (kind) {
    case -1: return reinterpret_cast<const void*>(&finish_kernel<kRule>);
    case 0: return choose<kRule, float, float, float>(extra);
    case 1: return choose<kRule, double, double, double>(extra);
    case 2: return choose<kRule, BFloat16, BFloat16, BFloat16>(extra);
    case 3: return choose<kRule, Float16, Float16, Float16>(extra);
    case 4: return choose<kRule, BFloat16, BFloat16, float>(extra);
    case 5: return choose<kRule, Float16, Float16, float>(extra);
    case 6: return choose<kRule, float, BFloat16, float>(extra);
    case 7: return choose<kRule, float, Float16, float>(extra);
    default: return nullptr;
  }
}

}  // namespace
}  // namespace fused_sched
