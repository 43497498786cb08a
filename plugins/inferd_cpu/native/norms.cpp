// isa: plain avx2 avx512 amx neon
#include "norms.h"

#include "quantize.h"
#include "simd.h"

namespace inferd {
namespace ISA {
namespace {

void normalize(const float* x, const float* weight, float epsilon, int n, float* out) {
  Floats squares[kParts] = {};
  for (int i = 0; i < n; i += 16)
    for (int part = 0; part < kParts; part++) {
      Floats v = load(x + i + part * kLanes);
      squares[part] = fma(v, v, squares[part]);
    }
  Floats scale = splat(1.0f / std::sqrt(sum(squares) / static_cast<float>(n) + epsilon));
  for (int i = 0; i < n; i += kLanes) store(out + i, load(x + i) * scale * load(weight + i));
}

void center(const float* x, const float* weight, float epsilon, int n, float* out) {
  Floats sums[kParts] = {}, squares[kParts] = {};
  for (int i = 0; i < n; i += 16)
    for (int part = 0; part < kParts; part++) sums[part] += load(x + i + part * kLanes);
  const Floats mean = splat(sum(sums) / static_cast<float>(n));
  for (int i = 0; i < n; i += 16)
    for (int part = 0; part < kParts; part++) {
      const Floats v = load(x + i + part * kLanes) - mean;
      squares[part] = fma(v, v, squares[part]);
    }
  const Floats scale = splat(1.0f / std::sqrt(sum(squares) / static_cast<float>(n) + epsilon));
  for (int i = 0; i < n; i += kLanes) store(out + i, (load(x + i) - mean) * scale * load(weight + i));
}

void add_scaled(const float* y, float scale, int n, float* x) {
  for (int i = 0; i < n; i += kLanes) store(x + i, fma(load(y + i), splat(scale), load(x + i)));
}

float dot(const float* x, const float* y, int n) {
  Floats sums[kParts] = {};
  for (int i = 0; i < n; i += 16)
    for (int part = 0; part < kParts; part++) {
      const int at = i + part * kLanes;
      sums[part] = fma(load(x + at), load(y + at), sums[part]);
    }
  return sum(sums);
}

void cap(float scale, float most, int n, float* x) {
  for (int i = 0; i < n; i += kLanes) {
    float some[kLanes] = {};
    const int count = n - i < kLanes ? n - i : kLanes;
    memcpy(some, x + i, sizeof(float) * count);
    Floats v = load(some) * splat(scale);
    if (most > 0.0f) v = splat(most) * hyperbolic_tangent(v * splat(1.0f / most));
    store(some, v);
    memcpy(x + i, some, sizeof(float) * count);
  }
}

// Within 1.5e-7 (Abramowitz and Stegun 7.1.26).
inline Floats error_function(Floats x) {
  const Floats size = larger(x, -x), one = splat(1.0f);
  const Floats t = one / fma(size, splat(0.3275911f), one);
  Floats p = fma(t, splat(1.061405429f), splat(-1.453152027f));
  p = fma(p, t, splat(1.421413741f));
  p = fma(p, t, splat(-0.284496736f));
  p = fma(p, t, splat(0.254829592f)) * t;
  const Floats value = one - p * exponential(-size * size);
  return choose(x < Floats{}, -value, value);
}

inline Floats activate_one(Activation kind, Floats x) {
  const Floats one = splat(1.0f);
  switch (kind) {
    case Activation::gelu:
      return splat(0.5f) * x * (one + error_function(x * splat(0.70710678118f)));
    case Activation::gelu_tanh: {  // 1 + tanh(y) is 2 / (1 + exp(-2 y))
      const Floats y = splat(0.7978845608f) * fma(splat(0.044715f) * x * x, x, x);
      return x / (one + exponential(splat(-2.0f) * y));
    }
    case Activation::relu2: {
      const Floats above = larger(x, Floats{});
      return above * above;
    }
    case Activation::clamped: {
      const Floats kept = choose(x > splat(7.0f), splat(7.0f), x);
      return kept / (one + exponential(splat(-1.702f) * kept));
    }
    default:
      return x / (one + exponential(-x));
  }
}

template <Activation kind>
void activate_as(bool gated, const float* sums, const float* bias, int blocks, float* out) {
  auto take = [&](int at) { return bias ? load(sums + at) + load(bias + at) : load(sums + at); };
  for (int block = 0; block < blocks; block++)
    for (int i = 0; i < kBlock; i += kLanes) {
      const int at = (gated ? 2 : 1) * block * kBlock + i;
      Floats v = activate_one(kind, take(at));
      if (gated) {
        Floats up = take(at + kBlock);
        if (kind == Activation::clamped) {
          up = choose(up > splat(7.0f), splat(7.0f), larger(up, splat(-7.0f))) + splat(1.0f);
        }
        v = v * up;
      }
      store(out + block * kBlock + i, v);
    }
}

void activate(Activation kind, bool gated, const float* sums, const float* bias, int blocks, float* out) {
  switch (kind) {
    case Activation::silu: return activate_as<Activation::silu>(gated, sums, bias, blocks, out);
    case Activation::gelu: return activate_as<Activation::gelu>(gated, sums, bias, blocks, out);
    case Activation::gelu_tanh: return activate_as<Activation::gelu_tanh>(gated, sums, bias, blocks, out);
    case Activation::relu2: return activate_as<Activation::relu2>(gated, sums, bias, blocks, out);
    case Activation::clamped: return activate_as<Activation::clamped>(gated, sums, bias, blocks, out);
  }
}

void add(const float* y, int n, float* x) {
  for (int i = 0; i < n; i += kLanes) store(x + i, load(x + i) + load(y + i));
}

#if defined(ISA_AMX)
constexpr auto subtract = nullptr;
#else
void subtract(const Rows& rows, int row, const float* x, float* out) {
  const int blocks = rows.k / kBlock;
  size_t at = static_cast<size_t>(row / rows.tile) * blocks * rows.tile + row % rows.tile;
  for (int block = 0; block < blocks; block++, at += rows.tile)
    for (int i = 0; i < kBlock; i++) {
      const float kept = static_cast<float>(rows.quants[at * kBlock + i]) * rows.scales[at];
      out[block * kBlock + i] = x[block * kBlock + i] - kept;
    }
}
#endif

void rotate(const float* cosines, const float* sines, int half, const float* from, int width, float* out) {
  int i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    Floats first = load(from + i), second = load(from + half + i);
    Floats cosine = load(cosines + i), sine = load(sines + i);
    store(out + i, first * cosine - second * sine);
    store(out + half + i, second * cosine + first * sine);
  }
  for (; i < half; i++) {
    float first = from[i], second = from[half + i];
    out[i] = first * cosines[i] - second * sines[i];
    out[half + i] = second * cosines[i] + first * sines[i];
  }
  if (out != from) memcpy(out + 2 * half, from + 2 * half, sizeof(float) * (width - 2 * half));
}

#if defined(ISA_AMX)
// Within what bf16 keeps.
inline Floats gated(Floats gate, Floats up) {
  const Floats power = power_of_two(gate * splat(-1.44269504089f));
  return gate * static_cast<Floats>(_mm512_rcp14_ps(splat(1.0f) + power)) * up;
}

// A tile of rows, [outputs][kMaxTile rows]: vectors are of rows.
void gate_tile(const float* gate_up, int live, int blocks, uint32_t* out, int tile) {
  const __m512i twice = _mm512_mullo_epi32((__m512i)count_lanes(), _mm512_set1_epi32(0x10001));
  const __m512i pairs = _mm512_add_epi32(twice, _mm512_set1_epi32(16 << 16));  // a word of each half
  const auto mask = static_cast<__mmask16>((1u << live) - 1);
  for (int block = 0; block < blocks; block++, gate_up += 2 * kBlock * kMaxTile)
    for (int i = 0; i < kBlock; i += 2, out += tile) {
      const float *gates = gate_up + i * kMaxTile, *ups = gates + kBlock * kMaxTile;
      const Floats first = gated(load(gates), load(ups)), second = gated(load(gates + kMaxTile), load(ups + kMaxTile));
      const __m512i both = round_pair(first, second);
      _mm512_mask_storeu_epi32(out, mask, _mm512_permutexvar_epi16(pairs, both));
    }
}

void gate(const float* gate_up, int first_block, int blocks, const Rows& out) {
  const size_t all = out.k / kBlock, stride = inner_stride(2 * blocks);
  for (int first = 0, index = 0; first < out.rows; first += out.tile, index++) {
    const int live = out.rows - first < out.tile ? out.rows - first : out.tile;
    if (out.tile > kFewInTile) {
      auto* to = reinterpret_cast<uint32_t*>(out.quants) + (index * all + first_block) * (kBlock / 2) * out.tile;
      gate_tile(gate_up + static_cast<size_t>(index) * blocks * 2 * kBlock * kMaxTile, live, blocks, to, out.tile);
      continue;
    }
    for (int block = 0; block < blocks; block++) {
      __m512 pairs[kMaxTile] = {};
      for (int row = 0; row < live; row++) {
        const float *gates = gate_up + (first + row) * stride + block * 2 * kBlock, *ups = gates + kBlock;
        pairs[row] = _mm512_castsi512_ps(round_pair(gated(load(gates), load(ups)),
                                                    gated(load(gates + kLanes), load(ups + kLanes))));
      }
      put_block(pairs, 0, live, index, first_block + block, out);
    }
  }
}
#else
// Far within what 8 bits keep.
inline Floats gated(Floats gate, Floats up) {
  const Floats power = power_of_two(-larger(gate * splat(1.44269504089f), splat(-126.0f)));
  return gate / (splat(1.0f) + power) * up;
}

void gate(const float* gate_up, int first_block, int blocks, const Rows& out) {
  const size_t stride = inner_stride(2 * blocks);
  for (int row = 0; row < out.rows; row++)
    for (int block = 0; block < blocks; block++) {
      const float *gates = gate_up + row * stride + block * 2 * kBlock, *ups = gates + kBlock;
#if defined(__AVX512F__)
      quantize_block((__m512)gated(load(gates), load(ups)), (__m512)gated(load(gates + kLanes), load(ups + kLanes)),
                     place_of(row, first_block + block, out), out);
#else
      float all[kBlock];
      for (int i = 0; i < kBlock; i += kLanes) store(all + i, gated(load(gates + i), load(ups + i)));
      quantize_block(all, row, first_block + block, out);
#endif
    }
}
#endif

void gate_row(const float* sums, int blocks, float* out) {
  for (int block = 0; block < blocks; block++, sums += 2 * kBlock)
    for (int i = 0; i < kBlock; i += kLanes) {
      store(out + block * kBlock + i, gated(load(sums + i), load(sums + kBlock + i)));
    }
}

// How many rows of `down`, or groups of 16 outputs, are under way at once, as registers hold their sums.
constexpr int kAtOnce = kParts == 1 ? 4 : 1;

// `rows` of x with `count` rows of `down`: each number that is read is used for all of them.
template <int rows, int count>
inline void lower_some(const float* const* x, const float* down, size_t stride, int n, int rank, const float* next,
                       float* low) {
  Floats sums[rows][count][kParts] = {};
  for (int i = 0; i < n; i += 16)
    for (int part = 0; part < kParts; part++) {
      const int at = i + part * kLanes;
      Floats weights[count];
      for (int k = 0; k < count; k++) {
        weights[k] = load(down + k * stride + at);
        if (part == 0) __builtin_prefetch(next + k * stride + i, 0, 2);
      }
      for (int row = 0; row < rows; row++) {
        const Floats v = load(x[row] + at);
        for (int k = 0; k < count; k++) sums[row][k][part] = fma(v, weights[k], sums[row][k][part]);
      }
    }
  for (int row = 0; row < rows; row++)
    for (int k = 0; k < count; k++) low[row * rank + k] = sum(sums[row][k]);
}

template <int rows>
void lower_rows(const float* const* x, const float* down, int rank, int n, const float* next, float* low) {
  const auto stride = static_cast<size_t>(n);
  int j = 0;
  for (; j + kAtOnce <= rank; j += kAtOnce) 
    lower_some<rows, kAtOnce>(x, down + j * stride, stride, n, rank, next + j * stride, low + j);
  for (; j < rank; j++) lower_some<rows, 1>(x, down + j * stride, stride, n, rank, next + j * stride, low + j);
}

void lower(const float* const* x, int rows, const float* down, int rank, int n, const float* next, float* low) {
  if (rows == kAdaptedTogether) return lower_rows<kAdaptedTogether>(x, down, rank, n, next, low);
  for (int row = 0; row < rows; row++) lower_rows<1>(x + row, down, rank, n, next, low + size_t(row) * rank);
}

template <int rows, int count>
inline void raise_some(const float* low, const float* up, int rank, int first, int step, const float* next,
                       float* const* x) {
  const auto at = [&](int row, int k) {
    const int i = first + 16 * k;
    return x[row] + static_cast<size_t>(i / kBlock) * step + i % kBlock;
  };
  Floats sums[rows][count][kParts];
  for (int row = 0; row < rows; row++)
    for (int k = 0; k < count; k++)
      for (int part = 0; part < kParts; part++) sums[row][k][part] = load(at(row, k) + part * kLanes);
  for (int j = 0; j < rank; j++)
    for (int k = 0; k < count; k++)
      for (int part = 0; part < kParts; part++) {
        const size_t place = 16 * (static_cast<size_t>(k) * rank + j);
        const Floats numbers = load(up + place + part * kLanes);
        if (part == 0) __builtin_prefetch(next + place, 0, 2);
        for (int row = 0; row < rows; row++)
          sums[row][k][part] = fma(splat(low[row * rank + j]), numbers, sums[row][k][part]);
      }
  for (int row = 0; row < rows; row++)
    for (int k = 0; k < count; k++)
      for (int part = 0; part < kParts; part++) store(at(row, k) + part * kLanes, sums[row][k][part]);
}

template <int rows>
void raise_rows(const float* low, const float* up, int rank, int outputs, int step, const float* next,
                float* const* x) {
  const size_t group = 16 * static_cast<size_t>(rank);
  int i = 0;
  for (; i + 16 * kAtOnce <= outputs; i += 16 * kAtOnce, up += kAtOnce * group, next += kAtOnce * group)
    raise_some<rows, kAtOnce>(low, up, rank, i, step, next, x);
  for (; i < outputs; i += 16, up += group, next += group) raise_some<rows, 1>(low, up, rank, i, step, next, x);
}

void raise(const float* low, int rows, const float* up, int rank, int outputs, int step, const float* next,
           float* const* x) {
  if (rows == kAdaptedTogether) return raise_rows<kAdaptedTogether>(low, up, rank, outputs, step, next, x);
  for (int row = 0; row < rows; row++) raise_rows<1>(low + size_t(row) * rank, up, rank, outputs, step, next, x + row);
}

void find_best(const float* logits, int first, int n, Best* best) {
  Floats values = splat(best->value);
  Ints ids = splat(best->id), at, bad = {};
  for (int lane = 0; lane < kLanes; lane++) at[lane] = first + lane;
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Floats v = load(logits + i);
    Ints better = v > values;
    bad |= v != v;
    values = larger(v, values);
    ids = (better & at) | (~better & ids);
    at += kLanes;
  }
  Best found = *best;
  bool wrong = found.value != found.value;
  for (int lane = 0; lane < kLanes; lane++) {
    wrong |= bad[lane] != 0;
    if (values[lane] > found.value || (values[lane] == found.value && ids[lane] < found.id))
      found = {values[lane], ids[lane]};
  }
  for (; i < n; i++) {
    wrong |= logits[i] != logits[i];
    if (logits[i] > found.value) found = {logits[i], first + i};
  }
  *best = wrong ? Best{std::nanf(""), 0} : found;
}

void weigh(const float* logits, int n, float peak, float temperature, float* out) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes)
    store(out + i, exponential((load(logits + i) - splat(peak)) / splat(temperature)));
  float rest[kLanes] = {};
  memcpy(rest, logits + i, sizeof(float) * (n - i));
  store(rest, exponential((load(rest) - splat(peak)) / splat(temperature)));
  memcpy(out + i, rest, sizeof(float) * (n - i));
}

}  // namespace

extern const Norms norms;
const Norms norms = {normalize, center,   add,      add_scaled, dot,   cap,       subtract, rotate,
                     gate,      activate, gate_row, lower,      raise, find_best, weigh};

}  // namespace ISA
}  // namespace inferd
