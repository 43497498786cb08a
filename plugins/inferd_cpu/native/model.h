// A decoder, as family.py describes them: its packed weights, its pool of keys and values, and one step.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "adapters.h"
#include "attention.h"
#include "linear.h"
#include "memory.h"
#include "norms.h"
#include "pool.h"

namespace inferd {

// The distance of rows that a product writes to: a multiple of a page would put them all into the same cache lines.
constexpr int kPadding = 16;
inline int padded(int floats) { return floats % 1024 ? floats : floats + kPadding; }

// What tells one layer from another: a token sees `window` tokens, itself among them, or all with 0; `rope` is the number
// of the rotation, -1 for none. Part of the ABI.
struct LayerKind {
  int32_t window, rope, routed;  // routed: to experts
};

enum class HeadNorms : int32_t { none = 0, head = 1, heads = 2, row = 3 };  // see family.py
constexpr int kMaxRopes = 2;
constexpr int kMaxGroups = 256;  // of experts

// The sizes of a network and of what is kept for it. Python fills it in: the order of the fields is part of the ABI.
struct Shape {
  const LayerKind* kinds;  // [layers]; read once
  int32_t layers, width, feed_width, heads, kv_heads, key_width, value_width, rope_width, vocabulary_size;
  int32_t context_tokens, block_tokens, blocks, max_sequences, max_step_tokens;
  int32_t window_blocks;  // of the pool of layers with a window; 0 where theirs are in that of all
  int32_t kv_format, threads;
  int32_t ropes;             // rotations
  int32_t layer_norm;        // norms are layer norms
  int32_t head_norms;        // a HeadNorms
  int32_t head_norms_after;  // the rotation
  int32_t parallel;          // attention and feed-forward part start from the same
  int32_t activation;        // an Activation
  int32_t gated;             // the feed-forward part has gates
  int32_t feed_biased;       // gates and ups have biases
  int32_t temperature_tokens;
  int32_t experts, experts_used, expert_width, shared_width;  // 0 for none
  int32_t gating;      // logits become weights by softmax (0), sigmoid (1), or softmax over the chosen ones (2)
  int32_t normalised;  // weights of the chosen ones sum to 1
  int32_t groups, groups_used;
  float epsilon, attention_scale, attention_cap, clamp, temperature_scale;
  float embedding_scale, residual_scale, logit_scale, logit_cap, router_scale;
  float magnitudes[kMaxRopes];  // of cosines and sines

  // Gates, or ups that have none, go through memory: only silu's have a function of their own for panels.
  bool plain_feed() const { return !gated || feed_biased || activation != 0; }
  int up_width() const { return gated ? 2 * feed_width : feed_width; }
  int up_stride() const { return padded(up_width()); }
  int shared() const { return heads / kv_heads; }
  int queries_width() const { return heads * key_width; }
  int keys_width() const { return kv_heads * key_width; }
  int qkv_width() const { return queries_width() + keys_width() + kv_heads * value_width; }
  int mixed_width() const { return heads * value_width; }
  int qkv_stride() const { return padded(qkv_width()); }
  int delta_stride() const { return padded(width); }
};

// One step, as `TokenBatch` and `DeviceSampling` of inferd.plugin describe it. Part of the ABI.
struct Step {
  int32_t tokens, sequences, table_width, logit_count, logits_stride, hidden_count, embedded_count;
  const int32_t *token_ids, *positions, *starts, *lengths, *block_tables, *logit_rows, *hidden_rows;
  int32_t* window_tables;  // of layers with a window; entries that no row sees become 0
  const int32_t* beyond;   // [sequences]: whether the second frequencies are its; null where there are none
  const int32_t* adapters;  // [sequences]: the slot of its adapter, -1 for none; null where none has one
  const int32_t* picked;  // [tokens]: which row of `embedded` stands for a token, -1 for its own; null for none
  const float* embedded;  // [embedded_count][width]: vectors of pictures
  const int32_t* seen;    // [tokens]: so many tokens of its sequence a token sees; null where those up to itself
  const int32_t* turned;  // [3][tokens]: positions in time, rows and columns; null where all three are the token's own
  const int32_t* axes;    // [rope_width / 2]: by which of them a pair is rotated; with `turned`
  float* logits;    // [logit_count][vocabulary], logits_stride apart; null when only the best tokens are wanted
  float* hidden;    // [hidden_count][width]
  int32_t* chosen;  // [logit_count]; null when logits are wanted
  const float* temperatures;
  const int64_t* top_k;
  const double *top_p, *min_p, *points;
};

enum Part : int {
  part_qkv,
  part_mix,
  part_gate_up,
  part_down,
  part_expert_gate_up,  // one expert's, as many as there are one behind the other
  part_expert_down,
  part_shared_gate_up,
  part_shared_down,
  part_head,  // from here on of the model
  part_embedding,
  part_count
};
enum Vector : int {
  vector_attention_norm,
  vector_attention_norm_bias,
  vector_qkv_bias,
  vector_query_norm,
  vector_key_norm,
  vector_sinks,
  vector_mix_bias,
  vector_attention_post_norm,
  vector_attention_post_norm_bias,
  vector_feed_norm,
  vector_feed_norm_bias,
  vector_gate_up_bias,  // a block of gates, then one of ups, in turn
  vector_down_bias,
  vector_feed_post_norm,
  vector_feed_post_norm_bias,
  vector_router,                // [experts][width]
  vector_router_bias,           // [experts]
  vector_choice_bias,           // [experts]
  vector_expert_gate_up_bias,   // [experts][2 * expert_width], as that of gates and ups
  vector_expert_down_bias,      // [experts][width]
  vector_shared_router,         // [width]
  vector_norm,  // from here on of the model
  vector_norm_bias,
  vector_head_bias,
  vector_frequencies,  // [1, or 2 where those of longer sequences are others][ropes][rope_width / 2]
  vector_positions,    // [context][width]: added to embeddings
  vector_count
};

constexpr int kNotFinite = 100;  // beside the PackErrors

// A format of queries, keys and values that says one for each of the three, in eight bits each, the first lowest.
constexpr int32_t kThreeFormats = 1 << 24;

struct Layer {
  Matrix matrices[part_head];
  Matrix apart_qkv[3];  // queries, keys and values where their formats differ, in place of matrices[part_qkv]
  const float* vectors[vector_norm];  // null where a network has none
  int window, rope;
  bool routed;
  bool apart;  // its keys and values are in the pool of layers with a window
  int place;   // among the layers of its pool
  int fine_panels;   // of queries, keys and values: so many are made of two rows of each token, where any are
  bool fine_values;  // values are among them
};

// The rows of one expert in a step: places [begin, begin + rows) of all.
struct ExpertRows {
  int expert, begin;
  Rows width_rows, feed_rows;
};

// Of outputs that are used before they leave the cache, two panels of each row.
inline size_t scratch_floats(const Shape& shape, const Kernels& kernels) {
  return kernels.inner_floats(shape.max_step_tokens, 2);
}

// What a thread has for itself.
struct Desk {
  float* rows;       // some rows of the widest kind
  float* delta;      // what is added to a row, when it is changed first
  float* scratch;    // outputs of a product that are used at once
  void* multiply;    // for Kernels::multiply
  float* queries;    // rotated, of a tile of rows and one key head
  float* taken;      // the same as attention takes them
  float* scores;
  float* partials;   // of a tile of rows, in two segments
  float* residual;   // of the few rows of a small step
  void* width_rows;  // quantised, of a small step
  void* fine_rows;
  void* mixed_rows;
  Best* best;        // of each row of logits
  float* weights;    // of a vocabulary
  int32_t* order;
  int32_t* chosen;   // experts of the only row of a step, their shares, and what they give
  float *shares, *fed;
  mutable std::vector<ExpertRows> groups;
};

// How much of something is taken in a step: the step's number, and below it a count, so that no step has to clear it.
// Threads count in cache lines of their own.
struct alignas(64) Taken {
  std::atomic<uint64_t> count;
};

// Arrays that every step writes, taken once. T is the most tokens of a step.
struct Workspace {
  float* residual;    // [T][width]
  float* qkv;         // [T][qkv_stride], of two fine rows [2 T][qkv_stride]
  float* mixed;       // [T][mixed_width]
  float* delta;       // [T][delta_stride]: what a layer adds
  float* cosines;     // [ropes][T][rope_width / 2]
  float* sines;
  float* normed;      // [T][width], with experts; P is T times the experts of a row
  float* scores;      // [experts], of the only row of a step
  float *shares, *expert_ups, *expert_outs;          // [P], [P][padded(2 * expert_width)], [P][delta_stride]
  float *shared_ups, *shared_outs;                   // [T][padded(2 * shared_width)], [T][delta_stride]
  int32_t *chosen, *members, *places;                // [P]: experts by row; rows by expert; where a row's experts are
  int32_t *begins, *filled;                          // [experts + 1]
  uint8_t *expert_width_rows, *expert_feed_rows, *shared_rows;
  float* ups;         // [T][up_stride], where the feed-forward part goes through memory
  float* partials;    // of the few rows of a small step: [rows][kv_heads][segments]
  void *width_rows, *fine_rows, *mixed_rows, *feed_rows, *head_rows;
  int32_t* sequences;  // [T]: the sequence of each row
  std::atomic<int>* groups_taken;  // [layers]: of rows, by threads that attend to them
  Taken* taken;  // [layers][part_head][threads]: of the outputs of a product that are a thread's by rights
  std::vector<Desk> desks;
};

class Model {
 public:
  Model(const Shape& shape, const Kernels& kernels);

  const Shape& shape() const { return shape_; }
  const Kernels& kernels() const { return kernels_; }

  // Bytes of the KV pool, and of what else a session takes beside the weights.
  static size_t pool_bytes(const Shape& shape);
  static size_t workspace_bytes(const Shape& shape, const Kernels& kernels);

  // Says which format each matrix has: formats[part][layer] for the parts of layers, then head and embedding, -1 for
  // no embedding of its own; of part_qkv also as kThreeFormats says. Takes all memory; false when there is none. Experts
  // are in `experts_file`, a descriptor of a file that is large enough for them, unless it is negative.
  bool take_memory(const int32_t* formats, size_t vector_floats, int experts_file);

  // Sets counts[k] to how much each input of a tensor of n rows counts, as inputs.h says. Returns a PackError.
  int weigh_inputs(int ggml_type, const void* blocks, int n, int k, float* counts);

  // Packs the tensor that is the source-th of a part; `counts` may be null. Returns a PackError or kNotFinite.
  int pack(int part, int layer, int source, int expert, int ggml_type, const void* blocks, const int32_t* order,
           const float* counts);
  void set_vector(int vector, int layer, const float* numbers, int count);

  // Has the rows of a slot changed so, [layers][spot_count], as long as the numbers are there; null takes that away.
  // False where there is no memory.
  bool set_adapter(int slot, const Change* changes);

  // To be called once, when the weights are there.
  void fill_pool() { filling_.start(pool_memory_); }

  bool is_sound(const Step& step) const;
  bool sees_windows(const Step& step, int sequence) const;
  bool has_adapters(const Step& step) const;
  void compute(const Step& step);
  void copy_blocks(const int32_t* pairs, int count);

  // The bytes of a block, those of layers with a window numbered behind the others; they are the block itself.
  uint8_t* block(int number) const;
  static size_t block_bytes(const Shape& shape, bool windows);

 private:
  friend class Forward;

  Matrix& matrix(int part, int layer);
  const Matrix& embedding() const { return embedding_.data ? embedding_ : head_; }
  int outputs_of(int part) const;
  int outputs_of_qkv(int source) const;
  bool divides_qkv(int part, int layer) const { return part == part_qkv && layers_[layer].apart_qkv[0].n > 0; }
  int inputs_of(int part) const;
  static bool is_of_experts(int part) { return part == part_expert_gate_up || part == part_expert_down; }
  int experts_of(int part) const { return is_of_experts(part) ? shape_.experts : 1; }
  static void divide_experts(const Shape& shape, const Kernels& kernels, Division& from, Workspace* out);
  static size_t divide(const Shape& shape, const Kernels& kernels, uint8_t* memory, Workspace* out);
  void plan(const Step& step);
  void plan_adapters(const Step& step);
  Share rows_of(int tokens, int thread) const;

  const Shape shape_;
  const Kernels& kernels_;
  const Norms& norms_;
  const Attention& attention_;
  const AttentionShape attention_shape_;
  const bool attends_rows_;  // several rows at once
  const bool fine_;          // queries and keys are made of two rows each

  const size_t block_bytes_, window_block_bytes_;  // of a block of the pool of all layers, and of that of windows
  Memory weights_memory_, experts_memory_, vectors_memory_, pool_memory_, workspace_memory_;
  Filling filling_;  // of the pool
  size_t vectors_used_ = 0;
  std::vector<Layer> layers_;
  std::map<const Matrix*, std::vector<float>> factors_;  // of matrices that have some
  Matrix head_{}, embedding_{};
  const float* vectors_[vector_count] = {};  // of the model; null where it has none

  Workspace work_;
  Rows width_rows_{}, fine_rows_{}, mixed_rows_{}, feed_rows_{}, head_rows_{}, shared_rows_{};
  std::vector<ExpertRows> expert_rows_;
  std::vector<const Change*> adapters_;  // by slot; null where there is none
  std::vector<AdaptedRow> adapted_rows_;  // of the step
  AdapterSpace adapter_space_;
  std::vector<Rows> own_width_rows_, own_fine_rows_, own_mixed_rows_, own_feed_rows_;  // of each thread
  uint32_t steps_ = 0;   // so far
  bool single_ = false;  // every sequence has one row
  bool few_ = false;     // so few rows that each thread does what belongs to rows for itself
  bool apart_ = false;   // so many rows that each thread has its own; not with fine rows, which lie behind all others
  Pool pool_;            // last: its threads end first
};

}  // namespace inferd
