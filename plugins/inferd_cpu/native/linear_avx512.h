// Products with AVX-512 VNNI: up to eight rows by 32 outputs at a time. Included by linear_kernels.cpp alone.
//
// vpdpbusd takes unsigned by signed bytes, so stored weights are 128 (w8) or 8 (w4) too high and the integer sums start
// lower by as much times the sum of the activations. They also start at kMagicBits, which saves the conversion:
// fma(kMagic + dot, scale, -kMagic * scale) rounds once, to the very float(dot) * scale. Numbers of a table are as
// those of w8, 128 too high.
#pragma once

// GCC 12 warns of its own header.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "linear_layout.h"

namespace inferd {
namespace ISA {

#if defined(ISA_AMX)
constexpr bool kOffsetQuants = false;  // tiles take signed bytes
#else
constexpr bool kOffsetQuants = true;
constexpr char kName[] = "avx512";
constexpr char kDescription[] = "INT8 activations, AVX-512 VNNI";
#endif

constexpr int kVectorRows = 8;
constexpr int kAheadBytes = 4096;  // how far ahead one row reads

// Where a panel's quants and scales are: in the packed matrix itself, or expanded to bytes beside it.
struct Panel {
  const uint8_t* quants;
  size_t quant_step;
  const uint8_t* scales;
  size_t scale_step;
  int blocks;
  __m512i table;  // for codes
  const uint8_t* ahead;  // what ask_ahead asks for with the first block, or null
  uint8_t* expanded;     // where quants that come as nibbles are put as bytes, for the tiles behind this one, or null
};

// Weights come from memory once, and its own prefetching ends at a page: while one block is multiplied, another that
// is needed later is asked for.
template <int Lines>
inline __attribute__((always_inline)) void ask_ahead(const uint8_t* at) {
#pragma GCC unroll 17
  for (int line = 0; line < Lines; ++line) {
    _mm_prefetch(reinterpret_cast<const char*>(at + 64 * line), _MM_HINT_T0);
  }
}

enum class Quants { bytes, signed_bytes, nibbles, codes };

enum class Scales { one, minima, halves };  // of a block

constexpr bool is_packed(Quants quants) { return quants == Quants::nibbles || quants == Quants::codes; }

// The table of a format in each part of a register, 128 too high.
inline __m512i look_up_table(Weight format) {
  const __m128i table = _mm_load_si128(reinterpret_cast<const __m128i*>(table_of(format)));
  return _mm512_maskz_broadcast_i32x4(0xffff, _mm_xor_si128(table, _mm_set1_epi8(-128)));  // g++ 12 warns of the other
}

inline __m512 halves(const uint8_t* at) {
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(at)));
}

inline __m512i broadcast(const int8_t* four) {
  int32_t bits;
  __builtin_memcpy(&bits, four, 4);
  return _mm512_set1_epi32(bits);
}

// Of nibbles that become bytes, `expanded` gets these, in the order of w8, if it is not null.
template <int R, Quants Q, int Offset>
inline __attribute__((always_inline)) void dot_block(const uint8_t* quants, [[maybe_unused]] __m512i table,
                                                     const int8_t* x, const int32_t* starts, __m512i (&sum)[R][2],
                                                     [[maybe_unused]] uint8_t* expanded) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = _mm512_set1_epi32(Offset ? starts[r] : kMagicBits);
  const auto* at = reinterpret_cast<const __m512i*>(quants);
  if constexpr (is_packed(Q)) {
    auto number = [table](__m512i code) { return Q == Quants::codes ? _mm512_shuffle_epi8(table, code) : code; };
    const __m512i low = _mm512_set1_epi8(15);
    for (int step = 0; step < 4; ++step) {
      const __m512i left = _mm512_load_si512(at + step), right = _mm512_load_si512(at + 4 + step);
      const __m512i left_low = number(_mm512_and_si512(left, low)), right_low = number(_mm512_and_si512(right, low));
      const __m512i left_high = number(_mm512_and_si512(_mm512_srli_epi16(left, 4), low));
      const __m512i right_high = number(_mm512_and_si512(_mm512_srli_epi16(right, 4), low));
      if (expanded != nullptr) {
        auto* to = reinterpret_cast<__m512i*>(expanded) + step;
        _mm512_store_si512(to, left_low);
        _mm512_store_si512(to + 4, left_high);
        _mm512_store_si512(to + 8, right_low);
        _mm512_store_si512(to + 12, right_high);
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512i first = broadcast(x + r * kBlock + 4 * step), second = broadcast(x + r * kBlock + 16 + 4 * step);
        sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], left_low, first);
        sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], right_low, first);
        sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], left_high, second);
        sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], right_high, second);
      }
    }
  } else {
    const __m512i high_bits = _mm512_set1_epi8(-128);
    for (int step = 0; step < 8; ++step) {
      __m512i left = _mm512_load_si512(at + step), right = _mm512_load_si512(at + 8 + step);
      if constexpr (Q == Quants::signed_bytes) {
        left = _mm512_xor_si512(left, high_bits);
        right = _mm512_xor_si512(right, high_bits);
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512i four = broadcast(x + r * kBlock + 4 * step);
        sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], left, four);
        sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], right, four);
      }
    }
  }
}

// The first 16 inputs of a block, or the others. How much numbers that are 128 too high add is summed along.
template <int R, Quants Q, int Half>
inline __attribute__((always_inline)) void dot_half(const uint8_t* quants, __m512i table, const int8_t* x,
                                                    __m512i (&sum)[R][2]) {
  const __m512i low = _mm512_set1_epi8(15), high_bits = _mm512_set1_epi8(-128);
  const auto* at = reinterpret_cast<const __m512i*>(quants);
  __m512i more[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    sum[r][0] = sum[r][1] = _mm512_set1_epi32(kMagicBits);
    more[r] = _mm512_setzero_si512();
  }
  for (int step = 0; step < 4; ++step) {
    __m512i left, right;
    if constexpr (is_packed(Q)) {
      left = _mm512_srli_epi16(_mm512_load_si512(at + step), 4 * Half);
      right = _mm512_srli_epi16(_mm512_load_si512(at + 4 + step), 4 * Half);
      left = _mm512_shuffle_epi8(table, _mm512_and_si512(left, low));
      right = _mm512_shuffle_epi8(table, _mm512_and_si512(right, low));
    } else {
      left = _mm512_load_si512(at + 4 * Half + step);
      right = _mm512_load_si512(at + 8 + 4 * Half + step);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512i four = broadcast(x + r * kBlock + 16 * Half + 4 * step);
      sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], left, four);
      sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], right, four);
      more[r] = _mm512_dpbusd_epi32(more[r], high_bits, four);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    sum[r][0] = _mm512_sub_epi32(sum[r][0], more[r]);
    sum[r][1] = _mm512_sub_epi32(sum[r][1], more[r]);
  }
}

// Integer sums of a block, or of a half of it, times the scales of outputs and rows.
template <int R>
inline __attribute__((always_inline)) void add_scaled(const __m512i (&sum)[R][2], const uint8_t* scales,
                                                      const float* x_scales, __m512 (&total)[R][2]) {
  const __m512 minus_magic = _mm512_set1_ps(-kMagic);
  const __m512 left = halves(scales), right = halves(scales + 32);
  const __m512 left_base = _mm512_mul_ps(left, minus_magic), right_base = _mm512_mul_ps(right, minus_magic);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const __m512 scale = _mm512_set1_ps(x_scales[r]);
    const __m512 a = _mm512_fmadd_ps(_mm512_castsi512_ps(sum[r][0]), left, left_base);
    const __m512 b = _mm512_fmadd_ps(_mm512_castsi512_ps(sum[r][1]), right, right_base);
    total[r][0] = _mm512_fmadd_ps(a, scale, total[r][0]);
    total[r][1] = _mm512_fmadd_ps(b, scale, total[r][1]);
  }
}

template <int R, Quants Q, int Offset, Scales S>
void multiply_tile(const Panel& panel, const Tile& x, int tile_rows, float* out, size_t ldo, __mmask16 left_mask,
                   __mmask16 right_mask) {
  __m512 total[R][2];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) total[r][0] = total[r][1] = _mm512_setzero_ps();
  constexpr int kLines = block_bytes(!is_packed(Q) ? Weight::w8 : S == Scales::one ? Weight::w4 : Weight::w4m) / 64;
  const uint8_t *quants = panel.quants, *scales = panel.scales, *ahead = panel.ahead;
  uint8_t* expanded = panel.expanded;
  const int8_t* x_quants = x.quants;
  const int32_t* starts = Offset == 128 ? x.starts8 : x.starts4;
  for (int block = 0; block < panel.blocks; ++block) {
    if (ahead != nullptr) {
      ask_ahead<kLines>(ahead);
      ahead += kLines * 64;
    }
    __m512i sum[R][2];
    const size_t at = static_cast<size_t>(block) * tile_rows;
    if constexpr (S == Scales::halves) {
      dot_half<R, Q, 0>(quants, panel.table, x_quants, sum);
      add_scaled<R>(sum, scales, x.scales + at, total);
      dot_half<R, Q, 1>(quants, panel.table, x_quants, sum);
      add_scaled<R>(sum, scales + 64, x.scales + at, total);
    } else {
      dot_block<R, Q, Offset>(quants, panel.table, x_quants, starts + at, sum, expanded);
      if (is_packed(Q) && expanded != nullptr) expanded += kBlockQuants;
      add_scaled<R>(sum, scales, x.scales + at, total);
    }
    quants += panel.quant_step;
    scales += panel.scale_step;
    x_quants += static_cast<size_t>(tile_rows) * kBlock;
  }
  if constexpr (S == Scales::minima) {
    scales = panel.scales;
    for (int block = 0; block < panel.blocks; ++block, scales += panel.scale_step) {
      const __m512 left = halves(scales + 64), right = halves(scales + 96);
      const float* x_sums = x.sums + static_cast<size_t>(block) * tile_rows;
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512 x_sum = _mm512_set1_ps(x_sums[r]);
        total[r][0] = _mm512_fmadd_ps(left, x_sum, total[r][0]);
        total[r][1] = _mm512_fmadd_ps(right, x_sum, total[r][1]);
      }
    }
  }
  if (left_mask == 0xffff && right_mask == 0xffff) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      _mm512_storeu_ps(out + r * ldo, total[r][0]);
      _mm512_storeu_ps(out + r * ldo + kHalfPanel, total[r][1]);
    }
    return;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    _mm512_mask_storeu_ps(out + r * ldo, left_mask, total[r][0]);
    _mm512_mask_storeu_ps(out + r * ldo + kHalfPanel, right_mask, total[r][1]);
  }
}

// Codes of a panel with halves as unsigned bytes, in the order of w8; the next panel is asked for.
inline void expand_halves(const uint8_t* from, int blocks, __m512i table, uint8_t* to) {
  constexpr int kStep = block_bytes(kHalved);
  const __m512i low = _mm512_set1_epi8(15);
  for (int block = 0; block < blocks; ++block, from += kStep, to += kBlockQuants) {
    ask_ahead<kStep / 64>(from + static_cast<size_t>(blocks) * kStep);
    for (int line = 0; line < 8; ++line) {
      const __m512i both = _mm512_load_si512(from + 64 * line);
      uint8_t* at = to + (line < 4 ? 64 * line : 512 + 64 * (line - 4));
      _mm512_store_si512(at, _mm512_shuffle_epi8(table, _mm512_and_si512(both, low)));
      _mm512_store_si512(at + 256, _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(both, 4), low)));
    }
  }
}

inline __mmask16 live_outputs(int n, int first) {
  return n - first >= 16 ? 0xffff : n > first ? static_cast<__mmask16>((1u << (n - first)) - 1) : 0;
}

using TileProduct = void (*)(const Panel&, const Tile&, int, float*, size_t, __mmask16, __mmask16);

template <Quants Q, int Offset, Scales S = Scales::one>
TileProduct tile_product(int rows) {
  constexpr TileProduct table[kVectorRows] = {
      multiply_tile<1, Q, Offset, S>, multiply_tile<2, Q, Offset, S>, multiply_tile<3, Q, Offset, S>,
      multiply_tile<4, Q, Offset, S>, multiply_tile<5, Q, Offset, S>, multiply_tile<6, Q, Offset, S>,
      multiply_tile<7, Q, Offset, S>, multiply_tile<8, Q, Offset, S>};
  return table[rows - 1];
}

inline TileProduct vector_product(Weight format, bool expanded, int rows) {
  constexpr Quants stored = kOffsetQuants ? Quants::bytes : Quants::signed_bytes;
  switch (format) {
    case Weight::w8:
      return tile_product<stored, 128>(rows);
    case Weight::w4:
      return expanded ? tile_product<Quants::bytes, 8>(rows) : tile_product<Quants::nibbles, 8>(rows);
    case Weight::w4m:
      return expanded ? tile_product<Quants::bytes, 0, Scales::minima>(rows)
                      : tile_product<Quants::nibbles, 0, Scales::minima>(rows);
    default:
      break;
  }
  if (has_halves(format)) {
    return expanded ? tile_product<Quants::bytes, 128, Scales::halves>(rows)
                    : tile_product<Quants::codes, 128, Scales::halves>(rows);
  }
  return expanded ? tile_product<Quants::bytes, 128>(rows) : tile_product<Quants::codes, 128>(rows);
}

// With more than one tile of rows, nibbles are expanded once for all: while the first tile is multiplied, or before.
inline void multiply_vectors(const Matrix& w, const Rows& x, float* out, size_t ldo, int panel_begin, int panel_end,
                             void* scratch) {
  const int blocks = w.k / kBlock, tiles = tiles_of(x);
  const bool expanded = w.format != Weight::w8 && tiles > 1, before = expanded && has_halves(w.format);
  const TileProduct first_product = vector_product(w.format, before, x.tile);
  const TileProduct whole = expanded ? vector_product(w.format, true, x.tile) : first_product;
  const size_t step = block_bytes(w.format), ahead = tiles > 1 ? blocks * step : kAheadBytes;
  const __m512i table = look_up_table(w.format);
  auto* bytes = static_cast<uint8_t*>(scratch);
  for (int index = panel_begin; index < panel_end; ++index) {
    const uint8_t* data = w.data + index * panel_bytes(w.format, w.k);
    Panel panel = {data, step, data + quant_bytes(w.format), step, blocks, table, data + ahead, nullptr};
    auto take_bytes = [&] {
      panel.quants = bytes;
      panel.quant_step = kBlockQuants;
      panel.ahead = panel.expanded = nullptr;
    };
    if (before) {
      expand_halves(data, blocks, table, bytes);
      take_bytes();
    } else if (expanded) {
      panel.expanded = bytes;
    }
    const int first = index * kPanelOutputs;
    const __mmask16 left = live_outputs(w.n, first), right = live_outputs(w.n, first + kHalfPanel);
    for (int i = 0; i < tiles; ++i) {
      const Tile tile = tile_of(x, i);
      const bool from_bytes = i > 0 ? expanded : before;
      const TileProduct product = tile.live < x.tile ? vector_product(w.format, from_bytes, tile.live)
                                  : i > 0            ? whole
                                                     : first_product;
      product(panel, tile, x.tile, out + tile.first * ldo + first, ldo, left, right);
      if (expanded) take_bytes();
      panel.ahead = nullptr;
    }
  }
}

#if !defined(ISA_AMX)
inline size_t scratch_bytes(int, int max_k) { return static_cast<size_t>(max_k) * kPanelOutputs; }

inline int tile_size(int rows) { return equal_tile(rows, kVectorRows); }

inline void multiply_panels(const Matrix& w, const Rows& x, float* out, size_t ldo, int panel_begin, int panel_end,
                            void* scratch) {
  multiply_vectors(w, x, out, ldo, panel_begin, panel_end, scratch);
}
#endif

}  // namespace ISA
}  // namespace inferd
