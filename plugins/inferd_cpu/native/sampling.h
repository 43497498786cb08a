// The choice of a token from a row of logits, as `DeviceSampling` of inferd.plugin describes it and as the engine's own
// sampler makes it, so that a task's tokens do not depend on where they are chosen.
#pragma once

#include <cstdint>

#include "norms.h"

namespace inferd {

constexpr int kNoToken = -1;  // the logits of the row are not finite

struct Choice {
  float temperature;
  int64_t top_k;
  double top_p, min_p, point;
};

// weights, order: room for `size` numbers, overwritten.
int32_t choose_token(const Norms& norms, const float* logits, int size, const Choice& choice, float* weights,
                     int32_t* order);

}  // namespace inferd
