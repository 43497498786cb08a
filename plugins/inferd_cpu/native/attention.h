// Attention of rows over keys and values in the blocks of the pool (arXiv:1706.03762, 2305.13245, 2309.06180).
//
// The pool keeps, for each block, layer and key head, the keys and then the values of the block's tokens, in tiles of 16
// tokens. Numbers lie in pairs, as tiles of AMX take them: a tile of keys is [key_width / 2][16 tokens][2 numbers], one
// of values [8][value_width][2 tokens]. In fp32 each pair is two runs: [key_width / 2][2][16 tokens] and so on.
//
// The keys of a sequence are worked on in segments of a fixed number of blocks, counted from its beginning. Each segment
// gives a partial result, and partial results are folded in their order. Inside, sums are made in the order of AMX: the
// first and the second numbers of up to 16 pairs each in a chain of fused multiply-adds, then both are added to the sum
// so far. So a row's result has the same bits however its segments are spread over threads, and whatever other rows a
// step has.
#pragma once

#include <cstddef>
#include <cstdint>

namespace inferd {

constexpr int kTile = 16;      // tokens whose keys and values lie together
constexpr int kTileRows = 16;  // rows of a sequence that attend together
constexpr int kSegmentTokens = 128;

enum class KvFormat : int { bf16 = 0, f32 = 1 };

struct AttentionShape {
  int shared;  // query heads of a key head
  int key_width, value_width;
  int block_tokens;
  KvFormat format;

  int tiles() const { return (block_tokens + kTile - 1) / kTile; }  // of a block
  int segment_blocks() const { return block_tokens < kSegmentTokens ? kSegmentTokens / block_tokens : 1; }
  int segment_tokens() const { return segment_blocks() * block_tokens; }
  int segment_tiles() const { return segment_blocks() * tiles(); }
  int segments(int tokens) const { return (tokens + segment_tokens() - 1) / segment_tokens(); }
  size_t number_bytes() const { return format == KvFormat::bf16 ? 2 : 4; }
  size_t keys_bytes() const { return number_bytes() * tiles() * kTile * key_width; }
  size_t head_bytes() const { return keys_bytes() + number_bytes() * tiles() * kTile * value_width; }
  size_t partial_floats() const { return static_cast<size_t>(shared) * (value_width + 2); }
  size_t scores_floats() const { return static_cast<size_t>(segment_tiles()) * kTile; }  // of a row and query head
  size_t scratch_floats() const {
    return static_cast<size_t>(kTileRows) * shared * (scores_floats() + scores_floats() / 2 + key_width);
  }
};

// The keys and values of a sequence, of one layer and key head.
struct History {
  uint8_t* first_block;  // of the pool, at this layer and head
  size_t block_bytes;    // from one block of the pool to the next
  const int32_t* table;  // the sequence's blocks
};

struct Attention {
  // Puts the key and the value of a token into the pool.
  void (*put)(const AttentionShape& shape, const History& history, int position, const float* key, const float* value);

  // Partial result of one segment for the query heads that share a key head, over its first `tokens` tokens.
  // partial: [shared] largest scores, [shared] sums of weights, [shared][value_width] sums of weighted values.
  void (*attend)(const AttentionShape& shape, const History& history, const float* queries, int segment, int tokens,
                 float* scratch, float* partial);

  // The same for `rows` rows of a sequence, of which the first sees the first `tokens` tokens of the sequence, the next
  // one more, and so on; rows that see nothing of the segment get nothing. Null where single rows are as quick.
  // queries: [rows][shared][key_width]; partials: room for kTileRows.
  void (*attend_rows)(const AttentionShape& shape, const History& history, const float* queries, int rows, int segment,
                      int tokens, float* scratch, float* partials);

  // Folds another segment's partial result into the one of those before it.
  void (*fold)(const AttentionShape& shape, const float* next, float* partial);

  // The heads' outputs, [shared][value_width].
  void (*finish)(const AttentionShape& shape, const float* partial, float* out);
};

// That of an instruction set, by its name in `Kernels`.
const Attention& choose_attention(const char* name);

}  // namespace inferd
