// Plain C++ that compilers vectorise for the machine's baseline (NEON on aarch64).
#include <cstddef>
#include <cstring>

#include "kernels.hpp"
#include "kernel_loops.hpp"

namespace fetalclip {
namespace {

struct Portable {
  struct Bytes {
    std::uint8_t values[kRows];
  };

  static QuadWeights pack(const std::int16_t taps[4]) {
    QuadWeights weights;
    std::memcpy(&weights, taps, sizeof weights);
    return weights;
  }

  template <class Quads>
  static Bytes dot(Quads quads, const QuadWeights* weights, int count, int shift) {
    std::int32_t sums[kRows];
    for (int r = 0; r < kRows; ++r) sums[r] = 1 << (shift - 1);
    for (int q = 0; q < count; ++q) {
      const std::uint8_t* pixels = quads(q);
      std::int16_t w[4];
      std::memcpy(w, weights + q, sizeof w);
      // GCC would unroll this into scalar code before it gets to vectorise it.
#pragma GCC unroll 1
      for (int r = 0; r < kRows; ++r) {
        sums[r] += pixels[4 * r] * w[0] + pixels[4 * r + 1] * w[1] + pixels[4 * r + 2] * w[2] +
                   pixels[4 * r + 3] * w[3];
      }
    }
    Bytes bytes;
    for (int r = 0; r < kRows; ++r) {
      const std::int32_t level = sums[r] >> shift;
      const std::int32_t positive = level < 0 ? 0 : level;
      bytes.values[r] = static_cast<std::uint8_t>(positive > 255 ? 255 : positive);
    }
    return bytes;
  }

  static void store_quads(const Bytes columns[4], std::uint8_t* const row_quads[kQuadRows],
                          int at) {
    for (int r = 0; r < kQuadRows; ++r) {
      for (int i = 0; i < 4; ++i) {
        std::memcpy(row_quads[r] + at + 4 * i, columns[i].values + 4 * r, 4);
      }
    }
  }
};

void luma_row(const std::uint8_t* pixels, int width, bool bgr, std::uint8_t* gray) {
  luma_pixels(pixels, 0, width, bgr, gray);
}

void split_row(const std::uint8_t* pixels, int width, std::uint8_t* const planes[3]) {
  split_pixels(pixels, 0, width, planes);
}

void gather_quads(const std::uint8_t* const rows[kRows], int width, std::uint8_t* quads) {
  gather_columns(rows, 0, width, quads);
}

}  // namespace

const Kernels kPortableKernels = {
    "portable",
    Portable::pack,
    luma_row,
    split_row,
    gather_quads,
    resize_columns<Portable>,
    resize_rows<Portable>,
    normalise_row,
};

}  // namespace fetalclip
