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

// Tiles of `rows` rows, and how many bytes a row has: 0 to 3 sums. To score, 4 and 6: queries by 16 pairs, 5 and 7: 16
// pairs by 16 keys. To mix, 4: weights by 8 pairs, 5 to 7: 8 pairs by 16 numbers of values.
inline void configure_attention_tiles(int rows, bool mixes) {
  alignas(64) uint8_t config[64] = {1};
  for (int tile = 0; tile < 8; tile++) {
    const bool history = tile == 5 || tile == 7 || (mixes && tile == 6);
    config[16 + 2 * tile] = mixes && tile == 4 ? 32 : 64;
    config[48 + tile] = static_cast<uint8_t>(!history ? rows : mixes ? 8 : 16);
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

// Where the scores and weights of `groups` groups of 16 rows are.
struct Desks {
  float* scores;      // [groups][16][stride]
  uint16_t* weights;  // the same
  uint16_t* queries;  // [groups][16][key_width]
  size_t stride;

  Desks(const AttentionShape& shape, float* scratch)
      : scores(scratch),
        weights(reinterpret_cast<uint16_t*>(scratch + kTileRows * shape.shared * shape.scores_floats())),
        queries(weights + kTileRows * shape.shared * shape.scores_floats()),
        stride(shape.scores_floats()) {}
  float* scores_of(int group) const { return scores + group * kTileRows * stride; }
  uint16_t* weights_of(int group) const { return weights + group * kTileRows * stride; }
};

// Scores of groups of rows with all keys of `count` tiles. Of a cold history the keys after next and the values are
// fetched meanwhile. A tile that is loaded while a product still reads it waits: so two of each take turns.
inline void score_rows(const Tiles& tiles, int count, const Desks& desks, int groups, bool cold) {
  const int width = tiles.shape.key_width;
  const size_t stride = sizeof(float) * desks.stride;
  constexpr int kAhead = 2;
  for (int tile = 0; tile < count; tile++) {
    const uint8_t* keys = tiles.keys(tile);
    if (cold) {
      fetch(tiles.values(tile), 2 * kTile * tiles.shape.value_width);
      if (tile + kAhead < count) fetch(tiles.keys(tile + kAhead), 2 * kTile * width);
    }
    for (int group = 0; group < groups; group++) {
      const uint16_t* queries = desks.queries + group * kTileRows * width;
      float* scores = desks.scores_of(group) + tile * kTile;
      TILE_ZERO(0);
      for (int i = 0; i < width; i += 64) {
        if (group == 0 || width > 64) TILE_LOAD(5, keys + 2 * kTile * i, 64);
        TILE_LOAD(4, queries + i, 2 * width);
        TILE_DOT(0, 4, 5);
        if (i + 32 >= width) break;
        if (group == 0 || width > 64) TILE_LOAD(7, keys + 2 * kTile * (i + 32), 64);
        TILE_LOAD(6, queries + i + 32, 2 * width);
        TILE_DOT(0, 6, 7);
      }
      TILE_STORE(0, scores, stride);
    }
  }
}

// Weighted values of a group of rows, 64 numbers of each value at a time. sums: rows of `stride` bytes' distance.
inline void mix_rows(const Tiles& tiles, int count, const Desks& desks, int group, float* sums, size_t stride) {
  const int width = tiles.shape.value_width;
  const uint16_t* weights = desks.weights_of(group);
  for (int place = 0; place < width; place += 4 * kTile) {
    const int some = (width - place) / kTile;  // tiles of sums that are left
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    for (int tile = 0; tile < count; tile++) {
      const uint8_t* values = tiles.values(tile) + 4 * place;
      TILE_LOAD(4, weights + tile * kTile, 2 * desks.stride);
      TILE_LOAD(5, values, 4 * width);
      TILE_DOT(0, 4, 5);
      if (some < 2) continue;
      TILE_LOAD(6, values + 64, 4 * width);
      TILE_DOT(1, 4, 6);
      if (some < 3) continue;
      TILE_LOAD(7, values + 128, 4 * width);
      TILE_DOT(2, 4, 7);
      if (some < 4) continue;
      TILE_LOAD(5, values + 192, 4 * width);
      TILE_DOT(3, 4, 5);
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

// Hides the tokens of `count` tiles that a row does not see.
inline void hide(const Tiles& own, int count, float* scores) {
  const bool padded = own.shape.block_tokens % kTile != 0;  // else whole tiles come first
  for (int tile = padded ? 0 : own.tokens / kTile; tile < count; tile++) {
    const Ints hidden = count_lanes() >= own.seen(tile);
    float* at = scores + tile * kTile;
    store(at, choose(hidden, splat(-INFINITY), load(at)));
  }
}

// The weights of N rows from their scores, the largest score and the sum of each before rounding, whose errors cancel
// out: several rows at once, since each step waits for the one before.
template <int N>
inline void weigh_rows(int count, const float* scores, uint16_t* weights, size_t stride, float* const* peaks,
                       float* const* totals) {
  Floats most[N], sums[N];
  for (int i = 0; i < N; i++) most[i] = load(scores + i * stride);
  for (int tile = 1; tile < count; tile++)
    for (int i = 0; i < N; i++) most[i] = larger(load(scores + i * stride + tile * kTile), most[i]);
  for (int i = 0; i < N; i++) {
    *peaks[i] = largest(most[i]);
    most[i] = splat(*peaks[i]);
    sums[i] = Floats{};
  }
  for (int tile = 0; tile < count; tile++)
    for (int i = 0; i < N; i++) {
      const Floats weight = exponential_for_bf16(load(scores + i * stride + tile * kTile) - most[i]);
      sums[i] += weight;
      _mm256_store_si256(reinterpret_cast<__m256i*>(weights + i * stride + tile * kTile),
                         reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(weight)));
    }
  for (int i = 0; i < N; i++) *totals[i] = _mm512_reduce_add_ps(sums[i]);
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
  const Desks desks(shape, scratch);
  for (int head = 0; head < shape.shared; head++)
    round_queries(shape, queries, rows, head, desks.queries + head * kTileRows * shape.key_width);
  configure_attention_tiles(kTileRows, false);
  score_rows(all, count, desks, shape.shared, false);
  constexpr int kTogether = 4;
  for (int head = 0; head < shape.shared; head++)
    for (int row = 0; row < rows; row += kTogether) {
      float *scores = desks.scores_of(head) + row * desks.stride, *peaks[kTogether], *totals[kTogether];
      for (int i = 0; i < kTogether; i++) {  // rows that are not there have partials, too
        hide({shape, history, segment, seen(row + i)}, count, scores + i * desks.stride);
        peaks[i] = partials + (row + i) * shape.partial_floats() + head;
        totals[i] = peaks[i] + shape.shared;
      }
      weigh_rows<kTogether>(count, scores, desks.weights_of(head) + row * desks.stride, desks.stride, peaks, totals);
    }
  configure_attention_tiles(kTileRows, true);
  for (int head = 0; head < shape.shared; head++)
    mix_rows(all, count, desks, head, partials + 2 * shape.shared + head * shape.value_width,
             sizeof(float) * shape.partial_floats());
  __asm__ volatile("tilerelease" ::);
}

// The heads of one row that share keys, a tile of them at a time.
inline void attend_heads(const Tiles& tiles, const float* queries, float* scratch, float* partial) {
  const AttentionShape& shape = tiles.shape;
  const int count = tiles.count();
  const Desks desks(shape, scratch);
  for (int first = 0; first < shape.shared; first += kTileRows) {
    const int heads = shape.shared - first < kTileRows ? shape.shared - first : kTileRows;
    for (int i = 0; i < heads * shape.key_width; i += 32) {
      const float* from = queries + first * shape.key_width + i;
      store_bf16(desks.queries + i, round_to_bf16(load(from)), round_to_bf16(load(from + 16)));
    }
    configure_attention_tiles(heads, false);
    score_rows(tiles, count, desks, 1, first == 0);
    for (int head = 0; head < heads; head++) {
      float* scores = desks.scores + head * desks.stride;
      hide(tiles, count, scores);
      float *peak = partial + first + head, *total = peak + shape.shared;
      weigh_rows<1>(count, scores, desks.weights + head * desks.stride, desks.stride, &peak, &total);
    }
    configure_attention_tiles(heads, true);
    float* sums = partial + 2 * shape.shared + first * shape.value_width;
    mix_rows(tiles, count, desks, 0, sums, sizeof(float) * shape.value_width);
  }
  __asm__ volatile("tilerelease" ::);
}

}  // namespace
}  // namespace ISA
}  // namespace inferd
