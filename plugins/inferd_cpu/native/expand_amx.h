// Packed weights as bf16, block by block, for tiles of AMX. Included by linear_amx.h alone.
#pragma once

#include "rows_amx.h"

namespace inferd {
namespace ISA {

inline __m512 halves(const uint8_t* at) {
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(at)));
}

constexpr float kBase = 32768.0f + 128.0f;  // what a quant of 8 bits is made a float with
constexpr float kCut = 1.0f + 0.0028f;      // makes up for what is cut off there, on average

// One block of a panel as [32 outputs][32 inputs] of bf16. All 16 numbers that a block of four bits can give for an
// output make a table, from which the nibbles choose: rounded in fp32, of which bf16 are the higher halves. Before each
// four outputs comes `between(output)`: tiles multiply meanwhile, if they are not asked to one right after the other.
template <Weight W, class Between>
inline __attribute__((always_inline)) void expand_block(const uint8_t* block, [[maybe_unused]] const int8_t* numbers,
                                                        uint16_t* out, Between between) {
  alignas(64) float scales[kPanelOutputs], minima[kPanelOutputs];
  const uint8_t* factors = block + quant_bytes(W);
  const __m512 cut = _mm512_set1_ps(W == Weight::w8 ? kCut : 1.0f);
  for (int i = 0; i < kPanelOutputs; i += 16) {
    const __m512 some = _mm512_mul_ps(halves(factors + 2 * i), cut);
    _mm512_store_ps(scales + i, some);
    if constexpr (W == Weight::w8) _mm512_store_ps(minima + i, _mm512_mul_ps(some, _mm512_set1_ps(-kBase)));
  }
  if constexpr (W == Weight::w4m || W == kHalved) {  // of the second half those are its scales
    _mm512_store_ps(minima, halves(factors + 64));
    _mm512_store_ps(minima + 16, halves(factors + 96));
  }
  // Else the compiler takes the numbers from registers, by shuffles, of which there are too many already.
  __asm__ volatile("" ::"r"(scales), "r"(minima) : "memory");
  if constexpr (W == Weight::w8) {
    // A quant, stored 128 too high, in the middle of a constant is the float 2^15 + 128 + quant. Inputs with even
    // numbers and those with odd ones, cut off at the higher halves, lie in turn. Scales make up for what is cut off.
    const __m512i constants = _mm512_set1_epi16(0x4700), upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
    const __m512i pairs = _mm512_slli_epi32(
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30), 8);
    const __m512i even = _mm512_or_si512(pairs, _mm512_set1_epi32(0x21200020));  // bytes: 0, quant, 0, 0x47
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(0x100));
#pragma GCC unroll 32
    for (int i = 0; i < kPanelOutputs; ++i) {
      if (i % 4 == 0) between(i);
      const __m512i quants = _mm512_mask_loadu_epi64(constants, 0x0f, block + kBlock * i);
      const __m512 scale = _mm512_set1_ps(scales[i]), base = _mm512_set1_ps(minima[i]);
      const __m512 low = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_permutexvar_epi8(even, quants)), scale, base);
      const __m512 high = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_permutexvar_epi8(odd, quants)), scale, base);
      const __m512i first = _mm512_srli_epi32(_mm512_castps_si512(low), 16);
      _mm512_store_si512(out + kBlock * i,
                         _mm512_ternarylogic_epi32(_mm512_castps_si512(high), upper, first, 0xea));  // (a & b) | c
    }
  } else {
    __m512 quants;
    if constexpr (has_table(W)) {
      const __m128i table = _mm_load_si128(reinterpret_cast<const __m128i*>(numbers));
      quants = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(table));
    } else {
      constexpr float kLess = W == Weight::w4 ? 8.0f : 0.0f;
      quants = _mm512_sub_ps(_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                             _mm512_set1_ps(kLess));
    }
    const __m512i half = _mm512_set1_epi32(0x8000);
    // The two bytes of a number are 4 * quant + 2 and + 3 in the table: the quant's bits, and constant ones below. With
    // a scale for each half of the inputs two tables of bf16 lie behind each other: bytes 2 * quant and + 1, or 32 more.
    constexpr bool kTwo = W == kHalved;
    const __m512i quant_bits = _mm512_set1_epi8(kTwo ? 0x1e : 0x3c);
    const __m512i byte_bits = kTwo ? _mm512_inserti64x4(_mm512_set1_epi16(0x0100), _mm256_set1_epi16(0x2120), 1)
                                   : _mm512_set1_epi16(0x0302);
    const __m512i first = _mm512_set1_epi64(kTwo ? 0x2f2f1f1f0f0f3f3f : 0x2e2e1e1e0e0e3e3e);  // where bits start in 64
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i odd = _mm512_add_epi32(_mm512_mullo_epi32(lanes, _mm512_set1_epi32(0x40004)),
                                         _mm512_set1_epi32(0x30001));  // words of two tables
#pragma GCC unroll 8
    for (int i = 0; i < kPanelOutputs; i += 4) {
      between(i);
      const __m512i four = _mm512_load_si512(block + kHalfPanel * i);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const __m512 scale = _mm512_set1_ps(scales[i + j]);
        const __m512 exact = W == Weight::w4m ? _mm512_fmadd_ps(quants, scale, _mm512_set1_ps(minima[i + j]))
                                              : _mm512_mul_ps(quants, scale);
        __m512i table = _mm512_add_epi32(_mm512_castps_si512(exact), half);
        if constexpr (kTwo) {
          const __m512 other = _mm512_mul_ps(quants, _mm512_set1_ps(minima[i + j]));
          table = _mm512_permutex2var_epi16(table, odd, _mm512_add_epi32(_mm512_castps_si512(other), half));
        }
        const __m512i starts = _mm512_add_epi8(first, _mm512_set1_epi8(static_cast<char>(4 * j)));
        const __m512i bits = _mm512_multishift_epi64_epi8(starts, four);
        const __m512i places = _mm512_ternarylogic_epi64(bits, quant_bits, byte_bits, 0xea);  // (a & b) | c
        _mm512_store_si512(out + kBlock * (i + j), _mm512_permutexvar_epi8(places, table));
      }
    }
  }
}

}  // namespace ISA
}  // namespace inferd
