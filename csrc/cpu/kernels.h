// What the update loops of every instruction set have in common: their arguments and their table.
#pragma once

#include <stdint.h>

#include "../adam.h"
#include "../sgd.h"

namespace fused_sched {

enum class Rule : int { kSgd = 0, kAdam = 1 };

// One row of the parameter table, as Python writes it. Addresses are integers.
struct Record {
  int64_t param;
  int64_t grad;  // 0: no gradient this step
  int64_t state[3];
  int64_t numel;
  int64_t row;    // of the control block
  int64_t count;  // slot of the parameter's count
  int64_t kind;   // DTypes as param + 16 * grad + 256 * state
  int64_t master;
  int64_t average;
  int64_t unused[5];
};
constexpr int64_t kRecordWidth = 16;
static_assert(sizeof(Record) == kRecordWidth * sizeof(int64_t), "a record is a row of 16 int64");

// DType codes of Record::kind.
enum DType : int { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

constexpr int64_t make_kind(DType param, DType grad, DType state) {
  return param + 16 * grad + 256 * state;
}

// The combinations of dtypes with a loop, in the order of KernelTable.
constexpr int64_t kKinds[] = {
    make_kind(kFloat32, kFloat32, kFloat32),    make_kind(kFloat64, kFloat64, kFloat64),
    make_kind(kBFloat16, kBFloat16, kBFloat16), make_kind(kFloat16, kFloat16, kFloat16),
    make_kind(kBFloat16, kBFloat16, kFloat32),  make_kind(kFloat16, kFloat16, kFloat32),
    make_kind(kFloat32, kBFloat16, kFloat32),   make_kind(kFloat32, kFloat16, kFloat32),
};
constexpr int kKindCount = sizeof(kKinds) / sizeof(kKinds[0]);

union Scalars {
  SgdScalars<double> sgd;
  AdamScalars<double> adam;
};

// Updates elements [start, start + count) of a record. grad_scale is read by scaled variants only.
using Kernel = void (*)(const Record& record, int64_t start, int64_t count, const Scalars& scalars,
                        double grad_scale);

struct KernelTable {
  Kernel sgd[kKindCount][2][3];   // [scaled][Momentum]
  Kernel adam[kKindCount][2][2];  // [scaled][amsgrad]
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
