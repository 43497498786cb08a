// Whether stored weights are finite numbers: a damaged file is told before it computes nonsense.
#pragma once

#include <cstddef>
#include <cstdint>

namespace inferd {

// `bytes`: whole blocks of the type.
bool is_finite(int ggml_type, const uint8_t* blocks, size_t bytes);

}  // namespace inferd
