// Formats of ggml of one to four bits a number: vectors from lists (IQ1 to IQ3), IQ4, ternary (TQ) and FP4.
#pragma once

#include "ggml_blocks.h"

namespace inferd {

// Vectors in the lists of IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S and IQ1_S, in this order, and numbers in each.
constexpr int kGrids = 6;
constexpr int kGridVectors[kGrids] = {256, 512, 1024, 256, 512, 2048};
constexpr int kGridWidths[kGrids] = {8, 8, 8, 4, 4, 8};

// Sets the lists, one behind the other. To be called before anything is decoded.
void set_grids(const int8_t* numbers);

// Null for a type that is not one of these.
const GgmlFormat* find_small_format(int ggml_type);

// The scale of a block of IQ1_M, as the bits of an fp16.
uint16_t iq1_m_scale(const uint8_t* block);

}  // namespace inferd
