#include "encoder.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "finite.h"
#include "ggml_blocks.h"

namespace inferd {
namespace {

constexpr int kStrip = 64;       // rows of a thread that go through a part of a layer together
constexpr int kLeastRows = 16;   // of a thread: for fewer it is not woken
constexpr int kPiece = 128;      // rows of a head that one thread attends for

int panels_of(const Matrix& matrix) { return (matrix.n + kPanelOutputs - 1) / kPanelOutputs; }

}  // namespace

Encoder::Encoder(const EncoderShape& shape, const Kernels& kernels)
    : shape_(shape),
      kernels_(kernels),
      norms_(choose_norms(kernels.name)),
      attention_(choose_whole_attention(kernels.name)),
      blocks_(shape.layers),
      taken_(shape.layers),
      pool_(shape.threads) {
  for (int layer = 0; layer < shape.layers; layer++) blocks_[layer].kind = shape.kinds[layer];
}

int Encoder::outputs_of(int part) const {
  return part == part_qkv ? shape_.qkv_width() : part == part_gate_up ? shape_.up_width() : shape_.width;
}

int Encoder::inputs_of(int part) const {
  return part == part_mix ? shape_.mixed_width() : part == part_down ? shape_.feed_width : shape_.width;
}

size_t Encoder::divide(const EncoderShape& s, const Kernels& k, uint8_t* memory, Workspace* w) {
  Division from(memory);
  const size_t tokens = s.max_tokens, widest = std::max({s.width, s.mixed_width(), s.feed_width});
  w->qkv = from.take<float>(tokens * padded(s.qkv_width()));
  w->mixed = from.take<float>(tokens * s.mixed_width());
  const size_t scratch = choose_whole_attention(k.name).scratch_floats(s.max_length, s.key_width, s.value_width);
  for (Table& table : w->tables) {
    table.rows = from.take<float>(kStrip * widest);
    table.delta = from.take<float>(kStrip * padded(s.width));
    table.ups = from.take<float>(kStrip * padded(s.up_width()));
    const int widest_out = std::max({padded(s.qkv_width()), padded(s.up_width()), padded(s.width)});
    table.lost = from.take<float>(kStrip * widest);
    table.more = from.take<float>(size_t(kStrip) * widest_out);
    table.attention = from.take<float>(scratch);
    table.width_rows = from.take<uint8_t>(k.rows_bytes(kStrip, s.width));
    table.mixed_rows = from.take<uint8_t>(k.rows_bytes(kStrip, s.mixed_width()));
    table.feed_rows = from.take<uint8_t>(k.rows_bytes(kStrip, s.feed_width));
    table.multiply = from.take<uint8_t>(k.scratch_bytes(kStrip, static_cast<int>(widest)));
  }
  return from.used_bytes();
}

size_t Encoder::workspace_bytes(const EncoderShape& shape, const Kernels& kernels) {
  Workspace none;
  none.tables.resize(shape.threads);
  return divide(shape, kernels, nullptr, &none);
}

bool Encoder::take_memory(const int32_t* formats, size_t vector_floats) {
  size_t total = 0;
  for (int part = 0; part < kParts; part++) {
    for (int layer = 0; layer < shape_.layers; layer++) {
      Matrix& m = blocks_[layer].matrices[part];
      const Weight format = static_cast<Weight>(formats[part * shape_.layers + layer]);
      m = {format, outputs_of(part), inputs_of(part), 0, nullptr, nullptr};
      m.size_bytes = kernels_.packed_bytes(m.format, m.n, m.k);
      total += m.size_bytes;
    }
  }
  const size_t vectors_bytes = sizeof(float) * (vector_floats + 16 * vector_norm * blocks_.size());
  if (!weights_memory_.take(total, true) || !vectors_memory_.take(vectors_bytes)) return false;
  if (!workspace_memory_.take(workspace_bytes(shape_, kernels_))) return false;
  Division from(weights_memory_.data());
  for (Block& block : blocks_)
    for (Matrix& m : block.matrices) m.data = from.take<uint8_t>(m.size_bytes);
  work_.tables.resize(shape_.threads);
  divide(shape_, kernels_, workspace_memory_.data(), &work_);
  return true;
}

int Encoder::pack(int part, int layer, int source, int ggml_type, const void* blocks, const int32_t* order) {
  Matrix& m = blocks_[layer].matrices[part];
  struct Packing {
    Encoder* encoder;
    const Matrix* matrix;
    const void* blocks;
    const int32_t* order;
    int type, first, count, source;
    bool in_turn;  // gates and ups, a panel each: their outputs are used together
    float* factors;
    std::atomic<int> error;
  } p{this, &m, blocks, order, ggml_type, 0, m.n, source, false, nullptr, {pack_done}};
  if (part == part_qkv) {
    const int counts[] = {shape_.heads * shape_.key_width, shape_.kv_heads * shape_.key_width,
                          shape_.kv_heads * shape_.value_width};
    p.count = counts[source];
    for (int i = 0; i < source; i++) p.first += counts[i];
  } else if (part == part_gate_up && shape_.gated) {
    p.count = m.n / 2;
    p.in_turn = true;
  }
  std::vector<float>& factors = factors_[&m];
  factors.resize(m.n, 1.0f);
  p.factors = factors.data();
  auto work = [](void* context, int thread) {
    Packing& p = *static_cast<Packing*>(context);
    const Matrix& m = *p.matrix;
    const int threads = p.encoder->pool_.threads();
    auto fail = [&p](int error) {
      int none = pack_done;
      p.error.compare_exchange_strong(none, error);
    };
    const GgmlFormat* format = find_format(p.type);
    const size_t row_bytes = format ? size_t(m.k) / format->elements * format->bytes : 0;
    const Share checked = share_of(p.count, thread, threads);
    if (!is_finite(p.type, static_cast<const uint8_t*>(p.blocks) + checked.begin * row_bytes,
                   (checked.end - checked.begin) * row_bytes))
      fail(kNotFinite);
    int32_t rows[kPanelOutputs];
    const Share groups = share_of((p.count + kPanelOutputs - 1) / kPanelOutputs, thread, threads);
    for (int group = groups.begin; group < groups.end && p.error.load() == pack_done; group++) {
      const int begin = group * kPanelOutputs, count = std::min(kPanelOutputs, p.count - begin);
      for (int i = 0; i < count; i++) rows[i] = p.order ? p.order[begin + i] : begin + i;
      const int first = p.in_turn ? (2 * group + p.source) * kPanelOutputs : p.first + begin;
      const int error = p.encoder->kernels_.pack(m.format, p.type, p.blocks, first, count, rows, nullptr, m.n, m.k,
                                                 const_cast<uint8_t*>(m.data), p.factors);
      if (error != pack_done) fail(error);
    }
  };
  pool_.run(work, &p);
  const bool any = std::any_of(factors.begin(), factors.end(), [](float factor) { return factor != 1.0f; });
  m.factors = any ? factors.data() : nullptr;
  if (!any) factors_.erase(&m);
  return p.error.load();
}

void Encoder::set_vector(int vector, int layer, const float* numbers, int count) {
  float* place = reinterpret_cast<float*>(vectors_memory_.data()) + vectors_used_;
  vectors_used_ += (count + 15) / 16 * 16;
  memcpy(place, numbers, sizeof(float) * count);
  blocks_[layer].vectors[vector] = place;
}

bool Encoder::is_sound(const EncoderStep& s) const {
  if (s.tokens < 1 || s.tokens > shape_.max_tokens || s.sequences < 1) return false;
  if (s.first_layer < 0 || s.layers < 0 || s.layers > shape_.layers - s.first_layer) return false;
  if (s.starts[0] != 0 || s.starts[s.sequences] != s.tokens) return false;
  for (int i = 0; i < s.sequences; i++) {
    const int64_t length = int64_t{s.starts[i + 1]} - s.starts[i];
    if (length < 1 || length > shape_.max_length) return false;
  }
  return true;
}

void Encoder::compute(const EncoderStep& step) {
  step_ = step;
  for (std::atomic<int>& taken : taken_) taken.store(0);
  active_ = std::clamp(step.tokens / kLeastRows, 1, shape_.threads);
  if (active_ == 1) return work(0);
  pool_.run([](void* context, int thread) { static_cast<Encoder*>(context)->work(thread); }, this);
}

void Encoder::work(int thread) {
  const Table& table = work_.tables[thread];
  const Share own = thread < active_ ? share_of(step_.tokens, thread, active_) : Share{0, 0};
  for (int layer = step_.first_layer; layer < step_.first_layer + step_.layers; layer++) {
    const Block& block = blocks_[layer];
    before(block, own, table);
    if (active_ > 1) pool_.meet();
    attend(block, layer, table);
    if (active_ > 1) pool_.meet();
    after(block, own, table);
  }
}

// Queries, keys and values of the thread's rows.
void Encoder::before(const Block& block, Share own, const Table& table) {
  const int width = shape_.width, stride = padded(shape_.qkv_width()), half = shape_.rope_width / 2;
  const float* const* vectors = block.vectors;
  for (int first = own.begin; first < own.end; first += kStrip) {
    const int count = std::min(kStrip, own.end - first);
    for (int i = 0; i < count; i++)
      normalize(step_.residual + size_t(first + i) * width, vectors[vector_attention_norm],
                vectors[vector_attention_norm_bias], table.rows + size_t(i) * width);
    float* out = work_.qkv + size_t(first) * stride;
    multiply(block.matrices[part_qkv], table.rows, count, table.width_rows, out, stride, table);
    for (int i = 0; i < count; i++, out += stride) {
      if (vectors[vector_qkv_bias]) norms_.add(vectors[vector_qkv_bias], shape_.qkv_width(), out);
      const int all = shape_.heads + shape_.kv_heads;
      for (int head = 0; head < all; head++) {
        float* x = out + head * shape_.key_width;
        const float* norm = vectors[head < shape_.heads ? vector_query_norm : vector_key_norm];
        if (norm) {
          (shape_.layer_norm ? norms_.center : norms_.normalize)(x, norm, shape_.epsilon, shape_.key_width, x);
        }
        if (block.kind.rope < 0) continue;
        const size_t at = (size_t(block.kind.rope) * step_.tokens + first + i) * half;
        norms_.rotate(step_.cosines + at, step_.sines + at, half, x, shape_.key_width, x);
      }
      norms_.cap(shape_.attention_scale, 0.0f, shape_.heads * shape_.key_width, out);
    }
  }
}

// Pieces of a head of a sequence, until all are taken.
void Encoder::attend(const Block& block, int layer, const Table& table) {
  const int stride = padded(shape_.qkv_width()), shared = shape_.heads / shape_.kv_heads;
  int first = 0, pieces = 0, sequence = -1;  // first: number of the sequence's first piece
  for (int taken = taken_[layer]++;; taken = taken_[layer]++) {
    while (taken >= first + pieces) {
      first += pieces;
      if (++sequence == step_.sequences) return;
      const int length = step_.starts[sequence + 1] - step_.starts[sequence];
      pieces = shape_.heads * ((length + kPiece - 1) / kPiece);
    }
    const int begin = step_.starts[sequence], length = step_.starts[sequence + 1] - begin;
    const int head = (taken - first) % shape_.heads, piece = (taken - first) / shape_.heads;
    const float* rows = work_.qkv + size_t(begin) * stride;
    const float* keys = rows + (shape_.heads + head / shared) * shape_.key_width;
    const float* values =
        rows + (shape_.heads + shape_.kv_heads) * shape_.key_width + head / shared * shape_.value_width;
    const size_t mixed_width = shape_.mixed_width();
    const WholeHead whole = {rows + head * shape_.key_width,
                             keys,
                             values,
                             static_cast<size_t>(stride),
                             work_.mixed + begin * mixed_width + head * shape_.value_width,
                             mixed_width,
                             length,
                             shape_.key_width,
                             shape_.value_width,
                             block.kind.window};
    attention_.attend(whole, piece * kPiece, std::min(length, (piece + 1) * kPiece), table.attention);
  }
}

// What attention and the feed-forward part add to the thread's rows.
void Encoder::after(const Block& block, Share own, const Table& table) {
  const int width = shape_.width, stride = padded(width), up_stride = padded(shape_.up_width());
  const float* const* vectors = block.vectors;
  for (int first = own.begin; first < own.end; first += kStrip) {
    const int count = std::min(kStrip, own.end - first);
    float* residual = step_.residual + size_t(first) * width;
    multiply(block.matrices[part_mix], work_.mixed + size_t(first) * shape_.mixed_width(), count, table.mixed_rows,
             table.delta, stride, table);
    for (int i = 0; i < count; i++) {
      add(vectors[vector_mix_bias], vectors[vector_attention_post_norm], vectors[vector_attention_post_norm_bias],
          table.delta + size_t(i) * stride, residual + size_t(i) * width);
      normalize(residual + size_t(i) * width, vectors[vector_feed_norm], vectors[vector_feed_norm_bias],
                table.rows + size_t(i) * width);
    }
    multiply(block.matrices[part_gate_up], table.rows, count, table.width_rows, table.ups, up_stride, table);
    for (int i = 0; i < count; i++)
      norms_.activate(static_cast<Activation>(shape_.activation), shape_.gated, table.ups + size_t(i) * up_stride,
                      vectors[vector_gate_up_bias], shape_.feed_width / kBlock,
                      table.rows + size_t(i) * shape_.feed_width);
    multiply(block.matrices[part_down], table.rows, count, table.feed_rows, table.delta, stride, table);
    for (int i = 0; i < count; i++)
      add(vectors[vector_down_bias], vectors[vector_feed_post_norm], vectors[vector_feed_post_norm_bias],
          table.delta + size_t(i) * stride, residual + size_t(i) * width);
  }
}

// x: [rows][inputs of the matrix], quantised in `memory` first, and what that has lost behind it: 8 bits of an outlier's
// block leave too little of the others, and encoders of texts have outliers.
void Encoder::multiply(const Matrix& matrix, const float* x, int rows, void* memory, float* out, size_t stride,
                       const Table& table) {
  Rows quantised{};
  kernels_.place_rows(&quantised, memory, rows, matrix.k);
  kernels_.quantize(x, matrix.k, 0, rows, &quantised);
  kernels_.multiply(matrix, quantised, out, stride, 0, panels_of(matrix), table.multiply);
  if (!norms_.subtract) return;
  for (int row = 0; row < rows; row++)
    norms_.subtract(quantised, row, x + size_t(row) * matrix.k, table.lost + size_t(row) * matrix.k);
  kernels_.quantize(table.lost, matrix.k, 0, rows, &quantised);
  kernels_.multiply(matrix, quantised, table.more, stride, 0, panels_of(matrix), table.multiply);
  for (int row = 0; row < rows; row++) norms_.add(table.more + size_t(row) * stride, matrix.n, out + size_t(row) * stride);
}

void Encoder::normalize(const float* x, const float* weight, const float* bias, float* out) const {
  if (!weight) {
    if (out != x) memcpy(out, x, sizeof(float) * shape_.width);
    return;
  }
  (shape_.layer_norm ? norms_.center : norms_.normalize)(x, weight, shape_.epsilon, shape_.width, out);
  if (bias) norms_.add(bias, shape_.width, out);
}

// Adds what a part of a layer gives to a row, with the norm of it or of the sum.
void Encoder::add(const float* bias, const float* norm, const float* norm_bias, float* delta, float* residual) const {
  const int width = shape_.width;
  if (bias) norms_.add(bias, width, delta);
  if (norm && !shape_.sum_norms) normalize(delta, norm, norm_bias, delta);
  norms_.add_scaled(delta, shape_.residual_scale, width, residual);
  if (norm && shape_.sum_norms) normalize(residual, norm, norm_bias, residual);
}

}  // namespace inferd
