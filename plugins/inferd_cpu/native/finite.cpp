#include "finite.h"

#include <cstring>

#include "ggml_blocks.h"
#include "ggml_small.h"

namespace inferd {
namespace {

// Whether none of the numbers at `offset` in each block has all bits of its exponent.
template <class Bits>
bool is_clear(const uint8_t* blocks, size_t bytes, size_t block_bytes, size_t offset, Bits exponent) {
  bool clear = true;
  for (size_t at = offset; at < bytes; at += block_bytes) {
    Bits bits;
    memcpy(&bits, blocks + at, sizeof bits);
    clear &= (bits & exponent) != exponent;
  }
  return clear;
}

constexpr uint16_t kHalfExponent = 0x7c00;
constexpr uint8_t kMostExponent = 252;  // above it 12 times half the power is too large for fp32

}  // namespace

bool is_finite(int ggml_type, const uint8_t* blocks, size_t bytes) {
  auto halves = [&](size_t block_bytes, size_t first, size_t second) {
    return is_clear<uint16_t>(blocks, bytes, block_bytes, first, kHalfExponent) &&
           is_clear<uint16_t>(blocks, bytes, block_bytes, second, kHalfExponent);
  };
  const GgmlFormat* format = find_format(ggml_type);
  if (!format) return true;
  const size_t size = format->bytes;
  switch (ggml_type) {  // where the scales of a block lie; its quants are integers
    case f32: return is_clear<uint32_t>(blocks, bytes, 4, 0, 0x7f800000);
    case bf16: return is_clear<uint16_t>(blocks, bytes, 2, 0, 0x7f80);
    case q4_1:
    case q5_1:
    case q4_k:
    case q5_k: return halves(size, 0, 2);
    case q2_k: return halves(size, 80, 82);
    case q3_k: return halves(size, 108, 108);
    case q6_k: return halves(size, 208, 208);
    case tq1_0: return halves(size, 52, 52);
    case tq2_0: return halves(size, 64, 64);
    case nvfp4: return true;
    case mxfp4:
      for (size_t at = 0; at < bytes; at += size)
        if (blocks[at] > kMostExponent) return false;
      return true;
    case iq1_m:
      for (size_t at = 0; at < bytes; at += size)
        if ((iq1_m_scale(blocks + at) & kHalfExponent) == kHalfExponent) return false;
      return true;
    default: return halves(size, 0, 0);
  }
}

}  // namespace inferd
