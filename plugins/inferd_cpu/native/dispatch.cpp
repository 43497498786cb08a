#include <cstring>

#include "attention.h"
#include "encoder.h"
#include "norms.h"

namespace inferd {

#define DECLARE(isa)                           \
  namespace isa {                              \
  extern const Norms norms;                    \
  extern const Attention attention;            \
  extern const WholeAttention whole_attention; \
  }
DECLARE(plain)
#if defined(HAVE_AVX2)
DECLARE(avx2)
#endif
#if defined(HAVE_AVX512)
DECLARE(avx512)
#endif
#if defined(HAVE_AMX)
DECLARE(amx)
#endif
#if defined(HAVE_NEON)
DECLARE(neon)
#endif

#define CHOOSE(isa, table) \
  if (!strcmp(name, #isa)) return isa::table
#if defined(HAVE_AVX2)
#define CHOOSE_AVX2(table) CHOOSE(avx2, table)
#else
#define CHOOSE_AVX2(table)
#endif
#if defined(HAVE_AVX512)
#define CHOOSE_AVX512(table) CHOOSE(avx512, table)
#else
#define CHOOSE_AVX512(table)
#endif
#if defined(HAVE_AMX)
#define CHOOSE_AMX(table) CHOOSE(amx, table)
#else
#define CHOOSE_AMX(table)
#endif
#if defined(HAVE_NEON)
#define CHOOSE_NEON(table) CHOOSE(neon, table)
#else
#define CHOOSE_NEON(table)
#endif

const Norms& choose_norms(const char* name) {
  CHOOSE_AVX2(norms);
  CHOOSE_AVX512(norms);
  CHOOSE_AMX(norms);
  CHOOSE_NEON(norms);
  (void)name;
  return plain::norms;
}

const Attention& choose_attention(const char* name) {
  CHOOSE_AVX2(attention);
  CHOOSE_AVX512(attention);
  CHOOSE_AMX(attention);
  CHOOSE_NEON(attention);
  (void)name;
  return plain::attention;
}

const WholeAttention& choose_whole_attention(const char* name) {
  CHOOSE_AVX2(whole_attention);
  CHOOSE_AVX512(whole_attention);
  CHOOSE_AMX(whole_attention);
  CHOOSE_NEON(whole_attention);
  (void)name;
  return plain::whole_attention;
}

}  // namespace inferd
