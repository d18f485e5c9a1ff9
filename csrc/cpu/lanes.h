// Elements that are updated side by side: a register full of them, where there are instructions for it.
//
// Lanes<T> has the arithmetic that csrc/rules.h and average.h ask of an element, rounded alike. Its loads and
// stores convert as dtypes.h does, to the bit. For float16 there are instructions that do, whatever
// torch.set_flush_denormal says, but for the digits of a NaN; those for bfloat16 flush subnormals. The last elements
// of an array, fewer than a register has, are read and written under a mask: what lies behind them is not touched.
#pragma once

#include "../dtypes.h"
#include "../master.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define FUSED_SCHED_LANES 1
#include <immintrin.h>
#else
#define FUSED_SCHED_LANES 0
#endif

namespace fused_sched {
namespace FUSED_SCHED_ISA {
namespace {

// How elements get from memory to a V and back: here one of them.
template <typename V, typename Memory = void>
struct Access {
  using Value = V;
  static constexpr int kCount = 1;
  template <typename S>
  static V get(const S* from) { return load(*from); }
  template <typename S>
  static void put(S* to, V x) { store(to, x); }
  // See master.h; P: the parameter's type.
  template <typename P>
  static V current_value(V param, V master) {
    return FUSED_SCHED_ISA::current_value(param, master, rounded<P>(master));
  }
  static V joined(V param, const int16_t* remainder) { return FUSED_SCHED_ISA::joined(param, *remainder); }
  static void put_split(BFloat16* to, int16_t* remainder, V x) { split(x, to, remainder); }
};

#if FUSED_SCHED_LANES

// Instructions, by type and width; arithmetic of registers is the compiler's.
template <typename T>
struct Register;

#if defined(__AVX512F__)
constexpr __mmask16 kAll = 0xffff;  // without a mask, GCC 12 warns of its own header

// A register full of elements.
struct Whole {
  static __m512 get(const float* from) { return _mm512_loadu_ps(from); }
  static __m512d get(const double* from) { return _mm512_loadu_pd(from); }
  static __m256i words(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
  static void put(float* to, __m512 x) { _mm512_storeu_ps(to, x); }
  static void put(double* to, __m512d x) { _mm512_storeu_pd(to, x); }
  static void put_words(void* to, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(to), x); }
};

// The first of a register; those behind are read as zeros.
struct First {
  static constexpr bool kHasWords = true;
  __mmask16 mask;

  explicit First(int64_t count) : mask(static_cast<__mmask16>((1u << count) - 1)) {}
  __m512 get(const float* from) const { return _mm512_maskz_loadu_ps(mask, from); }
  __m512d get(const double* from) const { return _mm512_maskz_loadu_pd(mask, from); }
  __m256i words(const void* from) const { return _mm256_maskz_loadu_epi16(mask, from); }
  void put(float* to, __m512 x) const { _mm512_mask_storeu_ps(to, mask, x); }
  void put(double* to, __m512d x) const { _mm512_mask_storeu_pd(to, mask, x); }
  void put_words(void* to, __m256i x) const { _mm256_mask_storeu_epi16(to, mask, x); }
};

template <>
struct Register<float> {
  using V = __m512;
  template <typename M>
  static V get(const M& memory, const float* from) {
    return memory.get(from);
  }
  template <typename M>
  static V get(const M& memory, const BFloat16* from) {
    const __m512i bits = _mm512_maskz_cvtepu16_epi32(kAll, memory.words(from));
    return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAll, bits, 16));
  }
  template <typename M>
  static V get(const M& memory, const Float16* from) {
    return _mm512_maskz_cvtph_ps(kAll, memory.words(from));
  }
  static __m256i words(const BFloat16*, V x) { return low_words(bits_of_rounded(x)); }
  // The digits of a NaN are those of the processor.
  static __m256i words(const Float16*, V x) { return _mm512_maskz_cvtps_ph(kAll, x, _MM_FROUND_TO_NEAREST_INT); }
  static bool has_nan(V x) { return is_nan(x) != 0; }
  static V rounded(const BFloat16*, V x) {
    return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAll, bits_of_rounded(x), 16));
  }
  static V rounded(const Float16*, V x) {
    return _mm512_maskz_cvtph_ps(kAll, _mm512_maskz_cvtps_ph(kAll, x, _MM_FROUND_TO_NEAREST_INT));
  }
  static V add_to_bits(V x, __m256i addend) {
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), _mm512_maskz_cvtepi16_epi32(kAll, addend)));
  }
  // See split() of master.h.
  static __m256i split_high(V x) {
    const __m512i up = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
    const __m512i high = _mm512_maskz_srli_epi32(kAll, up, 16);
    return low_words(_mm512_mask_mov_epi32(high, is_nan(x), _mm512_set1_epi32(0x7fc0)));
  }
  static __m256i split_low(V x) {
    return low_words(_mm512_mask_mov_epi32(_mm512_castps_si512(x), is_nan(x), _mm512_setzero_si512()));
  }
  static V where_same_bits(V a, V b, V then, V other) {
    const __mmask16 same = _mm512_cmpeq_epi32_mask(_mm512_castps_si512(a), _mm512_castps_si512(b));
    return _mm512_mask_mov_ps(other, same, then);
  }
  static V all(float x) { return _mm512_set1_ps(x); }
  static V multiply_add(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static V square_root(V x) { return _mm512_maskz_sqrt_ps(kAll, x); }
  static V maximum(V a, V b) {
    return _mm512_mask_mov_ps(b, _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) | is_nan(a), a);
  }
  static V where_nan(V x, V then, V other) { return _mm512_mask_mov_ps(other, is_nan(x), then); }
  static V selected(bool first, V a, V b) { return _mm512_mask_mov_ps(b, first ? kAll : 0, a); }
  static __mmask16 is_nan(V x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q); }
  // Of each as BFloat16, in a word of 32 bits.
  static __m512i bits_of_rounded(V x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_maskz_srli_epi32(kAll, bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __m512i nan = _mm512_set1_epi32(0x7fc0);
    return _mm512_mask_mov_epi32(_mm512_maskz_srli_epi32(kAll, up, 16), is_nan(x), nan);
  }
  // The low 16 bits of each word.
  static __m256i low_words(__m512i words) { return _mm512_maskz_cvtepi32_epi16(kAll, words); }
};

template <>
struct Register<double> {
  using V = __m512d;
  template <typename M>
  static V get(const M& memory, const double* from) {
    return memory.get(from);
  }
  static V all(double x) { return _mm512_set1_pd(x); }
  static V multiply_add(V a, V b, V c) { return _mm512_fmadd_pd(a, b, c); }
  static V square_root(V x) { return _mm512_maskz_sqrt_pd(0xff, x); }
  static V maximum(V a, V b) {
    return _mm512_mask_mov_pd(b, _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ) | is_nan(a), a);
  }
  static V where_nan(V x, V then, V other) { return _mm512_mask_mov_pd(other, is_nan(x), then); }
  static V selected(bool first, V a, V b) { return _mm512_mask_mov_pd(b, first ? 0xff : 0, a); }
  static __mmask8 is_nan(V x) { return _mm512_cmp_pd_mask(x, x, _CMP_UNORD_Q); }
};
#else
// A register full of elements.
struct Whole {
  static __m256 get(const float* from) { return _mm256_loadu_ps(from); }
  static __m256d get(const double* from) { return _mm256_loadu_pd(from); }
  static __m128i words(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }
  static void put(float* to, __m256 x) { _mm256_storeu_ps(to, x); }
  static void put(double* to, __m256d x) { _mm256_storeu_pd(to, x); }
  static void put_words(void* to, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(to), x); }
};

// The first of a register; those behind are read as zeros. There are no such instructions for 16 bits.
struct First {
  static constexpr bool kHasWords = false;
  __m256i mask;       // of 32 bits each
  __m256i wide_mask;  // of 64 bits

  explicit First(int64_t count) {
    const __m256i all = _mm256_set1_epi32(static_cast<int>(count));
    mask = _mm256_cmpgt_epi32(all, _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
    wide_mask = _mm256_cmpgt_epi32(all, _mm256_set_epi32(3, 3, 2, 2, 1, 1, 0, 0));
  }
  __m256 get(const float* from) const { return _mm256_maskload_ps(from, mask); }
  __m256d get(const double* from) const { return _mm256_maskload_pd(from, wide_mask); }
  void put(float* to, __m256 x) const { _mm256_maskstore_ps(to, mask, x); }
  void put(double* to, __m256d x) const { _mm256_maskstore_pd(to, wide_mask, x); }
};

template <>
struct Register<float> {
  using V = __m256;
  template <typename M>
  static V get(const M& memory, const float* from) {
    return memory.get(from);
  }
  template <typename M>
  static V get(const M& memory, const BFloat16* from) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(memory.words(from)), 16));
  }
  template <typename M>
  static V get(const M& memory, const Float16* from) {
    return _mm256_cvtph_ps(memory.words(from));
  }
  static __m128i words(const BFloat16*, V x) { return low_words(bits_of_rounded(x)); }
  // The digits of a NaN are those of the processor.
  static __m128i words(const Float16*, V x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }
  static bool has_nan(V x) { return _mm256_movemask_ps(is_nan(x)) != 0; }
  static V rounded(const BFloat16*, V x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits_of_rounded(x), 16));
  }
  static V rounded(const Float16*, V x) { return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }
  static V add_to_bits(V x, __m128i addend) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_cvtepi16_epi32(addend)));
  }
  // See split() of master.h.
  static __m128i split_high(V x) {
    const __m256i up = _mm256_add_epi32(_mm256_castps_si256(x), _mm256_set1_epi32(0x8000));
    const __m256i nan = _mm256_castps_si256(is_nan(x));
    return low_words(_mm256_blendv_epi8(_mm256_srli_epi32(up, 16), _mm256_set1_epi32(0x7fc0), nan));
  }
  static __m128i split_low(V x) {
    const __m256i low = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0xffff));
    return low_words(_mm256_andnot_si256(_mm256_castps_si256(is_nan(x)), low));
  }
  static V where_same_bits(V a, V b, V then, V other) {
    const __m256i same = _mm256_cmpeq_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b));
    return _mm256_blendv_ps(other, then, _mm256_castsi256_ps(same));
  }
  static V all(float x) { return _mm256_set1_ps(x); }
  static V multiply_add(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static V square_root(V x) { return _mm256_sqrt_ps(x); }
  static V maximum(V a, V b) {
    return _mm256_blendv_ps(b, a, _mm256_or_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ), is_nan(a)));
  }
  static V where_nan(V x, V then, V other) { return _mm256_blendv_ps(other, then, is_nan(x)); }
  static V selected(bool first, V a, V b) {
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(_mm256_set1_epi32(first ? -1 : 0)));
  }
  static V is_nan(V x) { return _mm256_cmp_ps(x, x, _CMP_UNORD_Q); }
  // Of each as BFloat16, in a word of 32 bits.
  static __m256i bits_of_rounded(V x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i nan = _mm256_castps_si256(is_nan(x));
    return _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), _mm256_set1_epi32(0x7fc0), nan);
  }
  // Of words of no more than 16 bits.
  static __m128i low_words(__m256i words) {
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x08));
  }
};

template <>
struct Register<double> {
  using V = __m256d;
  template <typename M>
  static V get(const M& memory, const double* from) {
    return memory.get(from);
  }
  static V all(double x) { return _mm256_set1_pd(x); }
  static V multiply_add(V a, V b, V c) { return _mm256_fmadd_pd(a, b, c); }
  static V square_root(V x) { return _mm256_sqrt_pd(x); }
  static V maximum(V a, V b) {
    return _mm256_blendv_pd(b, a, _mm256_or_pd(_mm256_cmp_pd(a, b, _CMP_GT_OQ), is_nan(a)));
  }
  static V where_nan(V x, V then, V other) { return _mm256_blendv_pd(other, then, is_nan(x)); }
  static V selected(bool first, V a, V b) {
    return _mm256_blendv_pd(b, a, _mm256_castsi256_pd(_mm256_set1_epi64x(first ? -1 : 0)));
  }
  static V is_nan(V x) { return _mm256_cmp_pd(x, x, _CMP_UNORD_Q); }
};
#endif

template <typename T>
struct Lanes {
  using R = Register<T>;
  typename R::V v;

  Lanes() = default;
  Lanes(typename R::V x) : v(x) {}
  Lanes(T x) : v(R::all(x)) {}

  friend Lanes operator-(Lanes a) { return -a.v; }
  friend Lanes operator+(Lanes a, Lanes b) { return a.v + b.v; }
  friend Lanes operator-(Lanes a, Lanes b) { return a.v - b.v; }
  friend Lanes operator*(Lanes a, Lanes b) { return a.v * b.v; }
  friend Lanes operator/(Lanes a, Lanes b) { return a.v / b.v; }
  friend Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return R::multiply_add(a.v, b.v, c.v); }
  friend Lanes square_root(Lanes x) { return R::square_root(x.v); }
  friend Lanes maximum(Lanes a, Lanes b) { return R::maximum(a.v, b.v); }
  friend Lanes where_nan(Lanes x, Lanes then, Lanes other) { return R::where_nan(x.v, then.v, other.v); }
  friend Lanes selected(bool first, Lanes a, Lanes b) { return R::selected(first, a.v, b.v); }
};

template <typename T, typename Memory>
struct Access<Lanes<T>, Memory> {
  using Value = Lanes<T>;
  using R = Register<T>;
  static constexpr int kCount = sizeof(Value) / sizeof(T);
  Memory memory;

  template <typename S>
  Value get(const S* from) const { return R::get(memory, from); }
  void put(T* to, Value x) const { memory.put(to, x.v); }
  void put(BFloat16* to, Value x) const { memory.put_words(to, R::words(to, x.v)); }
  void put(Float16* to, Value x) const {
    memory.put_words(to, R::has_nan(x.v) ? words_one_by_one(to, x) : R::words(to, x.v));
  }
  template <typename P>
  static Value current_value(Value param, Value master) {
    const auto rounded = R::rounded(static_cast<const P*>(nullptr), master.v);
    return R::where_same_bits(rounded, param.v, master.v, param.v);
  }
  Value joined(Value param, const int16_t* remainder) const {
    const auto x = R::add_to_bits(param.v, memory.words(remainder));
    return R::where_nan(x, param.v, x);
  }
  void put_split(BFloat16* to, int16_t* remainder, Value x) const {
    memory.put_words(to, R::split_high(x.v));
    memory.put_words(remainder, R::split_low(x.v));
  }

 private:
  static auto words_one_by_one(const Float16*, Value x) {
    T elements[kCount];
    Float16 halves[kCount];
    Whole::put(elements, x.v);
    for (int k = 0; k < kCount; ++k) store(halves + k, elements[k]);
    return Whole::words(halves);
  }
};

#else

template <typename T>
using Lanes = T;  // loops of single elements are for the compiler to vectorise
struct Whole;
struct First;

#endif

}  // namespace
}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
