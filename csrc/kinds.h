// The combinations of dtypes that there are kernels for. Whatever exists once for each of them is made from
// this list.
#pragma once

#include "dtypes.h"
#include "master.h"

namespace fused_sched {

template <typename... Items>
struct List {
  static constexpr int kCount = sizeof...(Items);
};

// DType codes of Record::kind.
enum DType : int { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };
using DTypes = List<float, double, BFloat16, Float16>;
constexpr int kDTypeCount = DTypes::kCount;

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType kCode = kFloat32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType kCode = kFloat64;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType kCode = kBFloat16;
};
template <>
struct DTypeOf<Float16> {
  static constexpr DType kCode = kFloat16;
};

// Types of parameter, gradient and state.
template <typename P, typename G, typename S>
struct Kind {
  using Param = P;
  using Grad = G;
  using State = S;
  static constexpr int64_t kCode = DTypeOf<P>::kCode + 16 * DTypeOf<G>::kCode + 256 * DTypeOf<S>::kCode;
};

using Kinds =
    List<Kind<float, float, float>, Kind<double, double, double>, Kind<BFloat16, BFloat16, BFloat16>,
         Kind<Float16, Float16, Float16>, Kind<BFloat16, BFloat16, float>, Kind<Float16, Float16, float>,
         Kind<float, BFloat16, float>, Kind<float, Float16, float>, Kind<float, float, BFloat16>,
         Kind<BFloat16, float, float>, Kind<Float16, float, float>, Kind<BFloat16, float, BFloat16>,
         Kind<Float16, float, Float16>>;
constexpr int kKindCount = Kinds::kCount;

inline int param_dtype(int64_t kind) { return static_cast<int>(kind & 15); }
inline int grad_dtype(int64_t kind) { return static_cast<int>(kind >> 4 & 15); }
// Of the averaged copy; -1 if there is none.
inline int average_dtype(int64_t kind) { return static_cast<int>(kind >> 12 & 15) - 1; }
// A Master of master.h.
inline int master_of(int64_t kind) { return static_cast<int>(kind >> 16); }
// Whether there are kernels for a parameter that has this master.
inline bool can_have_master(int64_t kind) {
  const int param = param_dtype(kind), master = master_of(kind);
  const bool narrow = param == kBFloat16 || param == kFloat16;
  if (master == kRemainder) return param == kBFloat16;
  return master == kNoMaster || ((master == kSingleMaster || master == kByChance) && narrow);
}

namespace FUSED_SCHED_ISA {

template <typename... Ks>
inline int find_kind(int64_t code, List<Ks...>) {
  constexpr int64_t kCodes[] = {Ks::kCode...};
  int position = 0;
  while (position < kKindCount && kCodes[position] != code) ++position;
  return position;
}

// Position among Kinds of a record's kind, whatever its average and master; kKindCount for one that is not there.
inline int find_kind(int64_t code) { return find_kind(code & 0xfff, Kinds{}); }

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
