// Activations to int8: each row and block of 32 inputs gets the scale absmax * (1 / 127). For AMX see rows_amx.h.
#pragma once

#include "linear_layout.h"
#if defined(ISA_AMX)
#include "rows_amx.h"
#else

namespace inferd {
namespace ISA {

// Written so that compilers make vectors of it; every step is exact or rounded once, hence equal on all of them.
inline void quantize_block(const float* x, int row, int block, const Rows& out) {
  const size_t at = (static_cast<size_t>(row / out.tile) * (out.k / kBlock) + block) * out.tile + row % out.tile;
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
  const float scale = some ? largest * (1.0f / 127.0f) : 0.0f;
  out.scales[at] = scale;
  out.sums[at] = scale * static_cast<float>(sum);
  out.starts8[at] = kMagicBits - 128 * sum;
  out.starts4[at] = kMagicBits - 8 * sum;
}

inline void quantize_rows(const float* x, size_t ldx, int first, int count, const Rows* out) {
  const int blocks = out->k / kBlock;
  for (int row = first; row < first + count; ++row, x += ldx) {
    for (int block = 0; block < blocks; ++block) quantize_block(x + block * kBlock, row, block, *out);
  }
}

}  // namespace ISA
}  // namespace inferd
#endif
