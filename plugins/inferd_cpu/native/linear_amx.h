// Products with AMX bf16 tiles: 16 outputs by up to 16 rows by one block of 32 inputs at a time. Included by
// linear_kernels.cpp alone.
//
// Weights become bf16 as they are multiplied: scale * quant + minimum in fp32, rounded once. Activations are rounded to
// bf16, and tiles add products in fp32, block after block. So a row's result does not depend on the rows beside it; it
// is not that of the int8 paths.
#pragma once

#include <algorithm>

#include "expand_amx.h"
#include "rows_amx.h"

namespace inferd {
namespace ISA {

constexpr char kName[] = "amx";
constexpr char kDescription[] = "BF16 activations, AMX";
constexpr bool kOffsetQuants = true;
constexpr int kAheadBytes = 4096;  // how far ahead of a product its weights are asked for
constexpr int kTileNumbers = kHalfPanel * kBlock;  // of 16 outputs and a block of inputs

// The compiler must see that tiles read and write memory; those of its own header do not say so.
#define INFERD_TILE_LOAD(tile, at, stride) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(at), "r"(static_cast<long>(stride)) : "memory")
#define INFERD_TILE_STREAM(tile, at, stride) \
  __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm" #tile ::"r"(at), "r"(static_cast<long>(stride)) : "memory")
#define INFERD_TILE_STORE(tile, at, stride) \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(at), "r"(static_cast<long>(stride)) : "memory")
#define INFERD_TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile ::)
#define INFERD_TILE_DOT(sum, weights, rows) \
  __asm__ volatile("tdpbf16ps %%tmm" #rows ", %%tmm" #weights ", %%tmm" #sum ::)

// Tiles 0 to 3: sums of 16 outputs by `rows`; 4 and 5: 16 outputs by 16 pairs of inputs; 6 and 7: 16 pairs by `rows`.
inline void configure_tiles(int rows) {
  alignas(64) uint8_t config[64] = {1};
  for (int tile = 0; tile < 8; ++tile) {
    config[16 + 2 * tile] = static_cast<uint8_t>(tile == 4 || tile == 5 ? 64 : 4 * rows);
    config[48 + tile] = 16;
  }
  __asm__ volatile("ldtilecfg %0" ::"m"(config) : "memory");
}

inline void release_tiles() { __asm__ volatile("tilerelease" ::); }

// Sums of 16 outputs by 16 rows, to the rows that there are.
inline void write_sums(const float* sums, int rows, float* out, size_t ldo, __mmask16 mask) {
  if (rows <= kFewInTile) {  // one by one
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i places = _mm512_slli_epi32(lanes, 4);
    for (int r = 0; r < rows; ++r) _mm512_mask_storeu_ps(out + r * ldo, mask, _mm512_i32gather_ps(places, sums + r, 4));
    return;
  }
  __m512 v[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = _mm512_load_ps(sums + 16 * i);
  transpose(v);
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) {
    if (r < rows) _mm512_mask_storeu_ps(out + r * ldo, mask, v[r]);
  }
}

inline __mmask16 live_outputs(int n, int first) {
  return n - first >= 16 ? 0xffff : n > first ? static_cast<__mmask16>((1u << (n - first)) - 1) : 0;
}

inline const uint16_t* numbers_of(const Tile& tile) { return reinterpret_cast<const uint16_t*>(tile.quants); }

// Where results of one panel go.
struct Target {
  float* out;
  size_t ldo;
  __mmask16 left, right;
  float* sums;  // of four tiles
  bool inner;   // tiles as they come, [tiles][ldo outputs][kMaxTile rows]

  template <int T>
  void write(const Tile (&tiles)[T]) const {
    if (inner) {
      float* at[] = {out + tiles[0].index * ldo * kMaxTile, out + tiles[T - 1].index * ldo * kMaxTile};
      INFERD_TILE_STORE(0, at[0], 64);
      INFERD_TILE_STORE(1, at[0] + 256, 64);
      if constexpr (T == 2) INFERD_TILE_STORE(2, at[1], 64);
      if constexpr (T == 2) INFERD_TILE_STORE(3, at[1] + 256, 64);
      return;
    }
    INFERD_TILE_STORE(0, sums, 64);
    INFERD_TILE_STORE(1, sums + 256, 64);
    if constexpr (T == 2) INFERD_TILE_STORE(2, sums + 512, 64);
    if constexpr (T == 2) INFERD_TILE_STORE(3, sums + 768, 64);
    for (int i = 0; i < T; ++i) {
      float* at = out + tiles[i].first * ldo;
      write_sums(sums + 512 * i, tiles[i].live, at, ldo, left);
      if (right) write_sums(sums + 512 * i + 256, tiles[i].live, at + kHalfPanel, ldo, right);
    }
  }
};

template <int T>
inline __attribute__((always_inline)) void zero_sums() {
  INFERD_TILE_ZERO(0);
  INFERD_TILE_ZERO(1);
  if constexpr (T == 2) INFERD_TILE_ZERO(2);
  if constexpr (T == 2) INFERD_TILE_ZERO(3);
}

// A quarter of the product of one block of a panel with one or two tiles of rows. Of many rows a tile is read past the
// first cache, which the panel then keeps.
template <int T, bool Many>
inline __attribute__((always_inline)) void add_quarter(int quarter, const uint16_t* weights,
                                                       const uint16_t* const (&rows)[2], size_t stride) {
  if (quarter == 0) {
    if constexpr (Many) {
      INFERD_TILE_STREAM(6, rows[0], stride);
    } else {
      INFERD_TILE_LOAD(6, rows[0], stride);
    }
    INFERD_TILE_LOAD(4, weights, 64);
    INFERD_TILE_DOT(0, 4, 6);
  } else if (quarter == 1) {
    INFERD_TILE_LOAD(5, weights + kTileNumbers, 64);
    INFERD_TILE_DOT(1, 5, 6);
  } else if (T == 2 && quarter == 2) {
    if constexpr (Many) {
      INFERD_TILE_STREAM(7, rows[1], stride);
    } else {
      INFERD_TILE_LOAD(7, rows[1], stride);
    }
    INFERD_TILE_DOT(2, 4, 7);
  } else if (T == 2) {
    INFERD_TILE_DOT(3, 5, 7);
  }
}

template <int T, bool Many>
inline __attribute__((always_inline)) void add_block(const uint16_t* weights, const uint16_t* const (&rows)[2],
                                                     size_t stride) {
#pragma GCC unroll 4
  for (int quarter = 0; quarter < 4; ++quarter) add_quarter<T, Many>(quarter, weights, rows, stride);
}

// A panel with one or two tiles of rows. Blocks are multiplied while later ones are expanded: a tile that is loaded
// right after it was stored waits. `scratch` holds `kSlots` expanded blocks in turn, or all of them for 0.
template <Weight W, int T, unsigned kSlots>
void multiply_few(const uint8_t* panel, const int8_t* numbers, int blocks, const Tile (&tiles)[T], int tile_rows,
                  const Target& target, uint16_t* scratch) {
  constexpr int kStep = block_bytes(W), kBehind = 2;
  const uint16_t* rows[2] = {numbers_of(tiles[0]), numbers_of(tiles[T - 1])};
  auto slot = [scratch](int block) {
    const size_t place = kSlots ? block % kSlots : block;
    return scratch + place * 2 * kTileNumbers;
  };
  auto go_on = [&] {
    rows[0] += kBlock * tile_rows;
    rows[1] += kBlock * tile_rows;
  };
  zero_sums<T>();
  for (int block = 0; block < blocks; ++block, panel += kStep) {
    for (int line = 0; line < kStep; line += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(panel + kAheadBytes + line), _MM_HINT_T0);
    }
    if (block < kBehind) {
      expand_block<W>(panel, numbers, slot(block), [](int) {});
      continue;
    }
    const uint16_t* weights = slot(block - kBehind);
    expand_block<W>(panel, numbers, slot(block), [&](int output) __attribute__((always_inline)) {
      if (output % 8 == 4) add_quarter<T, kSlots == 0>(output / 8, weights, rows, 4 * tile_rows);
    });
    go_on();
  }
  for (int block = std::max(0, blocks - kBehind); block < blocks; ++block, go_on())
    add_block<T, kSlots == 0>(slot(block), rows, 4 * tile_rows);
  target.write(tiles);
}

// Memory that is asked for, some lines at a time.
struct Fetch {
  const char *at, *end;
  int lines;
  void go_on() {
    for (int line = 0; line < lines && at < end; ++line, at += 64) _mm_prefetch(at, _MM_HINT_T1);
  }
};

// Blocks [begin, end) of an expanded panel with one or two tiles of rows; sums before the last of them wait in `sums`.
template <int T>
void multiply_expanded(const uint16_t* panel, int begin, int end, bool last, const Tile (&tiles)[T], int tile_rows,
                       const Target& target, float* sums, Fetch& next) {
  const size_t step = static_cast<size_t>(kBlock) * tile_rows;
  const uint16_t* rows[2] = {numbers_of(tiles[0]) + begin * step, numbers_of(tiles[T - 1]) + begin * step};
  if (begin == 0) {
    zero_sums<T>();
  } else {
    INFERD_TILE_LOAD(0, sums, 64);
    INFERD_TILE_LOAD(1, sums + 256, 64);
    if constexpr (T == 2) INFERD_TILE_LOAD(2, sums + 512, 64);
    if constexpr (T == 2) INFERD_TILE_LOAD(3, sums + 768, 64);
  }
  for (int block = begin; block < end; ++block) {
    next.go_on();
    add_block<T, true>(panel + static_cast<size_t>(block) * 2 * kTileNumbers, rows, 4 * tile_rows);
    rows[0] += step;
    rows[1] += step;
  }
  if (last) return target.write(tiles);
  INFERD_TILE_STORE(0, sums, 64);
  INFERD_TILE_STORE(1, sums + 256, 64);
  if constexpr (T == 2) INFERD_TILE_STORE(2, sums + 512, 64);
  if constexpr (T == 2) INFERD_TILE_STORE(3, sums + 768, 64);
}

constexpr int kMostFetched = 3;  // lines at once: more of them delay the rows
constexpr int kKeptBlocks = 20;  // of an expanded panel that the first cache keeps beside rows
constexpr int kPairSums = 4 * 256;

// Sums of all pairs of tiles, behind those that are being written.
inline size_t sums_floats(int tiles) { return static_cast<size_t>((tiles + 1) / 2 + 1) * kPairSums; }

// Of sums and of an expanded panel, which has four blocks at least.
inline size_t scratch_bytes(int max_rows, int max_k) {
  const size_t blocks = std::max(max_k / kBlock, 4);
  return sums_floats((max_rows + kMaxTile - 1) / kMaxTile) * sizeof(float) + blocks * 2 * kTileNumbers * sizeof(uint16_t);
}

// Tiles of fewer than 16 rows lie across cache lines, which takes up to half as long again; but where memory decides, as
// with up to two of them, small ones are faster.
inline int tile_size(int rows) { return rows > 2 * kMaxTile ? kMaxTile : equal_tile(rows, kMaxTile); }

constexpr int kKeptBytes = 768 << 10;  // of rows: so many stay in the second cache from panel to panel

// Tiles of rows [tile_begin, tile_end), three at least.
template <Weight W>
void multiply_many(const Matrix& w, const Rows& x, int tile_begin, int tile_end, const uint8_t* panel,
                   const Target& target, uint16_t* expanded) {
  const int blocks = w.k / kBlock, parts = (blocks + kKeptBlocks - 1) / kKeptBlocks;
  const Tile two[] = {tile_of(x, tile_begin), tile_of(x, tile_begin + 1)};
  multiply_few<W, 2, 0>(panel, table_of(w.format), blocks, two, x.tile, target, expanded);
  // Meanwhile the next panel comes into the second cache, some of it with each block.
  const int steps = (tile_end - tile_begin - 1) / 2 * blocks, lines = static_cast<int>(panel_bytes(W, w.k) / 64);
  const auto* end = reinterpret_cast<const char*>(panel) + panel_bytes(W, w.k);
  Fetch next{end, end + panel_bytes(W, w.k), std::min(kMostFetched, (lines + steps - 1) / steps)};
  for (int part = 0; part < parts; ++part) {
    const int begin = blocks * part / parts, end = blocks * (part + 1) / parts;
    const bool last = part + 1 == parts;
    float* kept = target.sums + kPairSums;
    for (int i = tile_begin + 2; i < tile_end; i += 2, kept += kPairSums) {
      if (i + 1 < tile_end) {
        const Tile pair[] = {tile_of(x, i), tile_of(x, i + 1)};
        multiply_expanded<2>(expanded, begin, end, last, pair, x.tile, target, kept, next);
      } else {
        multiply_expanded<1>(expanded, begin, end, last, {tile_of(x, i)}, x.tile, target, kept, next);
      }
    }
  }
}

template <Weight W>
void multiply_as(const Matrix& w, const Rows& x, float* out, size_t ldo, bool inner, int panel_begin, int panel_end,
                 void* scratch) {
  const int blocks = w.k / kBlock, tiles = tiles_of(x);
  const int most = std::max(4, static_cast<int>(kKeptBytes / (sizeof(uint16_t) * x.tile * w.k)));
  const int groups = (tiles + most - 1) / most;
  auto* sums = static_cast<float*>(scratch);
  auto* expanded = reinterpret_cast<uint16_t*>(sums + sums_floats(tiles));
  configure_tiles(x.tile);
  for (int group = 0; group < groups; ++group) {
    const int tile_begin = tiles * group / groups, tile_end = tiles * (group + 1) / groups;
    for (int index = panel_begin; index < panel_end; ++index) {
      const uint8_t* panel = w.data + index * panel_bytes(W, w.k);
      const int first = index * kPanelOutputs;
      float* to = inner ? out + (index - panel_begin) * kPanelOutputs * kMaxTile : out + first;
      const Target target{to, ldo, live_outputs(w.n, first), live_outputs(w.n, first + kHalfPanel), sums, inner};
      const Tile one = tile_of(x, tile_begin);
      if (tile_end - tile_begin == 1) {
        multiply_few<W, 1, 4>(panel, table_of(w.format), blocks, {one}, x.tile, target, expanded);
      } else if (tile_end - tile_begin == 2) {
        const Tile two[] = {one, tile_of(x, tile_begin + 1)};
        multiply_few<W, 2, 4>(panel, table_of(w.format), blocks, two, x.tile, target, expanded);
      } else {
        multiply_many<W>(w, x, tile_begin, tile_end, panel, target, expanded);
      }
    }
  }
  release_tiles();
}

inline void multiply_to(const Matrix& w, const Rows& x, float* out, size_t ldo, bool inner, int panel_begin,
                        int panel_end, void* scratch) {
  switch (w.format) {
    case Weight::w8:
      return multiply_as<Weight::w8>(w, x, out, ldo, inner, panel_begin, panel_end, scratch);
    case Weight::w4:
      return multiply_as<Weight::w4>(w, x, out, ldo, inner, panel_begin, panel_end, scratch);
    case Weight::w4m:
      return multiply_as<Weight::w4m>(w, x, out, ldo, inner, panel_begin, panel_end, scratch);
    default:
      break;
  }
  if (has_halves(w.format)) return multiply_as<kHalved>(w, x, out, ldo, inner, panel_begin, panel_end, scratch);
  multiply_as<kCoded>(w, x, out, ldo, inner, panel_begin, panel_end, scratch);
}

inline void multiply_panels(const Matrix& w, const Rows& x, float* out, size_t ldo, int panel_begin, int panel_end,
                            void* scratch) {
  multiply_to(w, x, out, ldo, false, panel_begin, panel_end, scratch);
}

// Tiles of sums have a row for each output, so writing rows of outputs takes as long as a quarter of the product.
inline void multiply_tiles(const Matrix& w, const Rows& x, float* out, int panel_begin, int panel_end, void* scratch) {
  const size_t outputs = static_cast<size_t>(panel_end - panel_begin) * kPanelOutputs;
  multiply_to(w, x, out, outputs, true, panel_begin, panel_end, scratch);
  if (w.factors == nullptr) return;
  const int first = panel_begin * kPanelOutputs, live = std::min(static_cast<int>(outputs), w.n - first);
  for (int tile = 0; tile < tiles_of(x); ++tile, out += outputs * kMaxTile) {
    for (int i = 0; i < live; ++i) {
      float* sums = out + static_cast<size_t>(i) * kMaxTile;
      _mm512_storeu_ps(sums, _mm512_mul_ps(_mm512_loadu_ps(sums), _mm512_set1_ps(w.factors[first + i])));
    }
  }
}

inline size_t tiles_floats(int rows, int panels) {
  const int tiles = (rows + kMaxTile - 1) / kMaxTile;
  return static_cast<size_t>(tiles) * kMaxTile * kPanelOutputs * panels;
}

}  // namespace ISA
}  // namespace inferd
