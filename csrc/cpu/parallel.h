// torch's thread pool.
#pragma once

#include <stdint.h>

namespace fused_sched {

int thread_count();

// Calls body(context) at the same time on up to n_threads threads, the calling one among them.
// May not call it at all if torch fails: the caller has to see to work that is left.
void run_on_threads(int n_threads, void (*body)(void*), void* context);

}  // namespace fused_sched
