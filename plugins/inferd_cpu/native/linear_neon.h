// Products with the dot products of NEON: up to four rows by 16 outputs at a time. Included by linear_kernels.cpp alone.
#pragma once

#include <arm_neon.h>

#include "linear_layout.h"

namespace inferd {
namespace ISA {

constexpr char kName[] = "neon";
constexpr char kDescription[] = "INT8 activations, NEON dot products";
constexpr bool kOffsetQuants = false;
constexpr int kVectorRows = 4;

inline int tile_size(int rows) { return equal_tile(rows, kVectorRows); }

inline size_t scratch_bytes(int, int) { return 64; }

inline float32x4_t halves(const uint8_t* at) {
  return vcvt_f32_f16(vld1_f16(reinterpret_cast<const float16_t*>(at)));
}

template <int R>
inline __attribute__((always_inline)) void add_step(int8x16_t weights, const int8_t* four, int quarter,
                                                    int32x4_t (&sum)[R][4]) {
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    int32_t bits;
    __builtin_memcpy(&bits, four + r * kBlock, 4);
    sum[r][quarter] = vdotq_s32(sum[r][quarter], weights, vreinterpretq_s8_s32(vdupq_n_s32(bits)));
  }
}

// The first 16 inputs of a block of four bits, or the others.
template <int R, Weight W, int Half>
inline __attribute__((always_inline)) void add_codes(const uint8_t* quants, [[maybe_unused]] int8x16_t table,
                                                     const int8_t* x, int32x4_t (&sum)[R][4]) {
  for (int step = 0; step < 4; ++step) {
#pragma GCC unroll 4
    for (int quarter = 0; quarter < 4; ++quarter) {
      const uint8x16_t both = vld1q_u8(quants + 64 * step + 16 * quarter);
      const uint8x16_t codes = Half ? vshrq_n_u8(both, 4) : vandq_u8(both, vdupq_n_u8(15));
      const int8x16_t numbers = has_table(W) ? vqtbl1q_s8(table, codes) : vreinterpretq_s8_u8(codes);
      add_step<R>(numbers, x + 16 * Half + 4 * step, quarter, sum);
    }
  }
}

template <int R, Weight W>
inline __attribute__((always_inline)) void begin_sums(const int32_t* starts, int32x4_t (&sum)[R][4]) {
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    const int32x4_t start = vdupq_n_s32(W == Weight::w4 ? starts[r] - kMagicBits : 0);
#pragma GCC unroll 4
    for (int quarter = 0; quarter < 4; ++quarter) sum[r][quarter] = start;
  }
}

template <int R, Weight W>
inline __attribute__((always_inline)) void dot_block(const uint8_t* quants, int8x16_t table, const int8_t* x,
                                                     const int32_t* starts, int32x4_t (&sum)[R][4]) {
  begin_sums<R, W>(starts, sum);
  if constexpr (W == Weight::w8) {
    for (int step = 0; step < 8; ++step) {
#pragma GCC unroll 4
      for (int quarter = 0; quarter < 4; ++quarter) {
        add_step<R>(vreinterpretq_s8_u8(vld1q_u8(quants + 64 * step + 16 * quarter)), x + 4 * step, quarter, sum);
      }
    }
  } else {
    add_codes<R, W, 0>(quants, table, x, sum);
    add_codes<R, W, 1>(quants, table, x, sum);
  }
}

// Integer sums of a block, or of a half of it, times the scales of outputs and rows.
template <int R>
inline __attribute__((always_inline)) void add_scaled(const int32x4_t (&sum)[R][4], const uint8_t* scales,
                                                      const float* x_scales, float32x4_t (&total)[R][4]) {
#pragma GCC unroll 4
  for (int quarter = 0; quarter < 4; ++quarter) {
    const float32x4_t scale = halves(scales + 8 * quarter);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const float32x4_t scaled = vmulq_f32(vcvtq_f32_s32(sum[r][quarter]), scale);
      total[r][quarter] = vfmaq_n_f32(total[r][quarter], scaled, x_scales[r]);
    }
  }
}

template <int R, Weight W>
void multiply_half(const uint8_t* first, const int8_t* numbers, int half, int blocks, const Tile& x, int tile_rows,
                   float* out, size_t ldo, int live) {
  const int8x16_t table = vld1q_s8(numbers);
  float32x4_t total[R][4];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int quarter = 0; quarter < 4; ++quarter) total[r][quarter] = vdupq_n_f32(0.0f);
  }
  constexpr int kSize = quant_bytes(W), kStep = block_bytes(W);
  const uint8_t* block = first;
  size_t at = 0;
  for (int index = 0; index < blocks; ++index, at += tile_rows, block += kStep) {
    int32x4_t sum[R][4];
    const uint8_t *quants = block + half * (kSize / 2), *scales = block + kSize + half * 32;
    const int8_t* x_quants = x.quants + at * kBlock;
    if constexpr (W == kHalved) {
      begin_sums<R, W>(nullptr, sum);
      add_codes<R, W, 0>(quants, table, x_quants, sum);
      add_scaled<R>(sum, scales, x.scales + at, total);
      begin_sums<R, W>(nullptr, sum);
      add_codes<R, W, 1>(quants, table, x_quants, sum);
      add_scaled<R>(sum, scales + 64, x.scales + at, total);
    } else {
      dot_block<R, W>(quants, table, x_quants, x.starts4 + at, sum);
      add_scaled<R>(sum, scales, x.scales + at, total);
    }
  }
  if constexpr (W == Weight::w4m) {
    const float* x_sums = x.sums;
    for (int index = 0; index < blocks; ++index, x_sums += tile_rows, first += kStep) {
#pragma GCC unroll 4
      for (int quarter = 0; quarter < 4; ++quarter) {
        const float32x4_t minimum = halves(first + kSize + half * 32 + 64 + 8 * quarter);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) total[r][quarter] = vfmaq_n_f32(total[r][quarter], minimum, x_sums[r]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    float row[kHalfPanel];
#pragma GCC unroll 4
    for (int quarter = 0; quarter < 4; ++quarter) vst1q_f32(row + 4 * quarter, total[r][quarter]);
    __builtin_memcpy(out + r * ldo, row, live * sizeof(float));
  }
}

using HalfProduct = void (*)(const uint8_t*, const int8_t*, int, int, const Tile&, int, float*, size_t, int);

template <Weight W>
HalfProduct half_product(int rows) {
  constexpr HalfProduct table[kVectorRows] = {multiply_half<1, W>, multiply_half<2, W>, multiply_half<3, W>,
                                              multiply_half<4, W>};
  return table[rows - 1];
}

inline HalfProduct half_product(Weight format, int rows) {
  return format == Weight::w8   ? half_product<Weight::w8>(rows)
         : format == Weight::w4 ? half_product<Weight::w4>(rows)
         : has_halves(format)   ? half_product<kHalved>(rows)
         : has_table(format)    ? half_product<kCoded>(rows)
                                : half_product<Weight::w4m>(rows);
}

inline void multiply_panels(const Matrix& w, const Rows& x, float* out, size_t ldo, int panel_begin, int panel_end,
                            void*) {
  const int tiles = tiles_of(x);
  for (int panel = panel_begin; panel < panel_end; ++panel) {
    const uint8_t* data = w.data + panel * panel_bytes(w.format, w.k);
    for (int i = 0; i < tiles; ++i) {
      const Tile tile = tile_of(x, i);
      for (int half = 0; half < 2; ++half) {
        const int first = panel * kPanelOutputs + half * kHalfPanel;
        const int live = w.n - first < kHalfPanel ? w.n - first : kHalfPanel;
        if (live <= 0) continue;
        half_product(w.format, tile.live)(data, table_of(w.format), half, w.k / kBlock, tile, x.tile,
                                          out + tile.first * ldo + first, ldo, live);
      }
    }
  }
}

}  // namespace ISA
}  // namespace inferd
