// Steps that AVX2 and AVX-512 share. Include it inside the region compiled for either.
#pragma once

namespace fetalclip {
namespace {

// A 4 x 4 transposition of quads: from one column of 16 rows each to four columns of 4 rows each.
inline void store_quads_x86(const __m128i columns[4], std::uint8_t* const row_quads[kQuadRows],
                            int at) {
  const __m128i low01 = _mm_unpacklo_epi32(columns[0], columns[1]);
  const __m128i low23 = _mm_unpacklo_epi32(columns[2], columns[3]);
  const __m128i high01 = _mm_unpackhi_epi32(columns[0], columns[1]);
  const __m128i high23 = _mm_unpackhi_epi32(columns[2], columns[3]);
  const __m128i quads[kQuadRows] = {
      _mm_unpacklo_epi64(low01, low23), _mm_unpackhi_epi64(low01, low23),
      _mm_unpacklo_epi64(high01, high23), _mm_unpackhi_epi64(high01, high23)};
  for (int r = 0; r < kQuadRows; ++r) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(row_quads[r] + at), quads[r]);
  }
}

}  // namespace
}  // namespace fetalclip
