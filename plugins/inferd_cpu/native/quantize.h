// Activations to int8: each row and block of 32 inputs gets the scale absmax * (1 / 127).
#pragma once

#include "linear_layout.h"

namespace inferd {
namespace ISA {

// Written so that compilers make vectors of it; every step is exact or rounded once, hence equal on all of them.
inline void quantize_block(const float* x, int8_t* quants, float* scale, float* x_sum, int32_t* start8,
                           int32_t* start4) {
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
  *scale = some ? largest * (1.0f / 127.0f) : 0.0f;
  *x_sum = *scale * static_cast<float>(sum);
  *start8 = kMagicBits - 128 * sum;
  *start4 = kMagicBits - 8 * sum;
}

inline void quantize_rows(const float* x, size_t ldx, int first, int count, const Rows* out) {
  const int blocks = out->k / kBlock, tile = out->tile;
  for (int row = first; row < first + count; ++row, x += ldx) {
    size_t at = static_cast<size_t>(row / tile) * blocks * tile + row % tile;
    for (int block = 0; block < blocks; ++block, at += tile) {
      quantize_block(x + block * kBlock, out->quants + at * kBlock, out->scales + at, out->sums + at, out->starts8 + at,
                     out->starts4 + at);
    }
  }
}

}  // namespace ISA
}  // namespace inferd
