// Attention of rows over keys and values in the blocks of the pool (arXiv:1706.03762, 2305.13245, 2309.06180).
//
// The pool keeps, for each block, layer and key head, the keys and then the values of the block's tokens, in tiles of
// 16 tokens. In bf16 numbers lie in pairs: a tile of keys is [key_width / 2][16 tokens][2 numbers], one of values
// [8][value_width][2 tokens]. In fp32 each pair is two runs: [key_width / 2][2][16 tokens] and so on. In 8 bits they lie
// in fours: keys [key_width / 4][16 tokens][4 numbers], values [4][value_width][4 tokens]; behind all of a block's are
// the scales of its keys and then those of its values, one for each token.
//
// The keys of a sequence are worked on in segments of a fixed number of blocks, counted from its beginning. Each segment
// gives a partial result, and partial results are folded in their order. Inside, sums of 8-bit numbers are exact; those
// of others are made in one order: the first and the second numbers of up to 16 pairs each in a chain of fused
// multiply-adds, then both are added to the sum so far. So a row's result has the same bits however its segments are
// spread over threads, and whatever other rows a step has.
#pragma once

#include <cstddef>
#include <cstdint>

namespace inferd {

constexpr int kTile = 16;      // tokens whose keys and values lie together
constexpr int kTileRows = 16;  // rows of a sequence that attend together
constexpr int kTogether = 4;   // tiles whose keys or values rows multiply at once
constexpr int kSegmentTokens = 128;

enum class KvFormat : int { bf16 = 0, f32 = 1, i8 = 2 };

struct AttentionShape {
  int shared;  // query heads of a key head
  int key_width, value_width;
  int block_tokens;
  KvFormat format;
  float scale;  // of scores
  float cap;    // scores s become cap * tanh(s / cap); 0 for no cap

  int tiles() const { return (block_tokens + kTile - 1) / kTile; }  // of a block
  int segment_blocks() const { return block_tokens < kSegmentTokens ? kSegmentTokens / block_tokens : 1; }
  int segment_tokens() const { return segment_blocks() * block_tokens; }
  int segment_tiles() const { return segment_blocks() * tiles(); }
  int segments(int tokens) const { return (tokens + segment_tokens() - 1) / segment_tokens(); }
  size_t number_bytes() const { return format == KvFormat::i8 ? 1 : format == KvFormat::bf16 ? 2 : 4; }
  size_t keys_bytes() const { return number_bytes() * tiles() * kTile * key_width; }
  size_t numbers_bytes() const { return keys_bytes() + number_bytes() * tiles() * kTile * value_width; }
  size_t scales_bytes() const { return sizeof(float) * tiles() * kTile; }  // of keys; as many are of values
  size_t head_bytes() const { return numbers_bytes() + (format == KvFormat::i8 ? 2 * scales_bytes() : 0); }
  size_t partial_floats() const { return static_cast<size_t>(shared) * (value_width + 2); }
  size_t scores_floats() const {  // of a row and query head
    return static_cast<size_t>(segment_tiles() + kTogether - 1) / kTogether * kTogether * kTile;
  }
  size_t scratch_rows() const { return shared > kTileRows ? shared : kTileRows; }  // rows of a head, or heads of a row
  size_t scratch_floats() const {  // scores, their weights in 8 bits, and a factor; values of a segment, and scales
    return scratch_rows() * (scores_floats() + scores_floats() / 4 + 1) + scores_floats() / 4 * (value_width + 8);
  }
  size_t queries_floats() const { return static_cast<size_t>(shared) * (key_width + 1); }  // of a row, when taken
};

// The keys and values of a sequence, of one layer and key head.
struct History {
  uint8_t* first_block;  // of the pool, at this layer and head
  size_t block_bytes;    // from one block of the pool to the next
  const int32_t* table;  // the sequence's blocks
};

// A segment of a history, of whose first `tokens` tokens those from `first` on are seen.
struct Segment {
  History history;
  int number, tokens, first;
};

struct Attention {
  // Puts the key and the value of a token into the pool; changes them.
  void (*put)(const AttentionShape& shape, const History& history, int position, float* key, float* value);

  // Brings queries, [rows][shared][key_width], into the form that `attend` (of one row) or `attend_rows` takes.
  // out: room for `rows` rows, of several for kTileRows.
  void (*take_queries)(const AttentionShape& shape, float* queries, int rows, float* out);

  // Partial result of one segment for the query heads that share a key head, over the tokens of it that are seen.
  // partial: [shared] largest scores, [shared] sums of weights, [shared][value_width] sums of weighted values.
  // next: what may come then; where keys have 8 bits, its are fetched into the cache meanwhile.
  void (*attend)(const AttentionShape& shape, const Segment& segment, const float* taken, float* scratch,
                 float* partial, const Segment& next);

  // The same for `rows` rows of a sequence, of which the first sees the first `tokens` tokens of the sequence, the next
  // one more, and so on, but no more than `window`, 0 for all; what rows that see nothing of the segment get means
  // nothing. Null where single rows are as quick. For KvFormat::i8. partials: room for kTileRows.
  void (*attend_rows)(const AttentionShape& shape, const History& history, const float* taken, int rows, int segment,
                      int tokens, int window, float* scratch, float* partials);

  // Folds another segment's partial result into the one of those before it.
  void (*fold)(const AttentionShape& shape, const float* next, float* partial);

  // The heads' outputs, [shared][value_width]. sinks: a score of each head that belongs to no key; null for none.
  void (*finish)(const AttentionShape& shape, const float* partial, const float* sinks, float* out);
};

// That of an instruction set, by its name in `Kernels`.
const Attention& choose_attention(const char* name);

}  // namespace inferd
