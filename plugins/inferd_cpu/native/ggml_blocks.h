// Numbers as model files hold them, in the blocks of ggml (ggml-common.h), 32 at a time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace inferd {

enum GgmlType : int {
  f32 = 0, f16 = 1, q4_0 = 2, q4_1 = 3, q5_0 = 6, q5_1 = 7, q8_0 = 8,
  q2_k = 10, q3_k = 11, q4_k = 12, q5_k = 13, q6_k = 14, bf16 = 30,
  iq2_xxs = 16, iq2_xs = 17, iq3_xxs = 18, iq1_s = 19, iq4_nl = 20, iq3_s = 21, iq2_s = 22, iq4_xs = 23, iq1_m = 29,
  tq1_0 = 34, tq2_0 = 35, mxfp4 = 39, nvfp4 = 40,
};

struct GgmlFormat {
  int elements;  // of one block
  int bytes;
  // Numbers [32 * part, 32 * part + 32) of the block, by the operations of ggml in their order.
  void (*decode)(const uint8_t* block, int part, float* out);
  // Of types that have a format of codes or of whole numbers (natural_weight): what its numbers are multiplied with in
  // each half of the part. Else null.
  void (*scale)(const uint8_t* block, int part, float* halves) = nullptr;
};

// Null for a type that is not read.
const GgmlFormat* find_format(int ggml_type);

// Scale and minimum `part` of the eight in 12 bytes of a block of Q4_K or Q5_K.
void read_six_bits(const uint8_t* packed, int part, int* scale, int* minimum);

}  // namespace inferd
