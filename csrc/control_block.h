// Layout of the control block, in 8-byte slots: the same numbers as fused_sched/memory/control_block.py.
#pragma once

#include <stdint.h>

namespace fused_sched {

constexpr int kHeaderSkipped = 0;  // int64: 1 when the last update was skipped
constexpr int kHeaderTicket = 1;   // int64: programs of the running GPU update that are done
constexpr int kHeaderGradNorm = 2;      // the last norm of all gradients, where steps measure it
constexpr int kHeaderSkippedSteps = 3;  // int64: steps that measured, and were skipped
constexpr int kHeaderNormsSeen = 4;     // int64: norms that a SpikeRule has remembered so far

constexpr int kHeaderSeed = 5;          // int64: of stochastic rounding
constexpr int kHeaderUpdates = 6;       // int64: updates that rounded by it so far

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
constexpr int kFieldMaxGradNorm = 8;
constexpr int kFieldEmaDecay = 9;

// In a row, after its fields: what a step measured of the group's gradients.
constexpr int kMeasuredClipFactor = 10;  // by which the update multiplies them
constexpr int kMeasuredGroupNorm = 11;   // the norm that the factor was made of

// In the lowest bits of a tensor's address.
constexpr int64_t kBoundSingle = 1;  // it is float32, else float64
constexpr int64_t kBoundSilent = 2;  // the same field of a later row writes it

constexpr int kFlagMaximize = 1;
constexpr int kFlagNesterov = 2;
constexpr int kFlagAmsgrad = 4;
constexpr int kFlagDecoupledWeightDecay = 8;

}  // namespace fused_sched
