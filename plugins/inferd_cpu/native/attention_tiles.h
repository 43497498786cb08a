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
  int segment, tokens;

  int count() const {
    const int whole = tokens / shape.block_tokens, rest = tokens % shape.block_tokens;
    return whole * shape.tiles() + (rest + kTile - 1) / kTile;
  }
  int seen(int tile) const {
    const int block = tile / shape.tiles(), inside = tile % shape.tiles() * kTile;
    const int of_block = tokens - block * shape.block_tokens;
    const int end = of_block < shape.block_tokens ? of_block : shape.block_tokens;
    return end - inside < kTile ? end - inside : kTile;
  }
  const uint8_t* block(int tile) const {
    const int place = segment * shape.segment_blocks() + tile / shape.tiles();
    return history.first_block + history.block_bytes * static_cast<size_t>(history.table[place]);
  }
  const uint8_t* keys(int tile) const {
    return block(tile) + shape.number_bytes() * kTile * (tile % shape.tiles()) * shape.key_width;
  }
  const uint8_t* values(int tile) const {
    return block(tile) + shape.keys_bytes() + shape.number_bytes() * kTile * (tile % shape.tiles()) * shape.value_width;
  }
  const float* key_scales(int tile) const {
    return reinterpret_cast<const float*>(block(tile) + shape.numbers_bytes()) + kTile * (tile % shape.tiles());
  }
  const float* value_scales(int tile) const { return key_scales(tile) + kTile * shape.tiles(); }
};

// Turns the scores of a row into weights, of tokens that are not seen into 0; gives the largest score and the sum.
inline void weigh(const Tiles& tiles, int count, float* scores, float* peak, float* total) {
  const bool padded = tiles.shape.block_tokens % kTile != 0;  // else only the last tile can be seen in part
  for (int tile = padded ? 0 : count - 1; tile < count; tile++)
    for (int part = 0; part < kParts; part++) {
      float* at = scores + tile * kTile + part * kLanes;
      const Ints hidden = count_lanes() >= tiles.seen(tile) - part * kLanes;
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
