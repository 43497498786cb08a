// Types whose numbers are a scale times one of a few, as codes of a format that has those. Included by pack.cpp alone.
#pragma once

#include <algorithm>
#include <cmath>

#include "fp16.h"
#include "ggml_blocks.h"
#include "linear_layout.h"

namespace inferd {
namespace ISA {

// What scales of an output must be divided by so that a half has them all as they are, where they are powers of two.
inline float choose_exact_factor(float smallest, float largest) {
  if (!(largest > 0.0f) || (smallest >= 0x1p-24f && largest <= 0x1p15f)) return 1.0f;
  return std::scalbn(1.0f, std::clamp(std::ilogb(largest) - 15, -126, 126));
}

// The codes of numbers: of each a format has, their place in its table.
class Codes {
 public:
  explicit Codes(Weight format) {
    const int8_t* table = table_of(format);
    for (int code = 15; code >= 0; --code) places_[table[code] + kMost] = static_cast<int8_t>(code);
  }

  // Those of a part of a block, by the scales of its halves.
  void find(const GgmlFormat& from, const uint8_t* block, int part, const float* scales, int8_t* out) const {
    float numbers[kBlock];
    from.decode(block, part, numbers);
    for (int i = 0; i < kBlock; ++i) {
      const float scale = scales[i / (kBlock / 2)];
      const float number = scale != 0.0f ? numbers[i] / scale : 0.0f;  // whole, as no product of the two was rounded
      out[i] = places_[static_cast<int>(number) + kMost];
    }
  }

 private:
  static constexpr int kMost = 128;
  int8_t places_[2 * kMost] = {};
};

}  // namespace ISA
}  // namespace inferd
