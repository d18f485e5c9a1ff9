// Elements that are updated side by side: a register full of them, where there are instructions for it.
//
// Lanes<T> has the arithmetic that csrc/rules.h and average.h ask of an element, rounded alike. Its loads and
// stores convert as dtypes.h does, to the bit. For float16 there are instructions that do, whatever
// torch.set_flush_denormal says, but for the digits of a NaN; those for bfloat16 flush subnormals.
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

// One element as T, from and to memory.
template <typename V>
struct Access {
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

template <>
struct Register<float> {
  using V = __m512;
  static V get(const float* from) { return _mm512_loadu_ps(from); }
  static V get(const BFloat16* from) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAll, _mm512_maskz_cvtepu16_epi32(kAll, bits), 16));
  }
  static V get(const Float16* from) {
    return _mm512_maskz_cvtph_ps(kAll, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static void put(float* to, V x) { _mm512_storeu_ps(to, x); }
  static void put(BFloat16* to, V x) { put_words(to, bits_of_rounded(x)); }
  // Returns whether all are numbers; the digits of others have to be written anew.
  static bool put_numbers(Float16* to, V x) {
    const __m256i bits = _mm512_maskz_cvtps_ph(kAll, x, _MM_FROUND_TO_NEAREST_INT);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bits);
    return is_nan(x) == 0;
  }
  static V rounded(const BFloat16*, V x) {
    return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAll, bits_of_rounded(x), 16));
  }
  static V rounded(const Float16*, V x) {
    return _mm512_maskz_cvtph_ps(kAll, _mm512_maskz_cvtps_ph(kAll, x, _MM_FROUND_TO_NEAREST_INT));
  }
  static V add_to_bits(V x, const int16_t* addend) {
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(addend));
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), _mm512_maskz_cvtepi16_epi32(kAll, words)));
  }
  static void put_split(BFloat16* to, int16_t* remainder, V x) {
    const __m512i bits = _mm512_castps_si512(x), up = _mm512_add_epi32(bits, _mm512_set1_epi32(0x8000));
    const __m512i high = _mm512_maskz_srli_epi32(kAll, up, 16);
    put_words(to, _mm512_mask_mov_epi32(high, is_nan(x), _mm512_set1_epi32(0x7fc0)));
    put_words(remainder, _mm512_mask_mov_epi32(bits, is_nan(x), _mm512_setzero_si512()));
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
  static void put_words(void* to, __m512i words) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_maskz_cvtepi32_epi16(kAll, words));
  }
};

template <>
struct Register<double> {
  using V = __m512d;
  static V get(const double* from) { return _mm512_loadu_pd(from); }
  static void put(double* to, V x) { _mm512_storeu_pd(to, x); }
  static V all(double x) { return _mm512_set1_pd(x); }
  static V multiply_add(V a, V b, V c) { return _mm512_fmadd_pd(a, b, c); }
  static V square_root(V x) { return _mm512_maskz_sqrt_pd(0xff, x); }
  static V maximum(V a, V b) {
    return _mm512_mask_mov_pd(b, _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ) | is_nan(a), a);
  }
  static V where_nan(V x, V then, V other) { return _mm512_mask_mov_pd(other, is_nan(x), then); }
  static __mmask8 is_nan(V x) { return _mm512_cmp_pd_mask(x, x, _CMP_UNORD_Q); }
};
#else
template <>
struct Register<float> {
  using V = __m256;
  static V get(const float* from) { return _mm256_loadu_ps(from); }
  static V get(const BFloat16* from) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static V get(const Float16* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static void put(float* to, V x) { _mm256_storeu_ps(to, x); }
  static void put(BFloat16* to, V x) { put_words(to, bits_of_rounded(x)); }
  // Returns whether all are numbers; the digits of others have to be written anew.
  static bool put_numbers(Float16* to, V x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    return _mm256_movemask_ps(is_nan(x)) == 0;
  }
  static V rounded(const BFloat16*, V x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits_of_rounded(x), 16));
  }
  static V rounded(const Float16*, V x) { return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }
  static V add_to_bits(V x, const int16_t* addend) {
    const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(addend));
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_cvtepi16_epi32(words)));
  }
  static void put_split(BFloat16* to, int16_t* remainder, V x) {
    const __m256i bits = _mm256_castps_si256(x), nan = _mm256_castps_si256(is_nan(x));
    const __m256i high = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x8000)), 16);
    put_words(to, _mm256_blendv_epi8(high, _mm256_set1_epi32(0x7fc0), nan));
    put_words(remainder, _mm256_andnot_si256(nan, _mm256_and_si256(bits, _mm256_set1_epi32(0xffff))));
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
  static V is_nan(V x) { return _mm256_cmp_ps(x, x, _CMP_UNORD_Q); }
  // Of each as BFloat16, in a word of 32 bits.
  static __m256i bits_of_rounded(V x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i nan = _mm256_castps_si256(is_nan(x));
    return _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), _mm256_set1_epi32(0x7fc0), nan);
  }
  // Words of no more than 16 bits.
  static void put_words(void* to, __m256i words) {
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(packed));
  }
};

template <>
struct Register<double> {
  using V = __m256d;
  static V get(const double* from) { return _mm256_loadu_pd(from); }
  static void put(double* to, V x) { _mm256_storeu_pd(to, x); }
  static V all(double x) { return _mm256_set1_pd(x); }
  static V multiply_add(V a, V b, V c) { return _mm256_fmadd_pd(a, b, c); }
  static V square_root(V x) { return _mm256_sqrt_pd(x); }
  static V maximum(V a, V b) {
    return _mm256_blendv_pd(b, a, _mm256_or_pd(_mm256_cmp_pd(a, b, _CMP_GT_OQ), is_nan(a)));
  }
  static V where_nan(V x, V then, V other) { return _mm256_blendv_pd(other, then, is_nan(x)); }
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
};

template <typename T>
struct Access<Lanes<T>> {
  static constexpr int kCount = sizeof(Lanes<T>) / sizeof(T);
  template <typename S>
  static Lanes<T> get(const S* from) { return Register<T>::get(from); }
  template <typename S>
  static void put(S* to, Lanes<T> x) { Register<T>::put(to, x.v); }
  template <typename P>
  static Lanes<T> current_value(Lanes<T> param, Lanes<T> master) {
    const auto rounded = Register<T>::rounded(static_cast<const P*>(nullptr), master.v);
    return Register<T>::where_same_bits(rounded, param.v, master.v, param.v);
  }
  static Lanes<T> joined(Lanes<T> param, const int16_t* remainder) {
    const auto x = Register<T>::add_to_bits(param.v, remainder);
    return Register<T>::where_nan(x, param.v, x);
  }
  static void put_split(BFloat16* to, int16_t* remainder, Lanes<T> x) { Register<T>::put_split(to, remainder, x.v); }
  static void put(Float16* to, Lanes<T> x) {
    if (Register<T>::put_numbers(to, x.v)) return;
    T elements[kCount];
    Register<T>::put(elements, x.v);
    for (int k = 0; k < kCount; ++k) store(to + k, elements[k]);
  }
};

#else

template <typename T>
using Lanes = T;  // loops of single elements are for the compiler to vectorise

#endif

}  // namespace
}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
