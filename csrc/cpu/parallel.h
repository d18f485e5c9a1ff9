// torch's thread pool.
#pragma once

#include <stdint.h>

namespace fused_sched {

// Calls body(context, begin, end) for parts that together are [0, count): on all threads, if there
// are as many elements to work on as it is worth waking them for. Threads take the next part as they
// finish one, so one that is held up delays nobody.
void share_out(int64_t count, int64_t elements, int64_t worth,
               void (*body)(void* context, int64_t begin, int64_t end), void* context);

}  // namespace fused_sched
