// How a parameter is kept, as the update loops read and write it: alone, rounded as ever or by
// chance, or with a master beside it.
//
// put() is the one place where a new value becomes what the parameter stores.
#pragma once

#include <type_traits>

#include "../master.h"
#include "chance.h"
#include "lanes.h"

namespace fused_sched {
namespace FUSED_SCHED_ISA {
namespace {

template <typename P>
struct Alone {
  using Param = P;
  using Rest = char;  // there is none
  template <typename V>
  static V get(const P* param, const Rest*, int64_t i) {
    return Access<V>::get(param + i);
  }
  template <typename V>
  static void put(P* param, Rest*, int64_t i, V value) {
    Access<V>::put(param + i, value);
  }
  // What averages follow, once a value was put: that which was stored.
  template <typename V>
  static V stored(const P* param, int64_t i, V value) {
    if constexpr (sizeof(P) == 2) return Access<V>::get(param + i);
    else return value;
  }
};

template <typename P>
struct WithMaster {
  using Param = P;
  using Rest = float;
  template <typename V>
  static V get(const P* param, const Rest* master, int64_t i) {
    return Access<V>::template current_value<P>(Access<V>::get(param + i), Access<V>::get(master + i));
  }
  template <typename V>
  static void put(P* param, Rest* master, int64_t i, V value) {
    Access<V>::put(master + i, value);
    Access<V>::put(param + i, value);
  }
  template <typename V>
  static V stored(const P*, int64_t, V value) {
    return value;
  }
};

// Rounded by chance; the rest is 16 random bits for each element of a part.
template <typename P>
struct ByChance {
  using Param = P;
  using Rest = uint16_t;
  template <typename V>
  static V get(const P* param, const Rest*, int64_t i) {
    return Access<V>::get(param + i);
  }
  template <typename V>
  static void put(P* param, const Rest* chances, int64_t i, V value) {
    put_by_chance(param + i, value, chances + i % kPart);
  }
  template <typename V>
  static V stored(const P* param, int64_t i, V) {
    return Access<V>::get(param + i);
  }
};

// A bfloat16 and 16 bits beside it.
struct WithRemainder {
  using Param = BFloat16;
  using Rest = int16_t;
  template <typename V>
  static V get(const Param* param, const Rest* remainder, int64_t i) {
    return Access<V>::joined(Access<V>::get(param + i), remainder + i);
  }
  template <typename V>
  static void put(Param* param, Rest* remainder, int64_t i, V value) {
    Access<V>::put_split(param + i, remainder + i, value);
  }
  template <typename V>
  static V stored(const Param*, int64_t, V value) {
    return value;
  }
};

// Calls with how the parameter of a record of this kind is kept; P: its dtype.
template <typename P, typename Run>
inline void run_as_kept(int64_t kind, const Run& run) {
  if constexpr (sizeof(P) == 2) {
    if (master_of(kind) == kByChance) return run(ByChance<P>());
    if (master_of(kind) == kSingleMaster) return run(WithMaster<P>());
  }
  if constexpr (std::is_same_v<P, BFloat16>) {
    if (master_of(kind) == kRemainder) return run(WithRemainder());
  }
  run(Alone<P>());
}

}  // namespace
}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
