// Attention of sixteen rows at once over keys and values in 8 bits, with AMX tiles. Included by attention.cpp alone.
#pragma once

#include "attention_int8.h"

namespace inferd {
namespace ISA {
namespace {

// The compiler must see that tiles read and write memory; those of its own header do not say so.
#define TILE_LOAD(tile, at, stride) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(at), "r"(static_cast<long>(stride)) : "memory")
#define TILE_STORE(tile, at, stride) \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(at), "r"(static_cast<long>(stride)) : "memory")
#define TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile ::)
#define TILE_DOT(sum, rows, columns) __asm__ volatile("tdpbssd %%tmm" #columns ", %%tmm" #rows ", %%tmm" #sum ::)
#define TILE_MIX(sum, rows, columns) __asm__ volatile("tdpbusd %%tmm" #columns ", %%tmm" #rows ", %%tmm" #sum ::)

constexpr int kTileBytes = 64;  // of a row of a tile: so many numbers of a query and its keys are multiplied at once

// What a thread's tiles are. 0 to 3 are sums of kTileRows rows. To score, 4 are queries and 5 keys, four numbers of
// each key in a row, `width` numbers at once; to mix, 6 are weights and 7 values, four tokens in a row.
inline void configure(int width) {
  alignas(64) uint8_t config[64] = {1};
  auto set = [&](int tile, int rows, int row_bytes) {
    config[16 + 2 * tile] = static_cast<uint8_t>(row_bytes);
    config[48 + tile] = static_cast<uint8_t>(rows);
  };
  for (int tile = 0; tile < 4; tile++) set(tile, kTileRows, kTileBytes);
  set(4, kTileRows, width);
  set(5, width / 4, kTileBytes);
  set(6, kTileRows, kTogether * kTile);
  set(7, kTogether * kTile / 4, kTileBytes);
  __asm__ volatile("ldtilecfg %0" ::"m"(config) : "memory");
}

// Scores of kTileRows rows with all keys of `count` tiles; `step` numbers of them at once.
inline void score_rows(const Tiles& tiles, int count, int step, const int8_t* queries, float* scores, size_t stride) {
  const int width = tiles.shape.key_width;
  for (int tile = 0; tile < count; tile += kTogether) {
    const int some = count - tile;  // that are left
    const uint8_t* keys[kTogether];
    for (int i = 0; i < kTogether; i++) keys[i] = tiles.keys(i < some ? tile + i : tile);
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    for (int i = 0; i < width; i += step) {
      TILE_LOAD(4, queries + i, width);
      TILE_LOAD(5, keys[0] + i * kTile, kTileBytes);
      TILE_DOT(0, 4, 5);
      TILE_LOAD(5, keys[1] + i * kTile, kTileBytes);
      TILE_DOT(1, 4, 5);
      TILE_LOAD(5, keys[2] + i * kTile, kTileBytes);
      TILE_DOT(2, 4, 5);
      TILE_LOAD(5, keys[3] + i * kTile, kTileBytes);
      TILE_DOT(3, 4, 5);
    }
    float* out = scores + tile * kTile;
    TILE_STORE(0, out, sizeof(float) * stride);
    if (some > 1) TILE_STORE(1, out + kTile, sizeof(float) * stride);
    if (some > 2) TILE_STORE(2, out + 2 * kTile, sizeof(float) * stride);
    if (some > 3) TILE_STORE(3, out + 3 * kTile, sizeof(float) * stride);
  }
}

// Weights of tiles behind the last one, up to the next that is mixed with it, become 0.
inline void clear_weights(int count, const Int8Desk& desk, int row) {
  const int end = (count + kTogether - 1) / kTogether * kTogether;
  if (end > count) memset(desk.weights + row * desk.stride + count * kTile, 0, (end - count) * kTile);
}

// Values of tiles, one behind the other: of several together, weights are multiplied in fewer steps.
inline void take_values(const Tiles& tiles, int count, uint8_t* out) {
  const size_t bytes = static_cast<size_t>(kTile) * tiles.shape.value_width;
  for (int tile = 0; tile < count; tile++) memcpy(out + tile * bytes, tiles.values(tile), bytes);
}

// Weighted values of rows as whole numbers, 64 of each value at a time. sums: rows of `stride` bytes' distance.
inline void mix_rows(const uint8_t* values, int width, int count, const uint8_t* weights, size_t weights_stride,
                     float* sums, size_t stride) {
  const size_t tile_bytes = static_cast<size_t>(kTile) * width;
  for (int place = 0; place < width; place += 4 * kTile) {
    const int some = (width - place) / kTile;  // tiles of sums that are left
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    for (int tile = 0; tile < count; tile += kTogether) {
      const uint8_t* from = values + tile * tile_bytes + 4 * place;
      TILE_LOAD(6, weights + tile * kTile, weights_stride);
      TILE_LOAD(7, from, 4 * width);
      TILE_MIX(0, 6, 7);
      if (some < 2) continue;
      TILE_LOAD(7, from + 64, 4 * width);
      TILE_MIX(1, 6, 7);
      if (some < 3) continue;
      TILE_LOAD(7, from + 128, 4 * width);
      TILE_MIX(2, 6, 7);
      if (some < 4) continue;
      TILE_LOAD(7, from + 192, 4 * width);
      TILE_MIX(3, 6, 7);
    }
    TILE_STORE(0, sums + place, stride);
    if (some > 1) TILE_STORE(1, sums + place + kTile, stride);
    if (some > 2) TILE_STORE(2, sums + place + 2 * kTile, stride);
    if (some > 3) TILE_STORE(3, sums + place + 3 * kTile, stride);
  }
}

// Makes numbers of whole numbers.
inline void scale_sums(float* sums, int width, float factor) {
  for (int i = 0; i < width; i += kLanes)
    store(sums + i, __builtin_convertvector(as_ints(load(sums + i)), Floats) * splat(factor));
}

void attend_rows(const AttentionShape& shape, const History& history, const float* taken, int rows, int segment,
                 int tokens, int window, float* scratch, float* partials) {
  const int before = segment * shape.segment_tokens();
  auto seen = [&](int row) {
    const int some = tokens + row - before;
    return some < 0 ? 0 : some < shape.segment_tokens() ? some : shape.segment_tokens();
  };
  const Tiles all{shape, history, segment, seen(rows - 1)};
  const int count = all.count(), width = shape.key_width;
  const int step = width % kTileBytes == 0 ? kTileBytes : width % 32 == 0 ? 32 : 16;
  const Int8Desk desk(shape, scratch);
  const Queries queries(shape, taken, kTileRows);
  configure(step);
  desk.take_scales(all, count);
  take_values(all, count, desk.values);
  for (int head = 0; head < shape.shared; head++) {  // one by one: all that one needs stays in the first cache
    const int8_t* numbers = queries.numbers + static_cast<size_t>(head) * kTileRows * width;
    score_rows(all, count, step, numbers, desk.scores, desk.stride);
    constexpr int kWeighed = 4;
    for (int row = 0; row < rows; row += kWeighed) {
      float *peaks[kWeighed], *totals[kWeighed];
      int some[kWeighed], firsts[kWeighed];
      for (int i = 0; i < kWeighed; i++) {  // rows that are not there have partials, too
        some[i] = seen(row + i);
        firsts[i] = window ? std::max(0, tokens + row + i - window - before) : 0;
        peaks[i] = partials + (row + i) * shape.partial_floats() + head;
        totals[i] = peaks[i] + shape.shared;
      }
      weigh_int8<kWeighed>(all, count, desk, row, some, firsts, queries.scales + head * kTileRows + row, peaks, totals);
      for (int i = 0; i < kWeighed; i++) clear_weights(count, desk, row + i);
    }
    float* sums = partials + 2 * shape.shared + head * shape.value_width;
    mix_rows(desk.values, shape.value_width, count, desk.weights, desk.stride, sums,
             sizeof(float) * shape.partial_floats());
    for (int row = 0; row < rows; row++)
      scale_sums(sums + row * shape.partial_floats(), shape.value_width, desk.factors[row]);
  }
  __asm__ volatile("tilerelease" ::);
}

}  // namespace
}  // namespace ISA
}  // namespace inferd
