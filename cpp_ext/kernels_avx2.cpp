// AVX2: 8 rows a register, 16-bit multiply-add of pixel pairs.
#include <cstddef>
#include <cstring>

#include "kernels.hpp"
#if defined(__x86_64__)
#include <immintrin.h>

#include "target.hpp"

FETALCLIP_TARGET("avx2")
#include "kernel_loops.hpp"
#include "kernels_x86.hpp"

namespace fetalclip {
namespace {

struct Avx2 {
  using Bytes = __m128i;

  // The even pixels of a quad are masked out, the odd ones shifted out: weights go along.
  static QuadWeights pack(const std::int16_t taps[4]) {
    const std::int16_t sorted[4] = {taps[0], taps[2], taps[1], taps[3]};
    QuadWeights weights;
    std::memcpy(&weights, sorted, sizeof weights);
    return weights;
  }

  template <class Quads>
  static Bytes dot(Quads quads, const QuadWeights* weights, int count, int shift) {
    const __m256i low_bytes = _mm256_set1_epi16(0xff);
    __m256i sums0 = _mm256_set1_epi32(1 << (shift - 1));
    __m256i sums1 = sums0;
    for (int q = 0; q < count; ++q) {
      const auto* pixels = reinterpret_cast<const __m256i*>(quads(q));
      const __m256i even = _mm256_set1_epi32(weights[q].first);
      const __m256i odd = _mm256_set1_epi32(weights[q].second);
      const __m256i rows0 = _mm256_load_si256(pixels);
      const __m256i rows1 = _mm256_load_si256(pixels + 1);
      sums0 = _mm256_add_epi32(sums0, _mm256_madd_epi16(_mm256_and_si256(rows0, low_bytes), even));
      sums1 = _mm256_add_epi32(sums1, _mm256_madd_epi16(_mm256_and_si256(rows1, low_bytes), even));
      sums0 = _mm256_add_epi32(sums0, _mm256_madd_epi16(_mm256_srli_epi16(rows0, 8), odd));
      sums1 = _mm256_add_epi32(sums1, _mm256_madd_epi16(_mm256_srli_epi16(rows1, 8), odd));
    }
    const __m128i by = _mm_cvtsi32_si128(shift);
    __m256i levels = _mm256_packs_epi32(_mm256_sra_epi32(sums0, by), _mm256_sra_epi32(sums1, by));
    levels = _mm256_permute4x64_epi64(levels, 0xd8);
    return _mm_packus_epi16(_mm256_castsi256_si128(levels), _mm256_extracti128_si256(levels, 1));
  }

  static void store_quads(const Bytes columns[4], std::uint8_t* const row_quads[kQuadRows],
                          int at) {
    store_quads_x86(columns, row_quads, at);
  }
};

// 16 bytes at `low` and 16 bytes at `high` side by side.
inline __m256i load_two(const std::uint8_t* low, const std::uint8_t* high) {
  return _mm256_inserti128_si256(
      _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(low))),
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(high)), 1);
}

// 32 pixels are read as four registers of 2 x 4 pixels, whose loads reach 4 bytes beyond them.
constexpr int kPixelsAtOnce = 32;
constexpr int kPixelsRead = 34;

void luma_row(const std::uint8_t* pixels, int width, bool bgr, std::uint8_t* gray) {
  // Green's weight does not fit in 16 bits; it is halved and counted with either neighbour.
  const __m256i first_green = _mm256_set1_epi32((38470 / 2) << 16 | (bgr ? 7471 : 19595));
  const __m256i last_green = _mm256_set1_epi32((38470 / 2) << 16 | (bgr ? 19595 : 7471));
  const __m256i pick_first = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, -1, 1, -1, 3, -1, 4, -1, 6, -1, 7, -1, 9, -1, 10, -1));
  const __m256i pick_last = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(2, -1, 1, -1, 5, -1, 4, -1, 8, -1, 7, -1, 11, -1, 10, -1));
  const __m256i half = _mm256_set1_epi32(0x8000);
  int x = 0;
  for (; x + kPixelsRead <= width; x += kPixelsAtOnce) {
    __m256i part[4];
    for (int i = 0; i < 4; ++i) {
      const std::uint8_t* at = pixels + 3 * x + 12 * i;
      const __m256i loaded = load_two(at, at + 48);
      const __m256i sum = _mm256_add_epi32(
          _mm256_madd_epi16(_mm256_shuffle_epi8(loaded, pick_first), first_green),
          _mm256_madd_epi16(_mm256_shuffle_epi8(loaded, pick_last), last_green));
      part[i] = _mm256_srli_epi32(_mm256_add_epi32(sum, half), 16);
    }
    const __m256i levels = _mm256_packus_epi16(_mm256_packus_epi32(part[0], part[1]),
                                               _mm256_packus_epi32(part[2], part[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(gray + x), levels);
  }
  luma_pixels(pixels, x, width, bgr, gray);
}

void split_row(const std::uint8_t* pixels, int width, std::uint8_t* const planes[3]) {
  const __m256i sort = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, -1, -1, -1, -1));
  int x = 0;
  for (; x + kPixelsRead <= width; x += kPixelsAtOnce) {
    __m256i part[4];
    for (int i = 0; i < 4; ++i) {
      const std::uint8_t* at = pixels + 3 * x + 12 * i;
      part[i] = _mm256_shuffle_epi8(load_two(at, at + 48), sort);
    }
    const __m256i low01 = _mm256_unpacklo_epi32(part[0], part[1]);
    const __m256i low23 = _mm256_unpacklo_epi32(part[2], part[3]);
    const __m256i high01 = _mm256_unpackhi_epi32(part[0], part[1]);
    const __m256i high23 = _mm256_unpackhi_epi32(part[2], part[3]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(planes[0] + x),
                        _mm256_unpacklo_epi64(low01, low23));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(planes[1] + x),
                        _mm256_unpackhi_epi64(low01, low23));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(planes[2] + x),
                        _mm256_unpacklo_epi64(high01, high23));
  }
  split_pixels(pixels, x, width, planes);
}

// 8 x 8 transpositions of quads: 8 rows of 32 pixels at a time.
void gather_quads(const std::uint8_t* const rows[kRows], int width, std::uint8_t* quads) {
  const int whole = width / 32 * 32;
  for (int x = 0; x < whole; x += 32) {
    for (int half = 0; half < 2; ++half) {
      __m256i r[8], pairs[8];
      for (int i = 0; i < 8; ++i) {
        r[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[8 * half + i] + x));
      }
      for (int i = 0; i < 4; ++i) {
        pairs[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
      }
      std::uint8_t* to = quads + x * kRows + 32 * half;
      for (int k = 0; k < 4; ++k) {
        // Quads k (low halves) and k + 4 (high halves) of rows 0-3 and of rows 4-7.
        const int from = k / 2;
        const __m256i top = k % 2 == 0 ? _mm256_unpacklo_epi64(pairs[from], pairs[2 + from])
                                       : _mm256_unpackhi_epi64(pairs[from], pairs[2 + from]);
        const __m256i bottom = k % 2 == 0 ? _mm256_unpacklo_epi64(pairs[4 + from], pairs[6 + from])
                                          : _mm256_unpackhi_epi64(pairs[4 + from], pairs[6 + from]);
        _mm256_store_si256(reinterpret_cast<__m256i*>(to + k * kQuadBytes),
                           _mm256_permute2x128_si256(top, bottom, 0x20));
        _mm256_store_si256(reinterpret_cast<__m256i*>(to + (k + 4) * kQuadBytes),
                           _mm256_permute2x128_si256(top, bottom, 0x31));
      }
    }
  }
  gather_columns(rows, whole, width, quads);
}

}  // namespace

const Kernels kAvx2Kernels = {
    "avx2",
    Avx2::pack,
    luma_row,
    split_row,
    gather_quads,
    resize_columns<Avx2>,
    resize_rows<Avx2>,
    normalise_row,
};

}  // namespace fetalclip
FETALCLIP_TARGET_END
#endif
