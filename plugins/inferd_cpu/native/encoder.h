// Blocks whose tokens see all others of their sequence: encoders of texts (arXiv:1810.04805) and of pictures
// (arXiv:2010.11929). They start from embeddings and give hidden states; nothing of a step is kept for the next one.
//
// Each thread has its own rows, in strips that stay in its cache; all threads meet twice in a layer, around attention.
// The same rows give the same bits whatever other sequences a step has and however many threads there are.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "linear.h"
#include "memory.h"
#include "model.h"
#include "norms.h"
#include "pool.h"

namespace inferd {

// Part of the ABI. A token sees `window` tokens, half of them behind it, or all with 0; `rope` is the number of the
// rotation, -1 for none.
struct EncoderKind {
  int32_t window, rope;
};

// The sizes of an encoder. Python fills it in: the order of the fields is part of the ABI.
struct EncoderShape {
  const EncoderKind* kinds;  // [layers]; read once
  int32_t layers, width, feed_width, heads, kv_heads, key_width, value_width, rope_width, ropes, threads;
  int32_t max_tokens;   // of a step
  int32_t max_length;   // of a sequence
  int32_t layer_norm;   // norms are layer norms
  int32_t sum_norms;    // norms after attention and feed-forward part are of the sum
  int32_t activation;   // an Activation
  int32_t gated;        // the feed-forward part has gates
  float epsilon, attention_scale, residual_scale;

  int qkv_width() const { return (heads + kv_heads) * key_width + kv_heads * value_width; }
  int mixed_width() const { return heads * value_width; }
  int up_width() const { return gated ? 2 * feed_width : feed_width; }
};

// A head of a sequence, in rows `stride` floats apart; queries are scaled.
struct WholeHead {
  const float *queries, *keys, *values;
  size_t stride;
  float* out;
  size_t out_stride;
  int tokens, key_width, value_width, window;
};

struct WholeAttention {
  // Floats that `attend` needs for a sequence of so many tokens.
  size_t (*scratch_floats)(int tokens, int key_width, int value_width);

  // What rows [begin, end) of a sequence see of all its tokens (arXiv:1706.03762), in fp32.
  void (*attend)(const WholeHead& head, int begin, int end, float* scratch);
};

// That of an instruction set, by its name in `Kernels`.
const WholeAttention& choose_whole_attention(const char* name);

// Sequences of a step: rows [starts[i], starts[i + 1]) of `residual`, [tokens][width], which become hidden states of
// `layers` layers from `first_layer` on: those of one picture may see each other in other sequences from layer to layer.
struct EncoderStep {
  int32_t tokens, sequences, first_layer, layers;
  const int32_t* starts;
  float* residual;
  const float *cosines, *sines;  // [ropes][tokens][rope_width / 2]
};

class Encoder {
 public:
  Encoder(const EncoderShape& shape, const Kernels& kernels);

  // Bytes beside the weights.
  static size_t workspace_bytes(const EncoderShape& shape, const Kernels& kernels);

  // formats: of part_qkv, part_mix, part_gate_up and part_down of each layer, [4][layers]. False without memory.
  bool take_memory(const int32_t* formats, size_t vector_floats);

  // Packs the tensor that is the source-th of a part. Returns a PackError or kNotFinite.
  int pack(int part, int layer, int source, int ggml_type, const void* blocks, const int32_t* order);
  void set_vector(int vector, int layer, const float* numbers, int count);

  bool is_sound(const EncoderStep& step) const;
  void compute(const EncoderStep& step);

 private:
  static constexpr int kParts = part_down + 1;

  struct Block {
    Matrix matrices[kParts];
    const float* vectors[vector_norm];
    EncoderKind kind;
  };
  // What a thread has for itself.
  struct Table {
    float *rows, *delta, *ups, *attention;
    float *lost, *more;  // by quantising rows, and what a product makes of it
    void *width_rows, *mixed_rows, *feed_rows, *multiply;
  };
  struct Workspace {
    float *qkv, *mixed;
    std::vector<Table> tables;
  };

  static size_t divide(const EncoderShape& shape, const Kernels& kernels, uint8_t* memory, Workspace* out);
  int outputs_of(int part) const;
  int inputs_of(int part) const;
  void work(int thread);
  void before(const Block& block, Share own, const Table& table);
  void attend(const Block& block, int layer, const Table& table);
  void after(const Block& block, Share own, const Table& table);
  void multiply(const Matrix& matrix, const float* x, int rows, void* memory, float* out, size_t stride,
                const Table& table);
  void normalize(const float* x, const float* weight, const float* bias, float* out) const;
  void add(const float* bias, const float* norm, const float* norm_bias, float* delta, float* residual) const;

  const EncoderShape shape_;
  const Kernels& kernels_;
  const Norms& norms_;
  const WholeAttention& attention_;
  Memory weights_memory_, vectors_memory_, workspace_memory_;
  size_t vectors_used_ = 0;
  std::vector<Block> blocks_;
  std::map<const Matrix*, std::vector<float>> factors_;  // of matrices that have some
  Workspace work_;
  EncoderStep step_{};
  int active_ = 1;                       // threads that work on the step
  std::vector<std::atomic<int>> taken_;  // [layers]: pieces of attention
  Pool pool_;                            // last: its threads end first
};

}  // namespace inferd
