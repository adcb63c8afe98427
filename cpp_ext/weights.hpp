// Weights of Pillow's antialiased resize along one axis, as 16-bit integers.
#pragma once

#include <cstdint>
#include <vector>

namespace fetalclip {

enum class Filter { bicubic, bilinear };

// Four neighbouring pixels, a "quad", fill one 32-bit lane; this is what they are multiplied by.
// Each instruction set packs the four 16-bit weights as its multiply-add wants them.
struct QuadWeights {
  std::int32_t first;
  std::int32_t second;
};
using PackWeights = QuadWeights (*)(const std::int16_t taps[4]);

// The source pixels that make one output pixel: quads [first_quad, first_quad + quads).
struct Window {
  int first_quad = 0;
  int quads = 0;
  int weights = 0;  // index of the first QuadWeights
};

struct AxisWeights {
  int first = 0;  // outputs [first, last) touch the frame; the others see only padding
  int last = 0;
  int shift = 0;  // the weights are scaled by 2^shift
  int max_quads = 0;
  std::vector<Window> windows;  // one for each output, then empty ones up to a multiple of 16
  std::vector<QuadWeights> weights;
};

// One axis of: zero-pad `length` pixels to `canvas`, centred; resize the canvas to `size`.
// Taps that would fall on the padding are left out: they multiply zeros.
AxisWeights make_axis(Filter filter, int canvas, int length, int size, PackWeights pack);

}  // namespace fetalclip
