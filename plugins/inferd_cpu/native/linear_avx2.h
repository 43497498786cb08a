// Products with AVX2: up to four rows by 16 outputs at a time, or one row by 32. Included by linear_kernels.cpp alone.
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
constexpr int kAheadBytes = 4096;  // how far ahead few rows read

inline int tile_size(int rows) { return equal_tile(rows, kVectorRows); }

inline size_t scratch_bytes(int, int) { return 64; }

// nibbles and codes of a table lie two in a byte.
enum class Quants { bytes, nibbles, codes };

enum class Scales { one, minima, halves };  // of a block

// Outputs of a panel from one of them on: where their quants and scales are in the first block.
struct Outputs {
  const uint8_t *quants, *scales;
  int blocks;
  const uint8_t* ahead;  // what is asked for with the first block, or null
};

inline __m256 halves(const uint8_t* at) {
  return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(at)));
}

inline __m256i broadcast(const int8_t* four) {
  int32_t bits;
  __builtin_memcpy(&bits, four, 4);
  return _mm256_set1_epi32(bits);
}

// Has a sum stay in a register: compilers would add up products later, which they keep in memory until then.
inline __attribute__((always_inline)) void hold(__m256i& sum) { __asm__("" : "+x"(sum)); }

// Weights come from memory once, and its own prefetching ends at a page: while one block is multiplied, another that
// is needed later is asked for.
template <int Lines>
inline __attribute__((always_inline)) void ask_ahead(const uint8_t* at) {
#pragma GCC unroll 17
  for (int line = 0; line < Lines; ++line) {
    _mm_prefetch(reinterpret_cast<const char*>(at + 64 * line), _MM_HINT_T0);
  }
}

// Where the quants of four inputs of 8 outputs are: two such sides lie together, those of the panel's other half apart.
template <Quants Q>
inline const __m256i* place_of(const uint8_t* quants, int step, int side) {
  constexpr int kHalfBytes = Q == Quants::bytes ? 512 : 256;
  return reinterpret_cast<const __m256i*>(quants + side / 2 * kHalfBytes + 64 * step + side % 2 * 32);
}

// Products of signed weights with four inputs of each row.
template <int R, int S>
inline __attribute__((always_inline)) void add_signed(const __m256i (&weights)[S], const int8_t* four,
                                                      __m256i (&sum)[R][S]) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sizes[S];
#pragma GCC unroll 4
  for (int side = 0; side < S; ++side) sizes[side] = _mm256_abs_epi8(weights[side]);
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    const __m256i inputs = broadcast(four + r * kBlock);
#pragma GCC unroll 4
    for (int side = 0; side < S; ++side) {
      const __m256i pairs = _mm256_maddubs_epi16(sizes[side], _mm256_sign_epi8(inputs, weights[side]));
      sum[r][side] = _mm256_add_epi32(sum[r][side], _mm256_madd_epi16(pairs, ones));
      hold(sum[r][side]);
    }
  }
}

// The same of weights below 16; the sums have 16 bits.
template <int R, int S>
inline __attribute__((always_inline)) void add_small(const __m256i (&weights)[S], const int8_t* four,
                                                     __m256i (&sum)[R][S]) {
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    const __m256i inputs = broadcast(four + r * kBlock);
#pragma GCC unroll 4
    for (int side = 0; side < S; ++side) {
      sum[r][side] = _mm256_add_epi16(sum[r][side], _mm256_maddubs_epi16(weights[side], inputs));
      hold(sum[r][side]);
    }
  }
}

// Steps of four inputs from Begin to End of the eight of a block.
template <int R, int S, Quants Q, int Begin, int End>
inline __attribute__((always_inline)) void add_steps(const uint8_t* quants, [[maybe_unused]] __m256i table,
                                                     const int8_t* x, __m256i (&sum)[R][S]) {
  const __m256i low = _mm256_set1_epi8(15);
  auto add = [&](const __m256i(&weights)[S], int step) __attribute__((always_inline)) {
    if constexpr (Q == Quants::nibbles) {
      add_small<R, S>(weights, x + 4 * step, sum);
    } else {
      add_signed<R, S>(weights, x + 4 * step, sum);
    }
  };
  auto number = [&](__m256i code) __attribute__((always_inline)) {
    return Q == Quants::codes ? _mm256_shuffle_epi8(table, code) : code;
  };
  if constexpr (Q != Quants::bytes) {
    for (int step = 0; step < 4; ++step) {
      __m256i both[S], some[S];
#pragma GCC unroll 4
      for (int side = 0; side < S; ++side) both[side] = _mm256_load_si256(place_of<Q>(quants, step, side));
      if constexpr (Begin < 4) {
#pragma GCC unroll 4
        for (int side = 0; side < S; ++side) some[side] = number(_mm256_and_si256(both[side], low));
        add(some, step);
      }
      if constexpr (End > 4) {
#pragma GCC unroll 4
        for (int side = 0; side < S; ++side) {
          some[side] = number(_mm256_and_si256(_mm256_srli_epi16(both[side], 4), low));
        }
        add(some, step + 4);
      }
    }
  } else {
    for (int step = Begin; step < End; ++step) {
      __m256i weights[S];
#pragma GCC unroll 4
      for (int side = 0; side < S; ++side) weights[side] = _mm256_load_si256(place_of<Q>(quants, step, side));
      add(weights, step);
    }
  }
}

template <int R, int S>
inline __attribute__((always_inline)) void set_all(__m256i (&sum)[R][S], __m256i value) {
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int side = 0; side < S; ++side) sum[r][side] = value;
  }
}

// Integer sums of a block, which start at kMagicBits, or what makes up for weights that are too high.
template <int R, int S, Quants Q, Scales L>
inline __attribute__((always_inline)) void dot_block(const uint8_t* quants, __m256i table, const int8_t* x,
                                                     [[maybe_unused]] const int32_t* starts, __m256i (&sum)[R][S]) {
  if constexpr (Q == Quants::nibbles) {
    set_all<R, S>(sum, _mm256_setzero_si256());
    add_steps<R, S, Q, 0, 8>(quants, table, x, sum);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m256i start = _mm256_set1_epi32(L == Scales::one ? starts[r] : kMagicBits);
#pragma GCC unroll 4
      for (int side = 0; side < S; ++side) {
        sum[r][side] = _mm256_add_epi32(_mm256_madd_epi16(sum[r][side], _mm256_set1_epi16(1)), start);
      }
    }
  } else {
    set_all<R, S>(sum, _mm256_set1_epi32(kMagicBits));
    add_steps<R, S, Q, 0, 8>(quants, table, x, sum);
  }
}

// Integer sums of a block, or of a half of it, times the scales of outputs and rows.
template <int R, int S>
inline __attribute__((always_inline)) void add_scaled(const __m256i (&sum)[R][S], const uint8_t* scales,
                                                      const float* x_scales, __m256 (&total)[R][S]) {
#pragma GCC unroll 4
  for (int side = 0; side < S; ++side) {
    const __m256 scale = halves(scales + 16 * side), base = _mm256_mul_ps(scale, _mm256_set1_ps(-kMagic));
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m256 scaled = _mm256_fmadd_ps(_mm256_castsi256_ps(sum[r][side]), scale, base);
      total[r][side] = _mm256_fmadd_ps(scaled, _mm256_set1_ps(x_scales[r]), total[r][side]);
    }
  }
}

// R rows with S times 8 outputs, of which `live` are there.
template <int R, int S, Quants Q, Scales L>
void multiply_tile(const Outputs& outputs, __m256i table, const Tile& x, int tile_rows, float* out, size_t ldo,
                   int live) {
  __m256 total[R][S];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int side = 0; side < S; ++side) total[r][side] = _mm256_setzero_ps();
  }
  constexpr int kStep = block_bytes(Q == Quants::bytes ? Weight::w8 : L == Scales::one ? Weight::w4 : Weight::w4m);
  const uint8_t *quants = outputs.quants, *scales = outputs.scales, *ahead = outputs.ahead;
  size_t at = 0;
  for (int block = 0; block < outputs.blocks; ++block, at += tile_rows) {
    if (ahead != nullptr) {
      ask_ahead<kStep / 64>(ahead);
      ahead += kStep;
    }
    __m256i sum[R][S];
    const int8_t* x_quants = x.quants + at * kBlock;
    if constexpr (L == Scales::halves) {
      set_all<R, S>(sum, _mm256_set1_epi32(kMagicBits));
      add_steps<R, S, Q, 0, 4>(quants, table, x_quants, sum);
      add_scaled<R, S>(sum, scales, x.scales + at, total);
      set_all<R, S>(sum, _mm256_set1_epi32(kMagicBits));
      add_steps<R, S, Q, 4, 8>(quants, table, x_quants, sum);
      add_scaled<R, S>(sum, scales + 64, x.scales + at, total);
    } else {
      dot_block<R, S, Q, L>(quants, table, x_quants, x.starts4 + at, sum);
      add_scaled<R, S>(sum, scales, x.scales + at, total);
    }
    quants += kStep;
    scales += kStep;
  }
  if constexpr (L == Scales::minima) {
    const float* x_sums = x.sums;
    scales = outputs.scales + 64;
    for (int block = 0; block < outputs.blocks; ++block, x_sums += tile_rows, scales += kStep) {
#pragma GCC unroll 4
      for (int side = 0; side < S; ++side) {
        const __m256 minimum = halves(scales + 16 * side);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          total[r][side] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x_sums[r]), total[r][side]);
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    alignas(32) float row[8 * S];
#pragma GCC unroll 4
    for (int side = 0; side < S; ++side) _mm256_store_ps(row + 8 * side, total[r][side]);
    __builtin_memcpy(out + r * ldo, row, live * sizeof(float));
  }
}

using TileProduct = void (*)(const Outputs&, __m256i, const Tile&, int, float*, size_t, int);

// Of `rows` rows with half a panel, or of one row with a whole one.
template <Quants Q, Scales L>
TileProduct tile_product(int rows, bool whole) {
  constexpr TileProduct table[kVectorRows] = {multiply_tile<1, 2, Q, L>, multiply_tile<2, 2, Q, L>,
                                              multiply_tile<3, 2, Q, L>, multiply_tile<4, 2, Q, L>};
  return whole ? multiply_tile<1, 4, Q, L> : table[rows - 1];
}

inline TileProduct tile_product(Weight format, int rows, bool whole) {
  switch (format) {
    case Weight::w8: return tile_product<Quants::bytes, Scales::one>(rows, whole);
    case Weight::w4: return tile_product<Quants::nibbles, Scales::one>(rows, whole);
    case Weight::w4m: return tile_product<Quants::nibbles, Scales::minima>(rows, whole);
    default: break;
  }
  return has_halves(format) ? tile_product<Quants::codes, Scales::halves>(rows, whole)
                            : tile_product<Quants::codes, Scales::one>(rows, whole);
}

// One row takes whole panels, so that memory is read in one go. Nibbles are unpacked anew for each tile of rows: kept as
// bytes they take longer, since a tile then reads twice as much.
inline void multiply_panels(const Matrix& w, const Rows& x, float* out, size_t ldo, int panel_begin, int panel_end,
                            void*) {
  const int blocks = w.k / kBlock, tiles = tiles_of(x);
  const bool whole = x.rows == 1;
  const size_t ahead = tiles > 1 ? panel_bytes(w.format, w.k) : kAheadBytes;
  const __m256i table =
      _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table_of(w.format))));
  const int most = whole ? kPanelOutputs : kHalfPanel;
  for (int panel = panel_begin; panel < panel_end; ++panel) {
    const uint8_t* data = w.data + panel * panel_bytes(w.format, w.k);
    for (int place = 0; place < kPanelOutputs; place += most) {
      const int first = panel * kPanelOutputs + place, live = w.n - first < most ? w.n - first : most;
      if (live <= 0) continue;
      const int quants = place / kHalfPanel * (quant_bytes(w.format) / 2), scales = quant_bytes(w.format) + 2 * place;
      Outputs outputs = {data + quants, data + scales, blocks, place == 0 ? data + ahead : nullptr};
      for (int i = 0; i < tiles; ++i) {
        const Tile tile = tile_of(x, i);
        const TileProduct product = tile_product(w.format, tile.live, whole);
        product(outputs, table, tile, x.tile, out + tile.first * ldo + first, ldo, live);
        outputs.ahead = nullptr;
      }
    }
  }
}

}  // namespace ISA
}  // namespace inferd
