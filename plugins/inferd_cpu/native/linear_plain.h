// Products in portable C++. Included by linear_kernels.cpp alone.
#pragma once

#include <cmath>

#include "fp16.h"
#include "linear_layout.h"

namespace inferd {
namespace ISA {

constexpr char kName[] = "plain";
constexpr char kDescription[] = "INT8 activations, portable C++";
constexpr bool kOffsetQuants = false;

inline int tile_size(int rows) { return equal_tile(rows, kMaxTile); }

// One panel as signed bytes and fp32 scales, second scales in the place of minima: all that a product needs, whatever
// the format.
inline size_t scratch_bytes(int, int max_k) {
  return static_cast<size_t>(max_k / kBlock) * (kBlockQuants + 2 * kPanelOutputs * sizeof(float));
}

inline void expand_panel(const Matrix& w, const uint8_t* from, int8_t* quants, float* scales, float* minima) {
  const int size = quant_bytes(w.format);
  const int8_t* table = table_of(w.format);
  const int more = w.format == Weight::w4m ? 8 : 0;
  for (int block = 0; block < w.k / kBlock; ++block, from += block_bytes(w.format), quants += kBlockQuants) {
    for (int i = 0; i < kBlockQuants; ++i) {
      const int half = i / 512, place = i % 512;
      if (w.format == Weight::w8) {
        quants[i] = static_cast<int8_t>(from[i]);
      } else {
        const uint8_t byte = from[half * 256 + place % 256];
        quants[i] = static_cast<int8_t>(table[place < 256 ? byte & 15 : byte >> 4] + more);
      }
    }
    for (int column = 0; column < kPanelOutputs; ++column) {
      uint16_t bits[2] = {};
      std::memcpy(&bits[0], from + size + 2 * column, 2);
      if (w.format == Weight::w4m || has_halves(w.format)) {
        std::memcpy(&bits[1], from + size + 2 * kPanelOutputs + 2 * column, 2);
      }
      *scales++ = float_of_half(bits[0]);
      *minima++ = float_of_half(bits[1]);
    }
  }
}

// Of four inputs in each of these steps.
inline void dot_block(const int8_t* quants, const int8_t* x, int begin, int end, int32_t* sums) {
  for (int column = 0; column < kPanelOutputs; ++column) sums[column] = 0;
  for (int half = 0; half < 2; ++half) {
    for (int step = begin; step < end; ++step) {
      const int8_t* at = quants + half * 512 + step * 64;
      for (int column = 0; column < kHalfPanel; ++column) {
        int32_t sum = 0;
        for (int i = 0; i < 4; ++i) sum += at[4 * column + i] * x[4 * step + i];
        sums[half * kHalfPanel + column] += sum;
      }
    }
  }
}

inline void multiply_panels(const Matrix& w, const Rows& x, float* out, size_t ldo, int panel_begin, int panel_end,
                            void* scratch) {
  const int blocks = w.k / kBlock, parts = has_halves(w.format) ? 2 : 1;  // of a block, each with a scale
  auto* quants = static_cast<int8_t*>(scratch);
  auto* scales = reinterpret_cast<float*>(quants + static_cast<size_t>(blocks) * kBlockQuants);
  float* minima = scales + static_cast<size_t>(blocks) * kPanelOutputs;
  for (int panel = panel_begin; panel < panel_end; ++panel) {
    expand_panel(w, w.data + panel * panel_bytes(w.format, w.k), quants, scales, minima);
    const int first = panel * kPanelOutputs;
    const int live = w.n - first < kPanelOutputs ? w.n - first : kPanelOutputs;
    for (int row = 0; row < x.rows; ++row) {
      const Tile tile = tile_of(x, row / x.tile);
      float total[kPanelOutputs] = {};
      for (int block = 0; block < blocks; ++block) {
        const size_t at = static_cast<size_t>(block) * x.tile + row % x.tile;
        for (int part = 0; part < parts; ++part) {
          int32_t sums[kPanelOutputs];
          dot_block(quants + static_cast<size_t>(block) * kBlockQuants, tile.quants + at * kBlock, 8 * part / parts,
                    8 * (part + 1) / parts, sums);
          const float* scale = (part == 0 ? scales : minima) + block * kPanelOutputs;
          for (int i = 0; i < kPanelOutputs; ++i) {
            total[i] = std::fma(static_cast<float>(sums[i]) * scale[i], tile.scales[at], total[i]);
          }
        }
      }
      for (int block = 0; block < (w.format == Weight::w4m ? blocks : 0); ++block) {
        const float x_sum = tile.sums[static_cast<size_t>(block) * x.tile + row % x.tile];
        const float* minimum = minima + block * kPanelOutputs;
        for (int i = 0; i < kPanelOutputs; ++i) total[i] = std::fma(minimum[i], x_sum, total[i]);
      }
      std::memcpy(out + row * ldo + first, total, live * sizeof(float));
    }
  }
}

}  // namespace ISA
}  // namespace inferd
