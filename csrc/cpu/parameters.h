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
  template <typename E>
  static typename E::Value get(const E& elements, const P* param, const Rest*, int64_t i) {
    return elements.get(param + i);
  }
  template <typename E>
  static void put(const E& elements, P* param, Rest*, int64_t i, typename E::Value value) {
    elements.put(param + i, value);
  }
  // What averages follow, once a value was put: that which was stored.
  template <typename E>
  static typename E::Value stored(const E& elements, const P* param, int64_t i, typename E::Value value) {
    if constexpr (sizeof(P) == 2) return elements.get(param + i);
    else return value;
  }
};

template <typename P>
struct WithMaster {
  using Param = P;
  using Rest = float;
  template <typename E>
  static typename E::Value get(const E& elements, const P* param, const Rest* master, int64_t i) {
    return elements.template current_value<P>(elements.get(param + i), elements.get(master + i));
  }
  template <typename E>
  static void put(const E& elements, P* param, Rest* master, int64_t i, typename E::Value value) {
    elements.put(master + i, value);
    elements.put(param + i, value);
  }
  template <typename E>
  static typename E::Value stored(const E&, const P*, int64_t, typename E::Value value) {
    return value;
  }
};

// Rounded by chance; the rest is 16 random bits for each element of a part.
template <typename P>
struct ByChance {
  using Param = P;
  using Rest = uint16_t;
  template <typename E>
  static typename E::Value get(const E& elements, const P* param, const Rest*, int64_t i) {
    return elements.get(param + i);
  }
  template <typename E>
  static void put(const E& elements, P* param, const Rest* chances, int64_t i, typename E::Value value) {
    put_by_chance(elements, param + i, value, chances + i % kPart);
  }
  template <typename E>
  static typename E::Value stored(const E& elements, const P* param, int64_t i, typename E::Value) {
    return elements.get(param + i);
  }
};

// A bfloat16 and 16 bits beside it.
struct WithRemainder {
  using Param = BFloat16;
  using Rest = int16_t;
  template <typename E>
  static typename E::Value get(const E& elements, const Param* param, const Rest* remainder, int64_t i) {
    return elements.joined(elements.get(param + i), remainder + i);
  }
  template <typename E>
  static void put(const E& elements, Param* param, Rest* remainder, int64_t i, typename E::Value value) {
    elements.put_split(param + i, remainder + i, value);
  }
  template <typename E>
  static typename E::Value stored(const E&, const Param*, int64_t, typename E::Value value) {
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
