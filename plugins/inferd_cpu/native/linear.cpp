#include "linear.h"

#include <cstring>

#include "ggml_blocks.h"
#include "isa.h"

namespace inferd {

namespace plain {
extern const Kernels kernels;
}
#if defined(HAVE_AVX2)
namespace avx2 {
extern const Kernels kernels;
}
#endif
#if defined(HAVE_AVX512)
namespace avx512 {
extern const Kernels kernels;
}
#endif
#if defined(HAVE_AMX)
namespace amx {
extern const Kernels kernels;
}
#endif
#if defined(HAVE_NEON)
namespace neon {
extern const Kernels kernels;
}
#endif

namespace {

// Best first.
const Kernels* const kTables[] = {
#if defined(HAVE_AMX)
    &amx::kernels,
#endif
#if defined(HAVE_AVX512)
    &avx512::kernels,
#endif
#if defined(HAVE_AVX2)
    &avx2::kernels,
#endif
#if defined(HAVE_NEON)
    &neon::kernels,
#endif
    &plain::kernels,
};

}  // namespace

const Kernels* choose_kernels(const char* name, const char** why) {
  const bool any = name == nullptr || *name == '\0' || std::strcmp(name, "auto") == 0;
  const char* missing = any ? nullptr : isa_missing(name);
  for (const Kernels* table : kTables) {
    if (missing != nullptr) break;
    if (any ? isa_missing(table->name) == nullptr : std::strcmp(table->name, name) == 0) return table;
  }
  if (why != nullptr) *why = missing != nullptr ? missing : "the compiler that built this library could not make it";
  return nullptr;
}

Weight natural_weight(int ggml_type) {
  return ggml_type == q4_0 ? Weight::w4 : ggml_type == q4_1 || ggml_type == q4_k ? Weight::w4m : Weight::w8;
}

bool can_pack(int ggml_type) { return find_format(ggml_type) != nullptr; }

const char* pack_message(int error) {
  switch (error) {
    case pack_done:
      return "packed";
    case pack_bad_inputs:
      return "the number of inputs is not a multiple of 32 and of the format's block";
    case pack_unknown_type:
      return "the format of the tensor cannot be packed";
    case pack_bad_range:
      return "the outputs to pack lie outside the matrix";
    default:
      return "unknown error";
  }
}

}  // namespace inferd
