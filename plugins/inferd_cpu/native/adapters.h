// Adapters (LoRA, arXiv:2106.09685): products of two thin matrices that are added to the outputs of others, for the rows
// of a step that have one. They are computed in fp32 from what the products are quantised from; a row's sums do not
// depend on the rows beside it.
#pragma once

#include <cstdint>

#include "memory.h"

namespace inferd {

// The products that may be changed. Part of the ABI, as what follows.
enum Spot : int { spot_query, spot_key, spot_value, spot_mix, spot_gate, spot_up, spot_down, spot_count };

// What is added to the outputs of one: `up` times `down` times its inputs. Python owns the numbers.
struct Change {
  int32_t rank, outputs;  // rank 0: nothing is added
  const float* down;      // [rank][inputs]
  const float* up;        // [outputs / 16][rank][16]
};

constexpr int kMostRank = 512;

// A row of a step that has an adapter, and what that changes: [layers][spot_count].
struct AdaptedRow {
  int row, slot;
  const Change* changes;
};

// What steps with adapters need besides, taken with the first adapter. T is the most tokens of a step.
struct AdapterSpace {
  Memory memory;
  float* normed = nullptr;  // [T][width], where no experts have it anyway
  float* ups = nullptr;     // [T][up_stride], where gates do not go through memory anyway
  float* fed = nullptr;     // [T][feed_width]
  float* low = nullptr;     // [threads][kAdaptedTogether][kMostRank]
};

}  // namespace inferd
