// Activations to int8: each row and block of 32 inputs gets the scale absmax * (1 / 127). For AMX see rows_amx.h.
#pragma once

#include "linear_layout.h"
#if defined(ISA_AMX)
#include "rows_amx.h"
#else

#if defined(__AVX512F__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns of its own header
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace inferd {
namespace ISA {

// Where a block of a row is among all blocks.
inline size_t place_of(int row, int block, const Rows& out) {
  return (static_cast<size_t>(row / out.tile) * (out.k / kBlock) + block) * out.tile + row % out.tile;
}

inline void put_scales(float scale, int32_t sum, size_t at, const Rows& out) {
  out.scales[at] = scale;
  out.sums[at] = scale * static_cast<float>(sum);
  out.starts8[at] = kMagicBits - 128 * sum;
  out.starts4[at] = kMagicBits - 8 * sum;
}

#if defined(__AVX512F__)
// What the function below does, step by step.
inline void quantize_block(__m512 first, __m512 second, size_t at, const Rows& out) {
  const __m512i no_sign = _mm512_set1_epi32(0x7fffffff);
  const __m512i bits = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(first), no_sign),
                                        _mm512_and_si512(_mm512_castps_si512(second), no_sign));
  __m256i four = _mm256_max_epi32(_mm512_castsi512_si256(bits), _mm512_extracti64x4_epi64(bits, 1));
  four = _mm256_max_epi32(four, _mm256_permute2x128_si256(four, four, 1));
  four = _mm256_max_epi32(four, _mm256_shuffle_epi32(four, 0x4e));
  four = _mm256_max_epi32(four, _mm256_shuffle_epi32(four, 0xb1));
  const float largest = _mm256_cvtss_f32(_mm256_castsi256_ps(four));
  const bool some = largest > 1e-30f;
  const __m512 inverse = _mm512_set1_ps(some ? 127.0f / largest : 0.0f), magic = _mm512_set1_ps(kMagic);
  auto quants_of = [&](__m512 x) {  // the lowest byte of each lane
    return _mm512_cvtepi32_epi8(_mm512_castps_si512(_mm512_add_ps(_mm512_mul_ps(x, inverse), magic)));
  };
  const __m256i quants = _mm256_inserti128_si256(_mm256_castsi128_si256(quants_of(first)), quants_of(second), 1);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out.quants + at * kBlock), quants);
  const __m256i eight = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), quants);
  __m128i sums = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0x4e));
  sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0xb1));
  put_scales(some ? largest * (1.0f / 127.0f) : 0.0f, _mm_cvtsi128_si32(sums), at, out);
}

inline void quantize_block(const float* x, int row, int block, const Rows& out) {
  quantize_block(_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16), place_of(row, block, out), out);
}
#else
// Written so that compilers make vectors of it; every step is exact or rounded once, hence equal on all of them.
inline void quantize_block(const float* x, int row, int block, const Rows& out) {
  const size_t at = place_of(row, block, out);
  int8_t* quants = out.quants + at * kBlock;
  // Bits of numbers without their sign have the order of the numbers, and compilers know the maximum of integers.
  int32_t largest_bits = 0;
  for (int i = 0; i < kBlock; ++i) {
    int32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    bits &= 0x7fffffff;
    largest_bits = bits > largest_bits ? bits : largest_bits;
  }
  float largest;
  __builtin_memcpy(&largest, &largest_bits, sizeof largest);
  // A block too small for a reciprocal counts as zero.
  const bool some = largest > 1e-30f;
  const float inverse = some ? 127.0f / largest : 0.0f;
  int32_t sum = 0;
  for (int i = 0; i < kBlock; ++i) {
    // Adding 1.5 * 2^23 rounds to the nearest even integer, in the low bits. What is not finite becomes any quant.
    const float shifted = x[i] * inverse + kMagic;
    uint32_t bits;
    __builtin_memcpy(&bits, &shifted, sizeof bits);
    quants[i] = static_cast<int8_t>(bits & 0xff);
  }
  for (int i = 0; i < kBlock; ++i) sum += quants[i];
  put_scales(some ? largest * (1.0f / 127.0f) : 0.0f, sum, at, out);
}
#endif

inline void quantize_rows(const float* x, size_t ldx, int first, int count, const Rows* out) {
  const int blocks = out->k / kBlock;
  for (int row = first; row < first + count; ++row, x += ldx) {
    for (int block = 0; block < blocks; ++block) quantize_block(x + block * kBlock, row, block, *out);
  }
}

}  // namespace ISA
}  // namespace inferd
#endif
