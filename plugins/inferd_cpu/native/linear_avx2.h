// Products with AVX2: up to four rows by 16 outputs at a time. Included by linear_kernels.cpp alone.
//
// vpmaddubsw multiplies unsigned by signed bytes and adds two products in 16 bits. For w8 the sign of each weight is
// given to its activation, so that a pair stays below 2 * 128 * 127; for w4 all pairs of a block stay below
// 16 * 15 * 127, so that they are added in 16 bits. Numbers of a table are as those of w8. Sums start at kMagicBits, see linear_avx512.h.
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

template <int R, Weight W>
inline __attribute__((always_inline)) void dot_block(const uint8_t* quants, [[maybe_unused]] __m256i table,
                                                     const int8_t* x, const int32_t* starts, __m256i (&sum)[R][2]) {
  const auto* at = reinterpret_cast<const __m256i*>(quants);
  const __m256i ones = _mm256_set1_epi16(1);
  if constexpr (W == Weight::w8 || W == kCoded) {
    auto add = [&](__m256i weights, int step, int side) __attribute__((always_inline)) {
      const __m256i sizes = _mm256_abs_epi8(weights);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m256i four = _mm256_sign_epi8(broadcast(x + r * kBlock + 4 * step), weights);
        const __m256i pairs = _mm256_maddubs_epi16(sizes, four);
        sum[r][side] = _mm256_add_epi32(sum[r][side], _mm256_madd_epi16(pairs, ones));
      }
    };
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = _mm256_set1_epi32(kMagicBits);
    for (int step = 0; step < (W == Weight::w8 ? 8 : 4); ++step) {
#pragma GCC unroll 4
      for (int side = 0; side < 2; ++side) {
        const __m256i weights = _mm256_load_si256(at + 2 * step + side);
        if constexpr (W == Weight::w8) {
          add(weights, step, side);
        } else {
          const __m256i low = _mm256_set1_epi8(15), high = _mm256_and_si256(_mm256_srli_epi16(weights, 4), low);
          add(_mm256_shuffle_epi8(table, _mm256_and_si256(weights, low)), step, side);
          add(_mm256_shuffle_epi8(table, high), step + 4, side);
        }
      }
    }
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

template <int R, Weight W>
void multiply_half(const uint8_t* first, const int8_t* numbers, int half, int blocks, const Tile& x, int tile_rows,
                   float* out, size_t ldo, int live) {
  __m256 total[R][2];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) total[r][0] = total[r][1] = _mm256_setzero_ps();
  const __m256i table = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(numbers)));
  const __m256 minus_magic = _mm256_set1_ps(-kMagic);
  constexpr int kSize = quant_bytes(W), kStep = block_bytes(W);
  const uint8_t* block = first;
  size_t at = 0;
  for (int index = 0; index < blocks; ++index, at += tile_rows, block += kStep) {
    __m256i sum[R][2];
    dot_block<R, W>(block + half * (kSize / 2), table, x.quants + at * kBlock, x.starts4 + at, sum);
    const uint8_t* scales = block + kSize + half * 32;
#pragma GCC unroll 4
    for (int side = 0; side < 2; ++side) {
      const __m256 scale = halves(scales + 16 * side), base = _mm256_mul_ps(scale, minus_magic);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m256 scaled = _mm256_fmadd_ps(_mm256_castsi256_ps(sum[r][side]), scale, base);
        total[r][side] = _mm256_fmadd_ps(scaled, _mm256_set1_ps(x.scales[at + r]), total[r][side]);
      }
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
