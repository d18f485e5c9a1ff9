// Layout of the control block, in 8-byte slots: the same numbers as fused_sched/memory/control_block.py.
#pragma once

#include <stdint.h>

namespace fused_sched {

constexpr int kHeaderSkipped = 0;  // int64: 1 when the last update was skipped
constexpr int kHeaderTicket = 1;   // int64: programs of the running GPU update that are done

constexpr int kGroupsOffset = 8;
constexpr int kGroupStride = 32;
constexpr int kBound = 16;  // in a row: the words of the tensors that its fields follow

constexpr int kFieldLr = 0;
constexpr int kFieldWeightDecay = 1;
constexpr int kFieldMomentum = 2;
constexpr int kFieldDampening = 3;
constexpr int kFieldBeta1 = 4;
constexpr int kFieldBeta2 = 5;
constexpr int kFieldEps = 6;
constexpr int kFieldFlags = 7;  // a sum of the flags below

// In the lowest bits of a tensor's address.
constexpr int64_t kBoundSingle = 1;  // it is float32, else float64
constexpr int64_t kBoundSilent = 2;  // the same field of a later row writes it

constexpr int kFlagMaximize = 1;
constexpr int kFlagNesterov = 2;
constexpr int kFlagAmsgrad = 4;
constexpr int kFlagDecoupledWeightDecay = 8;

}  // namespace fused_sched
