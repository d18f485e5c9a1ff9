// The norm of the gradients: one block a chunk, and the block that takes the last ticket sees what
// comes of it.
//
// A block writes the sum of its squares to a place of its own before it takes its ticket. The last
// one adds up all sums in one order, so that the same gradients always have the same norm.
#include "launch.h"
#include "measure.h"
#include "ticket.cuh"

namespace fused_sched {
namespace {

constexpr int kThreads = kBlockThreads;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
// At most 48 registers a thread: the loop needs no more, and memory is waited for by many.
constexpr int kBlocksPerProcessor = 10;
// Sums of a group that one thread adds up; those of a larger group are added up by the whole block.
constexpr int kFewSums = 64;

// The sum over a warp, which all of its threads get.
__device__ inline double warp_sum(double x) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    x += __shfl_xor_sync(0xffffffff, x, distance);
  }
  return x;
}

// The sum over a block, which all of its threads get. parts: kWarps places in shared memory.
__device__ double block_sum(double x, double* parts) {
  x = warp_sum(x);
  __syncthreads();  // what the sum before left there has been read
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = x;
  __syncthreads();
  double sum = parts[0];
  for (int warp = 1; warp < kWarps; ++warp) sum += parts[warp];
  return sum;
}

// Of those of n numbers that are this thread's, eight of which it waits for at a time.
__device__ inline double strided_sum(const double* x, int n, int thread, int n_threads) {
  constexpr int kAtOnce = 8;
  double sum = 0.0;
#pragma unroll 1
  for (int i = thread; i < n; i += kAtOnce * n_threads) {
    double loaded[kAtOnce];
    for (int k = 0; k < kAtOnce; ++k) {
      loaded[k] = i + k * n_threads < n ? x[i + k * n_threads] : 0.0;
    }
    for (int k = 0; k < kAtOnce; ++k) sum += loaded[k];
  }
  return sum;
}

__device__ double norm_of_all(const Measure& m, double scale, double* parts) {
  const double mine = strided_sum(m.sums, m.n_sums, threadIdx.x, kThreads);
  const double norm = sqrt(block_sum(mine, parts)) / scale;
  for (int i = threadIdx.x; i < m.n_groups; i += kThreads) {
    common::note_norm_of(m, m.groups[i], norm);
  }
  return norm;
}

// As many groups at a time as a block has threads.
struct Round {
  int first[kThreads];   // of the sums of each group, where there are more than a few
  int length[kThreads];  // else 0
  double parts[kThreads][kWarps];
};

// The warps' parts of the sums of large groups. The block meets but once for all of them.
__device__ void sum_large_groups(const double* sums, Round& round) {
#pragma unroll 1
  for (int k = 0; k < kThreads; ++k) {
    const int length = round.length[k];
    if (length == 0) continue;
    const double mine = strided_sum(sums + round.first[k], length, threadIdx.x, kThreads);
    const double part = warp_sum(mine);
    if (threadIdx.x % kWarp == 0) round.parts[k][threadIdx.x / kWarp] = part;
  }
}

// A thread a group; returns the norm of all gradients.
__device__ double norms_of_each(const Measure& m, double scale, double* parts) {
  __shared__ Round round;
  double total = 0.0;
#pragma unroll 1
  for (int start = 0; start < m.n_groups; start += kThreads) {
    const int i = start + threadIdx.x;
    const NormGroup group = i < m.n_groups ? m.groups[i] : NormGroup{};
    const int length = group.end - group.first;
    const bool large = length > kFewSums;
    round.first[threadIdx.x] = group.first;
    round.length[threadIdx.x] = large ? length : 0;
    __syncthreads();
    sum_large_groups(m.sums, round);
    double squares = strided_sum(m.sums + group.first, large ? 0 : length, 0, 1);
    __syncthreads();
    for (int warp = 0; large && warp < kWarps; ++warp) squares += round.parts[threadIdx.x][warp];
    if (i < m.n_groups) common::note_norm_of(m, group, sqrt(squares) / scale);
    total += squares;
  }
  return sqrt(block_sum(total, parts)) / scale;
}

// By the whole block, as there may be thousands of norms to compare with; thread 0 has the answer.
__device__ bool is_spike(const Spikes& s, int64_t* seen, double norm, double* parts) {
  const int known = static_cast<int>(common::known_norms(s, *seen));
  const double sum = strided_sum(s.norms, known, threadIdx.x, kThreads);
  const double mean = block_sum(sum, parts) / known;
  double mine = 0.0;
  for (int i = threadIdx.x; i < known; i += kThreads) {
    mine += (s.norms[i] - mean) * (s.norms[i] - mean);
  }
  const double squares = block_sum(mine, parts);
  return threadIdx.x == 0 && common::judge(s, seen, norm, mean, squares);
}

// By the last block: all other blocks of all launches have written their sums.
__device__ void conclude(const Measure& m, double* parts) {
  const double scale = common::scale_of(m);
  const double norm = m.each != 0 ? norms_of_each(m, scale, parts) : norm_of_all(m, scale, parts);
  const bool stopped = m.found_inf != nullptr && *m.found_inf != 0.0f;  // such a norm is not remembered
  bool skipped = stopped || (m.only_finite != 0 && !common::is_finite(norm));
  if (!stopped && m.spikes.norms != nullptr) {
    int64_t* seen = reinterpret_cast<int64_t*>(m.control) + kHeaderNormsSeen;
    if (is_spike(m.spikes, seen, norm, parts)) skipped = true;
  }
  if (threadIdx.x == 0) common::note_decision(m.control, norm, skipped);
}

// The squares of a chunk's gradients that are this thread's.
template <typename G>
__device__ double chunk_squares(const Measure& m, const NormChunk& chunk) {
  const int64_t grad = m.grads[chunk.record].address;
  const int64_t start = static_cast<int64_t>(chunk.unit) * m.unit;
  const int64_t left = m.records[chunk.record].numel - start;
  const int length = left < m.chunk_size ? static_cast<int>(left) : m.chunk_size;
  const G* first = reinterpret_cast<const G*>(grad) + start;
  // Without a branch, so that all that stands in tables is waited for at a time.
  return common::sum_of_squares(first, grad == 0 ? 0 : length, threadIdx.x, kThreads);
}

template <typename G>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    norm_kernel(const __grid_constant__ Measure m) {
  __shared__ double parts[kWarps];
  __shared__ bool is_last;
  const NormChunk chunk = m.chunks[blockIdx.x];
  const double squares = block_sum(chunk_squares<G>(m, chunk), parts);
  if (threadIdx.x == 0) {
    m.sums[chunk.place] = squares;
    int64_t* ticket = reinterpret_cast<int64_t*>(m.control) + kHeaderTicket;
    is_last = m.last != 0 && was_last(take_ticket(ticket), ticket);
  }
  __syncthreads();
  if (is_last) conclude(m, parts);
}

// A measurement of gradients of which none has elements.
__global__ void __launch_bounds__(kThreads) decide_kernel(const __grid_constant__ Measure m) {
  __shared__ double parts[kWarps];
  conclude(m, parts);
}

template <typename... Gs>
const void* norm_kernel_at(int dtype, List<Gs...>) {
  static const void* const kKernels[] = {reinterpret_cast<const void*>(&norm_kernel<Gs>)...};
  return dtype >= 0 && dtype < kDTypeCount ? kKernels[dtype] : nullptr;
}

}  // namespace

const void* find_norm_kernel(int dtype) {
  if (dtype == -1) return reinterpret_cast<const void*>(&decide_kernel);
  return norm_kernel_at(dtype, DTypes{});
}

}  // namespace fused_sched
