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

// Chooses the experts of a row, and their weights.
void Forward::route(const Layer& layer, int row) {
  const int count = shape_.experts, used = shape_.experts_used;
  float *weights = desk_.weights, *choice = weights + count;
  const float* normed = m_.work_.normed + size_t(row) * shape_.width;
  const float* router = layer.vectors[vector_router];
  for (int expert = 0; expert < count; expert++) {
    weights[expert] = m_.norms_.dot(normed, router + size_t(expert) * shape_.width, shape_.width);
    if (layer.vectors[vector_router_bias]) weights[expert] += layer.vectors[vector_router_bias][expert];
  }
  if (shape_.gating == 0) softmax(weights, count);
  for (int expert = 0; expert < count; expert++) {
    if (shape_.gating == 1) weights[expert] = sigmoid(weights[expert]);
    choice[expert] = weights[expert] + (layer.vectors[vector_choice_bias] ? layer.vectors[vector_choice_bias][expert] : 0);
  }
  if (shape_.groups > 1) keep_groups(choice);
  choose_largest(choice, count, used, desk_.order);
  int32_t* chosen = m_.work_.chosen + size_t(row) * used;
  float* shares = m_.work_.shares + size_t(row) * used;
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

// Products of all groups with their experts, shared out by panels. `feeds`: of what is inside an expert.
void Forward::multiply_experts(const Layer& layer, Part part, bool feeds, float* out, size_t stride) {
  const std::vector<ExpertRows>& groups = m_.expert_rows_;
  const int each = panels_of(layer.matrices[part]);
  const Share own = share(static_cast<int>(groups.size()) * each);
  for (int panel = own.begin; panel < own.end;) {
    const ExpertRows& group = groups[panel / each];
    const int begin = panel % each, end = std::min(each, begin + own.end - panel);
    const Matrix matrix = expert_matrix(layer, part, group.expert);
    m_.kernels_.multiply(matrix, feeds ? group.feed_rows : group.width_rows, out + size_t(group.begin) * stride, stride,
                         begin, end, desk_.multiply);
    panel += end - begin;
  }
}

// Rows of a group that belong to this thread: work(group, row in the group, place among all).
template <class Work>
void Forward::each_member(const Work& work) {
  const Share own = share(s_.tokens * shape_.experts_used);
  for (const ExpertRows& group : m_.expert_rows_) {
    const int end = std::min(own.end, group.begin + group.width_rows.rows);
    for (int place = std::max(own.begin, group.begin); place < end; place++) work(group, place - group.begin, place);
  }
}

void Forward::feed_experts(const Layer& layer, int index) {
  Workspace& work = m_.work_;
  const auto kind = static_cast<Activation>(shape_.activation);
  const bool shares = layer.matrices[part_shared_gate_up].n > 0;
  m_.pool_.meet();
  Share own = share(s_.tokens);
  for (int row = own.begin; row < own.end; row++) route(layer, row);
  m_.pool_.meet();
  if (thread_ == 0) group_rows();
  m_.pool_.meet();
  each_member([&](const ExpertRows& group, int row, int place) {
    const float* normed = work.normed + size_t(work.members[place]) * shape_.width;
    m_.kernels_.quantize(normed, shape_.width, row, 1, &group.width_rows);
  });
  m_.pool_.meet();
  const size_t stride = padded(2 * shape_.expert_width), shared_stride = padded(2 * shape_.shared_width);
  multiply_experts(layer, part_expert_gate_up, false, work.expert_ups, stride);
  if (shares) multiply(index, part_shared_gate_up, width_rows(), work.shared_ups, shared_stride);
  m_.pool_.meet();
  const float* bias = layer.vectors[vector_expert_gate_up_bias];
  each_member([&](const ExpertRows& group, int row, int place) {
    const float* added = bias ? bias + size_t(group.expert) * 2 * shape_.expert_width : nullptr;
    m_.norms_.activate(kind, true, work.expert_ups + place * stride, added, shape_.expert_width / kBlock, desk_.rows);
    m_.kernels_.quantize(desk_.rows, shape_.expert_width, row, 1, &group.feed_rows);
  });
  for (int row = own.begin; shares && row < own.end; row++) {
    m_.norms_.activate(kind, true, work.shared_ups + row * shared_stride, nullptr, shape_.shared_width / kBlock,
                       desk_.rows);
    m_.kernels_.quantize(desk_.rows, shape_.shared_width, row, 1, &m_.shared_rows_);
  }
  m_.pool_.meet();
  multiply_experts(layer, part_expert_down, true, work.expert_outs, shape_.delta_stride());
  if (shares) multiply(index, part_shared_down, m_.shared_rows_, work.shared_outs, shape_.delta_stride());
  m_.pool_.meet();
  for (int row = own.begin; row < own.end; row++) sum_experts(layer, row);
  m_.pool_.meet();
}

// What the experts of a row give, in the order in which they were chosen, and then those that every row goes to.
void Forward::sum_experts(const Layer& layer, int row) {
  Workspace& work = m_.work_;
  const int used = shape_.experts_used, width = shape_.width;
  float* out = work.delta + size_t(row) * shape_.delta_stride();
  memset(out, 0, sizeof(float) * width);
  for (int i = row * used; i < (row + 1) * used; i++) {
    const float* given = work.expert_outs + size_t(work.places[i]) * shape_.delta_stride();
    m_.norms_.add_scaled(given, work.shares[i], width, out);
    if (const float* bias = layer.vectors[vector_expert_down_bias])
      m_.norms_.add_scaled(bias + size_t(work.chosen[i]) * width, work.shares[i], width, out);
  }
  if (layer.matrices[part_shared_gate_up].n == 0) return;
  const float* gate = layer.vectors[vector_shared_router];
  const float* normed = work.normed + size_t(row) * width;
  m_.norms_.add_scaled(work.shared_outs + size_t(row) * shape_.delta_stride(),
                       gate ? sigmoid(m_.norms_.dot(normed, gate, width)) : 1.0f, width, out);
}

}  // namespace inferd
