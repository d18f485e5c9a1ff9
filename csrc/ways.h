// Ways of an update, which Python sums up to one number: Update.ways in fused_sched/backends/base.py.
#pragma once

#include <stdint.h>

namespace fused_sched {

constexpr int64_t kWayMeasured = 1;  // a measurement has said whether the step is skipped
constexpr int64_t kWayClipped = 2;   // and by what gradients are multiplied
constexpr int64_t kWayZeroes = 4;    // zeros are left in gradients
constexpr int64_t kWayDraws = 8;     // parameters may be rounded by chance: the header counts the update
constexpr int64_t kEveryWay = 15;

}  // namespace fused_sched
