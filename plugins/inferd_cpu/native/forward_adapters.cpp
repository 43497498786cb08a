// Steps in which rows have adapters: gates and ups go through memory, and what is multiplied is kept unquantised.
#include <algorithm>

#include "forward.h"

namespace inferd {

bool Model::set_adapter(int slot, const Change* changes) {
  if (slot < 0) return false;
  if (changes && !adapter_space_.memory.data()) {
    auto divide = [&](uint8_t* memory) {
      Division from(memory);
      const size_t tokens = shape_.max_step_tokens;
      adapter_space_.normed = from.take<float>(shape_.experts ? 0 : tokens * shape_.width);
      adapter_space_.ups = from.take<float>(shape_.plain_feed() ? 0 : tokens * shape_.up_stride());
      adapter_space_.fed = from.take<float>(tokens * shape_.feed_width);
      adapter_space_.low = from.take<float>(size_t(kMostRank) * kAdaptedTogether * shape_.threads);
      return from.used_bytes();
    };
    if (!adapter_space_.memory.take(divide(nullptr))) return false;
    divide(adapter_space_.memory.data());
    if (!shape_.experts) work_.normed = adapter_space_.normed;
    if (!shape_.plain_feed()) work_.ups = adapter_space_.ups;
  }
  if (slot >= static_cast<int>(adapters_.size())) adapters_.resize(slot + 1, nullptr);
  adapters_[slot] = changes;
  return true;
}

bool Model::has_adapters(const Step& s) const {
  for (int sequence = 0; s.adapters && sequence < s.sequences; sequence++) {
    const int slot = s.adapters[sequence];
    if (slot >= 0 && (slot >= static_cast<int>(adapters_.size()) || !adapters_[slot])) return false;
  }
  return true;
}

// Those of one adapter come together: its matrices are read once while they are in the cache.
void Model::plan_adapters(const Step& s) {
  adapted_rows_.clear();
  for (int sequence = 0; s.adapters && sequence < s.sequences; sequence++)
    for (int row = s.starts[sequence]; s.adapters[sequence] >= 0 && row < s.starts[sequence + 1]; row++)
      adapted_rows_.push_back({row, s.adapters[sequence], adapters_[s.adapters[sequence]]});
  std::stable_sort(adapted_rows_.begin(), adapted_rows_.end(),
                   [](const AdaptedRow& a, const AdaptedRow& b) { return a.slot < b.slot; });
}

// Adds to the outputs of a product what adapters make of its k inputs. All outputs are there, and nobody else writes to
// them until threads have met again. A block of outputs begins `step` floats behind the one before.
void Forward::adapt(int index, Spot spot, const float* inputs, int k, float* out, size_t stride, int step) {
  const Share own = share(static_cast<int>(m_.adapted_rows_.size()));
  float* low = m_.adapter_space_.low + size_t(thread_) * kAdaptedTogether * kMostRank;
  const std::vector<AdaptedRow>& all = m_.adapted_rows_;
  for (int i = own.begin, count; i < own.end; i += count) {
    const float* from[kAdaptedTogether];
    float* to[kAdaptedTogether];
    for (count = 0; count < kAdaptedTogether && i + count < own.end && all[i + count].slot == all[i].slot; count++) {
      from[count] = inputs + size_t(all[i + count].row) * k;
      to[count] = out + all[i + count].row * stride;
    }
    const Change& change = all[i].changes[index * spot_count + spot];
    if (!change.rank) continue;
    const Change& following = all[i + count < own.end ? i + count : i].changes[index * spot_count + spot];
    const Change& next = following.rank ? following : change;
    m_.norms_.lower(from, count, change.down, change.rank, k, next.down, low);
    m_.norms_.raise(low, count, change.up, change.rank, change.outputs, step, next.up, to);
  }
}

void Forward::adapt_qkv(int index) {
  const float* inputs = m_.work_.normed;
  float* out = m_.work_.qkv;
  const int width = shape_.width;
  const size_t stride = shape_.qkv_stride();
  adapt(index, spot_query, inputs, width, out, stride, kBlock);
  adapt(index, spot_key, inputs, width, out + shape_.queries_width(), stride, kBlock);
  adapt(index, spot_value, inputs, width, out + shape_.queries_width() + shape_.keys_width(), stride, kBlock);
  m_.pool_.meet();
}

void Forward::adapt_mix(int index) {
  adapt(index, spot_mix, m_.work_.mixed, shape_.mixed_width(), m_.work_.delta, shape_.delta_stride(), kBlock);
  m_.pool_.meet();
}

// The feed-forward part up to its last product. Rows without an adapter get what they would get in any other step.
void Forward::feed_adapted(int index) {
  float *ups = m_.work_.ups, *fed = m_.adapter_space_.fed;
  const size_t stride = shape_.up_stride(), width = shape_.feed_width;
  const int step = shape_.gated ? 2 * kBlock : kBlock;
  multiply(index, part_gate_up, width_rows(), ups, stride);
  meet();
  if (shape_.gated) adapt(index, spot_gate, m_.work_.normed, shape_.width, ups, stride, step);
  adapt(index, spot_up, m_.work_.normed, shape_.width, ups + (shape_.gated ? kBlock : 0), stride, step);
  m_.pool_.meet();
  const Share own = rows();
  const float* bias = m_.layers_[index].vectors[vector_gate_up_bias];
  const int blocks = shape_.feed_width / kBlock;
  for (int row = own.begin; row < own.end; row++) {
    const float* sums = ups + row * stride;
    if (shape_.plain_feed()) {
      m_.norms_.activate(static_cast<Activation>(shape_.activation), shape_.gated, sums, bias, blocks, fed + row * width);
    } else {
      m_.norms_.gate_row(sums, blocks, fed + row * width);
    }
  }
  m_.kernels_.quantize(fed + own.begin * width, width, own.begin, own.end - own.begin, &feed_rows());
}

void Forward::adapt_down(int index) {
  adapt(index, spot_down, m_.adapter_space_.fed, shape_.feed_width, m_.work_.delta, shape_.delta_stride(), kBlock);
  m_.pool_.meet();
}

}  // namespace inferd
