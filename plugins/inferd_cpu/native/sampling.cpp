#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace inferd {
namespace {

constexpr int kBuckets = 1024;
constexpr float kFinest = 64.0f;  // buckets for each unit of (peak - logit)

// Just below the whole: no point reaches a token of weight 0 behind the last one that has weight.
double target_of(double point, double total) {
  return std::min(point * total, std::nextafter(total, 0.0));
}

// In the order of ids: first the run of weights in which the point lies, then inside it.
int32_t pick_by_id(const float* weights, int size, double point) {
  constexpr int kRun = 256;
  double total = 0;
  auto sum_of = [&](int begin) {
    double sums[8] = {};
    const int end = std::min(begin + kRun, size);
    int i = begin;
    for (; i + 8 <= end; i += 8)
      for (int lane = 0; lane < 8; lane++) sums[lane] += weights[i + lane];
    for (; i < end; i++) sums[0] += weights[i];
    return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
  };
  for (int begin = 0; begin < size; begin += kRun) total += sum_of(begin);
  const double target = target_of(point, total);
  double before = 0;
  int32_t last = 0;
  for (int begin = 0; begin < size; begin += kRun) {
    const double run = sum_of(begin);
    if (before + run <= target) {
      before += run;
      continue;
    }
    double sum = before;
    for (int i = begin; i < std::min(begin + kRun, size); i++) {
      sum += weights[i];
      if (weights[i] > 0) last = i;
      if (sum > target) return i;
    }
    return last;  // the run's sum was rounded another way
  }
  return last;
}

// How many buckets below the peak a logit lies; the last bucket holds all the rest.
int bucket_of(float peak, float logit) {
  const float place = (peak - logit) * kFinest;
  return place < kBuckets - 1 ? static_cast<int>(place) : kBuckets - 1;
}

// In the order of falling logits, lowest id first among equals, of those that top-k, top-p and min-p leave.
int32_t pick_by_rank(const float* logits, const float* weights, int size, float peak, const Choice& choice,
                     int32_t* order) {
  int counts[kBuckets] = {};
  double sums[kBuckets] = {};
  for (int i = 0; i < size; i++) {
    const int bucket = bucket_of(peak, logits[i]);
    counts[bucket]++;
    sums[bucket] += weights[i];
  }
  double all = 0;
  for (double sum : sums) all += sum;
  const int64_t most = choice.top_k > 0 ? std::min<int64_t>(choice.top_k, size) : size;
  // As many of the best buckets as surely hold what is kept.
  const double wanted = choice.top_p * all * (1 + 1e-9);
  int64_t held = 0;
  double held_sum = 0;
  int last = 0;
  for (; last < kBuckets; last++) {
    held += counts[last];
    held_sum += sums[last];
    if (held >= most || (choice.top_k <= 0 && choice.top_p < 1 && held_sum >= wanted)) break;
  }
  int count = 0;
  for (int i = 0; i < size; i++)
    if (bucket_of(peak, logits[i]) <= last) order[count++] = i;
  std::sort(order, order + count, [&](int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  });
  count = static_cast<int>(std::min<int64_t>(count, most));
  double total = all;
  if (choice.top_k > 0) {
    total = 0;
    for (int i = 0; i < count; i++) total += weights[order[i]];
  }
  const double goal = choice.top_p * total;
  int kept = 0;  // the last place that is kept
  double mass = weights[order[0]];
  while (mass < goal && kept + 1 < count) mass += weights[order[++kept]];
  if (choice.min_p > 0)
    while (kept > 0 && weights[order[kept]] < choice.min_p) kept--;
  mass = 0;
  for (int i = 0; i <= kept; i++) mass += weights[order[i]];
  const double target = target_of(choice.point, mass);
  double sum = 0;
  for (int i = 0; i < kept; i++) {
    sum += weights[order[i]];
    if (sum > target) return order[i];
  }
  while (kept > 0 && weights[order[kept]] == 0) kept--;
  return order[kept];
}

}  // namespace

int32_t choose_token(const Norms& norms, const float* logits, int size, const Choice& choice, float* weights,
                     int32_t* order) {
  Best best{-std::numeric_limits<float>::infinity(), 0};
  norms.find_best(logits, 0, size, &best);
  if (!std::isfinite(best.value)) return kNoToken;
  if (!(choice.temperature > 0)) return best.id;
  norms.weigh(logits, size, best.value, choice.temperature, weights);
  if (choice.top_k > 0 || choice.top_p < 1)
    return pick_by_rank(logits, weights, size, best.value, choice, order);
  if (choice.min_p > 0)
    for (int i = 0; i < size; i++) weights[i] = weights[i] < choice.min_p ? 0.0f : weights[i];
  return pick_by_id(weights, size, choice.point);
}

}  // namespace inferd
