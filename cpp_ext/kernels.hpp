// The inner loops, once for each instruction set. All variants give the same bits: the sums are
// integers, and the one floating-point step is a multiplication and an addition, never fused.
#pragma once

#include <cstdint>

#include "weights.hpp"

namespace fetalclip {

// Rows of the frame are worked on in blocks of 16, one vector lane a row.
constexpr int kRows = 16;
constexpr int kQuadRows = kRows / 4;
// Bytes that one quad takes over the 16 rows of a block.
constexpr int kQuadBytes = kRows * 4;

// Memory that the next block will read: brought near while this one is computed.
struct Ahead {
  const std::uint8_t* rows[kRows] = {};
  int bytes = 0;  // of each row
};

struct Kernels {
  const char* name;

  PackWeights pack;

  // Three-byte pixels to grey as Pillow's convert("L"); `bgr` says which end red is at.
  void (*luma_row)(const std::uint8_t* pixels, int width, bool bgr, std::uint8_t* gray);

  // Three-byte pixels to three planes, in the order of the bytes.
  void (*split_row)(const std::uint8_t* pixels, int width, std::uint8_t* const planes[3]);

  // 16 rows to quads: quads[q][row] = the four pixels of `row` from column 4 * q on. What follows
  // the last column is arbitrary; its weights are zero.
  void (*gather_quads)(const std::uint8_t* const rows[kRows], int width, std::uint8_t* quads);

  // Horizontal pass over 16 rows. Writes column x of rows 4r..4r+3 as a quad at row_quads[r][4x],
  // for the columns that touch the frame and those around them up to multiples of 16.
  void (*resize_columns)(const std::uint8_t* quads, const AxisWeights& axis,
                         std::uint8_t* const row_quads[kQuadRows], const Ahead& ahead);

  // Vertical pass for one output row, columns [begin, end), both multiples of 16. `row_quads`
  // holds the quads of `window` from its first on.
  void (*resize_rows)(const std::uint8_t* const* row_quads, const Window& window,
                      const AxisWeights& axis, int begin, int end, std::uint8_t* row);

  // out[i] = row[i] * scale + offset.
  void (*normalise_row)(const std::uint8_t* row, int width, float scale, float offset, float* out);
};

extern const Kernels kPortableKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

}  // namespace fetalclip
