// isa: plain avx2 avx512 amx neon
#include "pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "codes.h"
#include "fp16.h"
#include "ggml_blocks.h"
#include "linear_layout.h"

namespace inferd {
namespace ISA {
namespace {

// One block of one output before it is packed. Quants of w8 are signed; all others are 0 to 15.
struct Block {
  int8_t quants[kBlock];
  uint16_t scale, minimum;  // or the scale of the second half
};

constexpr float kLargestHalf = 65504.0f;

// Rounded to nearest even and kept within bounds; what is not a number becomes the lower bound.
int round_within(float value, float low, float high) {
  const float kept = !(value > low) ? low : value < high ? value : high;
  return static_cast<int>(bits_of_float(kept + kMagic)) - kMagicBits;
}

uint16_t half_within(float value) {
  return half_of_float(!(value > -kLargestHalf) ? -kLargestHalf : value < kLargestHalf ? value : kLargestHalf);
}

float reciprocal(float value) { return std::fabs(value) > 1e-30f ? 1.0f / value : 0.0f; }

void quantize_w8(const float* x, Block* out) {
  float largest = 0.0f;
  for (int i = 0; i < kBlock; ++i) largest = std::fabs(x[i]) > largest ? std::fabs(x[i]) : largest;
  out->scale = half_within(largest / 127.0f);
  if (largest > 127.5f * float_of_half(out->scale)) ++out->scale;  // few bits of a subnormal one: nothing is cut off
  const float inverse = reciprocal(float_of_half(out->scale));
  for (int i = 0; i < kBlock; ++i) out->quants[i] = static_cast<int8_t>(round_within(x[i] * inverse, -127.0f, 127.0f));
}

// Tries scales about the one that reaches the largest number, each mended by least squares; keeps the best.
void quantize_w4(const float* x, Block* out) {
  float peak = 0.0f;
  for (int i = 0; i < kBlock; ++i) peak = std::fabs(x[i]) > std::fabs(peak) ? x[i] : peak;
  float best = 0.0f, scale = 0.0f;
  for (int trial = -4; trial <= 4; ++trial) {
    const float inverse = reciprocal(peak) * (-8.0f + 0.25f * static_cast<float>(trial));
    float products = 0.0f, squares = 0.0f;
    for (int i = 0; i < kBlock; ++i) {
      const auto quant = static_cast<float>(round_within(x[i] * inverse, -8.0f, 7.0f));
      products += quant * x[i];
      squares += quant * quant;
    }
    const float gain = squares > 0.0f ? products * products / squares : 0.0f;  // by how much the error is less
    if (gain > best) {
      best = gain;
      scale = products / squares;
    }
  }
  out->scale = half_within(scale);
  const float inverse = reciprocal(float_of_half(out->scale));
  for (int i = 0; i < kBlock; ++i) {
    out->quants[i] = static_cast<int8_t>(round_within(x[i] * inverse, -8.0f, 7.0f) + 8);
  }
}

// A block as scale * quant + minimum.
struct Line {
  float scale, minimum;
  float error;  // squared, of the whole block
};

typedef float Lanes __attribute__((vector_size(32)));  // compilers make of it what the instruction set has
constexpr int kLanes = 8;

float sum_of(const Lanes& lanes) {
  float sum = 0.0f;
  for (int lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
  return sum;
}

// A block as fit_line takes it, with sums over it.
struct Points {
  float x[kBlock], counts[kBlock];  // how much an error of each counts
  float count, total, squares;      // sums of counts, and with them of x and of its squares
};

// The line that fits best when quants are those nearest to (x - low) * inverse.
Line fit_line(const Points& points, float low, float inverse) {
  const Lanes none = {}, most = none + 15.0f;
  Lanes sums = {}, square_sums = {}, product_sums = {};
  for (int i = 0; i < kBlock; i += kLanes) {
    Lanes values, counts;
    std::memcpy(&values, points.x + i, sizeof values);
    std::memcpy(&counts, points.counts + i, sizeof counts);
    const Lanes place = (values - low) * inverse;
    const Lanes above = place > none ? place : none, kept = above < most ? above : most;
    const Lanes quants = (kept + kMagic) - kMagic;  // rounds to nearest even
    const Lanes counted = counts * quants;
    sums += counted;
    square_sums += counted * quants;
    product_sums += counted * values;
  }
  const float sum = sum_of(sums), square_sum = sum_of(square_sums), product_sum = sum_of(product_sums);
  const float count = points.count, total = points.total;
  const float spread = count * square_sum - sum * sum;
  if (!(spread > 0.0f)) return {0.0f, low, INFINITY};
  const float scale = (count * product_sum - sum * total) / spread, minimum = (total - scale * sum) / count;
  return {scale, minimum, points.squares - scale * product_sum - minimum * total};
}

// Tries how many steps the range of the block may have: whole numbers up to 15 find the grid of numbers that were
// quantised before, more than 15 cut off the ends. Each try is mended by least squares, the best one twice more.
void quantize_w4m(const float* x, const float* counts, Block* out) {
  constexpr float kSteps[] = {15.0f, 14.0f, 13.0f, 12.0f, 11.0f, 10.0f, 9.0f, 8.0f, 14.5f, 15.5f, 16.0f, 16.5f, 17.0f};
  Points points = {};
  float low = x[0], high = x[0];
  for (int i = 0; i < kBlock; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
    points.counts[i] = counts != nullptr ? counts[i] : 1.0f;
    points.count += points.counts[i];
    points.total += points.counts[i] * x[i];
  }
  // About the mean, so that little is lost in the differences of squares.
  const float mean = points.total / points.count;
  points.total = 0.0f;
  for (int i = 0; i < kBlock; ++i) {
    points.x[i] = x[i] - mean;
    points.total += points.counts[i] * points.x[i];
    points.squares += points.counts[i] * points.x[i] * points.x[i];
  }
  const float middle = 0.5f * (low + high) - mean, inverse = reciprocal(high - low);
  Line best = {0.0f, points.total / points.count, INFINITY};
  for (const float steps : kSteps) {
    const float half = 0.5f * (steps < 15.0f ? steps : 15.0f);  // a wider range is cut off on both sides
    const Line line = fit_line(points, middle - half / steps * (high - low), inverse * steps);
    if (line.error < best.error) best = line;
  }
  for (int again = 0; again < 2; ++again) {
    const Line line = fit_line(points, best.minimum, reciprocal(best.scale));
    if (line.error < best.error) best = line;
  }
  out->scale = half_within(best.scale);
  out->minimum = half_within(best.minimum + mean);
  const float base = float_of_half(out->minimum), step = reciprocal(float_of_half(out->scale));
  for (int i = 0; i < kBlock; ++i) out->quants[i] = static_cast<int8_t>(round_within((x[i] - base) * step, 0.0f, 15.0f));
}

uint16_t bits_at(const uint8_t* at) {
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return bits;
}

// Of one part of a block of Q4_K, as w4m takes them.
struct ScaleAndMinimum {
  float scale, minimum;
};

ScaleAndMinimum multiply_scales(const uint8_t* block, int part) {
  int scale, minimum;
  read_six_bits(block + 4, part, &scale, &minimum);
  return {float_of_half(bits_at(block)) * static_cast<float>(scale),
          -float_of_half(bits_at(block + 2)) * static_cast<float>(minimum)};
}

// Whether quants of a type are taken over, with the scales that they have in the file.
bool is_copied(Weight format, int type) {
  if (type == nvfp4) return format == Weight::nvfp4;
  if (type == iq4_nl) return format == Weight::iq4;
  if (type == tq1_0 || type == tq2_0) return format == Weight::w4;
  return format == Weight::w4m ? type == q4_1 : type == q4_0 || (format == Weight::w8 && type == q8_0);
}

// Takes over the quants of a type that the format holds as they are; false for any other. Scales are multiplied with
// `inverse` where they are rounded.
bool copy_block(Weight format, int type, const uint8_t* block, int part, float inverse, Block* out) {
  if (format == Weight::w8 && type == q8_0) {
    out->scale = bits_at(block);
    std::memcpy(out->quants, block + 2, kBlock);
    return true;
  }
  if ((type == q4_0 && format != Weight::w4m) || (type == q4_1 && format == Weight::w4m)) {
    const uint8_t* from = block + (type == q4_0 ? 2 : 4);
    const int less = format == Weight::w8 ? 8 : 0;
    out->scale = bits_at(block);
    out->minimum = type == q4_1 ? bits_at(block + 2) : 0;
    for (int i = 0; i < 16; ++i) {
      out->quants[i] = static_cast<int8_t>((from[i] & 15) - less);
      out->quants[16 + i] = static_cast<int8_t>((from[i] >> 4) - less);
    }
    return true;
  }
  if (format == Weight::w4m && type == q4_k) {  // only the products of two scales are rounded
    const ScaleAndMinimum products = multiply_scales(block, part);
    out->scale = half_within(products.scale * inverse);
    out->minimum = half_within(products.minimum * inverse);
    const uint8_t* from = block + 16 + part / 2 * 32;
    for (int i = 0; i < kBlock; ++i) out->quants[i] = static_cast<int8_t>(from[i] >> (part % 2 * 4) & 15);
    return true;
  }
  return false;
}

void quantize(Weight format, const float* x, const float* counts, Block* out) {
  switch (format) {
    case Weight::w8:
      return quantize_w8(x, out);
    case Weight::w4:
      return quantize_w4(x, out);
    case Weight::w4m:
      return quantize_w4m(x, counts, out);
    default:
      return;  // of codes, which are found
  }
}

constexpr float kFine = 0x1p-18f;   // from here on a half has six bits or more
constexpr float kWhole = 0x1p-14f;  // and here eleven

// What scales of an output must be divided by when it has none above `largest`, and such as matter from `smallest` on,
// which should be `fine` at least.
float choose_factor(float smallest, float largest, float fine = kFine) {
  if ((smallest >= fine && largest <= kLargestHalf) || !(smallest > 1e-30f)) return 1.0f;
  return std::scalbn(1.0f, std::min(std::ilogb(largest), 126));  // its reciprocal is no subnormal number
}

// One row of a tensor.
struct Numbers {
  const GgmlFormat& form;
  int type;
  const uint8_t* row;
  int k;

  // A power of two that scales of codes must be divided by.
  float divide_scales(Weight format) const {
    const int parts = form.elements / kBlock;
    float smallest = INFINITY, largest = 0.0f, halves[2];
    for (int b = 0; b < k / kBlock; ++b) {
      form.scale(row + static_cast<size_t>(b / parts) * form.bytes, b % parts, halves);
      for (const float half : halves) {
        const float size = std::fabs(half);
        if (size > 0.0f) smallest = std::min(smallest, size);
        largest = std::max(largest, size);
      }
    }
    return format == Weight::fp4 ? choose_exact_factor(smallest, largest)
                                 : choose_factor(largest, largest, kWhole);
  }

  // Its numbers, divided by what is returned: a power of two that lets the format hold their scales.
  float decode(Weight format, float* out) const {
    const int parts = form.elements / kBlock;
    float largest = 0.0f;
    auto take = [&](float x) { largest = std::fabs(x) > largest ? std::fabs(x) : largest; };
    const bool copied = format == Weight::w4m && type == q4_k;  // but for its scales
    for (int b = 0; b < k / kBlock; ++b) {
      const uint8_t* block = row + static_cast<size_t>(b / parts) * form.bytes;
      if (copied) {
        const ScaleAndMinimum products = multiply_scales(block, b % parts);
        take(products.scale);
        take(products.minimum);
        continue;
      }
      form.decode(block, b % parts, out + b * kBlock);
      for (int i = 0; i < kBlock; ++i) take(out[b * kBlock + i]);
    }
    const float scale = largest / (format == Weight::w8 ? 127.0f : format == Weight::w4 ? 8.0f : 15.0f);
    const float factor = choose_factor(scale, format == Weight::w4m ? largest : scale);  // that of a minimum, too
    if (!copied && factor != 1.0f) {
      for (int i = 0; i < k; ++i) out[i] *= 1.0f / factor;
    }
    return factor;
  }
};

// Quants of four bits, as quant_place and quant_shift have them, some at a time.
void store_nibbles(const Block& block, uint8_t* to, int column) {
#if defined(ISA_AMX)
  typedef uint16_t Words __attribute__((vector_size(64)));  // of an input the quants of four outputs
  typedef int8_t Quants __attribute__((vector_size(32)));
  Words words;
  Quants quants;
  uint8_t* at = to + column / 4 * sizeof words;
  const int shift = column % 4 * 4;
  Words kept, shifts;
  for (int i = 0; i < kBlock; ++i) kept[i] = static_cast<uint16_t>(~(15 << shift)), shifts[i] = static_cast<uint16_t>(shift);
  std::memcpy(&words, at, sizeof words);
  std::memcpy(&quants, block.quants, sizeof quants);
  words = (words & kept) | (__builtin_convertvector(quants, Words) << shifts);
  std::memcpy(at, &words, sizeof words);
#else
  uint8_t both[kBlock / 2];  // inputs that share a byte
  for (int i = 0; i < kBlock / 2; ++i) both[i] = static_cast<uint8_t>(block.quants[i] | block.quants[i + 16] << 4);
  for (int i = 0; i < kBlock / 2; i += 4) std::memcpy(to + quant_place(Weight::w4, column, i), both + i, 4);
#endif
}

// `to` is the block of the panel, `column` the output in it.
void store_block(bool offset_quants, Weight format, const Block& block, uint8_t* to, int column) {
  uint8_t* scales = to + quant_bytes(format) + 2 * column;
  std::memcpy(scales, &block.scale, 2);
  if (format == Weight::w4m || has_halves(format)) std::memcpy(scales + 2 * kPanelOutputs, &block.minimum, 2);
  if (format != Weight::w8) return store_nibbles(block, to, column);
  const uint8_t flip = offset_quants ? 0x80 : 0;
  for (int i = 0; i < kBlock; ++i) {
    to[quant_place(Weight::w8, column, i)] = static_cast<uint8_t>(static_cast<uint8_t>(block.quants[i]) ^ flip);
  }
}

}  // namespace

int pack_outputs(bool offset_quants, Weight format, int ggml_type, const void* blocks, int first, int count,
                 const int* order, const float* counts, int n, int k, uint8_t* out, float* factors) {
  const GgmlFormat* from = find_format(ggml_type);
  if (from == nullptr) return pack_unknown_type;
  if (k <= 0 || k % kBlock != 0 || k % from->elements != 0) return pack_bad_inputs;
  if (first < 0 || count < 0 || first > n - count) return pack_bad_range;
  const bool coded = from->scale != nullptr && format == natural_weight(ggml_type);
  if (has_table(format) && !coded) return pack_bad_pair;
  const Codes codes(format);
  const size_t row_bytes = static_cast<size_t>(k / from->elements) * from->bytes;
  const int parts = from->elements / kBlock;
  std::vector<float> numbers(k);
  for (int i = 0; i < count; ++i) {
    const uint8_t* row = static_cast<const uint8_t*>(blocks) + (order != nullptr ? order[i] : i) * row_bytes;
    const int output = first + i;
    uint8_t* to = out + output / kPanelOutputs * panel_bytes(format, k);
    const Numbers read{*from, ggml_type, row, k};
    const float factor = factors[output] = is_copied(format, ggml_type) ? 1.0f
                                           : coded                    ? read.divide_scales(format)
                                                                      : read.decode(format, numbers.data());
    for (int b = 0; b < k / kBlock; ++b, to += block_bytes(format)) {
      const uint8_t* block = row + static_cast<size_t>(b / parts) * from->bytes;
      Block packed = {};
      if (coded) {
        float halves[2];
        from->scale(block, b % parts, halves);
        codes.find(*from, block, b % parts, halves, packed.quants);
        packed.scale = half_within(halves[0] * (1.0f / factor));
        packed.minimum = half_within(halves[1] * (1.0f / factor));
      } else if (!copy_block(format, ggml_type, block, b % parts, 1.0f / factor, &packed)) {
        quantize(format, numbers.data() + b * kBlock, counts != nullptr ? counts + b * kBlock : nullptr, &packed);
      }
      store_block(offset_quants, format, packed, to, output % kPanelOutputs);
    }
  }
  return pack_done;
}

void unpack_output(bool offset_quants, const Matrix& w, int row, float* out) {
  const float factor = w.factors != nullptr ? w.factors[row] : 1.0f;
  const int column = row % kPanelOutputs, size = quant_bytes(w.format);
  const int8_t* table = table_of(w.format);
  const uint8_t* block = w.data + row / kPanelOutputs * panel_bytes(w.format, w.k);
  for (int b = 0; b < w.k / kBlock; ++b, block += block_bytes(w.format), out += kBlock) {
    const float scale = float_of_half(bits_at(block + size + 2 * column));
    const bool minima = w.format == Weight::w4m, halves = has_halves(w.format);
    const uint8_t* behind = block + size + 2 * kPanelOutputs + 2 * column;
    const float second = minima || halves ? float_of_half(bits_at(behind)) : 0.0f;
    const float minimum = minima ? second : 0.0f;
    for (int i = 0; i < kBlock; ++i) {
      const uint8_t byte = block[quant_place(w.format, column, i)];
      int quant;
      if (w.format == Weight::w8) {
        quant = static_cast<int8_t>(offset_quants ? byte ^ 0x80 : byte);
      } else {
        quant = table[byte >> quant_shift(column, i) & 15] + (minima ? 8 : 0);
      }
      out[i] = ((halves && i >= kBlock / 2 ? second : scale) * static_cast<float>(quant) + minimum) * factor;
    }
  }
}

}  // namespace ISA
}  // namespace inferd
