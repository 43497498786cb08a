// Attention over keys and values in 8 bits, each token's with a scale of its own. Scores and mixed values are sums of
// products of whole numbers, so they are exact in whatever order they are made. Included by attention.cpp alone.
//
// Some numbers of keys are far larger than the others, which would leave few steps to those. So queries and keys are
// turned by a Hadamard matrix before they are rounded, which spreads such numbers and keeps all products
// (arXiv:2404.00456).
#pragma once

#include <algorithm>

#include "attention_tiles.h"

namespace inferd {
namespace ISA {
namespace {

constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: the sum's lowest bits are the rounded number
constexpr float kTwos = 1.44269504089f;  // weights are powers of two: e to the power of x is 2 to that of kTwos * x

// The largest power of two that divides the width of keys: so many numbers are turned together.
inline int turned_width(int key_width) { return key_width & -key_width; }

// One step of turning a vector: sums and differences of numbers `distance` lanes apart.
inline __attribute__((always_inline)) Floats turn_lanes(Floats v, int distance) {
  const Ints upper = (count_lanes() & distance) != 0;
  return fma(v, choose(upper, splat(-1.0f), splat(1.0f)), swap_lanes(v, distance));
}

// Turns a key or a query; products of two that were turned are turned_width times as large.
inline void turn(int key_width, float* x) {
  static_assert(kLanes <= 16, "four steps turn a vector");
  const int together = turned_width(key_width);  // 16 at least
  for (int i = 0; i < key_width; i += kLanes) {
    Floats v = turn_lanes(turn_lanes(load(x + i), 1), 2);
    if constexpr (kLanes > 4) v = turn_lanes(v, 4);
    if constexpr (kLanes > 8) v = turn_lanes(v, 8);
    store(x + i, v);
  }
  for (int distance = kLanes; distance < together; distance *= 2)
    for (int i = 0; i < key_width; i += 2 * distance)
      for (int j = i; j < i + distance; j += kLanes) {
        const Floats low = load(x + j), high = load(x + j + distance);
        store(x + j, low + high);
        store(x + j + distance, low - high);
      }
}

inline Ints load_ints(const uint8_t* at) {
  Ints v;
  memcpy(&v, at, sizeof v);
  return v;
}

// The same four bytes in each lane.
template <class Byte>
inline Ints splat_four(const Byte* at) {
  int32_t four;
  memcpy(&four, at, sizeof four);
  return splat(four);
}

// The lowest byte of each lane.
inline void store_bytes(uint8_t* out, Ints rounded) {
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8((__m512i)rounded));
#else
  for (int i = 0; i < kLanes; i++) out[i] = static_cast<uint8_t>(rounded[i]);
#endif
}

// Bytes of kLanes fours: the one at `place` of each.
inline void store_each_fourth(uint8_t* fours, int place, const int8_t* bytes) {
#if defined(__AVX512BW__)
  const __m512i each = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  _mm512_mask_storeu_epi8(fours, 0x1111111111111111ull << place, _mm512_slli_epi32(each, 8 * place));
#else
  for (int i = 0; i < kLanes; i++) fours[4 * i + place] = static_cast<uint8_t>(bytes[i]);
#endif
}

// Rounds to whole numbers from -127 to 127, perhaps in place; gives what they must be multiplied with.
inline float round_to_bytes(float* x, int width, int8_t* out) {
  Ints most{};  // of the bits without signs, which are in the order of the numbers, NaN above all
  for (int i = 0; i < width; i += kLanes) {
    const Ints bits = as_ints(load(x + i)) & 0x7fffffff;
    most = bits > most ? bits : most;
  }
  if (any(most >= 0x7f800000)) {
    most = Ints{};
    for (int i = 0; i < width; i += kLanes) {
      const Floats v = make_finite(load(x + i));
      store(x + i, v);
      most = as_ints(larger(as_floats(most), larger(v, -v)));
    }
  }
  const float peak = largest(as_floats(most));
  const float inverse = peak > 1e-30f ? 127.0f / peak : 0.0f;
  for (int i = 0; i < width; i += kLanes)
    store_bytes(reinterpret_cast<uint8_t*>(out) + i, as_ints(fma(load(x + i), splat(inverse), splat(kMagic))));
  return peak > 1e-30f ? peak / 127.0f : 0.0f;
}

// Queries of rows as whole numbers, [shared][rows][key_width], for each a scale, [shared][rows], and what is added to
// its products when keys are 128 too high; there are 1 or kTileRows rows.
struct Queries {
  int8_t* numbers;
  float* scales;
  int32_t* lifts;
  Queries(const AttentionShape& shape, const float* taken, int rows)
      : numbers(reinterpret_cast<int8_t*>(const_cast<float*>(taken))),
        scales(const_cast<float*>(taken) + static_cast<size_t>(rows) * shape.shared * shape.key_width / 4),
        lifts(reinterpret_cast<int32_t*>(scales + static_cast<size_t>(rows) * shape.shared)) {}
};

inline void take_int8_queries(const AttentionShape& shape, float* queries, int rows, float* out) {
  const int width = shape.key_width, places = rows > 1 ? kTileRows : 1;
  const float unit = kTwos * shape.scale / static_cast<float>(turned_width(width));
  const Queries taken(shape, out, places);
  for (int head = 0; head < shape.shared; head++)
    for (int row = 0; row < places; row++) {
      const int place = head * places + row;
      int8_t* numbers = taken.numbers + static_cast<size_t>(place) * width;
      if (row < rows) {
        float* query = queries + (static_cast<size_t>(row) * shape.shared + head) * width;
        turn(width, query);
        const float scale = round_to_bytes(query, width, numbers);
        taken.scales[place] = scale > 0.0f ? scale * unit : 1.0f;  // not 0: what is hidden scores -infinity
        int32_t sum = 0;
        for (int i = 0; i < width; i++) sum += numbers[i];
        taken.lifts[place] = 128 * sum;
      } else {  // they are computed, too
        memset(numbers, 0, width);
        taken.scales[place] = 1.0f;
        taken.lifts[place] = 0;
      }
    }
}

inline void put_int8(const AttentionShape& shape, uint8_t* block, int place, float* key, float* value) {
  const int tile = place / kTile, token = place % kTile;
  auto* scales = reinterpret_cast<float*>(block + shape.numbers_bytes()) + place;
  auto* bytes = reinterpret_cast<int8_t*>(key);  // rounded in place: what is written was read before
  turn(shape.key_width, key);
  scales[0] = round_to_bytes(key, shape.key_width, bytes);
  uint8_t* keys = block + static_cast<size_t>(kTile) * tile * shape.key_width;
  for (int i = 0; i < shape.key_width; i += 4) memcpy(keys + i * kTile + 4 * token, bytes + i, 4);
  bytes = reinterpret_cast<int8_t*>(value);
  scales[kTile * shape.tiles()] = round_to_bytes(value, shape.value_width, bytes);
  uint8_t* values = block + shape.keys_bytes() + static_cast<size_t>(kTile) * tile * shape.value_width;
  values += 4 * shape.value_width * (token / 4);  // another thread may be writing the bytes beside
  for (int i = 0; i < shape.value_width; i += kLanes) store_each_fourth(values + 4 * i, token % 4, bytes + i);
}

// Where the scores, weights and factors of rows are, and what was taken of the segment that they attend to.
struct Int8Desk {
  size_t stride;
  float* scores;        // [rows][stride]: whole numbers first
  uint8_t* weights;     // the same
  float* key_scales;    // [stride]
  float* value_scales;  // [stride]
  uint8_t* values;      // [stride][value_width], as in a block
  float* factors;       // [rows]: what the sums of weighted values must be multiplied with

  Int8Desk(const AttentionShape& shape, float* scratch)
      : stride(shape.scores_floats()),
        scores(scratch),
        weights(reinterpret_cast<uint8_t*>(scores + shape.scratch_rows() * stride)),
        key_scales(reinterpret_cast<float*>(weights + shape.scratch_rows() * stride)),
        value_scales(key_scales + stride),
        values(reinterpret_cast<uint8_t*>(value_scales + stride)),
        factors(reinterpret_cast<float*>(values + stride * shape.value_width)) {}

  // Finding a tile takes longer than weighing a row's scores with it.
  void take_scales(const Tiles& tiles, int count) const {
    for (int tile = 0; tile < count; tile++) {
      memcpy(key_scales + tile * kTile, tiles.key_scales(tile), kTile * sizeof(float));
      memcpy(value_scales + tile * kTile, tiles.value_scales(tile), kTile * sizeof(float));
    }
  }
};

// Turns the scores of N rows, from `row` on, into weights of values; of the i-th row the tokens from firsts[i] to
// tokens[i] are seen. Several rows at once, since each step waits for the one before. The scale of a value is part of
// its weight.
template <int N, bool capped>
inline void weigh_int8_as(const Tiles& tiles, int count, const Int8Desk& desk, int row, const int* tokens,
                          const int* firsts, const float* query_scales, float* const* peaks, float* const* totals) {
  const size_t stride = desk.stride;
  float* const scores = desk.scores + row * stride;
  auto larger_of = [](Floats a, Floats b) { return larger(a, b); };
  auto sum_of = [](Floats a, Floats b) { return a + b; };
  Floats most[N][kParts], heaviest[N][kParts] = {}, sums[N][kParts] = {}, peak[N], scales[N];
  float found[N];
  for (int i = 0; i < N; i++)
    for (int part = 0; part < kParts; part++) most[i][part] = splat(-INFINITY);
  auto scale_score = [&](int i, int place) __attribute__((always_inline)) {
    const Ints score = as_ints(load(scores + i * stride + place));
    const Floats scaled = __builtin_convertvector(score, Floats) * load(desk.key_scales + place);
    if constexpr (!capped) return scaled;
    const float most = tiles.shape.cap * kTwos;
    return splat(most) * hyperbolic_tangent(scaled * splat(query_scales[i] / most));
  };
  auto take_score = [&](int i, int place, Floats score) __attribute__((always_inline)) {
    Floats& of_part = most[i][place / kLanes % kParts];
    of_part = larger(score, of_part);
    store(scores + i * stride + place, score);
  };
  const bool padded = tiles.shape.block_tokens % kTile != 0;  // else whole tiles come first
  const int most_first = *std::max_element(firsts, firsts + N);
  const int low = std::min(count, tiles.before(most_first));  // tiles of which a row does not see the first tokens
  const int whole = padded ? low : std::max(low, std::min(count, tokens[0] / kTile));
  auto take_seen = [&](int place) __attribute__((always_inline)) {
    for (int i = 0; i < N; i++) {
      const int seen = tiles.seen_of(tokens[i], place / kTile) - place % kTile;
      const int first = firsts[i] - tiles.begin(place / kTile) - place % kTile;
      const Ints hidden = (count_lanes() >= seen) | (count_lanes() < first);
      take_score(i, place, choose(hidden, splat(-INFINITY), scale_score(i, place)));
    }
  };
  for (int place = 0; place < low * kTile; place += kLanes) take_seen(place);
  for (int place = low * kTile; place < whole * kTile; place += kLanes)
    for (int i = 0; i < N; i++) take_score(i, place, scale_score(i, place));
  for (int place = whole * kTile; place < count * kTile; place += kLanes) take_seen(place);
  add_lanes(most, larger_of, found);
  for (int i = 0; i < N; i++) {
    const float unit = capped ? 1.0f : query_scales[i];
    *peaks[i] = found[i] * unit;
    peak[i] = splat(*peaks[i]);
    scales[i] = splat(unit);
  }
  for (int place = 0; place < count * kTile; place += kLanes)
    for (int i = 0; i < N; i++) {
      float* at = scores + i * stride + place;
      const int part = place / kLanes % kParts;
      const Floats weight = power_of_two(fma(load(at), scales[i], -peak[i]));
      sums[i][part] += weight;
      const Floats scaled = weight * load(desk.value_scales + place);
      heaviest[i][part] = larger(scaled, heaviest[i][part]);
      store(at, scaled);
    }
  add_lanes(sums, sum_of, found);
  for (int i = 0; i < N; i++) *totals[i] = found[i];
  add_lanes(heaviest, larger_of, found);
  for (int i = 0; i < N; i++) {
    desk.factors[row + i] = found[i] / 255.0f;
    scales[i] = splat(found[i] > 1e-30f ? 255.0f / found[i] : 0.0f);
  }
  for (int place = 0; place < count * kTile; place += kLanes)
    for (int i = 0; i < N; i++) {
      const size_t at = i * stride + place;
      store_bytes(desk.weights + row * stride + at, as_ints(fma(load(scores + at), scales[i], splat(kMagic))));
    }
}

template <int N>
inline void weigh_int8(const Tiles& tiles, int count, const Int8Desk& desk, int row, const int* tokens,
                       const int* firsts, const float* query_scales, float* const* peaks, float* const* totals) {
  if (tiles.shape.cap > 0.0f) {
    weigh_int8_as<N, true>(tiles, count, desk, row, tokens, firsts, query_scales, peaks, totals);
  } else {
    weigh_int8_as<N, false>(tiles, count, desk, row, tokens, firsts, query_scales, peaks, totals);
  }
}

inline void fetch(const void* at, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(at) + i);
}

// Scores of `heads` queries, or as many rows of one, with a vector of keys each from `vectors` places.
template <int heads, int vectors>
inline void score_int8(const uint8_t* const* keys, const int8_t* queries, const int32_t* lifts, int width,
                       float* const* scores, size_t stride) {
  const Ints offset = splat(static_cast<int32_t>(0x80808080));  // makes signed bytes unsigned: 128 more
  Ints sums[heads][vectors];
  for (int head = 0; head < heads; head++)
    for (int v = 0; v < vectors; v++) sums[head][v] = splat(-lifts[head]);
  for (int place = 0; place < width; place += 4) {
    Ints fours[vectors];
    for (int v = 0; v < vectors; v++) fours[v] = load_ints(keys[v] + place * kTile) ^ offset;
    for (int head = 0; head < heads; head++) {
      const Ints query = splat_four(queries + head * width + place);
      for (int v = 0; v < vectors; v++) sums[head][v] = add_products(sums[head][v], fours[v], query);
    }
  }
  for (int head = 0; head < heads; head++)
    for (int v = 0; v < vectors; v++) store(scores[v] + head * stride, as_floats(sums[head][v]));
}

// Scores of `heads` queries with the keys of `count` tiles, `kVectors` vectors of them at once; meanwhile the values
// may be fetched.
template <int heads, int kVectors = 2>
inline void score_tiles(const Tiles& tiles, int count, const int8_t* queries, const int32_t* lifts, float* scores,
                        size_t stride, bool fetches) {
  const int width = tiles.shape.key_width, vectors = count * kParts;
  for (int v = 0; v < vectors; v += kVectors) {
    const uint8_t* keys[kVectors];
    float* out[kVectors];
    for (int i = 0; i < kVectors && v + i < vectors; i++) {
      const int tile = (v + i) / kParts, part = (v + i) % kParts * kLanes;
      keys[i] = tiles.keys(tile) + 4 * part;
      out[i] = scores + tile * kTile + part;
      if (fetches && part == 0) fetch(tiles.values(tile), kTile * tiles.shape.value_width);
    }
    if (v + kVectors <= vectors) {
      score_int8<heads, kVectors>(keys, queries, lifts, width, out, stride);
      continue;
    }
    for (int i = 0; v + i < vectors; i++) score_int8<heads, 1>(keys + i, queries, lifts, width, out + i, stride);
  }
}

// Weighted values of the tokens of `count` tiles, `vectors` vectors of each from `place` on, for `heads` query heads, or
// as many rows of one, from `first` on. Meanwhile `fetched` tiles of keys that come next are fetched.
template <int heads, int vectors>
inline void mix_int8(const Tiles& tiles, int count, int place, const Int8Desk& desk, int first, float* sums,
                     size_t sums_stride, const Tiles* next, int fetched) {
  const int width = tiles.shape.value_width;
  Ints mixed[heads][vectors] = {};
  for (int tile = 0; tile < count; tile++) {
    const uint8_t* values = tiles.values(tile) + 4 * place;
    const uint8_t* weights = desk.weights + first * desk.stride + tile * kTile;
    if (tile < fetched) {
      fetch(next->keys(tile), kTile * next->shape.key_width);
      fetch(next->key_scales(tile), kTile * sizeof(float));
      fetch(next->value_scales(tile), kTile * sizeof(float));
    }
    for (int token = 0; token < kTile; token += 4, values += 4 * width)
      for (int v = 0; v < vectors; v++) {
        const Ints fours = load_ints(values + 4 * v * kLanes);
        for (int h = 0; h < heads; h++)
          mixed[h][v] = add_products(mixed[h][v], splat_four(weights + h * desk.stride + token), fours);
      }
  }
  for (int h = 0; h < heads; h++)
    for (int v = 0; v < vectors; v++)
      store(sums + h * sums_stride + place + v * kLanes,
            __builtin_convertvector(mixed[h][v], Floats) * splat(desk.factors[first + h]));
}

template <int heads>
inline void mix_all_int8(const Tiles& tiles, int count, const Int8Desk& desk, int first, float* sums,
                         size_t sums_stride, const Tiles* next, int fetched) {
  const int width = tiles.shape.value_width;
  int place = 0;
  for (; place + 4 * kLanes <= width; place += 4 * kLanes, fetched = 0)
    mix_int8<heads, 4>(tiles, count, place, desk, first, sums, sums_stride, next, fetched);
  for (; place < width; place += kLanes, fetched = 0)
    mix_int8<heads, 1>(tiles, count, place, desk, first, sums, sums_stride, next, fetched);
}

template <int heads>
inline void attend_heads(const Tiles& tiles, const Queries& queries, int head, const Int8Desk& desk, float* partial,
                         const Tiles& next) {
  const AttentionShape& shape = tiles.shape;
  const int count = tiles.count(), width = shape.value_width;
  if (head == 0) desk.take_scales(tiles, count);
  float* scores = desk.scores + head * desk.stride;
  score_tiles<heads>(tiles, count, queries.numbers + head * shape.key_width, queries.lifts + head, scores, desk.stride,
                     head == 0);
  float *peaks[heads], *totals[heads];
  int tokens[heads], firsts[heads];
  for (int h = 0; h < heads; h++) {
    firsts[h] = tiles.first;
    peaks[h] = partial + head + h;
    totals[h] = peaks[h] + shape.shared;
    tokens[h] = tiles.tokens;
  }
  weigh_int8<heads>(tiles, count, desk, head, tokens, firsts, queries.scales + head, peaks, totals);
  float* sums = partial + 2 * shape.shared + head * width;
  mix_all_int8<heads>(tiles, count, desk, head, sums, width, &next, head == 0 ? next.count() : 0);
}

inline void attend_int8(const Tiles& tiles, const float* taken, float* scratch, float* partial, const Tiles& next) {
  const AttentionShape& shape = tiles.shape;
  const Int8Desk desk(shape, scratch);
  const Queries queries(shape, taken, 1);
  int head = 0;
  for (; head + 3 <= shape.shared; head += 3) attend_heads<3>(tiles, queries, head, desk, partial, next);
  if (shape.shared - head == 2) return attend_heads<2>(tiles, queries, head, desk, partial, next);
  if (shape.shared - head == 1) attend_heads<1>(tiles, queries, head, desk, partial, next);
}

#if defined(__AVX2__) && !defined(ISA_AMX)
// Four rows of a head at once: they read the same keys and values.
void attend_rows(const AttentionShape& shape, const History& history, const float* taken, int rows, int segment,
                 int tokens, int window, float* scratch, float* partials) {
  constexpr int kRows = 4, kVectors = kLanes / 4;  // as many sums as registers hold beside what is multiplied
  const int before = segment * shape.segment_tokens(), width = shape.key_width;
  auto seen = [&](int row) {
    const int some = tokens + row - before;
    return some < 0 ? 0 : some < shape.segment_tokens() ? some : shape.segment_tokens();
  };
  const Int8Desk desk(shape, scratch);
  const Queries queries(shape, taken, kTileRows);
  const Tiles all{shape, history, segment, seen(rows - 1)};
  desk.take_scales(all, all.count());
  for (int row = 0; row < rows; row += kRows) {
    const Tiles tiles{shape, history, segment, seen(std::min(row + kRows, rows) - 1)};
    const int count = tiles.count();
    if (count == 0) continue;
    for (int head = 0; head < shape.shared; head++) {
      const int place = head * kTileRows + row;
      score_tiles<kRows, kVectors>(tiles, count, queries.numbers + static_cast<size_t>(place) * width,
                                   queries.lifts + place, desk.scores, desk.stride, false);
      float *peaks[kRows], *totals[kRows];
      int some[kRows], firsts[kRows];
      for (int i = 0; i < kRows; i++) {  // rows that are not there have partials, too
        some[i] = std::min(seen(row + i), tiles.tokens);
        firsts[i] = window ? std::max(0, tokens + row + i - window - before) : 0;
        peaks[i] = partials + (row + i) * shape.partial_floats() + head;
        totals[i] = peaks[i] + shape.shared;
      }
      weigh_int8<kRows>(tiles, count, desk, 0, some, firsts, queries.scales + place, peaks, totals);
      float* sums = partials + row * shape.partial_floats() + 2 * shape.shared + head * shape.value_width;
      mix_all_int8<kRows>(tiles, count, desk, 0, sums, shape.partial_floats(), nullptr, 0);
    }
  }
}
#endif

}  // namespace
}  // namespace ISA
}  // namespace inferd
