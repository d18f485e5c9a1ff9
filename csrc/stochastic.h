// Rounding to 16 bits up or down by chance, so that on average nothing is lost.
//
// The random bits are words of Philox4x32-10 (Salmon et al., 2011), keyed by a seed. Which word an element takes
// depends on the number of updates so far, on a number that its parameter's state keeps, and on its place in the
// tensor: not on threads, launches, or other parameters.
#pragma once

#include "dtypes.h"

namespace fused_sched {

// Of an update of a tensor.
struct Draw {
  uint32_t key[2];  // the seed
  uint32_t update;  // how many there were before
  uint32_t stream;  // of the parameter's state
};

constexpr uint32_t kPhiloxFirst = 0xD2511F53u, kPhiloxSecond = 0xCD9E8D57u;
constexpr uint32_t kPhiloxKeyFirst = 0x9E3779B9u, kPhiloxKeySecond = 0xBB67AE85u;
constexpr int kDrawn = 8;  // elements whose bits are drawn at a time

namespace FUSED_SCHED_ISA {

struct DrawnBits {
  uint32_t word[kDrawn / 2];

  // 16 random bits of element k.
  FUSED_SCHED_HD uint32_t of(int k) const {
    // selects: an index that is not known would put the words into memory
    const uint32_t first = k < 2 ? word[0] : word[1], second = k < 6 ? word[2] : word[3];
    return (k < 4 ? first : second) >> 16 * (k % 2) & 0xffffu;
  }
};

FUSED_SCHED_HD inline uint32_t low_word(uint64_t x) { return static_cast<uint32_t>(x); }
FUSED_SCHED_HD inline uint32_t high_word(uint64_t x) { return static_cast<uint32_t>(x >> 32); }

FUSED_SCHED_HD inline Draw make_draw(int64_t seed, int64_t update, int64_t stream) {
  const uint64_t key = static_cast<uint64_t>(seed);
  return {{low_word(key), high_word(key)}, low_word(static_cast<uint64_t>(update)),
          low_word(static_cast<uint64_t>(stream))};
}

// For elements number * kDrawn and the next ones of a tensor.
FUSED_SCHED_HD inline DrawnBits draw_bits(const Draw& draw, uint64_t number) {
  uint32_t a = low_word(number), b = high_word(number), c = draw.stream, d = draw.update;
  uint32_t key0 = draw.key[0], key1 = draw.key[1];
#ifdef __CUDACC__
#pragma unroll
#endif
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = static_cast<uint64_t>(kPhiloxFirst) * a, second = static_cast<uint64_t>(kPhiloxSecond) * c;
    a = high_word(second) ^ b ^ key0;
    c = high_word(first) ^ d ^ key1;
    b = low_word(second);
    d = low_word(first);
    key0 += kPhiloxKeyFirst;
    key1 += kPhiloxKeySecond;
  }
  return {{a, b, c, d}};
}

// chance: 16 random bits. Of the two neighbours that a number lies between, it becomes the one further from zero where
// chance and the digits that do not fit carry. Infinities and NaN are stored as ever. Selects only, as in dtypes.h.
FUSED_SCHED_HD inline void store_by_chance(BFloat16* out, float x, uint32_t chance) {
  const uint32_t bits = float_bits(x);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7fc0u : bits >> 16;
  out->bits = static_cast<uint16_t>(magnitude >= 0x7f800000u ? special : (bits + chance) >> 16);
}

FUSED_SCHED_HD inline void store_by_chance(Float16* out, float x, uint32_t chance) {
  constexpr uint32_t kSmallestNormal = 113u << 23;  // 2**-14
  constexpr uint32_t kOverflow = 143u << 23;        // 2**16
  const uint32_t magnitude = float_bits(x) & 0x7fffffffu;
  const uint32_t normal = (magnitude - (112u << 23) + (chance >> 3)) >> 13;
  // In units of 2**-40, of which a subnormal's last digit has 2**16.
  const float units = bits_float(magnitude < kSmallestNormal ? magnitude : 0u) * 1099511627776.0f;
  const uint32_t subnormal = (static_cast<uint32_t>(static_cast<int32_t>(units)) + chance) >> 16;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < kSmallestNormal ? subnormal : normal;
  const uint32_t sign = (float_bits(x) >> 16) & 0x8000u;
  out->bits = static_cast<uint16_t>((magnitude >= kOverflow ? special : finite) | sign);
}

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
