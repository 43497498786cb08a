// Activations as tiles of AMX take them: bf16, in each tile and block pairs of inputs by rows.
#pragma once

// GCC 12 warns of its own header.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "linear_layout.h"

namespace inferd {
namespace ISA {

// Two vectors of floats as 32 of bf16.
inline __m512i round_pair(__m512 low, __m512 high) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

// Rows and columns of 16 vectors change places.
inline __attribute__((always_inline)) void transpose(__m512 (&v)[16]) {
  __m512 t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      const __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + 2 + j]);
      v[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      v[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    v[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    v[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
    v[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// A block of inputs of rows [first, first + count) of a tile. `pairs` are rows of 16 pairs, first of all row `first`.
inline __attribute__((always_inline)) void put_block(__m512 (&pairs)[kMaxTile], int first, int count, int tile,
                                                     int block, const Rows& out) {
  const size_t place = static_cast<size_t>(tile) * (out.k / kBlock) + block;
  float* to = reinterpret_cast<float*>(out.quants) + place * (kBlock / 2) * out.tile + first;
  const auto live = static_cast<__mmask16>((1u << count) - 1);
  transpose(pairs);
#pragma GCC unroll 16
  for (int i = 0; i < kBlock / 2; ++i) _mm512_mask_storeu_ps(to + i * out.tile, live, pairs[i]);
}

inline void quantize_rows(const float* x, size_t ldx, int first, int count, const Rows* out) {
  constexpr int kFew = 2;  // one by one
  while (count > 0) {
    const int tile = first / out->tile, inside = first % out->tile;
    const int some = count < out->tile - inside ? count : out->tile - inside;
    for (int block = 0; block < out->k / kBlock; ++block) {
      const float* from = x + block * kBlock;
      if (some <= kFew) {
        const size_t place = static_cast<size_t>(tile) * (out->k / kBlock) + block;
        uint32_t* to = reinterpret_cast<uint32_t*>(out->quants) + place * (kBlock / 2) * out->tile + inside;
        for (int row = 0; row < some; ++row) {
          alignas(64) uint32_t pairs[kBlock / 2];
          const float* at = from + row * ldx;
          _mm512_store_si512(pairs, round_pair(_mm512_loadu_ps(at), _mm512_loadu_ps(at + 16)));
          for (int i = 0; i < kBlock / 2; ++i) to[i * out->tile + row] = pairs[i];
        }
        continue;
      }
      __m512 pairs[kMaxTile];
#pragma GCC unroll 16
      for (int row = 0; row < kMaxTile; ++row) {
        const float* at = from + (row < some ? row : 0) * ldx;
        pairs[row] = _mm512_castsi512_ps(round_pair(_mm512_loadu_ps(at), _mm512_loadu_ps(at + 16)));
      }
      put_block(pairs, inside, some, tile, block, *out);
    }
    first += some;
    count -= some;
    x += some * ldx;
  }
}

}  // namespace ISA
}  // namespace inferd
