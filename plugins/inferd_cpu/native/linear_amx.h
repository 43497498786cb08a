// Products with AMX int8 tiles: sixteen rows by 16 outputs by one block of 32 inputs at a time, whose integer sums are
// scaled and added with AVX-512. Included by linear_kernels.cpp alone.
#pragma once

#include "linear_avx512.h"

namespace inferd {
namespace ISA {

constexpr char kName[] = "amx";
constexpr char kDescription[] = "INT8 activations, AMX";
constexpr int kTileRows = 9;  // from so many rows on, tiles are quicker than vectors

// The compiler must see that tiles read and write memory; those of its own header do not say so.
#define INFERD_TILE_LOAD(tile, at, stride) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(at), "r"(static_cast<long>(stride)))
#define INFERD_TILE_STORE(tile, at, stride) \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(at), "r"(static_cast<long>(stride)) : "memory")
#define INFERD_TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile ::)
#define INFERD_TILE_DOT(sum, rows, columns) \
  __asm__ volatile("tdpbssd %%tmm" #columns ", %%tmm" #rows ", %%tmm" #sum ::)

// Tiles 0 to 3: sums of `rows` by 16; 4 and 5: rows by 32 bytes of activations; 6 and 7: 8 by 16 groups of four weights.
inline void configure_tiles(int rows) {
  alignas(64) uint8_t config[64] = {1};
  for (int tile = 0; tile < 8; ++tile) {
    config[48 + tile] = static_cast<uint8_t>(tile < 6 ? rows : 8);
    config[16 + 2 * tile] = tile == 4 || tile == 5 ? 32 : 64;
  }
  __asm__ volatile("ldtilecfg %0" ::"m"(config) : "memory");
}

inline void release_tiles() { __asm__ volatile("tilerelease" ::); }

// What a block of a panel is scaled by, in fp32: once for all rows.
struct alignas(64) Scales {
  float scale[2][kHalfPanel], base[2][kHalfPanel];
};

inline void expand_scales(const uint8_t* from, size_t step, int blocks, Scales* to) {
  const __m512 minus_magic = _mm512_set1_ps(-kMagic);
  for (int block = 0; block < blocks; ++block, from += step, ++to) {
    for (int half = 0; half < 2; ++half) {
      const __m512 scale = halves(from + 32 * half);
      _mm512_store_ps(to->scale[half], scale);
      _mm512_store_ps(to->base[half], _mm512_mul_ps(scale, minus_magic));
    }
  }
}

// Adds a block's sums, scaled. They become floats by an integer addition, see linear_avx512.h: one of the two units for
// floats is taken while tiles are at work.
template <int H>
inline __attribute__((always_inline)) void add_block(const int32_t* sums, const float* scales, const float* x_scales,
                                                     __m512 (&total)[H]) {
  const __m512 scale = _mm512_load_ps(scales), base = _mm512_load_ps(scales + 2 * kHalfPanel);
  const __m512i magic = _mm512_set1_epi32(kMagicBits);
#pragma GCC unroll 16
  for (int r = 0; r < H; ++r) {
    const __m512i sum = _mm512_add_epi32(_mm512_load_si512(sums + 16 * r), magic);
    const __m512 scaled = _mm512_fmadd_ps(_mm512_castsi512_ps(sum), scale, base);
    total[r] = _mm512_fmadd_ps(scaled, _mm512_set1_ps(x_scales[r]), total[r]);
  }
}

// One tile of rows by half a panel: three stages on pairs of blocks, in two pairs of tiles by turns.
template <int H>
struct HalfPanel {
  const uint8_t* quants;
  size_t quant_step;
  const int8_t* rows;
  const float* scales;  // of this half, in Scales
  const float* x_scales;
  int32_t (*sums)[H * 16];  // of the four tiles
  const uint8_t* ahead;  // of the next panel, so many lines with each pair of blocks
  int ahead_lines;

  // Stores a tile that was finished a while ago before the product of the next: the order that does not wait.
  template <int Pair, bool Store>
  inline __attribute__((always_inline)) void dot_pair() {
    const int8_t* next_rows = rows + H * kBlock;
    const uint8_t* next_quants = quants + quant_step;
    for (int line = 0; line < ahead_lines; ++line, ahead += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T1);
    }
    if constexpr (Pair == 0) {
      INFERD_TILE_LOAD(4, rows, kBlock);
      INFERD_TILE_LOAD(6, quants, 64);
      if constexpr (Store) INFERD_TILE_STORE(2, sums[2], 64);
      INFERD_TILE_ZERO(0);
      INFERD_TILE_DOT(0, 4, 6);
      INFERD_TILE_LOAD(5, next_rows, kBlock);
      INFERD_TILE_LOAD(7, next_quants, 64);
      if constexpr (Store) INFERD_TILE_STORE(3, sums[3], 64);
      INFERD_TILE_ZERO(1);
      INFERD_TILE_DOT(1, 5, 7);
    } else {
      INFERD_TILE_LOAD(4, rows, kBlock);
      INFERD_TILE_LOAD(6, quants, 64);
      if constexpr (Store) INFERD_TILE_STORE(0, sums[0], 64);
      INFERD_TILE_ZERO(2);
      INFERD_TILE_DOT(2, 4, 6);
      INFERD_TILE_LOAD(5, next_rows, kBlock);
      INFERD_TILE_LOAD(7, next_quants, 64);
      if constexpr (Store) INFERD_TILE_STORE(1, sums[1], 64);
      INFERD_TILE_ZERO(3);
      INFERD_TILE_DOT(3, 5, 7);
    }
    rows = next_rows + H * kBlock;
    quants = next_quants + quant_step;
  }

  template <int Pair>
  inline __attribute__((always_inline)) void store_pair() {
    if constexpr (Pair == 0) {
      INFERD_TILE_STORE(0, sums[0], 64);
      INFERD_TILE_STORE(1, sums[1], 64);
    } else {
      INFERD_TILE_STORE(2, sums[2], 64);
      INFERD_TILE_STORE(3, sums[3], 64);
    }
  }

  template <int Slot>
  inline __attribute__((always_inline)) void add(__m512 (&total)[H]) {
    add_block<H>(sums[Slot], scales, x_scales, total);
    scales += sizeof(Scales) / sizeof(float);
    x_scales += H;
  }

  template <int Pair>
  inline __attribute__((always_inline)) void add_pair(__m512 (&total)[H]) {
    add<2 * Pair>(total);
    add<2 * Pair + 1>(total);
  }
};

template <int H, bool Minima>
void multiply_half(const Panel& panel, const float* scales, int ahead_lines, const Tile& x, float* out, size_t ldo,
                   __mmask16 mask) {
  alignas(64) int32_t sums[4][H * 16];
  HalfPanel<H> half = {panel.quants, panel.quant_step, x.quants, scales, x.scales, sums, panel.ahead,
                       ahead_lines};
  __m512 total[H];
#pragma GCC unroll 16
  for (int r = 0; r < H; ++r) total[r] = _mm512_setzero_ps();
  int pairs = panel.blocks / 2;
  if (pairs > 0) half.template dot_pair<0, false>();
  if (pairs == 1) {
    half.template store_pair<0>();
    half.template add_pair<0>(total);
  } else if (pairs > 1) {
    half.template dot_pair<1, true>();
    for (pairs -= 2; pairs >= 2; pairs -= 2) {
      half.template dot_pair<0, true>();
      half.template add_pair<0>(total);
      half.template dot_pair<1, true>();
      half.template add_pair<1>(total);
    }
    if (pairs == 1) {
      half.template dot_pair<0, true>();
      half.template add_pair<0>(total);
      half.template store_pair<0>();
      half.template add_pair<1>(total);
      half.template add_pair<0>(total);
    } else {
      half.template store_pair<1>();
      half.template add_pair<0>(total);
      half.template add_pair<1>(total);
    }
  }
  if (panel.blocks % 2 != 0) {
    INFERD_TILE_LOAD(4, half.rows, kBlock);
    INFERD_TILE_LOAD(6, half.quants, 64);
    INFERD_TILE_ZERO(0);
    INFERD_TILE_DOT(0, 4, 6);
    INFERD_TILE_STORE(0, sums[0], 64);
    half.template add<0>(total);
  }
  if constexpr (Minima) {
    const uint8_t* minima = panel.scales + 2 * kPanelOutputs;
    for (int block = 0; block < panel.blocks; ++block, minima += panel.scale_step) {
      const __m512 minimum = halves(minima);
#pragma GCC unroll 16
      for (int r = 0; r < H; ++r) {
        total[r] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(x.sums[block * H + r]), total[r]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < H; ++r) {
    if (r < x.live) _mm512_mask_storeu_ps(out + r * ldo, mask, total[r]);
  }
}

using HalfProduct = void (*)(const Panel&, const float*, int, const Tile&, float*, size_t, __mmask16);

// The heights that equal tiles of at least kTileRows rows can have.
template <bool Minima>
HalfProduct half_product(int rows) {
  constexpr HalfProduct table[] = {multiply_half<9, Minima>,  multiply_half<10, Minima>, multiply_half<11, Minima>,
                                   multiply_half<12, Minima>, multiply_half<13, Minima>, multiply_half<14, Minima>,
                                   multiply_half<15, Minima>, multiply_half<16, Minima>};
  return table[rows - kTileRows];
}

inline size_t scratch_bytes(int max_k) {
  return static_cast<size_t>(max_k / kBlock) * (kBlockQuants + sizeof(Scales));
}

inline int max_tile(int rows) { return rows < kTileRows ? kVectorRows : kMaxTile; }

inline void multiply_panels(const Matrix& w, const Rows& x, float* out, size_t ldo, int panel_begin, int panel_end,
                            void* scratch) {
  if (x.rows < kTileRows) return multiply_vectors(w, x, out, ldo, panel_begin, panel_end, scratch);
  const int blocks = w.k / kBlock, tiles = tiles_of(x);
  const HalfProduct product = w.format == Weight::w4m ? half_product<true>(x.tile) : half_product<false>(x.tile);
  const size_t step = block_bytes(w.format);
  // The scratch holds a panel of quants, perhaps, and its scales.
  auto* scales = reinterpret_cast<Scales*>(static_cast<uint8_t*>(scratch) + static_cast<size_t>(blocks) * kBlockQuants);
  // All pairs of blocks that are multiplied with one panel share the lines of the next.
  const int pairs = 2 * tiles * (blocks / 2);
  const int lines = pairs > 0 ? static_cast<int>((blocks * step / 64 + pairs - 1) / pairs) : 0;
  const size_t ahead_step = static_cast<size_t>(blocks / 2) * lines * 64;
  configure_tiles(x.tile);
  for (int index = panel_begin; index < panel_end; ++index) {
    const uint8_t* data = w.data + index * panel_bytes(w.format, w.k);
    Panel left = {data, step, data + quant_bytes(w.format), step, blocks, data + blocks * step};
    if (w.format != Weight::w8) {
      expand_nibbles<false>(w.format, data, blocks, w.format == Weight::w4 ? 8 : 0, static_cast<uint8_t*>(scratch));
      left.quants = static_cast<uint8_t*>(scratch);
      left.quant_step = kBlockQuants;
      __asm__ volatile("" ::: "memory");
    }
    expand_scales(left.scales, step, blocks, scales);
    Panel right = left;
    right.quants += kBlockQuants / 2;
    right.scales += 2 * kHalfPanel;
    const int first = index * kPanelOutputs;
    const __mmask16 left_mask = live_outputs(w.n, first), right_mask = live_outputs(w.n, first + kHalfPanel);
    for (int i = 0; i < tiles; ++i) {
      const Tile tile = tile_of(x, i);
      float* at = out + tile.first * ldo + first;
      product(left, scales->scale[0], lines, tile, at, ldo, left_mask);
      right.ahead = left.ahead + ahead_step;
      if (right_mask) product(right, scales->scale[1], lines, tile, at + kHalfPanel, ldo, right_mask);
      left.ahead = right.ahead + ahead_step;
    }
  }
  release_tiles();
}

}  // namespace ISA
}  // namespace inferd
