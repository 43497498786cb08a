// Products with AVX2: up to four rows by 16 outputs at a time. Included by linear_kernels.cpp alone.
//
// vpmaddubsw multiplies unsigned by signed bytes and adds two products in 16 bits. For w8 the sign of each weight is
// given to its activation, so that a pair stays below 2 * 128 * 127; for w4 all pairs of a block stay below
// 16 * 15 * 127, so that they are added in 16 bits. Numbers of a table are as those of w8. Sums start at kMagicBits, see
// linear_avx512.h.
#pragma once

#include <immintrin.h>

#include "linear_layout.h"

namespace inferd {
namespace ISA {

constexpr char kName[] = "avx2";
constexpr char kDescription[] = "INT8 activations, AVX2";
constexpr bool kOffsetQuants = false;
constexpr int kVectorRows = 4;

inline int tile_size(int rows) { return equal_tile(rows, kVectorRows); }

inline size_t scratch_bytes(int, int) { return 64; }

inline __m256 halves(const uint8_t* at) {
  return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(at)));
}

inline __m256i broadcast(const int8_t* four) {
  int32_t bits;
  __builtin_memcpy(&bits, four, 4);
  return _mm256_set1_epi32(bits);
}

// Products of signed weights with four inputs of each row.
template <int R>
inline __attribute__((always_inline)) void add_step(__m256i weights, const int8_t* four, int side,
                                                    __m256i (&sum)[R][2]) {
  const __m256i ones = _mm256_set1_epi16(1), sizes = _mm256_abs_epi8(weights);
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    const __m256i pairs = _mm256_maddubs_epi16(sizes, _mm256_sign_epi8(broadcast(four + r * kBlock), weights));
    sum[r][side] = _mm256_add_epi32(sum[r][side], _mm256_madd_epi16(pairs, ones));
  }
}

// The first 16 inputs of a block of codes, or the others.
template <int R, int Half>
inline __attribute__((always_inline)) void add_codes(const __m256i* at, __m256i table, const int8_t* x,
                                                     __m256i (&sum)[R][2]) {
  for (int step = 0; step < 4; ++step) {
#pragma GCC unroll 4
    for (int side = 0; side < 2; ++side) {
      const __m256i both = _mm256_load_si256(at + 2 * step + side);
      const __m256i codes = _mm256_and_si256(_mm256_srli_epi16(both, 4 * Half), _mm256_set1_epi8(15));
      add_step<R>(_mm256_shuffle_epi8(table, codes), x + 16 * Half + 4 * step, side, sum);
    }
  }
}

template <int R>
inline __attribute__((always_inline)) void begin_sums(__m256i (&sum)[R][2]) {
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = _mm256_set1_epi32(kMagicBits);
}

template <int R, Weight W>
inline __attribute__((always_inline)) void dot_block(const uint8_t* quants, [[maybe_unused]] __m256i table,
                                                     const int8_t* x, const int32_t* starts, __m256i (&sum)[R][2]) {
  const auto* at = reinterpret_cast<const __m256i*>(quants);
  const __m256i ones = _mm256_set1_epi16(1);
  if constexpr (W == Weight::w8) {
    begin_sums<R>(sum);
    for (int step = 0; step < 8; ++step) {
#pragma GCC unroll 4
      for (int side = 0; side < 2; ++side) {
        add_step<R>(_mm256_load_si256(at + 2 * step + side), x + 4 * step, side, sum);
      }
    }
  } else if constexpr (W == kCoded) {
    begin_sums<R>(sum);
    add_codes<R, 0>(at, table, x, sum);
    add_codes<R, 1>(at, table, x, sum);
  } else {
    const __m256i low = _mm256_set1_epi8(15);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_si256();
    for (int step = 0; step < 4; ++step) {
#pragma GCC unroll 4
      for (int side = 0; side < 2; ++side) {
        const __m256i both = _mm256_load_si256(at + 2 * step + side), first = _mm256_and_si256(both, low);
        const __m256i second = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const int8_t* four = x + r * kBlock + 4 * step;
          const __m256i a = _mm256_maddubs_epi16(first, broadcast(four));
          const __m256i b = _mm256_maddubs_epi16(second, broadcast(four + 16));
          sum[r][side] = _mm256_add_epi16(sum[r][side], _mm256_add_epi16(a, b));
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m256i start = _mm256_set1_epi32(W == Weight::w4 ? starts[r] : kMagicBits);
#pragma GCC unroll 4
      for (int side = 0; side < 2; ++side) {
        sum[r][side] = _mm256_add_epi32(_mm256_madd_epi16(sum[r][side], ones), start);
      }
    }
  }
}

// Integer sums of a block, or of a half of it, times the scales of outputs and rows.
template <int R>
inline __attribute__((always_inline)) void add_scaled(const __m256i (&sum)[R][2], const uint8_t* scales,
                                                      const float* x_scales, __m256 (&total)[R][2]) {
#pragma GCC unroll 4
  for (int side = 0; side < 2; ++side) {
    const __m256 scale = halves(scales + 16 * side), base = _mm256_mul_ps(scale, _mm256_set1_ps(-kMagic));
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m256 scaled = _mm256_fmadd_ps(_mm256_castsi256_ps(sum[r][side]), scale, base);
      total[r][side] = _mm256_fmadd_ps(scaled, _mm256_set1_ps(x_scales[r]), total[r][side]);
    }
  }
}

template <int R, Weight W>
void multiply_half(const uint8_t* first, const int8_t* numbers, int half, int blocks, const Tile& x, int tile_rows,
                   float* out, size_t ldo, int live) {
  __m256 total[R][2];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) total[r][0] = total[r][1] = _mm256_setzero_ps();
  const __m256i table = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(numbers)));
  constexpr int kSize = quant_bytes(W), kStep = block_bytes(W);
  const uint8_t* block = first;
  size_t at = 0;
  for (int index = 0; index < blocks; ++index, at += tile_rows, block += kStep) {
    __m256i sum[R][2];
    const uint8_t *quants = block + half * (kSize / 2), *scales = block + kSize + half * 32;
    const int8_t* x_quants = x.quants + at * kBlock;
    if constexpr (W == kHalved) {
      begin_sums<R>(sum);
      add_codes<R, 0>(reinterpret_cast<const __m256i*>(quants), table, x_quants, sum);
      add_scaled<R>(sum, scales, x.scales + at, total);
      begin_sums<R>(sum);
      add_codes<R, 1>(reinterpret_cast<const __m256i*>(quants), table, x_quants, sum);
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
      for (int side = 0; side < 2; ++side) {
        const __m256 minimum = halves(first + kSize + half * 32 + 64 + 16 * side);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          total[r][side] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x_sums[r]), total[r][side]);
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    alignas(32) float row[kHalfPanel];
    _mm256_store_ps(row, total[r][0]);
    _mm256_store_ps(row + 8, total[r][1]);
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
