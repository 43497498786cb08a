// Vectors of floats, as wide as the instruction set that a source is compiled for.
// Arithmetic operators come with the compiler's vector types. Nothing here depends on how many rows a step has.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <type_traits>

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)  // GCC 12 warns about its own intrinsics (bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace inferd {
namespace ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

// 0, 1, 2, …
inline Ints count_lanes() {
  Ints lanes;
  for (int i = 0; i < kLanes; i++) lanes[i] = i;
  return lanes;
}

inline Floats splat(float x) { return x - Floats{}; }
inline Ints splat(int32_t x) { return x - Ints{}; }

inline Floats load(const float* p) {
  Floats v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, Floats v) { memcpy(p, &v, sizeof v); }
inline Floats as_floats(Ints v) { return (Floats)v; }
inline Ints as_ints(Floats v) { return (Ints)v; }
inline Floats choose(Ints mask, Floats yes, Floats no) {
  return as_floats((mask & as_ints(yes)) | (~mask & as_ints(no)));
}

// a * b + c: rounded once where the processor has the instruction.
inline Floats fma(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

inline Floats larger(Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return choose(a > b, a, b);
#endif
}

// Lane i has what lane i ^ distance had; a constant makes one instruction.
inline __attribute__((always_inline)) Floats swap_lanes(Floats v, int distance) {
#if defined(__AVX512F__)
  switch (distance) {
    case 1: return _mm512_permute_ps(v, 0xb1);
    case 2: return _mm512_permute_ps(v, 0x4e);
    case 4: return _mm512_shuffle_f32x4(v, v, 0xb1);
    default: return _mm512_shuffle_f32x4(v, v, 0x4e);
  }
#elif defined(__AVX2__)
  return _mm256_permutevar8x32_ps(v, (__m256i)(count_lanes() ^ distance));
#else
  Floats swapped;
  for (int i = 0; i < kLanes; i++) swapped[i] = v[i ^ distance];
  return swapped;
#endif
}

// To sums of four products each: of unsigned with signed bytes.
inline Ints add_products(Ints sums, Ints unsigned_bytes, Ints signed_bytes) {
#if defined(__AVX512VNNI__)
  return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)unsigned_bytes, (__m512i)signed_bytes);
#elif defined(__AVX2__) && !defined(__AVX512F__)
  // Even and odd bytes in 16 bits each: vpmaddubsw would cut off sums of two products of bytes above 127.
  const __m256i ours = (__m256i)unsigned_bytes, theirs = (__m256i)signed_bytes;
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(ours, _mm256_set1_epi16(0xff)),
                                         _mm256_srai_epi16(_mm256_slli_epi16(theirs, 8), 8));
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(ours, 8), _mm256_srai_epi16(theirs, 8));
  return sums + (Ints)even + (Ints)odd;
#else
  for (int shift = 0; shift < 32; shift += 8)
    sums += ((unsigned_bytes >> shift) & 0xff) * ((signed_bytes << (24 - shift)) >> 24);
  return sums;
#endif
}

constexpr int kParts = 16 / kLanes;  // vectors of sixteen numbers

// The sum of sixteen numbers, in the same order whatever the width of vectors.
inline float sum(const Floats (&parts)[kParts]) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(parts[0]);
#endif
  float numbers[16];
  for (int part = 0; part < kParts; part++) store(numbers + part * kLanes, parts[part]);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; i++) numbers[i] += numbers[i + width];
  return numbers[0];
}

inline float largest(Floats v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(v);
#endif
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) v[i] = v[i] > v[i + width] ? v[i] : v[i + width];
  return v[0];
}

// N times the sum of sixteen numbers, or whatever `add` makes of two vectors, in the same order whatever the width of
// vectors. Several at once take fewer steps than one by one.
template <int N, class Add>
inline void add_lanes(const Floats (&numbers)[N][kParts], Add add, float* out) {
#if defined(__AVX512F__)
  static_assert(N <= 4, "a quarter of a vector takes one number of each");
  auto one = [&](int i) { return (__m512)numbers[i < N ? i : 0][0]; };
  auto add_halves = [&](__m512 a, __m512 b) {
    return (__m512d)add((Floats)_mm512_unpacklo_ps(a, b), (Floats)_mm512_unpackhi_ps(a, b));
  };
  const __m512d first = add_halves(one(0), one(1)), second = add_halves(one(2), one(3));
  auto sums = add((Floats)_mm512_unpacklo_pd(first, second), (Floats)_mm512_unpackhi_pd(first, second));
  sums = add(sums, (Floats)_mm512_shuffle_f32x4((__m512)sums, (__m512)sums, 0x4e));
  sums = add(sums, (Floats)_mm512_shuffle_f32x4((__m512)sums, (__m512)sums, 0xb1));
  for (int i = 0; i < N; i++) out[i] = sums[i];
#else
  for (int i = 0; i < N; i++) {
    Floats sums[kParts];
    memcpy(sums, numbers[i], sizeof sums);
    for (int distance : {2, 1, 8, 4}) {  // the order above
      Floats others[kParts];
      for (int part = 0; part < kParts; part++)
        others[part] = distance < kLanes ? swap_lanes(sums[part], distance) : sums[part ^ distance / kLanes];
      for (int part = 0; part < kParts; part++) sums[part] = add(sums[part], others[part]);
    }
    out[i] = sums[0][0];
  }
#endif
}

// Whether any lane is not 0; they are 0 or -1.
inline bool any(Ints mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#else
  int32_t all = 0;
  for (int i = 0; i < kLanes; i++) all |= mask[i];
  return all != 0;
#endif
}

// To the nearest number that bfloat16 has, ties to even. For finite numbers.
inline Ints round_bits(Floats x) {
  Ints bits = as_ints(x);
  return bits + 0x7fff + ((bits >> 16) & 1);
}

// What is not finite would reach other sequences: too large numbers become the largest of bfloat16, and NaN 0.
inline Floats make_finite(Floats x) {
  const Floats most = splat(3.3895314e38f);
  x = choose(x > most, most, choose(x < -most, -most, x));
  return choose(x == x, x, Floats{});
}
inline Floats round_to_bf16(Floats x) { return as_floats(round_bits(x) & static_cast<int32_t>(0xffff0000)); }

// e to the power of each number, within two units of the last place; 0 below -87.3, the largest power above 88.
inline Floats exponential(Floats x) {
  Ints none = x < splat(-87.3f);
  x = larger(x, splat(-87.3f));
  x = choose(x > splat(88.0f), splat(88.0f), x);
  const Floats magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  Floats n = fma(x, splat(1.44269504088896341f), magic) - magic;
  Floats r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  Floats p = splat(1.9875691500e-4f);  // S. Moshier, Cephes, expf
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + splat(1.0f);
  Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
  return choose(none, Floats{}, p * as_floats(exponent));
}

// Within a few units of the last place of 1.
inline Floats hyperbolic_tangent(Floats x) {
  return splat(1.0f) - splat(2.0f) / (exponential(x + x) + splat(1.0f));
}

// 2 to the power of each number, for what is rounded to 8 bits afterwards; 0 below -125, and of what is no number.
inline Floats power_of_two(Floats x) {
#if defined(ISA_AMX)  // within 1e-4, as bf16 has it
  const Floats part = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // from 0 to 1; of -infinity 0
  Floats p = fma(splat(7.80245236e-2f), part, splat(2.26067163e-1f));                 // fitted to 2^x there
  p = fma(p, part, splat(6.95833533e-1f));
  return _mm512_scalef_ps(fma(p, part, splat(9.99925220e-1f)), x);
#else  // within 3e-6
  const Floats magic = splat(12582912.0f), whole = x + magic;
  const Floats part = x - (whole - magic);  // from -1/2 to 1/2
  Floats p = fma(splat(9.582853221e-3f), part, splat(5.590642621e-2f));  // fitted, exactly 1 at 0
  p = fma(p, part, splat(2.402409862e-1f));
  p = fma(p, part, splat(6.931241932e-1f));
  p = fma(p, part, splat(1.0f));
  return as_floats((as_ints(p) + (as_ints(whole) << 23)) & (x >= splat(-125.0f)));
#endif
}

}  // namespace ISA
}  // namespace inferd
