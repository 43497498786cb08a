// Products of quantised activations with packed weights: what the forward pass calls, one table per instruction set.
//
// Weights are blocks of 32 numbers along the inputs, each with one scale and perhaps one minimum; activations are
// quantised to int8 per row and block of 32. Integer sums of a block are exact, and the blocks of one output are added
// in their order by the same floating-point operations on every path, all scales before all minima:
//     sum = fma(float(dot) * scale, x_scale, sum) for each block; then sum = fma(minimum, x_scale * x_sum, sum) for each
// Where each half of a block has a scale, its first half is added as a block is, and then its second.
// Hence a row's result does not depend on the rows beside it, nor on the instruction set. With AMX activations are bf16
// instead, see linear_amx.h: the same rows give the same bits there, too, but not those of the other paths.
#pragma once

#include <cstddef>
#include <cstdint>

namespace inferd {

constexpr int kBlock = 32;         // inputs that share a scale
constexpr int kPanelOutputs = 32;  // outputs packed side by side: the unit of partition between threads

// w4m: with minima. All behind it are codes of four bits, which stand for the numbers of a table: those of IQ4, of FP4
// (twice what they are) and of the lists of IQ3_XXS, IQ3_S and, in one table, IQ1 and IQ2. Only the types that they are
// named for can be packed so, with no more lost than is rounded where a scale is a product. The last three have a scale
// for each 16 inputs: those of NVFP4, of Q3_K and, in one table, of IQ1_M, IQ2_XS and IQ2_S.
enum class Weight : int {
  w8 = 0,
  w4 = 1,
  w4m = 2,
  iq4 = 3,
  fp4 = 4,
  iq3_xxs = 5,
  iq3_s = 6,
  iq2 = 7,
  nvfp4 = 8,
  q3_k = 9,
  iq2_s = 10,
};

// A packed matrix of n outputs and k inputs. `data` is aligned to 64 bytes (2 MiB and MADV_HUGEPAGE are best) and holds
// packed_bytes(format, n, k) bytes, zero before the first pack. Its layout is known to linear_*.h alone.
//
// Scales and minima are fp16. Of an output whose largest ones lie outside of what those hold well, all are divided by a
// power of two when they are packed: `factors` has it for each output, with which its products are multiplied. Null
// where all are 1, as with nearly every model.
struct Matrix {
  Weight format;
  int n, k;
  size_t size_bytes;
  const uint8_t* data;
  const float* factors;
};

// Quantised activations; for AMX bf16 in place of quants, and nothing else. The layout depends on `rows`: place_rows
// must be called when the number of rows changes.
struct Rows {
  int rows, k;
  int tile;          // rows that lie together for one block of inputs
  int8_t* quants;    // [tiles][k/32][tile][32]
  float* scales;     // [tiles][k/32][tile]
  float* sums;       // the same: scale times the block's sum of quants
  int32_t* starts8;  // the same: what the integer sum of a block starts at when stored weights are 128 too high
  int32_t* starts4;  // the same for weights that are 8 too high
};

enum PackError : int {
  pack_done = 0,
  pack_bad_inputs = 1,       // k is not a multiple of 32, or not of the type's own block
  pack_unknown_type = 2,     // a ggml type that is not read
  pack_bad_range = 3,        // first + count lies outside the matrix
  pack_bad_pair = 4,         // a packed format that does not hold the numbers of the ggml type
};

struct Kernels {
  const char* name;         // plain, avx2, avx512, amx, neon
  const char* description;  // for people, e.g. "INT8 activations, AVX2"

  // Bytes of the packed matrix, a multiple of 64; 0 when k is not a multiple of 32.
  size_t (*packed_bytes)(Weight format, int n, int k);

  // Packs `count` outputs as outputs [first, first + count) of an n x k matrix at `out`. `blocks` is the tensor that
  // they come from, row-major as in the file; output first + i comes from its row order[i], or row i without `order`.
  // `counts` says how much the error of each of the k inputs counts where minima are looked for; null: all the same.
  // factors[first, first + count) are set, see Matrix. Ranges of outputs that begin at even ones may be packed by several
  // threads at once. Returns a PackError.
  int (*pack)(Weight format, int ggml_type, const void* blocks, int first, int count, const int* order,
              const float* counts, int n, int k, uint8_t* out, float* factors);

  // Memory for activations of up to max_rows rows of k inputs, and its division for `rows` of them.
  size_t (*rows_bytes)(int max_rows, int k);
  void (*place_rows)(Rows* out, void* memory, int rows, int k);  // memory: aligned to 64 bytes

  // Quantises `count` rows, of `ldx` floats distance, as rows [first, first + count) of `out`. Any thread may do any row.
  void (*quantize)(const float* x, size_t ldx, int first, int count, const Rows* out);

  // out[row * ldo + output] for all rows and the outputs of panels [panel_begin, panel_end) of panel_outputs each.
  // Nothing outside [0, n) is written. `scratch` belongs to the calling thread.
  void (*multiply)(const Matrix& w, const Rows& x, float* out, size_t ldo, int panel_begin, int panel_end,
                   void* scratch);
  size_t (*scratch_bytes)(int max_rows, int max_k);  // per thread, aligned to 64 bytes

  // The same for outputs that only `gate` of this instruction set reads (norms.h), whose rows have the tiles of x. Where
  // they lie is between the two, in inner_floats() floats, `out` aligned to 64 bytes; n times as many panels take at
  // most n times as many floats.
  void (*multiply_inner)(const Matrix& w, const Rows& x, float* out, int panel_begin, int panel_end, void* scratch);
  size_t (*inner_floats)(int rows, int panels);
  int panel_outputs;

  // One output's weights as k floats (a row of the embedding when it shares the head's matrix).
  void (*unpack_row)(const Matrix& w, int row, float* out);
};

// The table of that name, or the best one of this processor for null or "auto". When there is none: null, and *why (if
// given) says what is missing. Asks the operating system for AMX once.
const Kernels* choose_kernels(const char* name, const char** why);

// The format that holds a ggml type best, and whether the type can be packed at all.
Weight natural_weight(int ggml_type);
bool can_pack(int ggml_type);

// What a PackError means, for the message of an error.
const char* pack_message(int error);

}  // namespace inferd
