#include <algorithm>
#include <cmath>
#include <cstring>

#include "forward.h"

namespace inferd {

History Forward::history(int row, int layer, int head) const {
  const bool apart = m_.layers_[layer].apart;
  const size_t place = size_t(m_.layers_[layer].place) * shape_.kv_heads + head;
  uint8_t* pool = m_.pool_memory_.data() + (apart ? m_.block_bytes_ * shape_.blocks : 0);
  const int32_t* tables = apart ? s_.window_tables : s_.block_tables;
  const int32_t* table = tables + size_t(m_.work_.sequences[row]) * s_.table_width;
  return {pool + place * m_.attention_shape_.head_bytes(), apart ? m_.window_block_bytes_ : m_.block_bytes_, table};
}

// Queries, keys or values of a row, biased, and made one of two rows: where the product put them, or `room` if anything was added.
float* Forward::take(const Layer& layer, int row, int offset, int count, float* room) const {
  float* from = m_.work_.qkv + size_t(row) * shape_.qkv_stride() + offset;
  const float* bias = layer.vectors[vector_qkv_bias];
  const bool fine = m_.fine_ && (layer.fine_values || offset < shape_.queries_width() + shape_.keys_width());
  if (!bias && !fine) return from;
  memcpy(room, from, sizeof(float) * count);
  if (fine) m_.norms_.add(from + size_t(s_.tokens) * shape_.qkv_stride(), count, room);
  if (bias) m_.norms_.add(bias + offset, count, room);
  return room;
}

// Normalises a head, in place or from where `head` is not written to.
void Forward::normalize_head(const Layer& layer, int row, int offset, const float* norm, float* head) {
  const int width = shape_.key_width;
  const auto kind = static_cast<HeadNorms>(shape_.head_norms);
  const bool key = offset >= shape_.queries_width();
  const int place = key ? offset - shape_.queries_width() : offset;
  if (kind != HeadNorms::row) {
    const float* weight = kind == HeadNorms::heads ? norm + place : norm;
    (shape_.layer_norm ? m_.norms_.center : m_.norms_.normalize)(head, weight, shape_.epsilon, width, head);
    return;
  }
  // All heads as one row: it is worked out again for each of them.
  const int begin = key ? shape_.queries_width() : 0, all = key ? shape_.keys_width() : shape_.queries_width();
  const float* whole = take(layer, row, begin, all, desk_.rows);
  m_.norms_.normalize(whole, norm, shape_.epsilon, all, desk_.rows);
  memcpy(head, desk_.rows + place, sizeof(float) * width);
}

// One head of a row of queries and keys: biased, normalised and rotated.
void Forward::prepare_head(const Layer& layer, int row, int offset, const float* norm, float* out) {
  const int width = shape_.key_width, half = shape_.rope_width / 2;
  const float* head = take(layer, row, offset, width, out);
  const bool changes = (norm && !shape_.head_norms_after) || shape_.clamp > 0.0f;
  if (head != out && (changes || layer.rope < 0)) {
    memcpy(out, head, sizeof(float) * width);
    head = out;
  }
  if (shape_.clamp > 0.0f) clamp(out, width);
  if (norm && !shape_.head_norms_after) normalize_head(layer, row, offset, norm, out);
  if (layer.rope >= 0) {
    const size_t at = (size_t(layer.rope) * shape_.max_step_tokens + row) * half;
    m_.norms_.rotate(m_.work_.cosines + at, m_.work_.sines + at, half, head, width, out);
  }
  if (norm && shape_.head_norms_after) normalize_head(layer, row, offset, norm, out);
}

void Forward::clamp(float* x, int width) const {
  for (int i = 0; i < width; i++) x[i] = std::min(std::max(x[i], -shape_.clamp), shape_.clamp);
}

void Forward::prepare_queries(const Layer& layer, int row, int head, float* out) {
  for (int i = 0; i < shape_.shared(); i++) {
    const int offset = (head * shape_.shared() + i) * shape_.key_width;
    prepare_head(layer, row, offset, layer.vectors[vector_query_norm], out + i * shape_.key_width);
  }
  if (shape_.temperature_scale == 0.0f) return;
  const auto turns = static_cast<float>(s_.positions[row] / shape_.temperature_tokens);
  m_.norms_.cap(1.0f + shape_.temperature_scale * std::log1p(turns), 0.0f, shape_.shared() * shape_.key_width, out);
}

// Puts the key and value of one row and head into the pool.
void Forward::put(const Layer& layer, int index, int row, int head) {
  float* key = desk_.queries + size_t(kTileRows) * shape_.shared() * shape_.key_width;
  prepare_head(layer, row, shape_.queries_width() + head * shape_.key_width, layer.vectors[vector_key_norm], key);
  const int offset = shape_.queries_width() + shape_.keys_width() + head * shape_.value_width;
  float* value = take(layer, row, offset, shape_.value_width, key + shape_.key_width);
  if (shape_.clamp > 0.0f) {
    if (value != key + shape_.key_width) memcpy(key + shape_.key_width, value, sizeof(float) * shape_.value_width);
    value = key + shape_.key_width;
    clamp(value, shape_.value_width);
  }
  m_.attention_.put(m_.attention_shape_, history(row, index, head), s_.positions[row], key, value);
}

// The next group of rows that no thread has attended to; empty when there is none. Rows whose quantised numbers share
// cache lines stay together, if that leaves two groups for each thread: some see more keys than others. The last ones,
// which see most keys of a long prompt, come first; the first group comes in parts, so that all threads end together.
Share Forward::take_group(int index) {
  int size = kTileRows;
  while (size > 1 && 2 * size * shape_.threads > s_.tokens) size /= 2;
  const int behind = (s_.tokens + size - 1) / size - 1;  // groups behind the first one
  const int taken = m_.work_.groups_taken[index].fetch_add(1);
  if (taken < behind) return {(behind - taken) * size, std::min((behind - taken + 1) * size, s_.tokens)};
  const int rows = std::min(size, s_.tokens), some = std::max(1, size / 4);
  const int part = (rows + some - 1) / some - 1 - (taken - behind);
  return part < 0 ? Share{0, 0} : Share{part * some, std::min((part + 1) * some, rows)};
}

void Forward::attend(const Layer& layer, int index) {
  const bool puts = m_.single_ && !m_.apart_;  // each row's key and value when it is attended to
  if (!puts) {  // rows read keys of rows that other threads have
    const Share own = rows();
    for (int row = own.begin; row < own.end; row++)
      for (int head = 0; head < shape_.kv_heads; head++) put(layer, index, row, head);
    m_.pool_.meet();
  }
  for (Share rows = take_group(index); rows.begin < rows.end; rows = take_group(index)) {
    for (int first = rows.begin, end; first < rows.end; first = end) {
      end = std::min(rows.end, s_.starts[m_.work_.sequences[first] + 1]);
      for (int head = 0; head < shape_.kv_heads; head++) {
        if (puts) put(layer, index, first, head);
        attend_rows(layer, index, {first, end}, head);
      }
    }
    quantize_mixed(rows);
  }
}

// What a row sees of a segment of its history; it sees something.
Segment Forward::segment_of(const Layer& layer, int index, int row, int head, int segment) const {
  const AttentionShape& shape = m_.attention_shape_;
  const int before = segment * shape.segment_tokens();
  const int tokens = std::min(seen(row) - before, shape.segment_tokens());
  return {history(row, index, head), segment, tokens, std::max(0, first_seen(layer, row) - before)};
}

// The segment that is attended to after this one, where each row has its own sequence.
Segment Forward::look_ahead(const Layer& layer, int index, int row, int head, int segment) const {
  if (++segment == m_.attention_shape_.segments(seen(row))) {
    if (++head == shape_.kv_heads) {
      head = 0;
      row++;
    }
    if (row == s_.tokens) return {};
    segment = first_segment(layer, row);
  }
  return segment_of(layer, index, row, head, segment);
}

// Some rows of one sequence.
void Forward::attend_rows(const Layer& layer, int index, Share rows, int head) {
  const AttentionShape& shape = m_.attention_shape_;
  const int first = rows.begin, end = rows.end;
  const size_t queries_floats = size_t(shape_.shared()) * shape_.key_width;
  const History past = history(first, index, head);
  for (int row = first; row < end; row++)
    prepare_queries(layer, row, head, desk_.queries + (row - first) * queries_floats);
  int most = 0;
  bool causal = true;
  for (int row = first; row < end; row++) {
    most = std::max(most, seen(row));
    causal = causal && seen(row) == s_.positions[row] + 1;
  }
  const int begin = first_segment(layer, first), segments = shape.segments(most);
  const bool together = m_.attends_rows_ && causal && end - first >= kManyRows;
  const int taken = together ? end - first : 1;
  for (int row = first; row < end; row += taken)
    m_.attention_.take_queries(shape, desk_.queries + (row - first) * queries_floats, taken,
                               desk_.taken + (row - first) * shape.queries_floats());
  float* next = desk_.partials + kTileRows * shape.partial_floats();
  for (int segment = begin; segment < segments; segment++) {
    float* results = segment > begin ? next : desk_.partials;
    if (together)
      m_.attention_.attend_rows(shape, past, desk_.taken, end - first, segment, s_.positions[first] + 1, layer.window,
                                desk_.scores, results);
    for (int row = first; row < end; row++) {
      const int own_first = first_segment(layer, row);
      if (segment < own_first || seen(row) <= segment * shape.segment_tokens()) continue;
      const size_t place = (row - first) * shape.partial_floats();
      float *result = results + place, *folded = desk_.partials + place;
      if (!together)
        m_.attention_.attend(shape, segment_of(layer, index, row, head, segment),
                             desk_.taken + (row - first) * shape.queries_floats(), desk_.scores, result,
                             end - first > 1 ? Segment{} : look_ahead(layer, index, row, head, segment));
      if (segment > own_first) {
        m_.attention_.fold(shape, result, folded);
      } else if (result != folded) {
        memcpy(folded, result, sizeof(float) * shape.partial_floats());
      }
    }
  }
  for (int row = first; row < end; row++) {
    float* out = m_.work_.mixed + size_t(row) * shape_.mixed_width() + size_t(head) * shape.shared * shape.value_width;
    m_.attention_.finish(shape, desk_.partials + (row - first) * shape.partial_floats(), sinks(layer, head), out);
  }
}

// Segments of few rows: they are shared out one by one, and folded later, in the same order.
void Forward::attend_few(const Layer& layer, int index) {
  const AttentionShape& shape = m_.attention_shape_;
  const int most = shape.segments(shape_.context_tokens);
  int64_t total = 0, done = 0;
  for (int row = 0; row < s_.tokens; row++) {
    const int begin = first_segment(layer, row) * shape.segment_tokens();
    total += int64_t{s_.positions[row] + 1 - begin} * shape_.kv_heads;
  }
  for (int row = 0; row < s_.tokens; row++)
    for (int head = 0; head < shape_.kv_heads; head++) {
      bool prepared = false;
      const int tokens = s_.positions[row] + 1, segments = shape.segments(tokens);
      for (int segment = first_segment(layer, row); segment < segments; segment++) {
        const int some = std::min(tokens - segment * shape.segment_tokens(), shape.segment_tokens());
        const bool mine = (2 * done + some) * shape_.threads / (2 * total) == thread_;  // by its middle
        done += some;
        if (!mine) continue;
        if (!prepared) {
          prepare_queries(layer, row, head, desk_.queries);
          m_.attention_.take_queries(shape, desk_.queries, 1, desk_.taken);
        }
        prepared = true;
        if (segment + 1 == segments) put(layer, index, row, head);
        const size_t place = size_t(row * shape_.kv_heads + head) * most + segment;
        float* partial = m_.work_.partials + place * shape.partial_floats();
        m_.attention_.attend(shape, segment_of(layer, index, row, head, segment), desk_.taken, desk_.scores, partial,
                             look_ahead(layer, index, row, head, segment));
      }
    }
}

void Forward::fold_few(const Layer& layer) {
  const AttentionShape& shape = m_.attention_shape_;
  const int most = shape.segments(shape_.context_tokens);
  for (int row = 0; row < s_.tokens; row++) {
    const int begin = first_segment(layer, row), segments = shape.segments(s_.positions[row] + 1);
    for (int head = 0; head < shape_.kv_heads; head++) {
      const float* partials = m_.work_.partials + size_t(row * shape_.kv_heads + head) * most * shape.partial_floats();
      const float* result = partials + begin * shape.partial_floats();
      if (segments > begin + 1) {  // others fold the same partials
        memcpy(desk_.partials, result, sizeof(float) * shape.partial_floats());
        for (int i = begin + 1; i < segments; i++)
          m_.attention_.fold(shape, partials + i * shape.partial_floats(), desk_.partials);
        result = desk_.partials;
      }
      m_.attention_.finish(shape, result, sinks(layer, head), desk_.rows + head * shape.shared * shape.value_width);
    }
    m_.kernels_.quantize(desk_.rows, shape_.mixed_width(), row, 1, &mixed_rows());
  }
}

// For the thread that has these rows.
void Forward::quantize_mixed(Share rows) {
  const size_t width = shape_.mixed_width();
  int owner = 0, base = 0;
  if (m_.apart_) {
    while (m_.rows_of(s_.tokens, owner).end <= rows.begin) owner++;
    base = m_.rows_of(s_.tokens, owner).begin;
  }
  const Rows& to = m_.apart_ ? m_.own_mixed_rows_[owner] : m_.mixed_rows_;
  m_.kernels_.quantize(m_.work_.mixed + rows.begin * width, width, rows.begin - base, rows.end - rows.begin, &to);
}

}  // namespace inferd
