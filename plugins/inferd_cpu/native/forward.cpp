#include "forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "sampling.h"

namespace inferd {

void Forward::run() {
  embed();
  Addition fed = {};
  for (int index = 0; index < shape_.layers; index++) {
    const Layer& layer = m_.layers_[index];
    const float* const* vectors = layer.vectors;
    prepare(fed, vectors[vector_attention_norm], vectors[vector_attention_norm_bias], true, adapted());
    gather();
    multiply_qkv(index, m_.fine_ ? fine_rows() : width_rows(), m_.work_.qkv, shape_.qkv_stride());
    meet();
    if (adapted()) adapt_qkv(index);
    if (m_.few_) {
      attend_few(layer, index);
      m_.pool_.meet();
      fold_few(layer);
    } else {
      attend(layer, index);
      m_.pool_.meet();
    }
    multiply(index, part_mix, mixed_rows(), m_.work_.delta, shape_.delta_stride());
    meet();
    if (adapted()) adapt_mix(index);
    const Addition mixed = {m_.work_.delta, vectors[vector_mix_bias], vectors[vector_attention_post_norm],
                            vectors[vector_attention_post_norm_bias]};
    const Vector norm = shape_.parallel && !vectors[vector_feed_norm] ? vector_attention_norm : vector_feed_norm;
    prepare(mixed, vectors[norm], vectors[norm + 1], false, layer.routed || adapted());
    if (layer.routed) {
      feed_experts(layer, index);
    } else {
      gather();
      if (adapted()) {
        feed_adapted(index);
      } else if (shape_.plain_feed()) {
        feed_plain(index);
      } else {
        feed(index);
      }
      meet();
      multiply(index, part_down, feed_rows(), m_.work_.delta, shape_.delta_stride());
      meet();
      if (adapted()) adapt_down(index);
    }
    fed = {layer.routed && single_row() ? desk_.fed : m_.work_.delta, vectors[vector_down_bias],
           vectors[vector_feed_post_norm], vectors[vector_feed_post_norm_bias]};
  }
  finish(fed);
}

void Forward::embed() {
  const int half = shape_.rope_width / 2;
  const Share some = m_.apart_ ? rows() : share(s_.tokens);
  for (int rope = 0; rope < shape_.ropes; rope++) {
    const float* shorter = m_.vectors_[vector_frequencies] + rope * half;
    const float* longer = shorter + shape_.ropes * half;
    const float magnitude = shape_.magnitudes[rope];
    for (int row = some.begin; row < some.end; row++) {
      const size_t at = (size_t(rope) * shape_.max_step_tokens + row) * half;
      const bool beyond = s_.beyond && s_.beyond[m_.work_.sequences[row]];
      const float* frequencies = beyond ? longer : shorter;
      for (int i = 0; i < half; i++) {
        const int position = s_.turned ? s_.turned[size_t(s_.axes[i]) * s_.tokens + row] : s_.positions[row];
        const float angle = static_cast<float>(position) * frequencies[i];
        m_.work_.cosines[at + i] = std::cos(angle) * magnitude;
        m_.work_.sines[at + i] = std::sin(angle) * magnitude;
      }
    }
  }
  const Share own = rows();
  for (int row = own.begin; row < own.end; row++) {
    if (s_.picked && s_.picked[row] >= 0) {
      memcpy(residual(row), s_.embedded + size_t(s_.picked[row]) * shape_.width, sizeof(float) * shape_.width);
      continue;
    }
    m_.kernels_.unpack_row(m_.embedding(), s_.token_ids[row], residual(row));
    if (shape_.embedding_scale != 1.0f) m_.norms_.cap(shape_.embedding_scale, 0.0f, shape_.width, residual(row));
    if (const float* positions = m_.vectors_[vector_positions])
      m_.norms_.add(positions + size_t(s_.positions[row]) * shape_.width, shape_.width, residual(row));
  }
}

// The norm of a row of the width; a copy where there is none.
void Forward::normalize(const float* x, const float* weight, const float* bias, float* out) const {
  const int width = shape_.width;
  if (!weight) {
    if (out != x) memcpy(out, x, sizeof(float) * width);
    return;
  }
  (shape_.layer_norm ? m_.norms_.center : m_.norms_.normalize)(x, weight, shape_.epsilon, width, out);
  if (bias) m_.norms_.add(bias, width, out);
}

// Adds what the last product gave to a residual, after what belongs to it.
void Forward::add_delta(int row, const Addition& added) {
  const float* from = added.rows + size_t(row) * shape_.delta_stride();
  if (added.bias || added.norm) {  // with few rows other threads read the same
    memcpy(desk_.delta, from, sizeof(float) * shape_.width);
    if (added.bias) m_.norms_.add(added.bias, shape_.width, desk_.delta);
    if (added.norm) normalize(desk_.delta, added.norm, added.norm_bias, desk_.delta);
    from = desk_.delta;
  }
  if (shape_.residual_scale == 1.0f) {
    m_.norms_.add(from, shape_.width, residual(row));
  } else {
    m_.norms_.add_scaled(from, shape_.residual_scale, shape_.width, residual(row));
  }
}

// Adds what the last product gave to the residuals, and quantises their norms for the next one; where attention and
// feed-forward part start from the same, what attention gave is added afterwards. Fine rows may come in two: the norm,
// and behind all of those what quantising it has lost. Norms may be kept for experts. Scores magnify errors of queries and keys.
void Forward::prepare(const Addition& before, const float* norm, const float* norm_bias, bool fine, bool keeps) {
  const Share own = rows();
  const bool twice = fine && m_.fine_, later = shape_.parallel && !fine;
  const Rows& out = twice ? fine_rows() : width_rows();
  const size_t width = shape_.width;
  for (int first = own.begin; first < own.end; first += kTileRows) {
    const int count = std::min(kTileRows, own.end - first);
    for (int i = 0; i < count; i++) {
      const int row = first + i;
      if (before.rows && !later) add_delta(row, before);
      normalize(residual(row), norm, norm_bias, desk_.rows + i * width);
      if (later) add_delta(row, before);
    }
    m_.kernels_.quantize(desk_.rows, width, first - base(), count, &out);
    if (keeps && (!m_.few_ || thread_ == 0))
      memcpy(m_.work_.normed + first * width, desk_.rows, sizeof(float) * count * width);
    if (!twice) continue;
    for (int i = 0; i < count; i++) m_.norms_.subtract(out, first + i, desk_.rows + i * width, desk_.rows + i * width);
    m_.kernels_.quantize(desk_.rows, width, s_.tokens + first, count, &out);
  }
}

void Forward::multiply(int layer, Part part, const Rows& rows, float* out, size_t stride) {
  const Matrix& matrix = m_.layers_[layer].matrices[part];
  share_out(layer, part, panels_of(matrix), [&](Share panels) {
    m_.kernels_.multiply(matrix, rows, out + base() * stride, stride, panels.begin, panels.end, desk_.multiply);
  });
}

// Queries, keys and values, which are one matrix where they have one format. Of fine rows, values have the first of the
// two: their panels have the first half of all rows.
void Forward::multiply_qkv(int index, const Rows& rows, float* out, size_t stride) {
  const Layer& layer = m_.layers_[index];
  const bool divided = m_.divides_qkv(part_qkv, index);
  const Matrix* const matrices = divided ? layer.apart_qkv : &layer.matrices[part_qkv];
  const int count = divided ? 3 : 1;
  int all = 0;
  for (int i = 0; i < count; i++) all += panels_of(matrices[i]);
  Rows once = rows;
  if (m_.fine_) once.rows = s_.tokens;
  share_out(index, part_qkv, all, [&](Share panels) {
    float* to = out + base() * stride;
    int first = 0;  // panel of the matrix among those of all
    for (int i = 0; i < count; i++) {
      const Matrix& matrix = matrices[i];
      const int begin = std::max(panels.begin - first, 0), end = std::min(panels.end - first, panels_of(matrix));
      const int border = std::min(std::max(layer.fine_panels - first, begin), end);
      if (begin < border) m_.kernels_.multiply(matrix, rows, to, stride, begin, border, desk_.multiply);
      if (border < end) m_.kernels_.multiply(matrix, once, to, stride, border, end, desk_.multiply);
      first += panels_of(matrix);
      to += matrix.n;
    }
  });
}

// Gates and ups of as many blocks as the scratch holds, multiplied and quantised while they are in the cache.
void Forward::feed_blocks(const Matrix& matrix, const Rows& rows, Share own, const Rows& out) {
  static_assert(kPanelOutputs == kBlock, "a panel of gates, and one of ups, make one block of inputs");
  const size_t each = m_.kernels_.inner_floats(rows.rows, 2);
  const int most = std::max(1, static_cast<int>(scratch_floats(shape_, m_.kernels_) / each));
  for (int block = own.begin; block < own.end; block += most) {
    const int end = std::min(block + most, own.end);
    m_.kernels_.multiply_inner(matrix, rows, desk_.scratch, 2 * block, 2 * end, desk_.multiply);
    m_.norms_.gate(desk_.scratch, block, end - block, out);
  }
}

void Forward::feed(int layer) {
  const Matrix& matrix = m_.layers_[layer].matrices[part_gate_up];
  share_out(layer, part_gate_up, shape_.feed_width / kBlock,
            [&](Share own) { feed_blocks(matrix, width_rows(), own, feed_rows()); });
}

// The same through memory, of any activation: all outputs first, then whole rows.
void Forward::feed_plain(int layer) {
  multiply(layer, part_gate_up, width_rows(), m_.work_.ups, shape_.up_stride());
  meet();
  const Share own = m_.few_ ? share(s_.tokens) : rows();
  const float* bias = m_.layers_[layer].vectors[vector_gate_up_bias];
  const size_t width = shape_.feed_width;
  for (int first = own.begin; first < own.end; first += kTileRows) {
    const int count = std::min(kTileRows, own.end - first);
    for (int i = 0; i < count; i++)
      m_.norms_.activate(static_cast<Activation>(shape_.activation), shape_.gated,
                         m_.work_.ups + size_t(first + i) * shape_.up_stride(), bias, shape_.feed_width / kBlock,
                         desk_.rows + i * width);
    m_.kernels_.quantize(desk_.rows, width, first - base(), count, &feed_rows());
  }
}

void Forward::finish(const Addition& fed) {
  const Share own = rows();
  for (int row = own.begin; row < own.end; row++) add_delta(row, fed);
  if (!m_.few_) m_.pool_.meet();
  write_hidden();
  if (s_.logit_count == 0) return;
  const Share heads = share(s_.logit_count);
  for (int i = heads.begin; i < heads.end; i++) {
    normalize(residual(s_.logit_rows[i]), m_.vectors_[vector_norm], m_.vectors_[vector_norm_bias], desk_.rows);
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
    normalize(residual(s_.hidden_rows[i]), m_.vectors_[vector_norm], m_.vectors_[vector_norm_bias],
              s_.hidden + size_t(i) * shape_.width);
}

void Forward::write_logits() {
  const Share panels = share(panels_of(m_.head_));
  m_.kernels_.multiply(m_.head_, m_.head_rows_, s_.logits, s_.logits_stride, panels.begin, panels.end,
                       desk_.multiply);
  if (shape_.logit_scale != 1.0f || shape_.logit_cap > 0.0f || m_.vectors_[vector_head_bias]) {
    const int first = panels.begin * kPanelOutputs, end = std::min(panels.end * kPanelOutputs, shape_.vocabulary_size);
    for (int i = 0; i < s_.logit_count && first < end; i++) {
      float* logits = s_.logits + size_t(i) * s_.logits_stride + first;
      add_head_bias(first, end - first, logits);
      m_.norms_.cap(shape_.logit_scale, shape_.logit_cap, end - first, logits);
    }
  }
  if (!s_.chosen) return;
  m_.pool_.meet();
  const Share own = share(s_.logit_count);
  for (int i = own.begin; i < own.end; i++) {
    const Choice choice{s_.temperatures[i], s_.top_k[i], s_.top_p[i], s_.min_p[i], s_.points[i]};
    const float* logits = s_.logits + size_t(i) * s_.logits_stride;
    s_.chosen[i] = choose_token(m_.norms_, logits, shape_.vocabulary_size, choice, desk_.weights, desk_.order);
  }
}

void Forward::add_head_bias(int first, int count, float* logits) const {
  const float* bias = m_.vectors_[vector_head_bias];
  for (int i = 0; bias && i < count; i++) logits[i] += bias[first + i];
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
    for (int i = 0; i < count; i++) {  // scales and caps leave the best token the best
      add_head_bias(first, some, desk_.scratch + i * stride);
      m_.norms_.find_best(desk_.scratch + i * stride, first, some, &desk_.best[i]);
    }
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
