#include "inputs.h"

#include <cstddef>

#include "ggml_blocks.h"
#include "linear.h"

namespace inferd {
namespace {

constexpr float kMost = 8.0f;  // before it is raised to the third power

}  // namespace

void sum_squares(int ggml_type, const void* blocks, int n, int k, int first, int end, float* out) {
  const GgmlFormat* format = find_format(ggml_type);
  const int parts = format->elements / kBlock;
  const size_t row_bytes = size_t(k / format->elements) * format->bytes;
  for (int i = first; i < end; i++) out[i] = 0.0f;
  for (int row = 0; row < n; row++) {
    const uint8_t* from = static_cast<const uint8_t*>(blocks) + row * row_bytes;
    for (int block = first / kBlock; block < end / kBlock; block++) {
      float values[kBlock];
      format->decode(from + size_t(block / parts) * format->bytes, block % parts, values);
      float* sums = out + size_t(block) * kBlock;
      for (int i = 0; i < kBlock; i++) sums[i] += values[i] * values[i];
    }
  }
}

void weigh_sums(int k, float* sums) {
  double total = 0.0;
  for (int i = 0; i < k; i++) total += sums[i];
  const auto mean = static_cast<float>(total / k);
  for (int i = 0; i < k; i++) {
    const float ratio = mean / sums[i];  // not a number where all are 0 or too large
    const float kept = !(ratio > 1.0f) ? 1.0f : ratio < kMost ? ratio : kMost;
    sums[i] = kept * kept * kept;
  }
}

}  // namespace inferd
