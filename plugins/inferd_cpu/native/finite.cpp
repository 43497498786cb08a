#include "finite.h"

#include <cstring>

#include "ggml_blocks.h"

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
    default: return halves(size, 0, 0);
  }
}

}  // namespace inferd
