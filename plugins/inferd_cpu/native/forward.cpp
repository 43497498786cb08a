#include "forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "sampling.h"

namespace inferd {

void Forward::run() {
  embed();
  const float* next = m_.layers_[0].vectors[vector_attention_norm];
  for (int index = 0; index < shape_.layers; index++) {
    const Layer& layer = m_.layers_[index];
    normalize(next, index > 0, true);
    gather();
    multiply(index, part_qkv, m_.fine_ ? fine_rows() : width_rows(), m_.work_.qkv, shape_.qkv_stride());
    meet();
    if (m_.few_) {
      attend_few(layer, index);
      m_.pool_.meet();
      fold_few();
    } else {
      attend(layer, index);
      m_.pool_.meet();
    }
    multiply(index, part_mix, mixed_rows(), m_.work_.delta, shape_.delta_stride());
    meet();
    normalize(layer.vectors[vector_feed_norm], true, false);
    gather();
    feed(index);
    meet();
    multiply(index, part_down, feed_rows(), m_.work_.delta, shape_.delta_stride());
    meet();
    if (index + 1 < shape_.layers) next = m_.layers_[index + 1].vectors[vector_attention_norm];
  }
  finish();
}

void Forward::embed() {
  const int half = shape_.rope_width / 2;
  const Share some = m_.apart_ ? rows() : share(s_.tokens);
  for (int row = some.begin; row < some.end; row++)
    for (int i = 0; i < half; i++) {
      const float angle = static_cast<float>(s_.positions[row]) * m_.frequencies_[i];
      m_.work_.cosines[size_t(row) * half + i] = std::cos(angle);
      m_.work_.sines[size_t(row) * half + i] = std::sin(angle);
    }
  const Share own = rows();
  for (int row = own.begin; row < own.end; row++)
    m_.kernels_.unpack_row(m_.embedding(), s_.token_ids[row], residual(row));
}

// Adds what the last product gave to the residuals, and quantises their norms for the next one. Fine rows may come in
// two: the norm, and behind all of those what quantising it has lost. Scores magnify errors of queries and keys.
void Forward::normalize(const float* weight, bool with_delta, bool fine) {
  const Share own = rows();
  const bool twice = fine && m_.fine_;
  const Rows& out = twice ? fine_rows() : width_rows();
  const size_t width = shape_.width;
  for (int first = own.begin; first < own.end; first += kTileRows) {
    const int count = std::min(kTileRows, own.end - first);
    for (int i = 0; i < count; i++) {
      float* x = residual(first + i);
      if (with_delta) m_.norms_.add(delta(first + i), shape_.width, x);
      m_.norms_.normalize(x, weight, shape_.epsilon, shape_.width, desk_.rows + i * width);
    }
    m_.kernels_.quantize(desk_.rows, width, first - base(), count, &out);
    if (!twice) continue;
    for (int i = 0; i < count; i++) m_.norms_.subtract(out, first + i, desk_.rows + i * width, desk_.rows + i * width);
    m_.kernels_.quantize(desk_.rows, width, s_.tokens + first, count, &out);
  }
}

// Does `count` outputs of a product in pieces, `work(piece)`: half of what is left of this thread's share, again and
// again, then what others have left of theirs one by one. Equal shares do not take equal times.
template <class Work>
void Forward::share_out(int layer, Part part, int count, const Work& work) {
  if (m_.apart_) return work(Share{0, count});
  for (int turn = 0; turn < shape_.threads; turn++) {
    const int owner = (thread_ + turn) % shape_.threads;
    const Share share = share_of(count, owner, shape_.threads);
    std::atomic<uint64_t>& taken = m_.work_.taken[(layer * part_head + part) * shape_.threads + owner].count;
    for (uint64_t seen = taken.load();;) {
      const int done = seen >> 32 == m_.steps_ ? static_cast<int>(seen & 0xffffffff) : 0;  // else of another step
      const int left = share.end - share.begin - done, some = turn == 0 ? (left + 1) / 2 : 1;
      if (left == 0) break;
      if (!taken.compare_exchange_weak(seen, uint64_t{m_.steps_} << 32 | static_cast<uint32_t>(done + some))) continue;
      work(Share{share.begin + done, share.begin + done + some});
      seen = taken.load();
    }
  }
}

void Forward::multiply(int layer, Part part, const Rows& rows, float* out, size_t stride) {
  const Matrix& matrix = m_.layers_[layer].matrices[part];
  share_out(layer, part, panels_of(matrix), [&](Share panels) {
    m_.kernels_.multiply(matrix, rows, out + base() * stride, stride, panels.begin, panels.end, desk_.multiply);
  });
}

History Forward::history(int row, int layer, int head) const {
  const size_t head_bytes = m_.attention_shape_.head_bytes();
  const size_t place = size_t(layer) * shape_.kv_heads + head;
  const int32_t* table = s_.block_tables + size_t(m_.work_.sequences[row]) * s_.table_width;
  return {m_.pool_memory_.data() + place * head_bytes, head_bytes * shape_.kv_heads * shape_.layers, table};
}

// Queries, keys or values of a row, biased: where the product put them, or `room` if anything was added.
float* Forward::take(const Layer& layer, int row, int offset, int count, float* room) const {
  float* from = m_.work_.qkv + size_t(row) * shape_.qkv_stride() + offset;
  const float* bias = layer.vectors[vector_qkv_bias];
  if (!bias && !m_.fine_) return from;
  memcpy(room, from, sizeof(float) * count);
  if (m_.fine_) m_.norms_.add(from + size_t(s_.tokens) * shape_.qkv_stride(), count, room);
  if (bias) m_.norms_.add(bias + offset, count, room);
  return room;
}

// One head of a row of queries and keys: biased, normalised and rotated.
void Forward::prepare_head(const Layer& layer, int row, int offset, const float* norm, float* out) {
  const int width = shape_.key_width, half = shape_.rope_width / 2;
  const float* head = take(layer, row, offset, width, out);
  if (norm) {
    m_.norms_.normalize(head, norm, shape_.epsilon, width, out);
    head = out;
  }
  m_.norms_.rotate(m_.work_.cosines + size_t(row) * half, m_.work_.sines + size_t(row) * half, half, head, width, out);
}

void Forward::prepare_queries(const Layer& layer, int row, int head, float* out) {
  for (int i = 0; i < shape_.shared(); i++) {
    const int offset = (head * shape_.shared() + i) * shape_.key_width;
    prepare_head(layer, row, offset, layer.vectors[vector_query_norm], out + i * shape_.key_width);
  }
}

// Puts the key and value of one row and head into the pool.
void Forward::put(const Layer& layer, int index, int row, int head) {
  float* key = desk_.queries + size_t(kTileRows) * shape_.shared() * shape_.key_width;
  prepare_head(layer, row, shape_.queries_width() + head * shape_.key_width, layer.vectors[vector_key_norm], key);
  const int offset = shape_.queries_width() + shape_.keys_width() + head * shape_.value_width;
  float* value = take(layer, row, offset, shape_.value_width, key + shape_.key_width);
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

// The segment that is attended to after this one, where each row has its own sequence.
Segment Forward::look_ahead(int index, int row, int head, int segment) const {
  const AttentionShape& shape = m_.attention_shape_;
  const int tokens = s_.positions[row] + 1;
  if (++segment == shape.segments(tokens)) {
    segment = 0;
    if (++head == shape_.kv_heads) {
      head = 0;
      row++;
    }
  }
  if (row == s_.tokens) return {};
  const int some = std::min(s_.positions[row] + 1 - segment * shape.segment_tokens(), shape.segment_tokens());
  return {history(row, index, head), segment, some};
}

// Some rows of one sequence.
void Forward::attend_rows(const Layer& layer, int index, Share rows, int head) {
  const AttentionShape& shape = m_.attention_shape_;
  const int first = rows.begin, end = rows.end;
  const size_t queries_floats = size_t(shape_.shared()) * shape_.key_width;
  const History past = history(first, index, head);
  for (int row = first; row < end; row++)
    prepare_queries(layer, row, head, desk_.queries + (row - first) * queries_floats);
  const int segments = shape.segments(s_.positions[end - 1] + 1);
  const bool together = m_.attends_rows_ && end - first >= kManyRows;
  const int taken = together ? end - first : 1;
  for (int row = first; row < end; row += taken)
    m_.attention_.take_queries(shape, desk_.queries + (row - first) * queries_floats, taken,
                               desk_.taken + (row - first) * shape.queries_floats());
  float* next = desk_.partials + kTileRows * shape.partial_floats();
  for (int segment = 0; segment < segments; segment++) {
    if (together)
      m_.attention_.attend_rows(shape, past, desk_.taken, end - first, segment, s_.positions[first] + 1, desk_.scores,
                                segment ? next : desk_.partials);
    for (int row = first; row < end; row++) {
      const int tokens = std::min(s_.positions[row] + 1 - segment * shape.segment_tokens(), shape.segment_tokens());
      if (tokens <= 0) continue;
      const size_t place = (row - first) * shape.partial_floats();
      float* result = (segment ? next : desk_.partials) + place;
      if (!together)
        m_.attention_.attend(shape, {past, segment, tokens}, desk_.taken + (row - first) * shape.queries_floats(),
                             desk_.scores, result,
                             end - first > 1 ? Segment{} : look_ahead(index, row, head, segment));
      if (segment) m_.attention_.fold(shape, result, desk_.partials + place);
    }
  }
  for (int row = first; row < end; row++) {
    float* out = m_.work_.mixed + size_t(row) * shape_.mixed_width() + size_t(head) * shape.shared * shape.value_width;
    m_.attention_.finish(shape, desk_.partials + (row - first) * shape.partial_floats(), out);
  }
}

// Segments of few rows: they are shared out one by one, and folded later, in the same order.
void Forward::attend_few(const Layer& layer, int index) {
  const AttentionShape& shape = m_.attention_shape_;
  const int most = shape.segments(shape_.context_tokens);
  int64_t total = 0, done = 0;
  for (int row = 0; row < s_.tokens; row++) total += int64_t{s_.positions[row] + 1} * shape_.kv_heads;
  for (int row = 0; row < s_.tokens; row++)
    for (int head = 0; head < shape_.kv_heads; head++) {
      bool prepared = false;
      const int tokens = s_.positions[row] + 1, segments = shape.segments(tokens);
      for (int segment = 0; segment < segments; segment++) {
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
        m_.attention_.attend(shape, {history(row, index, head), segment, some}, desk_.taken, desk_.scores, partial,
                             look_ahead(index, row, head, segment));
      }
    }
}

void Forward::fold_few() {
  const AttentionShape& shape = m_.attention_shape_;
  const int most = shape.segments(shape_.context_tokens);
  for (int row = 0; row < s_.tokens; row++) {
    for (int head = 0; head < shape_.kv_heads; head++) {
      const float* partials = m_.work_.partials + size_t(row * shape_.kv_heads + head) * most * shape.partial_floats();
      const float* result = partials;
      const int segments = shape.segments(s_.positions[row] + 1);
      if (segments > 1) {  // others fold the same partials
        memcpy(desk_.partials, partials, sizeof(float) * shape.partial_floats());
        for (int i = 1; i < segments; i++)
          m_.attention_.fold(shape, partials + i * shape.partial_floats(), desk_.partials);
        result = desk_.partials;
      }
      m_.attention_.finish(shape, result, desk_.rows + head * shape.shared * shape.value_width);
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

// Gates and ups of as many blocks as the scratch holds, multiplied and quantised while they are in the cache.
void Forward::feed(int layer) {
  static_assert(kPanelOutputs == kBlock, "a panel of gates, and one of ups, make one block of inputs");
  const Matrix& matrix = m_.layers_[layer].matrices[part_gate_up];
  const size_t each = m_.kernels_.inner_floats(width_rows().rows, 2);
  const int most = std::max(1, static_cast<int>(scratch_floats(shape_, m_.kernels_) / each));
  share_out(layer, part_gate_up, shape_.feed_width / kBlock, [&](Share own) {
    for (int block = own.begin; block < own.end; block += most) {
      const int end = std::min(block + most, own.end);
      m_.kernels_.multiply_inner(matrix, width_rows(), desk_.scratch, 2 * block, 2 * end, desk_.multiply);
      m_.norms_.gate(desk_.scratch, block, end - block, feed_rows());
    }
  });
}

void Forward::finish() {
  const Share own = rows();
  for (int row = own.begin; row < own.end; row++) m_.norms_.add(delta(row), shape_.width, residual(row));
  if (!m_.few_) m_.pool_.meet();
  write_hidden();
  if (s_.logit_count == 0) return;
  const Share heads = share(s_.logit_count);
  for (int i = heads.begin; i < heads.end; i++) {
    m_.norms_.normalize(residual(s_.logit_rows[i]), m_.norm_, shape_.epsilon, shape_.width, desk_.rows);
    m_.kernels_.quantize(desk_.rows, shape_.width, i, 1, &m_.head_rows_);
  }
  m_.pool_.meet();
  if (s_.logits) {
    write_logits();
  } else {
    find_best();
  }
}

void Forward::write_hidden() {
  const Share own = share(s_.hidden_count);
  for (int i = own.begin; i < own.end; i++)
    m_.norms_.normalize(residual(s_.hidden_rows[i]), m_.norm_, shape_.epsilon, shape_.width,
                        s_.hidden + size_t(i) * shape_.width);
}

void Forward::write_logits() {
  const Share panels = share(panels_of(m_.head_));
  m_.kernels_.multiply(m_.head_, m_.head_rows_, s_.logits, s_.logits_stride, panels.begin, panels.end,
                       desk_.multiply);
  if (!s_.chosen) return;
  m_.pool_.meet();
  const Share own = share(s_.logit_count);
  for (int i = own.begin; i < own.end; i++) {
    const Choice choice{s_.temperatures[i], s_.top_k[i], s_.top_p[i], s_.min_p[i], s_.points[i]};
    const float* logits = s_.logits + size_t(i) * s_.logits_stride;
    s_.chosen[i] = choose_token(m_.norms_, logits, shape_.vocabulary_size, choice, desk_.weights, desk_.order);
  }
}

// The best token of each row, found while its logits are in the cache; they are kept nowhere.
void Forward::find_best() {
  const int count = s_.logit_count, size = shape_.vocabulary_size;
  for (int i = 0; i < count; i++) desk_.best[i] = {-INFINITY, 0};
  const Share panels = share(panels_of(m_.head_));
  const int most = std::max(1, 2 * shape_.max_step_tokens / count);
  for (int panel = panels.begin; panel < panels.end; panel += most) {
    const int end = std::min(panel + most, panels.end), first = panel * kPanelOutputs;
    const int some = std::min(end * kPanelOutputs, size) - first;
    const size_t stride = size_t(end - panel) * kPanelOutputs + kPadding;
    float* out = reinterpret_cast<float*>(reinterpret_cast<uintptr_t>(desk_.scratch) - sizeof(float) * first);
    m_.kernels_.multiply(m_.head_, m_.head_rows_, out, stride, panel, end, desk_.multiply);
    for (int i = 0; i < count; i++) m_.norms_.find_best(desk_.scratch + i * stride, first, some, &desk_.best[i]);
  }
  m_.pool_.meet();
  const Share own = share(count);
  for (int i = own.begin; i < own.end; i++) {
    Best best = m_.work_.desks[0].best[i];
    for (int thread = 1; thread < shape_.threads; thread++) {
      const Best& other = m_.work_.desks[thread].best[i];
      if (other.value != other.value || other.value > best.value) best = other;
    }
    s_.chosen[i] = std::isfinite(best.value) ? best.id : kNoToken;
  }
}

}  // namespace inferd
