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
  switch (ggml_type) {
    case q4_0:
    case tq1_0:
    case tq2_0: return Weight::w4;
    case q4_1:
    case q4_k: return Weight::w4m;
    case iq4_nl:
    case iq4_xs: return Weight::iq4;
    case mxfp4: return Weight::fp4;
    case iq3_xxs: return Weight::iq3_xxs;
    case iq3_s: return Weight::iq3_s;
    case iq2_xxs:
    case iq1_s: return Weight::iq2;
    case nvfp4: return Weight::nvfp4;
    case q3_k: return Weight::q3_k;
    case iq2_xs:
    case iq2_s:
    case iq1_m: return Weight::iq2_s;
    default: return Weight::w8;
  }
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
    case pack_bad_pair:
      return "the packed format does not hold the numbers of the tensor's";
    default:
      return "unknown error";
  }
}

}  // namespace inferd
