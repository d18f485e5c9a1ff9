#include "parallel.h"

#define TORCH_TARGET_VERSION 0x020b000000000000  // torch 2.11, the oldest that is supported
#include <torch/csrc/stable/c/shim.h>

namespace fused_sched {
namespace {

struct Region {
  void (*body)(void*);
  void* context;
};

}  // namespace

int thread_count() {
  uint32_t count = 1;
  return torch_get_num_threads(&count) == 0 ? static_cast<int>(count) : 1;
}

void run_on_threads(int n_threads, void (*body)(void*), void* context) {
  Region region{body, context};
  const auto run = [](int64_t, int64_t, void* argument) {
    const Region* r = static_cast<const Region*>(argument);
    r->body(r->context);
  };
  torch_parallel_for(0, n_threads, 1, run, &region);
}

}  // namespace fused_sched
