// What this processor and its operating system let us use.
#pragma once

namespace inferd {

// Null when the instruction set of that name (plain, avx2, avx512, amx, neon) can be used here, or what is missing.
const char* isa_missing(const char* name);

}  // namespace inferd
