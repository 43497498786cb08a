#include "model.h"

#include <algorithm>
#include <cstring>

#include "finite.h"
#include "flush.h"
#include "forward.h"
#include "ggml_blocks.h"
#include "inputs.h"

namespace inferd {
namespace {

AttentionShape shape_attention(const Shape& s) {
  return {s.shared(),        s.key_width,   s.value_width, s.block_tokens, static_cast<KvFormat>(s.kv_format),
          s.attention_scale, s.attention_cap};
}

// Whether the keys and values of a layer are in the pool of layers with a window.
bool is_apart(const Shape& s, int layer) { return s.window_blocks > 0 && s.kinds[layer].window > 0; }

// Bytes of a block of one of the two pools, over the layers that are in it.
size_t bytes_of_block(const Shape& s, bool windows) {
  int layers = windows ? 0 : s.layers;
  for (int layer = 0; s.window_blocks > 0 && layer < s.layers; layer++)
    if (is_apart(s, layer)) layers += windows ? 1 : -1;
  return shape_attention(s).head_bytes() * s.kv_heads * layers;
}

int panels_of(int outputs) { return (outputs + kPanelOutputs - 1) / kPanelOutputs; }

bool within(const int32_t* numbers, int count, int end) {
  for (int i = 0; i < count; i++)
    if (numbers[i] < 0 || numbers[i] >= end) return false;
  return true;
}

}  // namespace

Model::Model(const Shape& shape, const Kernels& kernels)
    : shape_(shape),
      kernels_(kernels),
      norms_(choose_norms(kernels.name)),
      attention_(choose_attention(kernels.name)),
      attention_shape_(shape_attention(shape)),
      attends_rows_(attention_.attend_rows && attention_shape_.format == KvFormat::i8),
      fine_(norms_.subtract != nullptr),
      block_bytes_(bytes_of_block(shape, false)),
      window_block_bytes_(bytes_of_block(shape, true)),
      layers_(shape.layers),
      own_width_rows_(shape.threads),
      own_fine_rows_(shape.threads),
      own_mixed_rows_(shape.threads),
      own_feed_rows_(shape.threads),
      pool_(shape.threads) {
  work_.desks.resize(shape.threads);
  expert_rows_.reserve(shape.experts);
  int places[2] = {0, 0};
  for (int layer = 0; layer < shape.layers; layer++) {
    layers_[layer].apart = is_apart(shape, layer);
    layers_[layer].place = places[layers_[layer].apart]++;
    layers_[layer].window = shape.kinds[layer].window;
    layers_[layer].rope = shape.kinds[layer].rope;
    layers_[layer].routed = shape.kinds[layer].routed != 0;
  }
}

int Model::outputs_of(int part) const {
  switch (part) {
    case part_qkv: return shape_.qkv_width();
    case part_gate_up: return shape_.up_width();
    case part_expert_gate_up: return 2 * shape_.expert_width;
    case part_shared_gate_up: return 2 * shape_.shared_width;
    case part_mix:
    case part_expert_down:
    case part_shared_down:
    case part_down: return shape_.width;
    default: return shape_.vocabulary_size;
  }
}

// Of queries, keys or values.
int Model::outputs_of_qkv(int source) const {
  if (source == 2) return shape_.kv_heads * shape_.value_width;
  return source == 0 ? shape_.queries_width() : shape_.keys_width();
}

int Model::inputs_of(int part) const {
  switch (part) {
    case part_mix: return shape_.mixed_width();
    case part_down: return shape_.feed_width;
    case part_expert_down: return shape_.expert_width;
    case part_shared_down: return shape_.shared_width;
    default: return shape_.width;
  }
}

Matrix& Model::matrix(int part, int layer) {
  return part == part_head ? head_ : part == part_embedding ? embedding_ : layers_[layer].matrices[part];
}

size_t Model::pool_bytes(const Shape& s) {
  return bytes_of_block(s, false) * s.blocks + bytes_of_block(s, true) * s.window_blocks;
}

size_t Model::workspace_bytes(const Shape& shape, const Kernels& kernels) {
  Workspace none;
  none.desks.resize(shape.threads);
  return divide(shape, kernels, nullptr, &none);
}

void Model::divide_experts(const Shape& s, const Kernels& k, Division& from, Workspace* w) {
  if (!s.experts) return;
  const size_t tokens = s.max_step_tokens, all = tokens * s.experts_used;
  const int apart = static_cast<int>(std::min<size_t>(s.experts, all));  // groups of rows, each in tiles of its own
  auto rows_bytes = [&](int width) { return k.rows_bytes(static_cast<int>(all) + 17 * apart, width) + 512 * apart; };
  w->normed = from.take<float>(tokens * s.width);
  w->scores = from.take<float>(s.experts);
  w->shares = from.take<float>(all);
  w->expert_ups = from.take<float>(all * padded(2 * s.expert_width));
  w->expert_outs = from.take<float>(all * s.delta_stride());
  w->shared_ups = from.take<float>(s.shared_width ? tokens * padded(2 * s.shared_width) : 0);
  w->shared_outs = from.take<float>(s.shared_width ? tokens * s.delta_stride() : 0);
  w->chosen = from.take<int32_t>(all);
  w->members = from.take<int32_t>(all);
  w->places = from.take<int32_t>(all);
  w->begins = from.take<int32_t>(s.experts + 1);
  w->filled = from.take<int32_t>(s.experts + 1);
  w->expert_width_rows = from.take<uint8_t>(rows_bytes(s.width));
  w->expert_feed_rows = from.take<uint8_t>(rows_bytes(s.expert_width));
  w->shared_rows = from.take<uint8_t>(s.shared_width ? k.rows_bytes(s.max_step_tokens, s.shared_width) : 0);
  for (Desk& desk : w->desks) {
    desk.chosen = from.take<int32_t>(s.experts_used);
    desk.shares = from.take<float>(s.experts_used);
    desk.fed = from.take<float>(s.width);
    desk.groups.reserve(s.experts_used);
  }
}

size_t Model::divide(const Shape& s, const Kernels& k, uint8_t* memory, Workspace* w) {
  const AttentionShape attention = shape_attention(s);
  const size_t tokens = s.max_step_tokens;
  const size_t few = std::min(s.max_step_tokens, kFewRows);
  const int fine = choose_norms(k.name).subtract ? 2 : 1;  // rows that make one of the queries and keys
  const bool divides = fine == 1 && s.threads > 1 && !s.experts && s.max_step_tokens >= kApartRows * s.threads;
  const int apart = s.max_step_tokens + (divides ? kTileRows : 0);  // rows of one thread end where a tile does
  Division from(memory);
  w->residual = from.take<float>(tokens * s.width);
  w->qkv = from.take<float>(fine * tokens * s.qkv_stride());
  w->mixed = from.take<float>(tokens * s.mixed_width());
  w->delta = from.take<float>(tokens * s.delta_stride());
  w->cosines = from.take<float>(s.ropes * tokens * (s.rope_width / 2));
  w->sines = from.take<float>(s.ropes * tokens * (s.rope_width / 2));
  w->ups = from.take<float>(s.plain_feed() ? tokens * s.up_stride() : 0);
  w->partials = from.take<float>(few * s.kv_heads * attention.segments(s.context_tokens) * attention.partial_floats());
  w->width_rows = from.take<uint8_t>(k.rows_bytes(apart, s.width));
  w->fine_rows = from.take<uint8_t>(fine > 1 ? k.rows_bytes(2 * s.max_step_tokens, s.width) : 0);
  w->mixed_rows = from.take<uint8_t>(k.rows_bytes(apart, s.mixed_width()));
  w->feed_rows = from.take<uint8_t>(k.rows_bytes(apart, s.feed_width));
  w->head_rows = from.take<uint8_t>(k.rows_bytes(s.max_step_tokens, s.width));
  w->sequences = from.take<int32_t>(tokens);
  w->groups_taken = from.take<std::atomic<int>>(s.layers);
  w->taken = from.take<Taken>(static_cast<size_t>(s.layers) * part_head * s.threads);
  divide_experts(s, k, from, w);
  const int widest = std::max({s.width, s.mixed_width(), s.qkv_width(), s.plain_feed() ? s.feed_width : 0,
                               s.expert_width, s.shared_width});
  for (Desk& desk : w->desks) {
    desk.rows = from.take<float>(kTileRows * widest);
    desk.delta = from.take<float>(s.width);
    desk.scratch = from.take<float>(scratch_floats(s, k));
    desk.multiply = from.take<uint8_t>(k.scratch_bytes(fine * s.max_step_tokens, std::max(widest, s.feed_width)));
    desk.queries = from.take<float>(kTileRows * s.shared() * s.key_width + s.key_width + s.value_width);
    desk.taken = from.take<float>(kTileRows * attention.queries_floats());
    desk.scores = from.take<float>(attention.scratch_floats());
    desk.partials = from.take<float>(2 * kTileRows * attention.partial_floats());
    desk.residual = from.take<float>(few * s.width);
    desk.width_rows = from.take<uint8_t>(k.rows_bytes(kFewRows, s.width));
    desk.fine_rows = from.take<uint8_t>(fine > 1 ? k.rows_bytes(2 * kFewRows, s.width) : 0);
    desk.mixed_rows = from.take<uint8_t>(k.rows_bytes(kFewRows, s.mixed_width()));
    desk.best = from.take<Best>(tokens);
    desk.weights = from.take<float>(std::max(s.vocabulary_size, 2 * s.experts));
    desk.order = from.take<int32_t>(std::max(s.vocabulary_size, s.experts));
  }
  return from.used_bytes();
}

bool Model::take_memory(const int32_t* formats, size_t vector_floats, int experts_file) {
  std::vector<std::pair<int, int>> places;
  for (int part = 0; part < part_head; part++)
    for (int layer = 0; layer < shape_.layers; layer++) places.emplace_back(part, layer);
  places.emplace_back(part_head, 0);
  places.emplace_back(part_embedding, 0);
  size_t total = 0, of_experts = 0;
  auto shape = [&](Matrix& m, int format, int outputs, int part) {
    m = {static_cast<Weight>(format), outputs, inputs_of(part), 0, nullptr, nullptr};
    m.size_bytes = kernels_.packed_bytes(m.format, m.n, m.k);
    (experts_file >= 0 && is_of_experts(part) ? of_experts : total) += m.size_bytes * experts_of(part);
  };
  for (size_t i = 0; i < places.size(); i++) {
    auto [part, layer] = places[i];
    if (formats[i] < 0) continue;
    if (formats[i] < kThreeFormats) {
      shape(matrix(part, layer), formats[i], outputs_of(part), part);
      continue;
    }
    for (int source = 0; source < 3; source++)
      shape(layers_[layer].apart_qkv[source], formats[i] >> (8 * source) & 255, outputs_of_qkv(source), part);
  }
  for (Layer& layer : layers_) {  // values that share a panel with keys are made of two rows, too
    const int before = shape_.queries_width() + shape_.keys_width();
    const bool divided = layer.apart_qkv[0].n > 0;
    layer.fine_values = fine_ && !divided && before % kPanelOutputs != 0;
    layer.fine_panels = divided              ? panels_of(shape_.queries_width()) + panels_of(shape_.keys_width())
                        : layer.fine_values ? panels_of(shape_.qkv_width())
                                             : before / kPanelOutputs;
  }
  if (!weights_memory_.take(total, true) || !experts_memory_.map(experts_file, of_experts)) return false;
  Division from(weights_memory_.data());  // in the order of a step: what follows is fetched ahead
  Division from_file(experts_memory_.data());
  for (Layer& layer : layers_) {
    for (Matrix& m : layer.apart_qkv) m.data = from.take<uint8_t>(m.size_bytes);
    for (int part = 0; part < part_head; part++) {
      Division& place = experts_file >= 0 && is_of_experts(part) ? from_file : from;
      layer.matrices[part].data = place.take<uint8_t>(layer.matrices[part].size_bytes * experts_of(part));
    }
  }
  if (head_.n) head_.data = from.take<uint8_t>(head_.size_bytes);
  if (embedding_.n) embedding_.data = from.take<uint8_t>(embedding_.size_bytes);
  const size_t vectors_bytes = sizeof(float) * (vector_floats + 16 * (vector_norm * layers_.size() + vector_count));
  if (!vectors_memory_.take(vectors_bytes) || !pool_memory_.take(pool_bytes(shape_), true)) return false;
  if (!workspace_memory_.take(workspace_bytes(shape_, kernels_))) return false;
  divide(shape_, kernels_, workspace_memory_.data(), &work_);
  return true;
}

int Model::weigh_inputs(int ggml_type, const void* blocks, int n, int k, float* counts) {
  if (!find_format(ggml_type)) return pack_unknown_type;
  if (k % kBlock || k % find_format(ggml_type)->elements) return pack_bad_inputs;
  struct Weighing {
    Model* model;
    const void* blocks;
    int type, n, k;
    float* counts;
  } w{this, blocks, ggml_type, n, k, counts};
  pool_.run(
      [](void* context, int thread) {
        const Weighing& w = *static_cast<Weighing*>(context);
        const Share own = share_of(w.k / kBlock, thread, w.model->pool_.threads());
        sum_squares(w.type, w.blocks, w.n, w.k, own.begin * kBlock, own.end * kBlock, w.counts);
      },
      &w);
  weigh_sums(k, counts);
  return pack_done;
}

int Model::pack(int part, int layer, int source, int expert, int ggml_type, const void* blocks, const int32_t* order,
                const float* counts) {
  Matrix& packed = divides_qkv(part, layer) ? layers_[layer].apart_qkv[source] : matrix(part, layer);
  struct Packing {
    Model* model;
    Matrix* matrix;
    const void* blocks;
    const int32_t* order;
    const float* counts;
    int part, source, type, first, count;
    uint8_t* out;
    float* factors;
    std::atomic<int> error;  // the first one
    bool in_turn = false;
  } p{this, &packed, blocks, order, counts, part, source, ggml_type, 0, 0, nullptr, nullptr, {pack_done}};
  const bool gates = part == part_gate_up || part == part_expert_gate_up || part == part_shared_gate_up;
  const bool in_turn = gates && (shape_.gated || part != part_gate_up);
  p.count = part == part_qkv ? outputs_of_qkv(source) : in_turn ? outputs_of(part) / 2 : outputs_of(part);
  for (int i = 0; part == part_qkv && !divides_qkv(part, layer) && i < source; i++) p.first += outputs_of_qkv(i);
  std::vector<float>& factors = factors_[p.matrix];
  factors.resize(size_t(p.matrix->n) * experts_of(part), 1.0f);
  p.factors = factors.data() + size_t(expert) * p.matrix->n;
  p.out = const_cast<uint8_t*>(p.matrix->data) + expert * p.matrix->size_bytes;
  p.in_turn = in_turn;
  auto work = [](void* context, int thread) {
    Packing& p = *static_cast<Packing*>(context);
    const Matrix& m = *p.matrix;
    auto fail = [&p](int error) {
      int none = pack_done;
      p.error.compare_exchange_strong(none, error);
    };
    std::vector<int32_t> rows(kPanelOutputs);
    Share groups = share_of((p.count + kPanelOutputs - 1) / kPanelOutputs, thread, p.model->pool_.threads());
    const GgmlFormat* format = find_format(p.type);
    const size_t row_bytes = format ? size_t(m.k) / format->elements * format->bytes : 0;
    const Share checked = share_of(p.count, thread, p.model->pool_.threads());
    if (!is_finite(p.type, static_cast<const uint8_t*>(p.blocks) + checked.begin * row_bytes,
                   (checked.end - checked.begin) * row_bytes))
      fail(kNotFinite);
    for (int group = groups.begin; group < groups.end && p.error.load() == pack_done; group++) {
      const int begin = group * kPanelOutputs, count = std::min(kPanelOutputs, p.count - begin);
      for (int i = 0; i < count; i++) rows[i] = p.order ? p.order[begin + i] : begin + i;
      // Gates and ups take turns, a panel each: their outputs are used together.
      const int first = p.in_turn ? (2 * group + p.source) * kPanelOutputs : p.first + begin;
      const int error = p.model->kernels_.pack(m.format, p.type, p.blocks, first, count, rows.data(), p.counts, m.n,
                                               m.k, p.out, p.factors);
      if (error != pack_done) fail(error);
    }
  };
  pool_.run(work, &p);
  const bool any = std::any_of(factors.begin(), factors.end(), [](float factor) { return factor != 1.0f; });
  p.matrix->factors = any ? factors.data() : nullptr;
  if (!any) factors_.erase(p.matrix);
  return p.error.load();
}

void Model::set_vector(int vector, int layer, const float* numbers, int count) {
  float* place = reinterpret_cast<float*>(vectors_memory_.data()) + vectors_used_;
  vectors_used_ += (count + 15) / 16 * 16;
  memcpy(place, numbers, sizeof(float) * count);
  (vector < vector_norm ? layers_[layer].vectors[vector] : vectors_[vector]) = place;
}

bool Model::is_sound(const Step& s) const {
  if (s.tokens < 1 || s.tokens > shape_.max_step_tokens || s.sequences < 1 || s.sequences > shape_.max_sequences)
    return false;
  if (s.starts[0] != 0 || s.starts[s.sequences] != s.tokens) return false;
  if (!within(s.token_ids, s.tokens, shape_.vocabulary_size)) return false;
  if (s.turned && !within(s.axes, shape_.rope_width / 2, 3)) return false;
  if (s.picked && !std::all_of(s.picked, s.picked + s.tokens, [&](int i) { return i >= -1 && i < s.embedded_count; }))
    return false;
  for (int sequence = 0; sequence < s.sequences; sequence++) {
    const int first = s.starts[sequence], end = s.starts[sequence + 1], length = s.lengths[sequence];
    if (first < 0 || end <= first || end > s.tokens || length < end - first) return false;
    if (length > shape_.context_tokens) return false;
    for (int row = first; row < end; row++) {
      if (s.positions[row] != length - (end - row)) return false;
      if (s.seen && (s.seen[row] <= s.positions[row] || s.seen[row] > length)) return false;
    }
    const int used = (length + shape_.block_tokens - 1) / shape_.block_tokens;
    const int32_t* table = s.block_tables + static_cast<size_t>(sequence) * s.table_width;
    if (used > s.table_width || !within(table, used, shape_.blocks)) return false;
    if (shape_.window_blocks > 0 && !sees_windows(s, sequence)) return false;
  }
  if (s.logit_count > shape_.max_step_tokens || !has_adapters(s)) return false;
  return within(s.logit_rows, s.logit_count, s.tokens) && within(s.hidden_rows, s.hidden_count, s.tokens);
}

// Whether the blocks are there that layers with a window see in this step.
bool Model::sees_windows(const Step& s, int sequence) const {
  if (s.window_tables == nullptr) return false;
  int longest = 0;
  for (const Layer& layer : layers_) longest = std::max(longest, layer.window);
  const int first = std::max(0, s.positions[s.starts[sequence]] + 1 - longest) / shape_.block_tokens;
  const int used = (s.lengths[sequence] + shape_.block_tokens - 1) / shape_.block_tokens;
  const int32_t* table = s.window_tables + static_cast<size_t>(sequence) * s.table_width;
  return within(table + first, used - first, shape_.window_blocks);
}

void Model::copy_blocks(const int32_t* pairs, int count) {
  for (int i = 0; i < count; i++) {
    const int source = pairs[2 * i], target = pairs[2 * i + 1];
    const size_t bytes = source >= shape_.blocks ? window_block_bytes_ : block_bytes_;
    if (source != target) memcpy(block(target), block(source), bytes);
  }
}

uint8_t* Model::block(int number) const {
  const size_t whole = std::min(number, shape_.blocks), windows = static_cast<size_t>(number) - whole;
  return pool_memory_.data() + whole * block_bytes_ + windows * window_block_bytes_;
}

size_t Model::block_bytes(const Shape& shape, bool windows) { return bytes_of_block(shape, windows); }

void Model::plan(const Step& s) {
  plan_adapters(s);
  const bool adapted = !adapted_rows_.empty();
  single_ = s.tokens == s.sequences;
  few_ = single_ && !adapted && s.tokens <= kFewRows;
  apart_ = !fine_ && !shape_.experts && !adapted && s.tokens >= kApartRows * shape_.threads;
  for (int layer = 0; layer < shape_.layers; layer++) work_.groups_taken[layer] = 0;
  steps_++;
  // Kernels read whole segments and leave out afterwards what is not seen: every entry must lead into the pool.
  const size_t entries = shape_.window_blocks > 0 ? static_cast<size_t>(s.sequences) * s.table_width : 0;
  for (size_t i = 0; i < entries; i++) s.window_tables[i] = std::max(s.window_tables[i], 0);
  for (int sequence = 0; sequence < s.sequences; sequence++)
    std::fill(work_.sequences + s.starts[sequence], work_.sequences + s.starts[sequence + 1], sequence);
}

// The rows of a thread; where rows are kept apart, whole tiles of them.
Share Model::rows_of(int tokens, int thread) const {
  if (few_) return {0, tokens};
  if (!apart_) return share_of(tokens, thread, shape_.threads);
  const Share tiles = share_of((tokens + kTileRows - 1) / kTileRows, thread, shape_.threads);
  return {tiles.begin * kTileRows, std::min(tiles.end * kTileRows, tokens)};
}

void Model::compute(const Step& step) {
  plan(step);
  kernels_.place_rows(&width_rows_, work_.width_rows, step.tokens, shape_.width);
  if (fine_) kernels_.place_rows(&fine_rows_, work_.fine_rows, 2 * step.tokens, shape_.width);
  kernels_.place_rows(&mixed_rows_, work_.mixed_rows, step.tokens, shape_.mixed_width());
  kernels_.place_rows(&feed_rows_, work_.feed_rows, step.tokens, shape_.feed_width);
  kernels_.place_rows(&head_rows_, work_.head_rows, step.logit_count, shape_.width);
  if (shape_.shared_width) kernels_.place_rows(&shared_rows_, work_.shared_rows, step.tokens, shape_.shared_width);
  for (int thread = 0; few_ && thread < shape_.threads; thread++) {
    const Desk& desk = work_.desks[thread];
    kernels_.place_rows(&own_width_rows_[thread], desk.width_rows, step.tokens, shape_.width);
    if (fine_) kernels_.place_rows(&own_fine_rows_[thread], desk.fine_rows, 2 * step.tokens, shape_.width);
    kernels_.place_rows(&own_mixed_rows_[thread], desk.mixed_rows, step.tokens, shape_.mixed_width());
  }
  for (int thread = 0; apart_ && thread < shape_.threads; thread++) {
    const Share own = rows_of(step.tokens, thread);
    auto place = [&](Rows* rows, void* memory, int k) {
      uint8_t* at = static_cast<uint8_t*>(memory) + (own.begin ? kernels_.rows_bytes(own.begin, k) : 0);
      kernels_.place_rows(rows, at, own.end - own.begin, k);
    };
    place(&own_width_rows_[thread], work_.width_rows, shape_.width);
    place(&own_mixed_rows_[thread], work_.mixed_rows, shape_.mixed_width());
    place(&own_feed_rows_[thread], work_.feed_rows, shape_.feed_width);
  }
  struct Run {
    Model* model;
    const Step* step;
  } run{this, &step};
  pool_.run(
      [](void* context, int thread) {
        auto* run = static_cast<Run*>(context);
        const FlushSmall flush;
        Forward(*run->model, *run->step, thread).run();
      },
      &run);
}

}  // namespace inferd
