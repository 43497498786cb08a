// What one thread does in one step: all threads go through the phases of a layer together and meet between them.
#pragma once

#include <algorithm>

#include "model.h"

namespace inferd {

// What is to be added to the residuals before the next norm: the last product, with what comes after it. Null: nothing.
struct Addition {
  const float *rows, *bias, *norm, *norm_bias;
};

constexpr int kFewRows = 4;          // up to here each thread does for itself what belongs to rows, and waits less
constexpr int kApartRows = 128;      // from so many for each thread on all of a row but attention is one thread's work
constexpr int kManyRows = 3;         // from so many on rows attend together, where they can

class Forward {
 public:
  Forward(Model& model, const Step& step, int thread)
      : m_(model), s_(step), shape_(model.shape_), desk_(model.work_.desks[thread]), thread_(thread) {}

  void run();

 private:
  Share share(int count) const { return share_of(count, thread_, shape_.threads); }
  Share rows() const { return m_.rows_of(s_.tokens, thread_); }  // whose residuals are here
  // The first row of what this thread has quantised.
  int base() const { return m_.apart_ ? rows().begin : 0; }
  // After a product, whose outputs are shared out.
  void meet() {
    if (!m_.apart_) m_.pool_.meet();
  }
  // After work on rows that other threads read.
  void gather() {
    if (!m_.few_ && !m_.apart_) m_.pool_.meet();
  }
  float* residual(int row) const { return (m_.few_ ? desk_.residual : m_.work_.residual) + size_t(row) * shape_.width; }
  // Decoding of one sequence: each thread then finds out for itself which experts are chosen, and adds up what they give.
  bool single_row() const { return m_.few_ && s_.tokens == 1; }
  bool alone() const { return m_.few_ || m_.apart_; }  // has activations of its own
  bool adapted() const { return !m_.adapted_rows_.empty(); }  // some rows have adapters
  const Rows& width_rows() const { return alone() ? m_.own_width_rows_[thread_] : m_.width_rows_; }
  const Rows& fine_rows() const { return alone() ? m_.own_fine_rows_[thread_] : m_.fine_rows_; }
  const Rows& mixed_rows() const { return alone() ? m_.own_mixed_rows_[thread_] : m_.mixed_rows_; }
  const Rows& feed_rows() const { return m_.apart_ ? m_.own_feed_rows_[thread_] : m_.feed_rows_; }
  History history(int row, int layer, int head) const;

  void embed();
  void normalize(const float* x, const float* weight, const float* bias, float* out) const;
  void add_delta(int row, const Addition& added);
  void prepare(const Addition& before, const float* norm, const float* norm_bias, bool fine, bool keeps = false);
  static int panels_of(const Matrix& matrix) { return (matrix.n + kPanelOutputs - 1) / kPanelOutputs; }
  template <class Work>
  void share_out(int layer, Part part, int count, const Work& work);
  void multiply_qkv(int index, const Rows& rows, float* out, size_t stride);
  void multiply(int layer, Part part, const Rows& rows, float* out, size_t stride);
  void put(const Layer& layer, int index, int row, int head);
  float* take(const Layer& layer, int row, int offset, int count, float* room) const;
  void prepare_queries(const Layer& layer, int row, int head, float* out);
  void prepare_head(const Layer& layer, int row, int offset, const float* norm, float* out);
  void clamp(float* x, int width) const;
  void normalize_head(const Layer& layer, int row, int offset, const float* norm, float* head);
  // Tokens of its sequence that a row sees, from the first on; those of a picture see all of the picture.
  int seen(int row) const { return s_.seen ? s_.seen[row] : s_.positions[row] + 1; }
  int first_seen(const Layer& layer, int row) const {
    return layer.window ? std::max(0, s_.positions[row] + 1 - layer.window) : 0;
  }
  int first_segment(const Layer& layer, int row) const {
    return first_seen(layer, row) / m_.attention_shape_.segment_tokens();
  }
  Segment segment_of(const Layer& layer, int index, int row, int head, int segment) const;
  void attend(const Layer& layer, int index);
  Share take_group(int index);
  Segment look_ahead(const Layer& layer, int index, int row, int head, int segment) const;
  void attend_rows(const Layer& layer, int index, Share rows, int head);
  void attend_few(const Layer& layer, int index);
  void fold_few(const Layer& layer);
  void quantize_mixed(Share rows);
  void feed_blocks(const Matrix& matrix, const Rows& rows, Share own, const Rows& out);
  void feed(int layer);
  void feed_plain(int layer);
  void adapt(int index, Spot spot, const float* inputs, int k, float* out, size_t stride, int step);
  void adapt_qkv(int index);
  void adapt_mix(int index);
  void feed_adapted(int index);
  void adapt_down(int index);
  void feed_experts(const Layer& layer, int index);
  void route_one(const Layer& layer);
  void route_rows(const Layer& layer);
  float score(const Layer& layer, const float* normed, int expert) const;
  void choose(const Layer& layer, const float* scores, int32_t* chosen, float* shares);
  void keep_groups(float* choice) const;
  void group_rows();
  Matrix expert_matrix(const Layer& layer, Part part, int expert) const;
  const std::vector<ExpertRows>& groups() const { return single_row() ? desk_.groups : m_.expert_rows_; }
  template <class Work>
  void share_experts(const Layer& layer, int index, Part part, int each, const Work& work);
  template <class Work>
  void each_member(const Work& work);
  void feed_gates(const Layer& layer, int index);
  void feed_ups(const Layer& layer, int index);
  void sum_experts(const Layer& layer, int row, float* out);
  void finish(const Addition& fed);
  void write_hidden();
  void write_logits();
  void find_best();
  void add_head_bias(int first, int count, float* logits) const;
  const float* sinks(const Layer& layer, int head) const {
    return layer.vectors[vector_sinks] ? layer.vectors[vector_sinks] + head * shape_.shared() : nullptr;
  }

  Model& m_;
  const Step& s_;
  const Shape& shape_;
  const Desk& desk_;
  const int thread_;
};

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

}  // namespace inferd
