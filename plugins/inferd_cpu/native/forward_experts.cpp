// The feed-forward part of layers with experts (arXiv:1701.06538): rows that share an expert are computed together, and
// of weights only those of chosen experts are read. What a row gets does not depend on the others.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "forward.h"

namespace inferd {
namespace {

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

void softmax(float* x, int n) {
  const float peak = *std::max_element(x, x + n);
  float sum = 0.0f;
  for (int i = 0; i < n; i++) sum += x[i] = std::exp(x[i] - peak);
  for (int i = 0; i < n; i++) x[i] /= sum;
}

// The `count` largest of n numbers, the first of equals first.
void choose_largest(const float* x, int n, int count, int32_t* order) {
  std::iota(order, order + n, 0);
  std::partial_sort(order, order + count, order + n,
                    [x](int a, int b) { return x[a] > x[b] || (x[a] == x[b] && a < b); });
}

}  // namespace

// Experts outside the best groups get the least choice. A group is as good as its best expert, or its best two.
void Forward::keep_groups(float* choice) const {
  const int size = shape_.experts / shape_.groups, counted = shape_.gating == 0 ? 1 : 2;
  float scores[kMaxGroups];
  int32_t order[kMaxGroups];
  for (int group = 0; group < shape_.groups; group++) {
    float first = -INFINITY, second = -INFINITY;
    for (int i = 0; i < size; i++) {
      const float x = choice[group * size + i];
      if (x > first) second = first;
      if (x > first) first = x;
      else if (x > second) second = x;
    }
    scores[group] = counted == 1 || size == 1 ? first : first + second;
  }
  choose_largest(scores, shape_.groups, shape_.groups, order);
  for (int rank = shape_.groups_used; rank < shape_.groups; rank++)
    std::fill(choice + order[rank] * size, choice + (order[rank] + 1) * size, -INFINITY);
}

// How well an expert suits a row, before it is made a weight.
float Forward::score(const Layer& layer, const float* normed, int expert) const {
  const float* router = layer.vectors[vector_router] + size_t(expert) * shape_.width;
  const float* bias = layer.vectors[vector_router_bias];
  return m_.norms_.dot(normed, router, shape_.width) + (bias ? bias[expert] : 0.0f);
}

// Chooses the experts of a row by all scores, and their weights.
void Forward::choose(const Layer& layer, const float* scores, int32_t* chosen, float* shares) {
  const int count = shape_.experts, used = shape_.experts_used;
  float *weights = desk_.weights, *choice = weights + count;
  if (weights != scores) std::copy(scores, scores + count, weights);
  if (shape_.gating == 0) softmax(weights, count);
  for (int expert = 0; expert < count; expert++) {
    if (shape_.gating == 1) weights[expert] = sigmoid(weights[expert]);
    choice[expert] = weights[expert] + (layer.vectors[vector_choice_bias] ? layer.vectors[vector_choice_bias][expert] : 0);
  }
  if (shape_.groups > 1) keep_groups(choice);
  choose_largest(choice, count, used, desk_.order);
  for (int i = 0; i < used; i++) {
    chosen[i] = desk_.order[i];
    shares[i] = weights[chosen[i]];
  }
  if (shape_.gating == 2) softmax(shares, used);
  if (shape_.normalised) {
    const float sum = std::max(std::accumulate(shares, shares + used, 0.0f), 1e-20f);
    for (int i = 0; i < used; i++) shares[i] /= sum;
  }
  for (int i = 0; i < used; i++) shares[i] *= shape_.router_scale;
}

// The experts of the only row: threads share the scores out, and each chooses for itself, so that they meet once.
void Forward::route_one(const Layer& layer) {
  Workspace& work = m_.work_;
  const Share own = share(shape_.experts);
  for (int expert = own.begin; expert < own.end; expert++) work.scores[expert] = score(layer, desk_.rows, expert);
  m_.pool_.meet();
  choose(layer, work.scores, desk_.chosen, desk_.shares);
  desk_.groups.clear();
  uint8_t* feed_rows = work.expert_feed_rows;
  for (int i = 0; i < shape_.experts_used; i++) {
    ExpertRows group = {desk_.chosen[i], i, width_rows(), {}};
    m_.kernels_.place_rows(&group.feed_rows, feed_rows, 1, shape_.expert_width);
    feed_rows += m_.kernels_.rows_bytes(1, shape_.expert_width);
    desk_.groups.push_back(group);
  }
}

// The experts of several rows, which are then quantised side by side.
void Forward::route_rows(const Layer& layer) {
  Workspace& work = m_.work_;
  const int used = shape_.experts_used;
  if (m_.few_) m_.pool_.meet();  // one thread keeps the norms of all; else each those of its own rows
  const Share own = share(s_.tokens);
  for (int row = own.begin; row < own.end; row++) {
    const float* normed = work.normed + size_t(row) * shape_.width;
    for (int expert = 0; expert < shape_.experts; expert++) desk_.weights[expert] = score(layer, normed, expert);
    choose(layer, desk_.weights, work.chosen + size_t(row) * used, work.shares + size_t(row) * used);
  }
  m_.pool_.meet();
  if (thread_ == 0) group_rows();
  m_.pool_.meet();
  each_member([&](const ExpertRows& group, int row, int place) {
    const float* normed = work.normed + size_t(work.members[place]) * shape_.width;
    m_.kernels_.quantize(normed, shape_.width, row, 1, &group.width_rows);
  });
  m_.pool_.meet();
}

// Sorts the rows by their experts. One thread does it for all.
void Forward::group_rows() {
  Workspace& work = m_.work_;
  const int used = shape_.experts_used, all = s_.tokens * used;
  std::vector<ExpertRows>& groups = m_.expert_rows_;
  groups.clear();
  int32_t* begins = work.begins;
  std::fill(begins, begins + shape_.experts + 1, 0);
  for (int i = 0; i < all; i++) begins[work.chosen[i] + 1]++;
  for (int expert = 0; expert < shape_.experts; expert++) begins[expert + 1] += begins[expert];
  uint8_t *width_rows = work.expert_width_rows, *feed_rows = work.expert_feed_rows;
  for (int expert = 0; expert < shape_.experts; expert++) {
    const int count = begins[expert + 1] - begins[expert];
    if (!count) continue;
    ExpertRows group = {expert, begins[expert], {}, {}};
    m_.kernels_.place_rows(&group.width_rows, width_rows, count, shape_.width);
    m_.kernels_.place_rows(&group.feed_rows, feed_rows, count, shape_.expert_width);
    width_rows += m_.kernels_.rows_bytes(count, shape_.width);
    feed_rows += m_.kernels_.rows_bytes(count, shape_.expert_width);
    groups.push_back(group);
  }
  std::fill(work.filled, work.filled + shape_.experts, 0);
  for (int i = 0; i < all; i++) {
    const int expert = work.chosen[i], place = begins[expert] + work.filled[expert]++;
    work.members[place] = i / used;
    work.places[i] = place;
  }
}

// The matrix of one expert.
Matrix Forward::expert_matrix(const Layer& layer, Part part, int expert) const {
  Matrix matrix = layer.matrices[part];
  matrix.data += expert * matrix.size_bytes;
  if (matrix.factors) matrix.factors += size_t(expert) * matrix.n;
  return matrix;
}

// Does `each` pieces of the product of every group with its expert: work(group, its matrix, pieces).
template <class Work>
void Forward::share_experts(const Layer& layer, int index, Part part, int each, const Work& work) {
  share_out(index, part, static_cast<int>(groups().size()) * each, [&](Share own) {
    for (int piece = own.begin; piece < own.end;) {
      const ExpertRows& group = groups()[piece / each];
      const int begin = piece % each, end = std::min(each, begin + own.end - piece);
      work(group, expert_matrix(layer, part, group.expert), Share{begin, end});
      piece += end - begin;
    }
  });
}

// Rows of a group that belong to this thread: work(group, row in the group, place among all).
template <class Work>
void Forward::each_member(const Work& work) {
  const Share own = share(s_.tokens * shape_.experts_used);
  for (const ExpertRows& group : groups()) {
    const int end = std::min(own.end, group.begin + group.width_rows.rows);
    for (int place = std::max(own.begin, group.begin); place < end; place++) work(group, place - group.begin, place);
  }
}

// Gates and ups of all experts, used while they are in the cache.
void Forward::feed_gates(const Layer& layer, int index) {
  share_experts(layer, index, part_expert_gate_up, shape_.expert_width / kBlock,
                [&](const ExpertRows& group, const Matrix& matrix, Share blocks) {
                  feed_blocks(matrix, group.width_rows, blocks, group.feed_rows);
                });
  const Matrix& shared = layer.matrices[part_shared_gate_up];
  share_out(index, part_shared_gate_up, shape_.shared_width / kBlock,
            [&](Share own) { feed_blocks(shared, width_rows(), own, m_.shared_rows_); });
}

// The same through memory, of any activation.
void Forward::feed_ups(const Layer& layer, int index) {
  Workspace& work = m_.work_;
  const auto kind = static_cast<Activation>(shape_.activation);
  const bool shares = layer.matrices[part_shared_gate_up].n > 0;
  const size_t stride = padded(2 * shape_.expert_width), shared_stride = padded(2 * shape_.shared_width);
  share_experts(layer, index, part_expert_gate_up, panels_of(layer.matrices[part_expert_gate_up]),
                [&](const ExpertRows& group, const Matrix& matrix, Share panels) {
                  m_.kernels_.multiply(matrix, group.width_rows, work.expert_ups + size_t(group.begin) * stride, stride,
                                       panels.begin, panels.end, desk_.multiply);
                });
  if (shares) multiply(index, part_shared_gate_up, width_rows(), work.shared_ups, shared_stride);
  m_.pool_.meet();
  const float* bias = layer.vectors[vector_expert_gate_up_bias];
  each_member([&](const ExpertRows& group, int row, int place) {
    const float* added = bias ? bias + size_t(group.expert) * 2 * shape_.expert_width : nullptr;
    m_.norms_.activate(kind, true, work.expert_ups + place * stride, added, shape_.expert_width / kBlock, desk_.rows);
    m_.kernels_.quantize(desk_.rows, shape_.expert_width, row, 1, &group.feed_rows);
  });
  const Share own = share(s_.tokens);
  for (int row = own.begin; shares && row < own.end; row++) {
    m_.norms_.activate(kind, true, work.shared_ups + row * shared_stride, nullptr, shape_.shared_width / kBlock,
                       desk_.rows);
    m_.kernels_.quantize(desk_.rows, shape_.shared_width, row, 1, &m_.shared_rows_);
  }
}

void Forward::feed_experts(const Layer& layer, int index) {
  Workspace& work = m_.work_;
  if (single_row()) {
    route_one(layer);
  } else {
    route_rows(layer);
  }
  if (shape_.activation == 0 && !layer.vectors[vector_expert_gate_up_bias]) {
    feed_gates(layer, index);
  } else {
    feed_ups(layer, index);
  }
  m_.pool_.meet();
  const size_t stride = shape_.delta_stride();
  share_experts(layer, index, part_expert_down, panels_of(layer.matrices[part_expert_down]),
                [&](const ExpertRows& group, const Matrix& matrix, Share panels) {
                  m_.kernels_.multiply(matrix, group.feed_rows, work.expert_outs + size_t(group.begin) * stride, stride,
                                       panels.begin, panels.end, desk_.multiply);
                });
  if (layer.matrices[part_shared_down].n > 0)
    multiply(index, part_shared_down, m_.shared_rows_, work.shared_outs, stride);
  m_.pool_.meet();
  if (single_row()) return sum_experts(layer, 0, desk_.fed);
  const Share own = share(s_.tokens);
  for (int row = own.begin; row < own.end; row++) sum_experts(layer, row, work.delta + row * stride);
  m_.pool_.meet();
}

// What the experts of a row give, in the order in which they were chosen, and then those that every row goes to.
void Forward::sum_experts(const Layer& layer, int row, float* out) {
  const Workspace& work = m_.work_;
  const int used = shape_.experts_used, width = shape_.width;
  const int32_t* chosen = single_row() ? desk_.chosen : work.chosen + row * used;
  const float* shares = single_row() ? desk_.shares : work.shares + row * used;
  memset(out, 0, sizeof(float) * width);
  for (int i = 0; i < used; i++) {
    const int place = single_row() ? i : work.places[row * used + i];
    m_.norms_.add_scaled(work.expert_outs + size_t(place) * shape_.delta_stride(), shares[i], width, out);
    if (const float* bias = layer.vectors[vector_expert_down_bias])
      m_.norms_.add_scaled(bias + size_t(chosen[i]) * width, shares[i], width, out);
  }
  if (layer.matrices[part_shared_gate_up].n == 0) return;
  const float* gate = layer.vectors[vector_shared_router];
  const float* normed = work.normed + size_t(row) * width;
  m_.norms_.add_scaled(work.shared_outs + size_t(row) * shape_.delta_stride(),
                       gate ? sigmoid(m_.norms_.dot(normed, gate, width)) : 1.0f, width, out);
}

}  // namespace inferd
