// The loops that every instruction set shares, over `Ops` with the few steps that differ.
//
// Include it only from a kernels_*.cpp, inside the region compiled for that instruction set: the
// unnamed namespace keeps each compilation of the loops apart.
#pragma once

namespace fetalclip {
namespace {

// Where the quads of a window lie: one after the other, or in rows of their own.
struct QuadsInARow {
  const std::uint8_t* base;
  const std::uint8_t* operator()(int index) const { return base + index * kQuadBytes; }
};
struct QuadsInAColumn {
  const std::uint8_t* const* rows;
  int column;
  const std::uint8_t* operator()(int index) const { return rows[index] + 4 * column; }
};

constexpr int kCacheLine = 64;

template <class Ops>
void resize_columns(const std::uint8_t* quads, const AxisWeights& axis,
                    std::uint8_t* const row_quads[kQuadRows], const Ahead& ahead) {
  const int begin = axis.first / 16 * 16;
  const int end = (axis.last + 15) / 16 * 16;
  int fetched = 0;
  for (int x = begin; x < end; x += 4) {
    const int until = ahead.bytes * (x + 4 - begin) / (end - begin);
    for (; fetched < until; fetched += kCacheLine) {
      for (const std::uint8_t* row : ahead.rows) __builtin_prefetch(row + fetched);
    }
    typename Ops::Bytes columns[4];
    for (int i = 0; i < 4; ++i) {
      const Window& window = axis.windows[static_cast<std::size_t>(x + i)];
      columns[i] = Ops::dot(QuadsInARow{quads + window.first_quad * kQuadBytes},
                            axis.weights.data() + window.weights, window.quads, axis.shift);
    }
    Ops::store_quads(columns, row_quads, 4 * x);
  }
}

template <class Ops>
void resize_rows(const std::uint8_t* const* row_quads, const Window& window,
                 const AxisWeights& axis, int begin, int end, std::uint8_t* row) {
  for (int x = begin; x < end; x += 16) {
    const typename Ops::Bytes bytes =
        Ops::dot(QuadsInAColumn{row_quads, x}, axis.weights.data() + window.weights, window.quads,
                 axis.shift);
    std::memcpy(row + x, &bytes, sizeof bytes);
  }
}

// Pillow's fixed-point ITU-R 601 luma.
inline void luma_pixels(const std::uint8_t* pixels, int from, int width, bool bgr,
                        std::uint8_t* gray) {
  const std::uint32_t first = bgr ? 7471u : 19595u;
  const std::uint32_t last = bgr ? 19595u : 7471u;
  for (int x = from; x < width; ++x) {
    gray[x] = static_cast<std::uint8_t>(
        (pixels[3 * x] * first + pixels[3 * x + 1] * 38470u + pixels[3 * x + 2] * last + 0x8000u) >>
        16);
  }
}

inline void split_pixels(const std::uint8_t* pixels, int from, int width,
                         std::uint8_t* const planes[3]) {
  std::uint8_t* const a = planes[0];
  std::uint8_t* const b = planes[1];
  std::uint8_t* const c = planes[2];
  for (int x = from; x < width; ++x) {
    a[x] = pixels[3 * x];
    b[x] = pixels[3 * x + 1];
    c[x] = pixels[3 * x + 2];
  }
}

// Quads of the columns from `from` (a multiple of 4) on, for any width.
inline void gather_columns(const std::uint8_t* const rows[kRows], int from, int width,
                           std::uint8_t* quads) {
  for (int x = from; x < width; x += 4) {
    const std::size_t count = static_cast<std::size_t>(width - x < 4 ? width - x : 4);
    for (int r = 0; r < kRows; ++r) {
      if (count == 4) {
        std::memcpy(quads + x * kRows + 4 * r, rows[r] + x, 4);
      } else {
        std::memcpy(quads + x * kRows + 4 * r, rows[r] + x, count);
      }
    }
  }
}

inline void normalise_row(const std::uint8_t* row, int width, float scale, float offset,
                          float* out) {
  for (int x = 0; x < width; ++x) out[x] = static_cast<float>(row[x]) * scale + offset;
}

}  // namespace
}  // namespace fetalclip
