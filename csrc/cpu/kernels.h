// What the update loops of every instruction set have in common: their arguments and their table.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../kinds.h"
#include "../rules.h"

namespace fused_sched {

// One row of the parameter table, as Python writes it. Addresses are integers.
struct Record {
  int64_t param;
  int64_t grad;  // 0: no gradient this step
  int64_t state[3];
  int64_t numel;
  int64_t row;    // of the control block
  int64_t count;  // slot of the parameter's count
  int64_t kind;   // as Kind::kCode
  int64_t master;
  int64_t average;
  int64_t unused[5];
};
constexpr int64_t kRecordWidth = 16;
static_assert(sizeof(Record) == kRecordWidth * sizeof(int64_t), "a record is a row of 16 int64");

template <typename... Rs>
constexpr int most_modes(List<Rs...>) {
  int most = 0;
  ((most = Rs::kModes > most ? Rs::kModes : most), ...);
  return most;
}
template <typename... Rs>
constexpr size_t most_scalar_bytes(List<Rs...>) {
  size_t most = 0;
  ((most = sizeof(typename Rs::template Scalars<double>) > most
               ? sizeof(typename Rs::template Scalars<double>)
               : most),
   ...);
  return most;
}
constexpr int kMostModes = most_modes(FUSED_SCHED_ISA::Rules{});

// Scalars<double> of some rule.
struct alignas(double) AnyScalars {
  unsigned char bytes[most_scalar_bytes(FUSED_SCHED_ISA::Rules{})];
};

// What is done around the update of an element.
struct Around {
  double scale;  // to divide gradients by, which is written back; if scaled
  double factor;  // they are multiplied by, then
  double decay;  // of the average; if averaged
  bool scaled;
  bool averaged;
  const int64_t* header;  // of the control block
};

// Updates elements [start, start + count) of a record, and lets its average follow.
using Kernel = void (*)(const Record& record, int64_t start, int64_t count, const AnyScalars& scalars,
                        const Around& around);
// Lets elements of the averaged copy follow those of the parameter, where no update does it.
using AverageKernel = void (*)(const Record& record, int64_t start, int64_t count, double decay);
// The sum of the squares of `count` elements from `start` on of the array at an address.
using SumKernel = double (*)(int64_t address, int64_t start, int64_t count);

struct KernelTable {
  Kernel kernels[kRuleCount][kKindCount][kMostModes];
  AverageKernel averages[kDTypeCount];  // by dtype of the parameter
  SumKernel sums[kDTypeCount];  // by dtype
};

namespace portable {
extern const KernelTable kKernels;
}
#ifdef FUSED_SCHED_X86
namespace avx2 {
extern const KernelTable kKernels;
}
namespace avx512 {
extern const KernelTable kKernels;
}
#endif

}  // namespace fused_sched
