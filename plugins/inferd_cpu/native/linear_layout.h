// How packed weights and quantised activations lie in memory, for the files that read and write them.
//
// A matrix is a sequence of panels of 32 outputs; a panel is its blocks of 32 inputs one after the other, each whole
// cache lines, so that one stream of memory holds all that a panel needs:
//     w8:  quants [2][8][16][4], 1024 bytes   then scales fp16 [32]
//     w4:  quants [2][4][16][4],  512 bytes   then scales fp16 [32]
//     w4m: the same                           then scales fp16 [32], minima fp16 [32]
//     codes of tables: as w4, or as w4m with scales of inputs from 16 on in place of minima
// in the order [16 outputs][4 inputs], as dot-product instructions take them. A byte of w4 holds the input of its place
// in the low half and the one 16 inputs on in the high half. For AMX quants are [32 outputs][32 inputs], and those of w4
// [8 groups of four outputs][32 inputs], in 16 bits of which the first output has the lowest four.
#pragma once

#include "linear.h"

namespace inferd {
namespace {  // each source gets its own: they are compiled for different instruction sets

constexpr int kHalfPanel = 16;
constexpr int kBlockQuants = kPanelOutputs * kBlock;

// The integer sums of a block start at the bits of 1.5 * 2^23: read as fp32 they then are that number plus the sum.
constexpr int32_t kMagicBits = 0x4b400000;
constexpr float kMagic = 12582912.0f;

constexpr int quant_bytes(Weight format) { return format == Weight::w8 ? kBlockQuants : kBlockQuants / 2; }

constexpr bool has_table(Weight format) { return format > Weight::w4m; }
constexpr bool has_halves(Weight format) { return format >= Weight::nvfp4; }  // a scale for each half of a block

constexpr int block_bytes(Weight format) {
  return quant_bytes(format) + kPanelOutputs * 2 * (format == Weight::w4m || has_halves(format) ? 2 : 1);
}

// Formats of codes with a table share their kernels, whose template arguments these are.
constexpr Weight kCoded = Weight::iq4, kHalved = Weight::nvfp4;

// The numbers that the codes of a format stand for, none beyond 127: unused places are 0.
inline const int8_t* table_of(Weight format) {
  alignas(16) static constexpr int8_t kTables[][16] = {
      {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7},
      {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113},
      {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12},
      {4, 12, 20, 28, 36, 44, 52, 62, -4, -12, -20, -28, -36, -44, -52, -62},
      {1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15},
      {8, 25, 43, -8, -25, -43, 1, 7, 9, -1, -7, -9, 0, 0, 0, 0},
  };
  switch (format) {
    case Weight::iq4: return kTables[1];
    case Weight::fp4:
    case Weight::nvfp4: return kTables[2];
    case Weight::iq3_xxs: return kTables[3];
    case Weight::iq3_s: return kTables[4];
    case Weight::iq2:
    case Weight::iq2_s: return kTables[5];
    default: return kTables[0];
  }
}

inline int panels_of(int n) { return (n + kPanelOutputs - 1) / kPanelOutputs; }

inline size_t panel_bytes(Weight format, int k) { return static_cast<size_t>(k / kBlock) * block_bytes(format); }

inline size_t round_up(size_t bytes, size_t step) { return (bytes + step - 1) / step * step; }

inline size_t packed_bytes(Weight format, int n, int k) {
  if (n <= 0 || k <= 0 || k % kBlock != 0) return 0;
  return static_cast<size_t>(panels_of(n)) * panel_bytes(format, k);
}

// Where the quant of an output of a panel and an input of a block is, in bytes from the block's beginning.
inline int quant_place(Weight format, int output, int input) {
#if defined(ISA_AMX)
  return format == Weight::w8 ? output * kBlock + input : output / 4 * 2 * kBlock + 2 * input + output % 4 / 2;
#else
  const int half = output / kHalfPanel * (quant_bytes(format) / 2), column = output % kHalfPanel * 4;
  const int inside = format == Weight::w8 ? input : input % 16;
  return half + inside / 4 * 64 + column + inside % 4;
#endif
}

// By how many bits a quant of w4 is shifted in its byte.
inline int quant_shift([[maybe_unused]] int output, [[maybe_unused]] int input) {
#if defined(ISA_AMX)
  return output % 2 * 4;
#else
  return input / 16 * 4;
#endif
}

#if defined(ISA_AMX)
constexpr int kInputBytes = 2;  // of an activation: bf16, in pairs of inputs, [tiles][k/32][16 pairs][tile][2]
#else
constexpr int kInputBytes = 1;
#endif

// One of the tiles that rows are divided into, the last of which may be short.
struct Tile {
  int index, first, live;
  const int8_t* quants;
  const float *scales, *sums;
  const int32_t *starts8, *starts4;
};

inline int tiles_of(const Rows& x) { return (x.rows + x.tile - 1) / x.tile; }

inline Tile tile_of(const Rows& x, int index) {
  const size_t blocks = static_cast<size_t>(index) * (x.k / kBlock) * x.tile;
  const int first = index * x.tile;
  const int live = x.rows - first < x.tile ? x.rows - first : x.tile;
  const int8_t* quants = x.quants + blocks * kBlock * kInputBytes;
  return {index, first, live, quants, x.scales + blocks, x.sums + blocks, x.starts8 + blocks, x.starts4 + blocks};
}

constexpr int kMaxTile = 16;

// Where outputs for `gate` lie: rows of so many floats; padded, since distances of 4096 bytes share places in caches.
inline size_t inner_stride(int panels) { return static_cast<size_t>(panels) * kPanelOutputs + 16; }

// Or, with AMX, tiles as they come, [tiles][outputs][kMaxTile rows], if they are of more rows than these.
constexpr int kFewInTile = 4;

// Division into tiles never needs more than kMaxTile - 1 rows of padding.
inline size_t rows_bytes(int max_rows, int k) {
  const size_t blocks = static_cast<size_t>(max_rows + kMaxTile) * (k / kBlock);
  return round_up(blocks * kBlock * kInputBytes, 64) + 4 * round_up(blocks * sizeof(float), 64);
}

// The size of the fewest tiles of at most `most` rows that are equal but for the last.
inline int equal_tile(int rows, int most) {
  const int tiles = (rows + most - 1) / most;
  return (rows + tiles - 1) / tiles;
}

// Divides `memory` for `rows` rows in tiles of `tile`.
inline void place_tiles(Rows* out, void* memory, int rows, int k, int tile) {
  const int tiles = (rows + tile - 1) / tile;
  const size_t blocks = static_cast<size_t>(tiles) * tile * (k / kBlock);
  const size_t step = round_up(blocks * sizeof(float), 64);
  auto* at = static_cast<uint8_t*>(memory);
  out->rows = rows;
  out->k = k;
  out->tile = tile;
  out->quants = reinterpret_cast<int8_t*>(at);
  at += round_up(blocks * kBlock * kInputBytes, 64);
  out->scales = reinterpret_cast<float*>(at);
  out->sums = reinterpret_cast<float*>(at + step);
  out->starts8 = reinterpret_cast<int32_t*>(at + 2 * step);
  out->starts4 = reinterpret_cast<int32_t*>(at + 3 * step);
  // Padding of the last tile is multiplied along: zero scales keep it from slow numbers, where there are scales.
  for (size_t i = rows % tile ? blocks - static_cast<size_t>(tile) * (k / kBlock) : blocks; i < blocks; ++i) {
    out->scales[i] = out->sums[i] = 0.0f;
  }
}

}  // namespace
}  // namespace inferd
