// isa: plain avx2 avx512 amx neon
// The table of products of one instruction set: compiled once for each, with its flags and -DISA=<name>.

#include <algorithm>

#include "linear_layout.h"
#include "pack.h"
#include "quantize.h"

#if defined(ISA_AMX)
#include "linear_amx.h"
#elif defined(ISA_AVX512)
#include "linear_avx512.h"
#elif defined(ISA_AVX2)
#include "linear_avx2.h"
#elif defined(ISA_NEON)
#include "linear_neon.h"
#else
#include "linear_plain.h"
#endif

namespace inferd {
namespace ISA {

// Each of the headers above defines kName, kDescription, kOffsetQuants, tile_size, multiply_panels and scratch_bytes;
// that of AMX multiply_tiles and tiles_floats, too.
namespace {

int pack(Weight format, int ggml_type, const void* blocks, int first, int count, const int* order,
         const float* counts, int n, int k, uint8_t* out, float* factors) {
  return pack_outputs(kOffsetQuants, format, ggml_type, blocks, first, count, order, counts, n, k, out, factors);
}

void place_rows(Rows* out, void* memory, int rows, int k) {
  place_tiles(out, memory, rows, k, tile_size(std::max(rows, 1)));
}

void multiply(const Matrix& w, const Rows& x, float* out, size_t ldo, int panel_begin, int panel_end, void* scratch) {
  multiply_panels(w, x, out, ldo, panel_begin, panel_end, scratch);
  if (w.factors == nullptr) return;
  const int first = panel_begin * kPanelOutputs, end = std::min(panel_end * kPanelOutputs, w.n);
  for (int row = 0; row < x.rows; ++row) {
    for (int i = first; i < end; ++i) out[row * ldo + i] *= w.factors[i];
  }
}

void multiply_inner(const Matrix& w, const Rows& x, float* out, int panel_begin, int panel_end, void* scratch) {
#if defined(ISA_AMX)
  if (x.tile > kFewInTile) return multiply_tiles(w, x, out, panel_begin, panel_end, scratch);
#endif
  const size_t before = static_cast<size_t>(panel_begin) * kPanelOutputs;  // the product writes behind what is before
  float* start = reinterpret_cast<float*>(reinterpret_cast<uintptr_t>(out) - before * sizeof(float));
  multiply(w, x, start, inner_stride(panel_end - panel_begin), panel_begin, panel_end, scratch);
}

size_t inner_floats(int rows, int panels) {
  const size_t floats = rows * inner_stride(panels);
#if defined(ISA_AMX)
  return std::max(floats, tiles_floats(rows, panels));
#endif
  return floats;
}

void unpack_row(const Matrix& w, int row, float* out) { unpack_output(kOffsetQuants, w, row, out); }

}  // namespace

extern const Kernels kernels;
const Kernels kernels = {kName,         kDescription,    packed_bytes,   pack,
                         rows_bytes,    place_rows,      quantize_rows,  multiply,
                         scratch_bytes, multiply_inner,  inner_floats,   kPanelOutputs,
                         unpack_row};

}  // namespace ISA
}  // namespace inferd
