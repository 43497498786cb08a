// Half precision numbers as they lie in model files, to and from fp32, rounding to nearest even.
#pragma once

#include <cstdint>
#include <cstring>

namespace inferd {
namespace {  // each source gets its own: they are compiled for different instruction sets

inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Right whatever mode the processor is in: no fp32 number on the way is subnormal, not even for a subnormal half.
inline float float_of_half(uint16_t half) {
  const uint32_t magnitude = half & 0x7fffu;
  uint32_t bits = (magnitude << 13) + 0x38000000u;
  if (magnitude < 0x0400u) bits = bits_of_float(static_cast<float>(magnitude) * 0x1p-24f);
  if (magnitude >= 0x7c00u) bits = (magnitude << 13) | 0x7f800000u;
  return float_of_bits(bits | (static_cast<uint32_t>(half & 0x8000u) << 16));
}

inline uint16_t half_of_float(float value) {
  const uint32_t bits = bits_of_float(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // the addition rounds at the place of a half's last bit
    const uint32_t rounded = bits_of_float(float_of_bits(magnitude) + 0.5f);
    return static_cast<uint16_t>(sign | (rounded - 0x3f000000u));
  }
  const uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | (rounded >> 13));
}

inline float float_of_bfloat(uint16_t half) { return float_of_bits(static_cast<uint32_t>(half) << 16); }

}  // namespace
}  // namespace inferd
