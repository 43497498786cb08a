// Attention with AMX bf16 tiles: of sixteen rows at once, or of the heads of one row that share keys. Included by
// attention.cpp alone.
#pragma once

#include "attention_tiles.h"

namespace inferd {
namespace ISA {
namespace {

// The compiler must see that tiles read and write memory; those of its own header do not say so.
#define TILE_LOAD(tile, at, stride) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(at), "r"(static_cast<long>(stride)) : "memory")
#define TILE_STORE(tile, at, stride) \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(at), "r"(static_cast<long>(stride)) : "memory")
#define TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile ::)
#define TILE_DOT(sum, rows, columns) __asm__ volatile("tdpbf16ps %%tmm" #columns ", %%tmm" #rows ", %%tmm" #sum ::)

// Tiles 0 to 3: sums, `rows` by 16; 4: rows by 16 pairs; 5: 16 pairs by 16; 6: rows by 8 pairs; 7: 8 pairs by 16.
inline void configure_attention_tiles(int rows) {
  alignas(64) uint8_t config[64] = {1};
  for (int tile = 0; tile < 8; tile++) {
    config[16 + 2 * tile] = tile == 6 ? 32 : 64;
    config[48 + tile] = static_cast<uint8_t>(tile == 7 ? 8 : tile == 5 ? 16 : rows);
  }
  __asm__ volatile("ldtilecfg %0" ::"m"(config) : "memory");
}

// Two vectors of floats that bfloat16 has, as 32 of those in their order.
inline void store_bf16(uint16_t* out, Floats low, Floats high) {
  const __m256i first = _mm512_cvtepi32_epi16((__m512i)(as_ints(low) >> 16));
  const __m256i second = _mm512_cvtepi32_epi16((__m512i)(as_ints(high) >> 16));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), first);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16), second);
}

inline void fetch(const uint8_t* at, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(at + i), _MM_HINT_T0);
}

// Scores of the rows of a tile with all keys of `count` tiles. queries: [rows][width]. Of a cold history the keys after
// next and the values are fetched meanwhile.
inline void score_rows(const Tiles& tiles, int count, const uint16_t* queries, bool cold, float* scores) {
  const int width = tiles.shape.key_width;
  const size_t stride = sizeof(float) * tiles.shape.scores_floats();
  constexpr int kAhead = 2;
  for (int tile = 0; tile < count; tile++) {
    const uint8_t* keys = tiles.keys(tile);
    if (cold) {
      fetch(tiles.values(tile), 2 * kTile * tiles.shape.value_width);
      if (tile + kAhead < count) fetch(tiles.keys(tile + kAhead), 2 * kTile * width);
    }
    TILE_ZERO(0);
    for (int i = 0; i < width; i += 32) {
      TILE_LOAD(4, queries + i, 2 * width);
      TILE_LOAD(5, keys + 2 * kTile * i, 64);
      TILE_DOT(0, 4, 5);
    }
    TILE_STORE(0, scores + tile * kTile, stride);
  }
}

// Weighted values of the rows of a tile, 64 numbers of each value at a time. weights: [rows][scores_floats]; sums:
// rows of `stride` bytes' distance.
inline void mix_rows(const Tiles& tiles, int count, const uint16_t* weights, float* sums, size_t stride) {
  const int width = tiles.shape.value_width;
  const size_t weights_stride = 2 * tiles.shape.scores_floats();
  for (int place = 0; place < width; place += 4 * kTile) {
    const int some = (width - place) / kTile;  // tiles of sums that are left
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    for (int tile = 0; tile < count; tile++) {
      const uint8_t* values = tiles.values(tile) + 4 * place;
      TILE_LOAD(6, weights + tile * kTile, weights_stride);
      TILE_LOAD(7, values, 4 * width);
      TILE_DOT(0, 6, 7);
      if (some < 2) continue;
      TILE_LOAD(7, values + 64, 4 * width);
      TILE_DOT(1, 6, 7);
      if (some < 3) continue;
      TILE_LOAD(7, values + 128, 4 * width);
      TILE_DOT(2, 6, 7);
      if (some < 4) continue;
      TILE_LOAD(7, values + 192, 4 * width);
      TILE_DOT(3, 6, 7);
    }
    TILE_STORE(0, sums + place, stride);
    if (some > 1) TILE_STORE(1, sums + place + kTile, stride);
    if (some > 2) TILE_STORE(2, sums + place + 2 * kTile, stride);
    if (some > 3) TILE_STORE(3, sums + place + 3 * kTile, stride);
  }
}

// The queries of one head, rounded; those of rows that are not there are 0.
inline void round_queries(const AttentionShape& shape, const float* queries, int rows, int head, uint16_t* out) {
  const int width = shape.key_width;
  memset(out, 0, sizeof(uint16_t) * kTileRows * width);
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < width; i += 32) {
      const float* from = queries + (static_cast<size_t>(row) * shape.shared + head) * width + i;
      store_bf16(out + row * width + i, round_to_bf16(load(from)), round_to_bf16(load(from + 16)));
    }
}

// The weights of one row from its scores, the largest score and the sum; 0 in all tiles from its own last to `count`.
inline void weigh_row(const Tiles& tiles, int count, float* scores, uint16_t* weights, float* peak, float* total) {
  const int own = tiles.tokens > 0 ? tiles.count() : 0;
  const bool padded = tiles.shape.block_tokens % kTile != 0;  // else only the last tile can be seen in part
  for (int tile = padded || !own ? 0 : own - 1; tile < own; tile++) {
    const Ints hidden = count_lanes() >= tiles.seen(tile);
    float* at = scores + tile * kTile;
    store(at, choose(hidden, splat(-1e30f), load(at)));
  }
  Floats most = splat(-1e30f), sum = {};
  for (int tile = 0; tile < own; tile++) most = larger(load(scores + tile * kTile), most);
  const float top = largest(most);
  for (int tile = 0; tile < own; tile++) {
    const Floats weight = exponential_for_bf16(load(scores + tile * kTile) - splat(top));
    sum += weight;
    _mm256_store_si256(reinterpret_cast<__m256i*>(weights + tile * kTile),
                       reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(weight)));
  }
  for (int tile = own; tile < count; tile++)
    _mm256_store_si256(reinterpret_cast<__m256i*>(weights + tile * kTile), _mm256_setzero_si256());
  if (!own) return;
  *peak = top;
  *total = _mm512_reduce_add_ps(sum);
}

void attend_rows(const AttentionShape& shape, const History& history, const float* queries, int rows, int segment,
                 int tokens, float* scratch, float* partials) {
  const int before = segment * shape.segment_tokens();
  auto seen = [&](int row) {
    const int some = tokens + row - before;
    return some < 0 ? 0 : some < shape.segment_tokens() ? some : shape.segment_tokens();
  };
  const Tiles all{shape, history, segment, seen(rows - 1)};
  const int count = all.count();
  const size_t stride = shape.scores_floats();
  auto* weights = reinterpret_cast<uint16_t*>(scratch + kTileRows * stride);
  auto* rounded = weights + kTileRows * stride;
  configure_attention_tiles(kTileRows);
  for (int head = 0; head < shape.shared; head++) {
    round_queries(shape, queries, rows, head, rounded);
    score_rows(all, count, rounded, head == 0, scratch);
    for (int row = 0; row < kTileRows; row++) {
      const Tiles own{shape, history, segment, row < rows ? seen(row) : 0};
      float* partial = partials + row * shape.partial_floats();
      weigh_row(own, count, scratch + row * stride, weights + row * stride, partial + head, partial + shape.shared + head);
    }
    mix_rows(all, count, weights, partials + 2 * shape.shared + head * shape.value_width,
             sizeof(float) * shape.partial_floats());
  }
  __asm__ volatile("tilerelease" ::);
}

// The heads of one row that share keys, a tile of them at a time.
inline void attend_heads(const Tiles& tiles, const float* queries, float* scratch, float* partial) {
  const AttentionShape& shape = tiles.shape;
  const int count = tiles.count();
  const size_t stride = shape.scores_floats();
  auto* weights = reinterpret_cast<uint16_t*>(scratch + kTileRows * stride);
  auto* rounded = weights + kTileRows * stride;
  for (int first = 0; first < shape.shared; first += kTileRows) {
    const int heads = shape.shared - first < kTileRows ? shape.shared - first : kTileRows;
    for (int i = 0; i < heads * shape.key_width; i += 32) {
      const float* from = queries + first * shape.key_width + i;
      store_bf16(rounded + i, round_to_bf16(load(from)), round_to_bf16(load(from + 16)));
    }
    configure_attention_tiles(heads);
    score_rows(tiles, count, rounded, first == 0, scratch);
    for (int head = 0; head < heads; head++)
      weigh_row(tiles, count, scratch + head * stride, weights + head * stride, partial + first + head,
                partial + shape.shared + first + head);
    float* sums = partial + 2 * shape.shared + first * shape.value_width;
    mix_rows(tiles, count, weights, sums, sizeof(float) * shape.value_width);
  }
  __asm__ volatile("tilerelease" ::);
}

}  // namespace
}  // namespace ISA
}  // namespace inferd
