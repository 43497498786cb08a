#include "ggml_blocks.h"

#include <cstring>

#include "fp16.h"
#include "ggml_small.h"

namespace inferd {
namespace {

float half_at(const uint8_t* at) {
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return float_of_half(bits);
}

uint32_t word_at(const uint8_t* at) {
  uint32_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return bits;
}

void decode_f32(const uint8_t* block, int, float* out) { std::memcpy(out, block, 32 * sizeof(float)); }

void decode_f16(const uint8_t* block, int, float* out) {
  for (int i = 0; i < 32; ++i) out[i] = half_at(block + 2 * i);
}

void decode_bf16(const uint8_t* block, int, float* out) {
  for (int i = 0; i < 32; ++i) out[i] = float_of_bfloat(static_cast<uint16_t>(block[2 * i] | block[2 * i + 1] << 8));
}

int nibble(const uint8_t* quants, int i) { return i < 16 ? quants[i] & 15 : quants[i - 16] >> 4; }

void decode_q4_0(const uint8_t* block, int, float* out) {
  const float scale = half_at(block);
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(nibble(block + 2, i) - 8);
}

void decode_q4_1(const uint8_t* block, int, float* out) {
  const float scale = half_at(block), minimum = half_at(block + 2);
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(nibble(block + 4, i)) + minimum;
}

void decode_q5_0(const uint8_t* block, int, float* out) {
  const float scale = half_at(block);
  const uint32_t fifth = word_at(block + 2);
  for (int i = 0; i < 32; ++i) {
    out[i] = scale * static_cast<float>((nibble(block + 6, i) | static_cast<int>(fifth >> i & 1) << 4) - 16);
  }
}

void decode_q5_1(const uint8_t* block, int, float* out) {
  const float scale = half_at(block), minimum = half_at(block + 2);
  const uint32_t fifth = word_at(block + 4);
  for (int i = 0; i < 32; ++i) {
    out[i] = scale * static_cast<float>(nibble(block + 8, i) | static_cast<int>(fifth >> i & 1) << 4) + minimum;
  }
}

void decode_q8_0(const uint8_t* block, int, float* out) {
  const float scale = half_at(block);
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(static_cast<int8_t>(block[2 + i]));
}

// Number i of 32 in part `part` of 2-bit fields: four parts share each run of 32 bytes.
int two_bits(const uint8_t* quants, int part, int i) { return quants[part / 4 * 32 + i] >> (part % 4 * 2) & 3; }

void decode_q2_k(const uint8_t* block, int part, float* out) {
  const float d = half_at(block + 80), d_minimum = half_at(block + 82);
  for (int i = 0; i < 32; ++i) {
    const uint8_t packed = block[2 * part + i / 16];
    const float scale = d * static_cast<float>(packed & 15), minimum = d_minimum * static_cast<float>(packed >> 4);
    out[i] = scale * static_cast<float>(two_bits(block + 16, part, i)) - minimum;
  }
}

void scale_q3_k(const uint8_t* block, int part, float* halves) {
  for (int half = 0; half < 2; ++half) {
    const int group = 2 * part + half;
    const int low = group < 8 ? block[96 + group] & 15 : block[96 + group - 8] >> 4;
    const int high = block[104 + group % 4] >> (group / 4 * 2) & 3;
    halves[half] = half_at(block + 108) * static_cast<float>((low | high << 4) - 32);
  }
}

void decode_q3_k(const uint8_t* block, int part, float* out) {
  float scales[2];
  scale_q3_k(block, part, scales);
  for (int i = 0; i < 32; ++i) {
    const int mask = block[i] >> part & 1;  // a clear bit takes 4 away
    out[i] = scales[i / 16] * static_cast<float>((two_bits(block + 32, part, i) | mask << 2) - 4);
  }
}

void decode_q4_k(const uint8_t* block, int part, float* out) {
  int scale_bits, minimum_bits;
  read_six_bits(block + 4, part, &scale_bits, &minimum_bits);
  const float scale = half_at(block) * static_cast<float>(scale_bits);
  const float minimum = half_at(block + 2) * static_cast<float>(minimum_bits);
  const uint8_t* quants = block + 16 + part / 2 * 32;
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(quants[i] >> (part % 2 * 4) & 15) - minimum;
}

void decode_q5_k(const uint8_t* block, int part, float* out) {
  int scale_bits, minimum_bits;
  read_six_bits(block + 4, part, &scale_bits, &minimum_bits);
  const float scale = half_at(block) * static_cast<float>(scale_bits);
  const float minimum = half_at(block + 2) * static_cast<float>(minimum_bits);
  const uint8_t* quants = block + 48 + part / 2 * 32;
  for (int i = 0; i < 32; ++i) {
    const int quant = (quants[i] >> (part % 2 * 4) & 15) | (block[16 + i] >> part & 1) << 4;
    out[i] = scale * static_cast<float>(quant) - minimum;
  }
}

// Each run of 64 bytes holds the low bits of 128 numbers: first all low halves, then all high ones.
void decode_q6_k(const uint8_t* block, int part, float* out) {
  const float d = half_at(block + 208);
  const uint8_t* low = block + part / 4 * 64 + part % 2 * 32;
  for (int i = 0; i < 32; ++i) {
    const int quant = (low[i] >> (part % 4 / 2 * 4) & 15) | two_bits(block + 128, part, i) << 4;
    const float scale = d * static_cast<float>(static_cast<int8_t>(block[192 + 2 * part + i / 16]));
    out[i] = scale * static_cast<float>(quant - 32);
  }
}

}  // namespace

const GgmlFormat* find_format(int ggml_type) {
  static constexpr struct {
    int type;
    GgmlFormat format;
  } kFormats[] = {
      {f32, {32, 128, decode_f32}},    {f16, {32, 64, decode_f16}},     {bf16, {32, 64, decode_bf16}},
      {q4_0, {32, 18, decode_q4_0}},   {q4_1, {32, 20, decode_q4_1}},   {q5_0, {32, 22, decode_q5_0}},
      {q5_1, {32, 24, decode_q5_1}},   {q8_0, {32, 34, decode_q8_0}},   {q2_k, {256, 84, decode_q2_k}},
      {q3_k, {256, 110, decode_q3_k, scale_q3_k}}, {q4_k, {256, 144, decode_q4_k}}, {q5_k, {256, 176, decode_q5_k}},
      {q6_k, {256, 210, decode_q6_k}},
  };
  for (const auto& known : kFormats) {
    if (known.type == ggml_type) return &known.format;
  }
  return find_small_format(ggml_type);
}

void read_six_bits(const uint8_t* packed, int part, int* scale, int* minimum) {
  if (part < 4) {
    *scale = packed[part] & 63;
    *minimum = packed[part + 4] & 63;
  } else {
    *scale = (packed[part + 4] & 15) | packed[part - 4] >> 6 << 4;
    *minimum = packed[part + 4] >> 4 | packed[part] >> 6 << 4;
  }
}

}  // namespace inferd
