// AVX-512 with VNNI: 16 rows a register, 8-bit dot products with weights split into two bytes.
#include <cstddef>
#include <cstring>

#include "kernels.hpp"
#if defined(__x86_64__)
#include <immintrin.h>

#include "target.hpp"

FETALCLIP_TARGET("avx2,avx512f,avx512bw,avx512vl,avx512vnni")
#include "kernel_loops.hpp"
#include "kernels_x86.hpp"

namespace fetalclip {
namespace {

struct Avx512 {
  using Bytes = __m128i;

  // weight = 256 * high + low, both signed bytes: two exact dot products make one of 16 bits.
  static QuadWeights pack(const std::int16_t taps[4]) {
    std::int8_t high[4], low[4];
    for (int k = 0; k < 4; ++k) {
      low[k] = static_cast<std::int8_t>(taps[k] & 0xff);
      high[k] = static_cast<std::int8_t>((taps[k] - low[k]) / 256);
    }
    QuadWeights weights;
    std::memcpy(&weights.first, high, sizeof high);
    std::memcpy(&weights.second, low, sizeof low);
    return weights;
  }

  template <class Quads>
  static Bytes dot(Quads quads, const QuadWeights* weights, int count, int shift) {
    __m512i high = _mm512_setzero_si512();
    __m512i low = _mm512_set1_epi32(1 << (shift - 1));
    for (int q = 0; q < count; ++q) {
      const __m512i pixels = _mm512_load_si512(quads(q));
      high = _mm512_dpbusd_epi32(high, pixels, _mm512_set1_epi32(weights[q].first));
      low = _mm512_dpbusd_epi32(low, pixels, _mm512_set1_epi32(weights[q].second));
    }
    const __m512i sums = _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
    const __m512i levels = _mm512_sra_epi32(sums, _mm_cvtsi32_si128(shift));
    return _mm512_cvtusepi32_epi8(_mm512_max_epi32(levels, _mm512_setzero_si512()));
  }

  static void store_quads(const Bytes columns[4], std::uint8_t* const row_quads[kQuadRows],
                          int at) {
    store_quads_x86(columns, row_quads, at);
  }
};

inline __mmask64 first_bytes(int count) {
  if (count <= 0) return 0;
  return count >= 64 ? ~__mmask64{0} : (__mmask64{1} << count) - 1;
}

// Up to 16 pixels of three bytes, four to each 128-bit lane.
inline __m512i load_pixels(const std::uint8_t* pixels, int count) {
  const __m512i spread = _mm512_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11);
  const __mmask64 mask = first_bytes(3 * (count < 16 ? count : 16));
  return _mm512_permutexvar_epi32(spread, _mm512_maskz_loadu_epi8(mask, pixels));
}

void luma_row(const std::uint8_t* pixels, int width, bool bgr, std::uint8_t* gray) {
  // Green's weight does not fit in 16 bits; it is halved and its pixel taken twice.
  const std::int16_t blue_green_red_green[4] = {7471, 38470 / 2, 19595, 38470 / 2};
  const std::int16_t red_green_blue_green[4] = {19595, 38470 / 2, 7471, 38470 / 2};
  const QuadWeights weights = Avx512::pack(bgr ? blue_green_red_green : red_green_blue_green);
  const __m512i high_weights = _mm512_set1_epi32(weights.first);
  const __m512i low_weights = _mm512_set1_epi32(weights.second);
  const __m512i half = _mm512_set1_epi32(0x8000);
  const __m512i twice_green =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 1, 3, 4, 5, 4, 6, 7, 8, 7, 9, 10, 11, 10));
  // Inlined with a constant count for all but the last pixels, so that masks cost nothing there.
  const auto convert = [&](int x, int count) {
    const __m512i quads = _mm512_shuffle_epi8(load_pixels(pixels + 3 * x, count), twice_green);
    const __m512i high = _mm512_dpbusd_epi32(_mm512_setzero_si512(), quads, high_weights);
    const __m512i low = _mm512_dpbusd_epi32(half, quads, low_weights);
    const __m512i sums = _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
    _mm_mask_storeu_epi8(gray + x, static_cast<__mmask16>(first_bytes(count)),
                         _mm512_cvtepi32_epi8(_mm512_srli_epi32(sums, 16)));
  };
  const int whole = width / 16 * 16;
  for (int x = 0; x < whole; x += 16) convert(x, 16);
  if (whole < width) convert(whole, width - whole);
}

void split_row(const std::uint8_t* pixels, int width, std::uint8_t* const planes[3]) {
  const __m512i sort = _mm512_broadcast_i32x4(
      _mm_setr_epi8(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, -1, -1, -1, -1));
  const __m512i first_and_second =
      _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
  const __m512i third = _mm512_setr_epi32(2, 6, 10, 14, 18, 22, 26, 30, 0, 0, 0, 0, 0, 0, 0, 0);
  const auto split = [&](int x, int count) {
    __m512i part[4];
    for (int i = 0; i < 4; ++i) {
      part[i] = _mm512_shuffle_epi8(load_pixels(pixels + 3 * (x + 16 * i), count - 16 * i), sort);
    }
    const __m512i low = _mm512_permutex2var_epi32(part[0], first_and_second, part[1]);
    const __m512i high = _mm512_permutex2var_epi32(part[2], first_and_second, part[3]);
    const __m512i low_third = _mm512_permutex2var_epi32(part[0], third, part[1]);
    const __m512i high_third = _mm512_permutex2var_epi32(part[2], third, part[3]);
    const __mmask64 mask = first_bytes(count);
    _mm512_mask_storeu_epi8(planes[0] + x, mask, _mm512_shuffle_i64x2(low, high, 0x44));
    _mm512_mask_storeu_epi8(planes[1] + x, mask, _mm512_shuffle_i64x2(low, high, 0xee));
    _mm512_mask_storeu_epi8(planes[2] + x, mask, _mm512_shuffle_i64x2(low_third, high_third, 0x44));
  };
  const int whole = width / 64 * 64;
  for (int x = 0; x < whole; x += 64) split(x, 64);
  if (whole < width) split(whole, width - whole);
}

// 16 x 16 transpositions of quads: 16 rows of 64 pixels at a time.
void gather_quads(const std::uint8_t* const rows[kRows], int width, std::uint8_t* quads) {
  for (int x = 0; x < width; x += 64) {
    const __mmask64 mask = first_bytes(width - x);
    // fours[4 * k + j], lane l: quad 4 * l + j of rows 4 * k .. 4 * k + 3.
    __m512i fours[kRows];
    for (int k = 0; k < kRows; k += 4) {
      const __m512i a = _mm512_maskz_loadu_epi8(mask, rows[k] + x);
      const __m512i b = _mm512_maskz_loadu_epi8(mask, rows[k + 1] + x);
      const __m512i c = _mm512_maskz_loadu_epi8(mask, rows[k + 2] + x);
      const __m512i d = _mm512_maskz_loadu_epi8(mask, rows[k + 3] + x);
      const __m512i low_ab = _mm512_unpacklo_epi32(a, b);
      const __m512i low_cd = _mm512_unpacklo_epi32(c, d);
      const __m512i high_ab = _mm512_unpackhi_epi32(a, b);
      const __m512i high_cd = _mm512_unpackhi_epi32(c, d);
      fours[k] = _mm512_unpacklo_epi64(low_ab, low_cd);
      fours[k + 1] = _mm512_unpackhi_epi64(low_ab, low_cd);
      fours[k + 2] = _mm512_unpacklo_epi64(high_ab, high_cd);
      fours[k + 3] = _mm512_unpackhi_epi64(high_ab, high_cd);
    }
    std::uint8_t* to = quads + x * kRows;
    for (int j = 0; j < 4; ++j) {
      const __m512i top_low = _mm512_shuffle_i32x4(fours[j], fours[4 + j], 0x44);
      const __m512i top_high = _mm512_shuffle_i32x4(fours[j], fours[4 + j], 0xee);
      const __m512i bottom_low = _mm512_shuffle_i32x4(fours[8 + j], fours[12 + j], 0x44);
      const __m512i bottom_high = _mm512_shuffle_i32x4(fours[8 + j], fours[12 + j], 0xee);
      std::uint8_t* at = to + j * kQuadBytes;
      _mm512_store_si512(at, _mm512_shuffle_i32x4(top_low, bottom_low, 0x88));
      _mm512_store_si512(at + 4 * kQuadBytes, _mm512_shuffle_i32x4(top_low, bottom_low, 0xdd));
      _mm512_store_si512(at + 8 * kQuadBytes, _mm512_shuffle_i32x4(top_high, bottom_high, 0x88));
      _mm512_store_si512(at + 12 * kQuadBytes, _mm512_shuffle_i32x4(top_high, bottom_high, 0xdd));
    }
  }
}

}  // namespace

const Kernels kAvx512Kernels = {
    "avx512",
    Avx512::pack,
    luma_row,
    split_row,
    gather_quads,
    resize_columns<Avx512>,
    resize_rows<Avx512>,
    normalise_row,
};

}  // namespace fetalclip
FETALCLIP_TARGET_END
#endif
