// Random bits for parts of a tensor, and stores that round by them: stochastic.h, many elements at a time.
#pragma once

#include "../stochastic.h"
#include "lanes.h"

namespace fused_sched {

// Elements of which there are random bits, or wider copies, at a time.
constexpr int64_t kPart = 512;
static_assert(kPart % kDrawn == 0, "a part is drawn whole");

namespace FUSED_SCHED_ISA {
namespace {

template <typename P, typename Memory>
inline void put_by_chance(const Access<float, Memory>&, P* to, float x, const uint16_t* chances) {
  store_by_chance(to, x, *chances);
}

#if FUSED_SCHED_LANES

// Calls of Philox side by side: one in each 64 bits, whose upper half is of no account.
#if defined(__AVX512F__)
struct Calls {
  using V = __m512i;
  static constexpr int kCount = 8;
  static V all(uint32_t x) { return _mm512_set1_epi64(x); }
  static V numbers(uint64_t first) {
    return _mm512_add_epi64(_mm512_set1_epi64(first), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
  }
  static V product(V a, V b) { return _mm512_maskz_mul_epu32(0xff, a, b); }
  static V high(V x) { return _mm512_maskz_srli_epi64(0xff, x, 32); }
  static V mixed(V a, V b, V c) { return _mm512_xor_si512(_mm512_xor_si512(a, b), c); }
  static V joined(V low, V high) {
    return _mm512_mask_mov_epi32(low, 0xaaaa, _mm512_maskz_slli_epi64(0xff, high, 32));
  }
  static void put(uint64_t* to, V x) { _mm512_storeu_si512(to, x); }
};
#else
struct Calls {
  using V = __m256i;
  static constexpr int kCount = 4;
  static V all(uint32_t x) { return _mm256_set1_epi64x(x); }
  static V numbers(uint64_t first) {
    return _mm256_add_epi64(_mm256_set1_epi64x(first), _mm256_set_epi64x(3, 2, 1, 0));
  }
  static V product(V a, V b) { return _mm256_mul_epu32(a, b); }
  static V high(V x) { return _mm256_srli_epi64(x, 32); }
  static V mixed(V a, V b, V c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
  static V joined(V low, V high) { return _mm256_blend_epi32(low, _mm256_slli_epi64(high, 32), 0xaa); }
  static void put(uint64_t* to, V x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x); }
};
#endif

// As draw_bits, for Calls::kCount numbers from first on.
inline void draw_calls(const Draw& draw, uint64_t first, uint16_t* bits) {
  using V = Calls::V;
  const V numbers = Calls::numbers(first);
  V a = numbers, b = Calls::high(numbers), c = Calls::all(draw.stream), d = Calls::all(draw.update);
  uint32_t key0 = draw.key[0], key1 = draw.key[1];
  for (int round = 0; round < 10; ++round) {
    const V one = Calls::product(a, Calls::all(kPhiloxFirst)), two = Calls::product(c, Calls::all(kPhiloxSecond));
    a = Calls::mixed(Calls::high(two), b, Calls::all(key0));
    c = Calls::mixed(Calls::high(one), d, Calls::all(key1));
    b = two;
    d = one;
    key0 += kPhiloxKeyFirst;
    key1 += kPhiloxKeySecond;
  }
  uint64_t pairs[2][Calls::kCount];
  Calls::put(pairs[0], Calls::joined(a, b));
  Calls::put(pairs[1], Calls::joined(c, d));
  for (int k = 0; k < Calls::kCount; ++k) {  // these machines have the lower bytes first
    memcpy(bits + kDrawn * k, &pairs[0][k], sizeof(uint64_t));
    memcpy(bits + kDrawn * k + kDrawn / 2, &pairs[1][k], sizeof(uint64_t));
  }
}

#if defined(__AVX512F__)
inline __m512i chances_of(const uint16_t* chances) {
  return _mm512_maskz_cvtepu16_epi32(kAll, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(chances)));
}

inline __m256i words_by_chance(const BFloat16*, Lanes<float> x, const uint16_t* chances) {
  using R = Register<float>;
  const __m512i bits = _mm512_castps_si512(x.v), magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
  const __m512i up = _mm512_maskz_srli_epi32(kAll, _mm512_add_epi32(bits, chances_of(chances)), 16);
  const __mmask16 special = _mm512_cmpge_epi32_mask(magnitude, _mm512_set1_epi32(0x7f800000));
  return R::low_words(_mm512_mask_mov_epi32(up, special, R::bits_of_rounded(x.v)));
}

inline __m256i words_by_chance(const Float16*, Lanes<float> x, const uint16_t* chances) {
  const auto words = [](int32_t word) { return _mm512_set1_epi32(word); };
  const __m512i bits = _mm512_castps_si512(x.v), chance = chances_of(chances);
  const __m512i magnitude = _mm512_and_si512(bits, words(0x7fffffff));
  const __mmask16 is_small = _mm512_cmplt_epi32_mask(magnitude, words(113 << 23));
  const __mmask16 is_special = _mm512_cmpge_epi32_mask(magnitude, words(143 << 23));
  const __mmask16 is_nan = _mm512_cmpgt_epi32_mask(magnitude, words(0x7f800000));
  const __m512i digits = _mm512_sub_epi32(magnitude, words(112 << 23));
  const __m512i carried = _mm512_add_epi32(digits, _mm512_maskz_srli_epi32(kAll, chance, 3));
  const __m512 small = _mm512_castsi512_ps(_mm512_maskz_mov_epi32(is_small, magnitude));
  const __m512i units = _mm512_maskz_cvttps_epi32(kAll, _mm512_mul_ps(small, _mm512_set1_ps(1099511627776.0f)));
  const __m512i subnormal = _mm512_maskz_srli_epi32(kAll, _mm512_add_epi32(units, chance), 16);
  __m512i half = _mm512_mask_mov_epi32(_mm512_maskz_srli_epi32(kAll, carried, 13), is_small, subnormal);
  half = _mm512_mask_mov_epi32(half, is_special, words(0x7c00));
  half = _mm512_mask_mov_epi32(half, is_nan, words(0x7e00));
  const __m512i sign = _mm512_and_si512(_mm512_maskz_srli_epi32(kAll, bits, 16), words(0x8000));
  return Register<float>::low_words(_mm512_or_si512(half, sign));
}
#else
inline __m256i chances_of(const uint16_t* chances) {
  return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(chances)));
}

inline __m128i words_by_chance(const BFloat16*, Lanes<float> x, const uint16_t* chances) {
  using R = Register<float>;
  const __m256i bits = _mm256_castps_si256(x.v), magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
  const __m256i up = _mm256_srli_epi32(_mm256_add_epi32(bits, chances_of(chances)), 16);
  const __m256i special = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f7fffff));
  return R::low_words(_mm256_blendv_epi8(up, R::bits_of_rounded(x.v), special));
}

inline __m128i words_by_chance(const Float16*, Lanes<float> x, const uint16_t* chances) {
  const auto words = [](int32_t word) { return _mm256_set1_epi32(word); };
  const __m256i bits = _mm256_castps_si256(x.v), chance = chances_of(chances);
  const __m256i magnitude = _mm256_and_si256(bits, words(0x7fffffff));
  const __m256i is_small = _mm256_cmpgt_epi32(words(113 << 23), magnitude);
  const __m256i is_special = _mm256_cmpgt_epi32(magnitude, words((143 << 23) - 1));
  const __m256i is_nan = _mm256_cmpgt_epi32(magnitude, words(0x7f800000));
  const __m256i digits = _mm256_sub_epi32(magnitude, words(112 << 23));
  const __m256i carried = _mm256_add_epi32(digits, _mm256_srli_epi32(chance, 3));
  const __m256 small = _mm256_castsi256_ps(_mm256_and_si256(is_small, magnitude));
  const __m256i units = _mm256_cvttps_epi32(_mm256_mul_ps(small, _mm256_set1_ps(1099511627776.0f)));
  const __m256i subnormal = _mm256_srli_epi32(_mm256_add_epi32(units, chance), 16);
  __m256i half = _mm256_blendv_epi8(_mm256_srli_epi32(carried, 13), subnormal, is_small);
  half = _mm256_blendv_epi8(half, words(0x7c00), is_special);
  half = _mm256_blendv_epi8(half, words(0x7e00), is_nan);
  const __m256i sign = _mm256_and_si256(_mm256_srli_epi32(bits, 16), words(0x8000));
  return Register<float>::low_words(_mm256_or_si256(half, sign));
}
#endif

// Of chances, as many are read as Lanes have.
template <typename P, typename Memory>
inline void put_by_chance(const Access<Lanes<float>, Memory>& elements, P* to, Lanes<float> x,
                          const uint16_t* chances) {
  elements.memory.put_words(to, words_by_chance(to, x, chances));
}

#endif

// The bits of elements [start, start + kPart) of a tensor; start is a multiple of kPart.
inline void draw_part(const Draw& draw, int64_t start, uint16_t* bits) {
  const uint64_t first = static_cast<uint64_t>(start / kDrawn);
#if FUSED_SCHED_LANES
  for (int k = 0; k < kPart / kDrawn; k += Calls::kCount) draw_calls(draw, first + k, bits + kDrawn * k);
#else
  for (int k = 0; k < kPart / kDrawn; ++k) {
    const DrawnBits drawn = draw_bits(draw, first + k);
    for (int j = 0; j < kDrawn; ++j) bits[kDrawn * k + j] = static_cast<uint16_t>(drawn.of(j));
  }
#endif
}

}  // namespace
}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
