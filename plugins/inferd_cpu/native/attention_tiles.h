// Where the tiles of a history lie; and how scores become weights with vectors.
#pragma once

#include "attention.h"
#include "simd.h"

namespace inferd {
namespace ISA {

static_assert(kTile == 16, "a tile is kParts vectors");

// The tiles of a segment, and how many tokens of each are seen when the first `tokens` of the segment are.
struct Tiles {
  const AttentionShape& shape;
  const History& history;
  const int tokens;
  const int first;  // tokens before it are not seen

  Tiles(const AttentionShape& shape, const History& history, int segment, int tokens, int first = 0)
      : shape(shape),
        history(history),
        tokens(tokens),
        first(first),
        per_block_(shape.tiles()),
        table_(history.table + segment * shape.segment_blocks()) {}

  int count() const {
    const int whole = tokens / shape.block_tokens, rest = tokens % shape.block_tokens;
    return whole * per_block_ + (rest + kTile - 1) / kTile;
  }
  int seen(int tile) const { return seen_of(tokens, tile); }
  int seen_of(int some, int tile) const {  // when the first `some` tokens are seen
    const int of_block = some - block_of(tile) * shape.block_tokens;
    const int end = of_block < shape.block_tokens ? of_block : shape.block_tokens, inside = place(tile) * kTile;
    return end - inside < kTile ? end - inside : kTile;
  }
  int begin(int tile) const { return block_of(tile) * shape.block_tokens + place(tile) * kTile; }  // its first token
  // Tiles in which tokens may be that come before `some`.
  int before(int some) const {
    return some <= 0 ? 0 : (some - 1) / shape.block_tokens * per_block_ + (some - 1) % shape.block_tokens / kTile + 1;
  }
  const uint8_t* keys(int tile) const {
    return block(tile) + shape.number_bytes() * kTile * place(tile) * shape.key_width;
  }
  const uint8_t* values(int tile) const {
    return block(tile) + shape.keys_bytes() + shape.number_bytes() * kTile * place(tile) * shape.value_width;
  }
  const float* key_scales(int tile) const {
    return reinterpret_cast<const float*>(block(tile) + shape.numbers_bytes()) + kTile * place(tile);
  }
  const float* value_scales(int tile) const { return key_scales(tile) + kTile * per_block_; }

 private:
  int block_of(int tile) const { return per_block_ == 1 ? tile : tile / per_block_; }  // divisions take their time
  int place(int tile) const { return per_block_ == 1 ? 0 : tile % per_block_; }
  const uint8_t* block(int tile) const {
    return history.first_block + history.block_bytes * static_cast<size_t>(table_[block_of(tile)]);
  }

  const int per_block_;
  const int32_t* const table_;
};

// Turns the scores of a row into weights, of tokens that are not seen into 0; gives the largest score and the sum.
inline void weigh(const Tiles& tiles, int count, float* scores, float* peak, float* total) {
  if (const float cap = tiles.shape.cap; cap > 0.0f)
    for (int i = 0; i < count * kTile; i += kLanes)
      store(scores + i, splat(cap) * hyperbolic_tangent(load(scores + i) * splat(1.0f / cap)));
  const bool padded = tiles.shape.block_tokens % kTile != 0;  // else only the last tile can be seen in part
  for (int tile = padded ? 0 : count - 1; tile < count; tile++)
    for (int part = 0; part < kParts; part++) {
      float* at = scores + tile * kTile + part * kLanes;
      const Ints hidden = count_lanes() >= tiles.seen(tile) - part * kLanes;
      store(at, choose(hidden, splat(-INFINITY), load(at)));
    }
  for (int tile = 0; tile < tiles.before(tiles.first); tile++)
    for (int part = 0; part < kParts; part++) {
      float* at = scores + tile * kTile + part * kLanes;
      const Ints hidden = count_lanes() < tiles.first - tiles.begin(tile) - part * kLanes;
      store(at, choose(hidden, splat(-INFINITY), load(at)));
    }
  Floats most = splat(-INFINITY);
  for (int i = 0; i < count * kTile; i += kLanes) most = larger(load(scores + i), most);
  *peak = largest(most);
  Floats sums[kParts] = {};
  const bool rounded = tiles.shape.format == KvFormat::bf16;
  for (int i = 0; i < count * kTile; i += kTile)
    for (int part = 0; part < kParts; part++) {
      float* at = scores + i + part * kLanes;
      Floats weight = exponential(load(at) - splat(*peak));
      if (rounded) weight = round_to_bf16(weight);
      store(at, weight);
      sums[part] += weight;
    }
  *total = sum(sums);
}

}  // namespace ISA
}  // namespace inferd
