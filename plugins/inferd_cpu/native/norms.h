// What happens to single rows between the products: norms, rotation, gates, and the search for the best logit.
#pragma once

#include <cstdint>

#include "linear.h"

namespace inferd {

// The best of a row of logits so far. `value` is NaN once a logit was NaN.
struct Best {
  float value;
  int32_t id;
};

// As family.py describes them. Part of the ABI.
enum class Activation : int { silu = 0, gelu = 1, gelu_tanh = 2, relu2 = 3, clamped = 4 };

constexpr int kAdaptedTogether = 4;  // rows of one adapter that are computed together

struct Norms {
  // RMS norm (arXiv:1910.07467) of n numbers, a multiple of 16.
  void (*normalize)(const float* x, const float* weight, float epsilon, int n, float* out);

  // Layer norm (arXiv:1607.06450) of n numbers, a multiple of 16. `out` may be `x`, here and above.
  void (*center)(const float* x, const float* weight, float epsilon, int n, float* out);

  // x += y, n a multiple of 16; and x += scale * y.
  void (*add)(const float* y, int n, float* x);
  void (*add_scaled)(const float* y, float scale, int n, float* x);

  // The sum of products of n numbers, a multiple of 16.
  float (*dot)(const float* x, const float* y, int n);

  // x becomes cap * tanh(scale * x / cap), or scale * x where there is no cap; any n.
  void (*cap)(float scale, float cap, int n, float* x);

  // What quantised rows lose: x less row `row` of `rows`, which was quantised from it. Null where that is little.
  void (*subtract)(const Rows& rows, int row, const float* x, float* out);

  // Rotates the pairs (i, i + half) of a head, of which `width` numbers are taken, by the angles whose cosines and sines
  // are given (arXiv:2104.09864). `out` may be `from`.
  void (*rotate)(const float* cosines, const float* sines, int half, const float* from, int width, float* out);

  // silu(gate) * up (arXiv:2002.05202) as quantised blocks [first_block, first_block + blocks) of all rows of `out`.
  // gate_up: what multiply_inner gave; for each block 32 gates, then 32 ups.
  void (*gate)(const float* gate_up, int first_block, int blocks, const Rows& out);

  // What an activation makes of a row of `blocks` blocks of 32 outputs of a product, which come with as many gates or,
  // without these, alone; `sums` is laid out as for `gate`, and so is `bias`, which may be null. out: [blocks * 32].
  void (*activate)(Activation kind, bool gated, const float* sums, const float* bias, int blocks, float* out);

  // What `gate` makes of one row before it is quantised, by the same operations; sums laid out as for `activate`.
  void (*gate_row)(const float* sums, int blocks, float* out);

  // The products of up to kAdaptedTogether rows, of n numbers each, with each of `rank` rows of `down`; n a multiple of 16.
  // low: [rows][rank]. What a row gets does not depend on the others. What is multiplied next, as much as this, lies at
  // `next`, and comes from memory meanwhile.
  void (*lower)(const float* const* x, int rows, const float* down, int rank, int n, const float* next,
                float* low);

  // Adds `up` times `low` to the outputs of each of these rows, a multiple of 16; up: [outputs / 16][rank][16]. Blocks of 32
  // begin `step` floats behind each other.
  void (*raise)(const float* low, int rows, const float* up, int rank, int outputs, int step, const float* next,
                float* const* x);

  // The best of logits [first, first + n), the first of equals; `best` holds the best of those before.
  void (*find_best)(const float* logits, int first, int n, Best* best);

  // exp((logit - peak) / temperature) for n logits.
  void (*weigh)(const float* logits, int n, float peak, float temperature, float* out);
};

// Those of an instruction set, by its name in `Kernels`.
const Norms& choose_norms(const char* name);

}  // namespace inferd
