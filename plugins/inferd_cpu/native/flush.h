// Numbers too small for the normal form count as 0 where steps are computed: they cost a hundred times as much.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace inferd {

// Of the calling thread, as long as it lives. Not where weights are packed: nothing may be lost of those.
class FlushSmall {
 public:
#if defined(__x86_64__)
  FlushSmall() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushSmall() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#else
  FlushSmall() {}
#endif
};

}  // namespace inferd
