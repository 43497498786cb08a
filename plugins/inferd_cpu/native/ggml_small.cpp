#include "ggml_small.h"

#include <cstring>

#include "fp16.h"

namespace inferd {
namespace {

enum Grid : int { grid_iq2_xxs, grid_iq2_xs, grid_iq2_s, grid_iq3_xxs, grid_iq3_s, grid_iq1_s };

constexpr int grid_begin(int grid) {
  int begin = 0;
  for (int i = 0; i < grid; ++i) begin += kGridVectors[i] * kGridWidths[i];
  return begin;
}

int8_t grid_numbers[grid_begin(kGrids)];

const int8_t* vector_of(Grid grid, int place) { return grid_numbers + grid_begin(grid) + place * kGridWidths[grid]; }

constexpr float kIq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr float kFp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};  // twice what they are
constexpr float kDelta = 0.125f;

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

int short_at(const uint8_t* at) { return at[0] | at[1] << 8; }
int nibble_at(const uint8_t* at, int i) { return at[i / 2] >> (i % 2 * 4) & 15; }

// Seven signs and their parity, which is the eighth.
int eight_signs(uint32_t seven) { return static_cast<int>(seven) | (__builtin_popcount(seven) & 1) << 7; }

// `count` numbers of a vector times a scale, with the signs that the lowest bits give.
void put_vector(const int8_t* vector, int count, float scale, int signs, float* out) {
  for (int i = 0; i < count; ++i) {
    const float number = scale * static_cast<float>(vector[i]);
    out[i] = signs >> i & 1 ? -number : number;
  }
}

// Numbers of both halves have one scale.
template <float (*Scale)(const uint8_t* block, int part)>
void scale_both(const uint8_t* block, int part, float* halves) {
  halves[0] = halves[1] = Scale(block, part);
}

float scale_iq2_xxs(const uint8_t* block, int part) {
  return half_at(block) * (0.5f + static_cast<float>(word_at(block + 6 + 8 * part) >> 28)) * 0.25f;
}

void decode_iq2_xxs(const uint8_t* block, int part, float* out) {
  const uint8_t* places = block + 2 + 8 * part;
  const uint32_t packed = word_at(places + 4);
  const float scale = scale_iq2_xxs(block, part);
  for (int i = 0; i < 4; ++i)
    put_vector(vector_of(grid_iq2_xxs, places[i]), 8, scale, eight_signs(packed >> (7 * i) & 127), out + 8 * i);
}

float quarter_scale(const uint8_t* block, int nibble) {
  return half_at(block) * (0.5f + static_cast<float>(nibble)) * 0.25f;
}

void scale_iq2_xs(const uint8_t* block, int part, float* halves) {
  for (int half = 0; half < 2; ++half) halves[half] = quarter_scale(block, block[66 + part] >> (4 * half) & 15);
}

void decode_iq2_xs(const uint8_t* block, int part, float* out) {
  float scales[2];
  scale_iq2_xs(block, part, scales);
  for (int i = 0; i < 4; ++i) {
    const int packed = short_at(block + 2 + 8 * part + 2 * i);
    put_vector(vector_of(grid_iq2_xs, packed & 511), 8, scales[i / 2], eight_signs(packed >> 9), out + 8 * i);
  }
}

void scale_iq2_s(const uint8_t* block, int part, float* halves) {
  for (int half = 0; half < 2; ++half) halves[half] = quarter_scale(block, block[74 + part] >> (4 * half) & 15);
}

void decode_iq2_s(const uint8_t* block, int part, float* out) {
  float scales[2];
  scale_iq2_s(block, part, scales);
  for (int i = 0; i < 4; ++i) {
    const int place = block[2 + 4 * part + i] | (block[66 + part] >> (2 * i) & 3) << 8;
    put_vector(vector_of(grid_iq2_s, place), 8, scales[i / 2], block[34 + 4 * part + i], out + 8 * i);
  }
}

float scale_iq3_xxs(const uint8_t* block, int part) {
  return half_at(block) * (0.5f + static_cast<float>(word_at(block + 66 + 4 * part) >> 28)) * 0.5f;
}

void decode_iq3_xxs(const uint8_t* block, int part, float* out) {
  const uint32_t packed = word_at(block + 66 + 4 * part);
  const float scale = scale_iq3_xxs(block, part);
  for (int i = 0; i < 8; ++i) {
    const int signs = eight_signs(packed >> (7 * (i / 2)) & 127) >> (i % 2 * 4);
    put_vector(vector_of(grid_iq3_xxs, block[2 + 8 * part + i]), 4, scale, signs, out + 4 * i);
  }
}

float scale_iq3_s(const uint8_t* block, int part) {
  return half_at(block) * static_cast<float>(1 + 2 * nibble_at(block + 106, part));
}

void decode_iq3_s(const uint8_t* block, int part, float* out) {
  const float scale = scale_iq3_s(block, part);
  for (int i = 0; i < 8; ++i) {
    const int place = block[2 + 8 * part + i] | (block[66 + part] >> i & 1) << 8;
    const int signs = block[74 + 4 * part + i / 2] >> (i % 2 * 4);
    put_vector(vector_of(grid_iq3_s, place), 4, scale, signs, out + 4 * i);
  }
}

void put_moved(int place, float scale, float delta, float* out) {
  const int8_t* vector = vector_of(grid_iq1_s, place);
  for (int i = 0; i < 8; ++i) out[i] = scale * (static_cast<float>(vector[i]) + delta);
}

float scale_iq1_s(const uint8_t* block, int part) {
  return half_at(block) * static_cast<float>(2 * (short_at(block + 34 + 2 * part) >> 12 & 7) + 1);
}

// Of numbers times eight: all of them and kDelta are whole then.
float eighth_iq1_s(const uint8_t* block, int part) { return scale_iq1_s(block, part) * 0.125f; }

void decode_iq1_s(const uint8_t* block, int part, float* out) {
  const int high = short_at(block + 34 + 2 * part);
  const float scale = scale_iq1_s(block, part);
  for (int i = 0; i < 4; ++i)
    put_moved(block[2 + 4 * part + i] | (high >> (3 * i) & 7) << 8, scale, high & 0x8000 ? -kDelta : kDelta,
              out + 8 * i);
}

void scale_iq1_m(const uint8_t* block, int part, float* halves) {
  for (int half = 0; half < 2; ++half) {
    const int group = 2 * part + half, step = short_at(block + 48 + group / 4 * 2) >> (group % 4 * 3) & 7;
    halves[half] = float_of_half(iq1_m_scale(block)) * static_cast<float>(2 * step + 1);
  }
}

void eighth_iq1_m(const uint8_t* block, int part, float* halves) {
  scale_iq1_m(block, part, halves);
  for (int half = 0; half < 2; ++half) halves[half] *= 0.125f;
}

void decode_iq1_m(const uint8_t* block, int part, float* out) {
  float scales[2];
  scale_iq1_m(block, part, scales);
  for (int i = 0; i < 4; ++i) {
    const int vector = 4 * part + i;
    const int high = nibble_at(block + 32, vector);
    put_moved(block[vector] | (high & 7) << 8, scales[i / 2], high & 8 ? -kDelta : kDelta,
              out + 8 * i);
  }
}

int half_nibble(const uint8_t* quants, int i) { return i < 16 ? quants[i] & 15 : quants[i - 16] >> 4; }

float scale_iq4_nl(const uint8_t* block, int) { return half_at(block); }

void decode_iq4_nl(const uint8_t* block, int part, float* out) {
  const float scale = scale_iq4_nl(block, part);
  for (int i = 0; i < 32; ++i) out[i] = scale * kIq4[half_nibble(block + 2, i)];
}

float scale_iq4_xs(const uint8_t* block, int part) {
  const int bits = nibble_at(block + 4, part) | (short_at(block + 2) >> (2 * part) & 3) << 4;
  return half_at(block) * static_cast<float>(bits - 32);
}

void decode_iq4_xs(const uint8_t* block, int part, float* out) {
  const float scale = scale_iq4_xs(block, part);
  for (int i = 0; i < 32; ++i) out[i] = scale * kIq4[half_nibble(block + 8 + 16 * part, i)];
}

float scale_tq1_0(const uint8_t* block, int) { return half_at(block + 52); }
float scale_tq2_0(const uint8_t* block, int) { return half_at(block + 64); }

// Five ternary digits in a byte, which is their number times 256 over 243.
void decode_tq1_0(const uint8_t* block, int part, float* out) {
  constexpr int kPowers[] = {1, 3, 9, 27, 81};
  const float scale = scale_tq1_0(block, part);
  for (int i = 0; i < 32; ++i) {
    const int at = 32 * part + i;
    const int byte = at < 160 ? at % 32 : at < 240 ? 32 + (at - 160) % 16 : 48 + (at - 240) % 4;
    const int digit = at < 160 ? at / 32 : at < 240 ? (at - 160) / 16 : (at - 240) / 4;
    const int shifted = block[byte] * kPowers[digit] & 255;
    out[i] = scale * static_cast<float>((shifted * 3 >> 8) - 1);
  }
}

void decode_tq2_0(const uint8_t* block, int part, float* out) {
  const float scale = scale_tq2_0(block, part);
  const uint8_t* quants = block + part / 4 * 32;
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>((quants[i] >> (part % 4 * 2) & 3) - 1);
}

// A power of two; half of it, for values that are doubled.
float scale_mxfp4(const uint8_t* block, int) {
  const uint32_t exponent = block[0], bits = exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return scale;
}

void decode_mxfp4(const uint8_t* block, int part, float* out) {
  const float scale = scale_mxfp4(block, part);
  for (int i = 0; i < 32; ++i) out[i] = scale * kFp4[half_nibble(block + 1, i)];
}

// An unsigned E4M3 number; half of it.
float half_e4m3(int packed) {
  const int exponent = packed >> 3 & 15, mantissa = packed & 7;
  if (packed == 0x7f) return 0.0f;  // not a number
  const float number = exponent ? static_cast<float>(8 + mantissa) * 0.125f : static_cast<float>(mantissa);
  const uint32_t bits = static_cast<uint32_t>(exponent ? exponent - 7 + 127 : -9 + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return number * power * 0.5f;
}

void scale_nvfp4(const uint8_t* block, int part, float* halves) {
  for (int half = 0; half < 2; ++half) halves[half] = half_e4m3(block[2 * part + half]);
}

void decode_nvfp4(const uint8_t* block, int part, float* out) {
  float scales[2];
  scale_nvfp4(block, part, scales);
  for (int i = 0; i < 32; ++i) {
    const int group = 2 * part + i / 16, place = i % 16;
    const int quant = block[4 + 8 * group + place % 8] >> (place / 8 * 4) & 15;
    out[i] = scales[i / 16] * kFp4[quant];
  }
}

}  // namespace

void set_grids(const int8_t* numbers) { std::memcpy(grid_numbers, numbers, sizeof grid_numbers); }

uint16_t iq1_m_scale(const uint8_t* block) {
  int bits = 0;
  for (int i = 0; i < 4; ++i) bits |= (short_at(block + 48 + 2 * i) & 0xf000) >> (12 - 4 * i);
  return static_cast<uint16_t>(bits);
}

const GgmlFormat* find_small_format(int ggml_type) {
  static constexpr struct {
    int type;
    GgmlFormat format;
  } kFormats[] = {
      {iq2_xxs, {256, 66, decode_iq2_xxs, scale_both<scale_iq2_xxs>}},
      {iq2_xs, {256, 74, decode_iq2_xs, scale_iq2_xs}},
      {iq2_s, {256, 82, decode_iq2_s, scale_iq2_s}},
      {iq3_xxs, {256, 98, decode_iq3_xxs, scale_both<scale_iq3_xxs>}},
      {iq3_s, {256, 110, decode_iq3_s, scale_both<scale_iq3_s>}},
      {iq1_s, {256, 50, decode_iq1_s, scale_both<eighth_iq1_s>}},
      {iq1_m, {256, 56, decode_iq1_m, eighth_iq1_m}},
      {iq4_nl, {32, 18, decode_iq4_nl, scale_both<scale_iq4_nl>}},
      {iq4_xs, {256, 136, decode_iq4_xs, scale_both<scale_iq4_xs>}},
      {tq1_0, {256, 54, decode_tq1_0, scale_both<scale_tq1_0>}},
      {tq2_0, {256, 66, decode_tq2_0, scale_both<scale_tq2_0>}},
      {mxfp4, {32, 17, decode_mxfp4, scale_both<scale_mxfp4>}},
      {nvfp4, {64, 36, decode_nvfp4, scale_nvfp4}},
  };
  for (const auto& known : kFormats) {
    if (known.type == ggml_type) return &known.format;
  }
  return nullptr;
}

}  // namespace inferd
