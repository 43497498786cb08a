// isa: plain avx2 avx512 amx neon
#include <algorithm>
#include <limits>

#include "encoder.h"
#include "simd.h"

namespace inferd {
namespace ISA {
namespace {

constexpr int kRows = kLanes == 16 ? 8 : 4;  // that are worked on at once: their sums stay in registers
constexpr int kWide = 2 * kLanes;            // keys, or numbers of values, at once

int round_up(int count, int step) { return (count + step - 1) / step * step; }

// The distance of columns of so many keys: a multiple of a page would put them all into the same cache lines.
int column_stride(int tokens) {
  const int keys = round_up(tokens, kWide);
  return keys % 1024 ? keys : keys + kWide;
}

size_t scratch_floats(int tokens, int key_width, int value_width) {
  const size_t keys = column_stride(tokens);
  return keys * (key_width + round_up(value_width, kWide) + kRows);
}

// Scores of rows with keys [first, end), which lie in columns `padded` apart.
void score(const float* const (&queries)[kRows], int width, const float* columns, int padded, int first, int end,
           float* scores) {
  for (int key = first; key < end; key += kWide) {
    Floats sums[kRows][2] = {};
    for (int i = 0; i < width; i++) {
      const Floats low = load(columns + size_t(i) * padded + key);
      const Floats high = load(columns + size_t(i) * padded + key + kLanes);
      for (int row = 0; row < kRows; row++) {
        const Floats query = splat(queries[row][i]);
        sums[row][0] = fma(query, low, sums[row][0]);
        sums[row][1] = fma(query, high, sums[row][1]);
      }
    }
    for (int row = 0; row < kRows; row++) {
      store(scores + size_t(row) * padded + key, sums[row][0]);
      store(scores + size_t(row) * padded + key + kLanes, sums[row][1]);
    }
  }
}

// Scores [first, end) become powers of which those outside of [low, high) are 0; their sum.
float weigh(float* scores, int first, int end, int low, int high) {
  std::fill(scores + first, scores + low, -std::numeric_limits<float>::infinity());
  std::fill(scores + high, scores + end, -std::numeric_limits<float>::infinity());
  Floats most = load(scores + first);
  for (int key = first; key < end; key += kLanes) most = larger(most, load(scores + key));
  const Floats peak = splat(largest(most));
  Floats sums = {};
  for (int key = first; key < end; key += kLanes) {
    const Floats power = exponential(load(scores + key) - peak);
    sums += power;
    store(scores + key, power);
  }
  float total = 0.0f;
  for (int i = 0; i < kLanes; i++) total += sums[i];
  return total;
}

// Values of keys [first, end), weighted, for the rows that are wanted.
void mix(const float* weights, int padded, const float* values, int wide, int first, int end, const float* totals,
         const WholeHead& head, int begin, int rows) {
  for (int at = 0; at < head.value_width; at += kWide) {
    Floats sums[kRows][2] = {};
    for (int key = first; key < end; key++) {
      const Floats low = load(values + size_t(key) * wide + at), high = load(values + size_t(key) * wide + at + kLanes);
      for (int row = 0; row < kRows; row++) {
        const Floats weight = splat(weights[size_t(row) * padded + key]);
        sums[row][0] = fma(weight, low, sums[row][0]);
        sums[row][1] = fma(weight, high, sums[row][1]);
      }
    }
    const int count = std::min(kWide, head.value_width - at);
    for (int row = 0; row < rows; row++) {
      float numbers[kWide];
      const Floats total = splat(totals[row]);
      store(numbers, sums[row][0] / total);
      store(numbers + kLanes, sums[row][1] / total);
      memcpy(head.out + size_t(begin + row) * head.out_stride + at, numbers, sizeof(float) * count);
    }
  }
}

void attend(const WholeHead& head, int begin, int end, float* scratch) {
  const int padded = column_stride(head.tokens), wide = round_up(head.value_width, kWide);
  float* columns = scratch;
  float* values = columns + size_t(padded) * head.key_width;
  float* scores = values + size_t(padded) * wide;
  const int half = head.window / 2;
  const int seen_first = head.window ? std::max(0, begin - half) : 0;  // of all rows here
  const int seen_end = head.window ? std::min(head.tokens, end + half) : head.tokens;
  for (int key = seen_first / kWide * kWide; key < round_up(seen_end, kWide); key++) {
    float* row = values + size_t(key) * wide;
    if (key >= head.tokens) {
      for (int i = 0; i < head.key_width; i++) columns[size_t(i) * padded + key] = 0.0f;
      std::fill(row, row + wide, 0.0f);
      continue;
    }
    const float* from = head.keys + key * head.stride;
    for (int i = 0; i < head.key_width; i++) columns[size_t(i) * padded + key] = from[i];
    memcpy(row, head.values + key * head.stride, sizeof(float) * head.value_width);
    std::fill(row + head.value_width, row + wide, 0.0f);
  }
  for (int first = begin; first < end; first += kRows) {
    const int rows = std::min(kRows, end - first);
    const float* queries[kRows];
    for (int row = 0; row < kRows; row++)
      queries[row] = head.queries + size_t(first + std::min(row, rows - 1)) * head.stride;
    int keys_first = 0, keys_end = round_up(head.tokens, kWide);
    if (head.window) {
      keys_first = std::max(0, first - half) / kWide * kWide;
      keys_end = round_up(std::min(head.tokens, first + rows + half), kWide);
    }
    score(queries, head.key_width, columns, padded, keys_first, keys_end, scores);
    float totals[kRows];
    for (int row = 0; row < kRows; row++) {
      const int at = first + std::min(row, rows - 1);
      const int low = head.window ? std::max(0, at - half) : 0;
      const int high = head.window ? std::min(head.tokens, at + half + 1) : head.tokens;
      totals[row] = weigh(scores + size_t(row) * padded, keys_first, keys_end, low, high);
    }
    mix(scores, padded, values, wide, keys_first, std::min(keys_end, head.tokens), totals, head, first, rows);
  }
}

}  // namespace

extern const WholeAttention whole_attention;
const WholeAttention whole_attention = {scratch_floats, attend};

}  // namespace ISA
}  // namespace inferd
