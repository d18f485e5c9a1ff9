#include "parallel.h"

#include <algorithm>
#include <atomic>

#define TORCH_TARGET_VERSION 0x020b000000000000  // torch 2.11, the oldest that is supported
#include <torch/csrc/stable/c/shim.h>

namespace fused_sched {
namespace {

constexpr int64_t kMostAtOnce = 16;

struct Work {
  void (*body)(void*, int64_t, int64_t);
  void* context;
  int64_t count;
  int64_t batch;
  std::atomic<int64_t> next;
};

void work_until_done(Work& work) {
  for (;;) {
    const int64_t begin = work.next.fetch_add(work.batch, std::memory_order_relaxed);
    if (begin >= work.count) return;
    work.body(work.context, begin, std::min(begin + work.batch, work.count));
  }
}

int thread_count() {
  uint32_t count = 1;
  return torch_get_num_threads(&count) == 0 ? static_cast<int>(count) : 1;
}

}  // namespace

void share_out(int64_t count, int64_t elements, int64_t worth,
               void (*body)(void*, int64_t, int64_t), void* context) {
  const int threads = elements < worth ? 1 : thread_count();
  const int64_t share = count / (threads * 8);
  Work work{body, context, count, std::clamp<int64_t>(share, 1, kMostAtOnce), {0}};
  const auto run = [](int64_t, int64_t, void* argument) {
    work_until_done(*static_cast<Work*>(argument));
  };
  if (threads > 1) torch_parallel_for(0, threads, 1, run, &work);
  work_until_done(work);  // what is left: all with one thread, or if torch failed, else nothing
}

}  // namespace fused_sched
