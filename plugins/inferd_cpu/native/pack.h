// Weights as model files hold them, into the layout of the products: the same bits on every instruction set.
#pragma once

#include "linear.h"

namespace inferd {
namespace ISA {

// See Kernels::pack. `offset_quants`: quants of w8 are stored 128 too high, as unsigned bytes.
int pack_outputs(bool offset_quants, Weight format, int ggml_type, const void* blocks, int first, int count,
                 const int* order, const float* counts, int n, int k, uint8_t* out, float* factors);

// See Kernels::unpack_row.
void unpack_output(bool offset_quants, const Matrix& w, int row, float* out);

}  // namespace ISA
}  // namespace inferd
