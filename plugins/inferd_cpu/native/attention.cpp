// isa: plain avx2 avx512 amx neon
#include "attention.h"

#include "attention_int8.h"
#include "attention_tiles.h"
#if defined(ISA_AMX)
#include "attention_amx.h"
#endif

namespace inferd {
namespace ISA {
namespace {

constexpr int kVectors = 2;  // of keys, or of a value: worked on at once, for kHeads query heads
#if defined(__AVX512F__)
constexpr int kHeads = 4;  // 16 of 32 registers hold sums
#else
constexpr int kHeads = 2;  // 8 of 16
#endif
constexpr int kPairs = 16;  // in a chain

// How numbers lie in pairs: `at` is the first of a run of `width` pairs, from which the pairs at `place` are taken.
struct Bf16 {
  static inline void load_pairs(const uint8_t* at, int, int place, Floats* first, Floats* second) {
    Ints pairs;
    memcpy(&pairs, at + 4 * place, sizeof pairs);
    *first = as_floats(pairs << 16);
    *second = as_floats(pairs & static_cast<int32_t>(0xffff0000));
  }
  static inline void put_key(uint8_t* keys, int pair, int token, float first, float second) {
    const uint16_t both[2] = {bits_of(first), bits_of(second)};
    memcpy(keys + 4 * (pair * kTile + token), both, sizeof both);
  }
  static inline void put_value(uint8_t* pairs, int, int place, int which, Floats x) {
    float rounded[kLanes];  // number by number: another thread may be writing the other token of the pairs
    store(rounded, x);
    for (int i = 0; i < kLanes; i++) {
      const uint16_t bits = bits_of(rounded[i]);
      memcpy(pairs + 4 * (place + i) + 2 * which, &bits, sizeof bits);
    }
  }
  static inline Floats round(Floats x) { return round_to_bf16(make_finite(x)); }

 private:
  static inline uint16_t bits_of(float rounded) {
    uint32_t bits;
    memcpy(&bits, &rounded, sizeof bits);
    return static_cast<uint16_t>(bits >> 16);
  }
};
struct F32 {
  static inline void load_pairs(const uint8_t* at, int width, int place, Floats* first, Floats* second) {
    *first = load(reinterpret_cast<const float*>(at) + place);
    *second = load(reinterpret_cast<const float*>(at) + width + place);
  }
  static inline void put_key(uint8_t* keys, int pair, int token, float first, float second) {
    float* at = reinterpret_cast<float*>(keys) + 2 * pair * kTile + token;
    at[0] = first;
    at[kTile] = second;
  }
  static inline void put_value(uint8_t* pairs, int width, int place, int which, Floats x) {
    store(reinterpret_cast<float*>(pairs) + which * width + place, x);
  }
  static inline Floats round(Floats x) { return make_finite(x); }
};

// Scores of `heads` queries with the keys in `vectors` vectors.
template <class Number, int vectors, int heads>
void score(const uint8_t* const* keys, const int* lanes, const float* queries, int width, float* scores,
           size_t stride) {
  constexpr size_t kPairBytes = 2 * kTile * (sizeof(float) / (std::is_same<Number, Bf16>::value ? 2 : 1));
  Floats sums[heads][vectors] = {};
  for (int begin = 0; begin < width; begin += 2 * kPairs) {
    const int end = begin + 2 * kPairs < width ? begin + 2 * kPairs : width;
    Floats first[heads][vectors] = {}, second[heads][vectors] = {};
    for (int i = begin; i < end; i += 2)
      for (int v = 0; v < vectors; v++) {
        Floats one, two;
        Number::load_pairs(keys[v] + i / 2 * kPairBytes, kTile, lanes[v], &one, &two);
        for (int h = 0; h < heads; h++) {
          first[h][v] = fma(one, splat(queries[h * width + i]), first[h][v]);
          second[h][v] = fma(two, splat(queries[h * width + i + 1]), second[h][v]);
        }
      }
    for (int h = 0; h < heads; h++)
      for (int v = 0; v < vectors; v++) sums[h][v] += first[h][v] + second[h][v];
  }
  for (int h = 0; h < heads; h++)
    for (int v = 0; v < vectors; v++) store(scores + h * stride + v * kLanes, sums[h][v]);
}

// Adds the weighted values of a tile's tokens, `vectors` vectors of each from `place` on, for `heads` query heads.
template <class Number, int vectors, int heads>
void mix(const uint8_t* values, int width, int place, const float* weights, size_t stride, float* sums) {
  constexpr size_t kNumberBytes = std::is_same<Number, Bf16>::value ? 2 : 4;
  Floats first[heads][vectors] = {}, second[heads][vectors] = {};
  for (int t = 0; t < kTile; t += 2)
    for (int v = 0; v < vectors; v++) {
      Floats one, two;
      Number::load_pairs(values + kNumberBytes * t * width, width, place + v * kLanes, &one, &two);
      for (int h = 0; h < heads; h++) {
        first[h][v] = fma(one, splat(weights[h * stride + t]), first[h][v]);
        second[h][v] = fma(two, splat(weights[h * stride + t + 1]), second[h][v]);
      }
    }
  for (int h = 0; h < heads; h++)
    for (int v = 0; v < vectors; v++) {
      float* at = sums + h * width + place + v * kLanes;
      store(at, load(at) + (first[h][v] + second[h][v]));
    }
}

template <class Number, int vectors>
void score_all(int shared, const uint8_t* const* keys, const int* lanes, const float* queries, int width, float* scores,
               size_t stride) {
  int h = 0;
  for (; h + kHeads <= shared; h += kHeads)
    score<Number, vectors, kHeads>(keys, lanes, queries + h * width, width, scores + h * stride, stride);
  queries += h * width;
  scores += h * stride;
  switch (shared - h) {
    case 1: return score<Number, vectors, 1>(keys, lanes, queries, width, scores, stride);
    case 2: return score<Number, vectors, 2>(keys, lanes, queries, width, scores, stride);
    case 3: return score<Number, vectors, 3>(keys, lanes, queries, width, scores, stride);
  }
}

template <class Number, int vectors>
void mix_all(int shared, const uint8_t* values, int width, int place, const float* weights, size_t stride,
             float* sums) {
  int h = 0;
  for (; h + kHeads <= shared; h += kHeads)
    mix<Number, vectors, kHeads>(values, width, place, weights + h * stride, stride, sums + h * width);
  weights += h * stride;
  sums += h * width;
  switch (shared - h) {
    case 1: return mix<Number, vectors, 1>(values, width, place, weights, stride, sums);
    case 2: return mix<Number, vectors, 2>(values, width, place, weights, stride, sums);
    case 3: return mix<Number, vectors, 3>(values, width, place, weights, stride, sums);
  }
}

template <class Number>
void attend_as(const Tiles& tiles, const float* queries, float* scratch, float* partial) {
  const AttentionShape& shape = tiles.shape;
  const int count = tiles.count(), shared = shape.shared, width = shape.value_width;
  const size_t stride = shape.scores_floats();
  for (int v = 0; v < count * kParts; v += kVectors) {
    const uint8_t* keys[kVectors];
    int lanes[kVectors];
    for (int i = 0; i < kVectors && v + i < count * kParts; i++) {
      keys[i] = tiles.keys((v + i) / kParts);
      lanes[i] = (v + i) % kParts * kLanes;
    }
    float* scores = scratch + static_cast<size_t>(v) * kLanes;
    if (v + kVectors <= count * kParts) {
      score_all<Number, kVectors>(shared, keys, lanes, queries, shape.key_width, scores, stride);
    } else {
      score_all<Number, 1>(shared, keys, lanes, queries, shape.key_width, scores, stride);
    }
  }
  for (int h = 0; h < shared; h++) weigh(tiles, count, scratch + h * stride, partial + h, partial + shared + h);
  float* sums = partial + 2 * shared;
  memset(sums, 0, sizeof(float) * shared * width);
  for (int tile = 0; tile < count; tile++) {
    const uint8_t* values = tiles.values(tile);
    int place = 0;
    for (; place + kVectors * kLanes <= width; place += kVectors * kLanes)
      mix_all<Number, kVectors>(shared, values, width, place, scratch + tile * kTile, stride, sums);
    for (; place < width; place += kLanes)
      mix_all<Number, 1>(shared, values, width, place, scratch + tile * kTile, stride, sums);
  }
}

void take_queries(const AttentionShape& shape, float* queries, int rows, float* out) {
  if (shape.format == KvFormat::i8) return take_int8_queries(shape, queries, rows, out);
  const bool rounds = shape.format == KvFormat::bf16;
  const float scale = shape.scale;
  for (int i = 0; i < rows * shape.shared * shape.key_width; i += kLanes) {
    const Floats scaled = load(queries + i) * splat(scale);
    store(out + i, rounds ? round_to_bf16(scaled) : scaled);
  }
}

void attend(const AttentionShape& shape, const Segment& segment, const float* taken, float* scratch, float* partial,
            const Segment& next) {
  const Tiles tiles{shape, segment.history, segment.number, segment.tokens, segment.first};
  if (shape.format == KvFormat::f32) return attend_as<F32>(tiles, taken, scratch, partial);
  if (shape.format == KvFormat::bf16) return attend_as<Bf16>(tiles, taken, scratch, partial);
  attend_int8(tiles, taken, scratch, partial, Tiles{shape, next.history, next.number, next.tokens, next.first});
}

template <class Number>
void put_as(const AttentionShape& shape, uint8_t* block, int place, const float* key, const float* value) {
  const size_t tile_numbers = shape.number_bytes() * kTile * (place / kTile);
  const int token = place % kTile;
  uint8_t* keys = block + tile_numbers * shape.key_width;
  for (int i = 0; i < shape.key_width; i += kLanes) {
    float rounded[kLanes];
    store(rounded, Number::round(load(key + i)));
    for (int j = 0; j < kLanes; j += 2) Number::put_key(keys, (i + j) / 2, token, rounded[j], rounded[j + 1]);
  }
  uint8_t* values = block + shape.keys_bytes() + tile_numbers * shape.value_width;
  values += 2 * shape.number_bytes() * shape.value_width * (token / 2);
  for (int i = 0; i < shape.value_width; i += kLanes)
    Number::put_value(values, shape.value_width, i, token % 2, Number::round(load(value + i)));
}

void put(const AttentionShape& shape, const History& history, int position, float* key, float* value) {
  const int32_t number = history.table[position / shape.block_tokens];
  uint8_t* block = history.first_block + history.block_bytes * static_cast<size_t>(number);
  const int place = position % shape.block_tokens;
  if (shape.format == KvFormat::bf16) put_as<Bf16>(shape, block, place, key, value);
  if (shape.format == KvFormat::f32) put_as<F32>(shape, block, place, key, value);
  if (shape.format == KvFormat::i8) put_int8(shape, block, place, key, value);
}

// The power that scores of the format have: exactly 1 at 0, since a result is folded as often as there are segments.
float power(const AttentionShape& shape, float x) {
  return exponential(splat(shape.format == KvFormat::i8 ? x / kTwos : x))[0];
}

void fold(const AttentionShape& shape, const float* next, float* partial) {
  const int shared = shape.shared, width = shape.value_width;
  for (int h = 0; h < shared; h++) {
    const float peak = partial[h] > next[h] ? partial[h] : next[h];
    const bool grows = partial[h] < next[h];
    const float part = power(shape, grows ? partial[h] - peak : next[h] - peak);  // the other is 1
    const float old_part = grows ? part : 1.0f, new_part = grows ? 1.0f : part;
    partial[h] = peak;
    partial[shared + h] = partial[shared + h] * old_part + next[shared + h] * new_part;
    float* sums = partial + 2 * shared + h * width;
    const float* others = next + 2 * shared + h * width;
    for (int i = 0; i < width; i += kLanes)
      store(sums + i, fma(load(sums + i), splat(old_part), load(others + i) * splat(new_part)));
  }
}

void finish(const AttentionShape& shape, const float* partial, const float* sinks, float* out) {
  const int shared = shape.shared, width = shape.value_width;
  for (int h = 0; h < shared; h++) {
    float part = 1.0f / partial[shared + h];
    if (sinks) {  // as one more key without a value
      const float sink = shape.format == KvFormat::i8 ? sinks[h] * kTwos : sinks[h];
      const float peak = partial[h] > sink ? partial[h] : sink, weight = power(shape, partial[h] - peak);
      part = weight / (partial[shared + h] * weight + power(shape, sink - peak));
    }
    const Floats share = splat(part);
    for (int i = 0; i < width; i += kLanes)
      store(out + h * width + i, load(partial + 2 * shared + h * width + i) * share);
  }
}

#if !defined(__AVX2__)
constexpr auto attend_rows = nullptr;
#endif

}  // namespace

extern const Attention attention;
const Attention attention = {put, take_queries, attend, attend_rows, fold, finish};

}  // namespace ISA
}  // namespace inferd
