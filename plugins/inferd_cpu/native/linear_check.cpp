// Entry points for tests: one product from the tensor of a file to floats, by the kernels of one instruction set.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "flush.h"
#include "ggml_blocks.h"
#include "linear.h"

#define INFERD_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

struct Free {
  void operator()(void* at) const { std::free(at); }
};
using Memory = std::unique_ptr<void, Free>;

Memory take(size_t bytes) {
  void* at = nullptr;
  if (posix_memalign(&at, 64, bytes + 64) != 0) std::abort();
  for (size_t i = 0; i < bytes; ++i) static_cast<uint8_t*>(at)[i] = 0;
  return Memory(at);
}

}  // namespace

// Null when the instruction set runs here, or what is missing.
INFERD_EXPORT const char* inferd_check_isa(const char* isa) {
  const char* why = nullptr;
  return inferd::choose_kernels(isa, &why) != nullptr ? nullptr : why;
}

// Packs the tensor's n rows of k numbers in two parts, the second in `order` if given (its rows counted from `split`),
// with `counts` as Kernels::pack has it, and multiplies them with `rows` rows of x in two parts. out: [rows][n];
// weights: [n][k], as they were packed. Returns a PackError, or -1 when the instruction set cannot be used.
INFERD_EXPORT int inferd_check_linear(const char* isa, int format, int ggml_type, const uint8_t* blocks, int n, int k,
                                      int split, size_t row_bytes, const int* order, const float* counts,
                                      const float* x, int rows, float* out, float* weights) {
  const inferd::Kernels* kernels = inferd::choose_kernels(isa, nullptr);
  if (kernels == nullptr) return -1;
  const auto weight = static_cast<inferd::Weight>(format);
  const size_t size = kernels->packed_bytes(weight, n, k);
  const Memory packed = take(size);
  auto* data = static_cast<uint8_t*>(packed.get());
  std::vector<float> factors(n, 1.0f);
  int error = kernels->pack(weight, ggml_type, blocks, 0, split, nullptr, counts, n, k, data, factors.data());
  if (error != 0) return error;
  error = kernels->pack(weight, ggml_type, blocks + split * row_bytes, split, n - split, order, counts, n, k, data,
                        factors.data());
  if (error != 0) return error;
  const bool any = std::any_of(factors.begin(), factors.end(), [](float factor) { return factor != 1.0f; });
  const inferd::Matrix matrix = {weight, n, k, size, data, any ? factors.data() : nullptr};
  const inferd::FlushSmall flush;  // as steps do
  for (int row = 0; row < n; ++row) kernels->unpack_row(matrix, row, weights + static_cast<size_t>(row) * k);

  const Memory memory = take(kernels->rows_bytes(rows, k)), scratch = take(kernels->scratch_bytes(rows, k));
  inferd::Rows placed;
  kernels->place_rows(&placed, memory.get(), rows, k);
  kernels->quantize(x, k, 0, rows / 2, &placed);
  kernels->quantize(x + static_cast<size_t>(rows / 2) * k, k, rows / 2, rows - rows / 2, &placed);
  const int panels = (n + kernels->panel_outputs - 1) / kernels->panel_outputs;
  kernels->multiply(matrix, placed, out, n, 0, panels / 2, scratch.get());
  kernels->multiply(matrix, placed, out, n, panels / 2, panels, scratch.get());
  return 0;
}

// The numbers of `count` blocks by the decoder that packs them, in the mode that steps are computed in: the harder one.
// Returns a PackError.
INFERD_EXPORT int inferd_check_decode(int ggml_type, const uint8_t* blocks, size_t count, float* out) {
  const inferd::GgmlFormat* format = inferd::find_format(ggml_type);
  if (format == nullptr) return inferd::pack_unknown_type;
  const inferd::FlushSmall flush;
  const int parts = format->elements / inferd::kBlock;
  for (size_t i = 0; i < count * parts; ++i) {
    format->decode(blocks + i / parts * format->bytes, static_cast<int>(i % parts), out + i * inferd::kBlock);
  }
  return inferd::pack_done;
}
