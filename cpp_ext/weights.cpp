#include "weights.hpp"

#include <algorithm>
#include <cmath>

namespace fetalclip {
namespace {

// Integer weights must fit in 16 bits and, for 8-bit dot products, split into two signed bytes.
constexpr double kLargestWeight = 32000.0;
// Keeps 255 * sum(|weight|) within 32 bits.
constexpr int kLargestShift = 20;
// Window lists are padded to this many outputs, so that kernels need no tail loop.
constexpr int kOutputBlock = 16;

// Keys' cubic with a = -0.5, as in Pillow.
double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

double bilinear(double x) {
  x = std::fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

struct Taps {
  int start = 0;  // in pixels of the canvas
  std::vector<double> values;
};

// Pillow's precompute_coeffs: the filter is stretched by the scale when shrinking.
std::vector<Taps> pillow_taps(Filter filter, int canvas, int size) {
  const auto kernel = filter == Filter::bicubic ? bicubic : bilinear;
  const double scale = static_cast<double>(canvas) / size;
  const double stretch = std::max(scale, 1.0);
  const double support = (filter == Filter::bicubic ? 2.0 : 1.0) * stretch;
  std::vector<Taps> all(static_cast<std::size_t>(size));
  for (int i = 0; i < size; ++i) {
    const double center = (i + 0.5) * scale;
    const int start = std::max(0, static_cast<int>(center - support + 0.5));
    const int stop = std::min(canvas, static_cast<int>(center + support + 0.5));
    Taps& taps = all[static_cast<std::size_t>(i)];
    taps.start = start;
    double sum = 0.0;
    for (int j = start; j < stop; ++j) {
      taps.values.push_back(kernel((j - center + 0.5) / stretch));
      sum += taps.values.back();
    }
    if (sum != 0.0) {
      for (double& value : taps.values) value /= sum;
    }
  }
  return all;
}

int choose_shift(const std::vector<Taps>& all) {
  double largest = 0.0;
  for (const Taps& taps : all) {
    for (double value : taps.values) largest = std::max(largest, std::fabs(value));
  }
  int shift = 1;
  while (shift < kLargestShift && std::ldexp(largest, shift + 1) <= kLargestWeight) ++shift;
  return shift;
}

// Rounds the weights; what rounding loses goes to the largest, so that flat areas stay exact.
std::vector<int> to_integers(const std::vector<double>& values, int shift) {
  std::vector<int> rounded;
  rounded.reserve(values.size());
  int missing = 1 << shift;
  for (double value : values) {
    rounded.push_back(static_cast<int>(std::lround(std::ldexp(value, shift))));
    missing -= rounded.back();
  }
  *std::max_element(rounded.begin(), rounded.end()) += missing;
  return rounded;
}

}  // namespace

AxisWeights make_axis(Filter filter, int canvas, int length, int size, PackWeights pack) {
  const std::vector<Taps> all = pillow_taps(filter, canvas, size);
  const int offset = (canvas - length) / 2;
  AxisWeights axis;
  axis.shift = choose_shift(all);
  axis.first = size;
  axis.windows.resize(static_cast<std::size_t>((size + kOutputBlock - 1) / kOutputBlock) *
                      kOutputBlock);
  for (int i = 0; i < size; ++i) {
    const Taps& taps = all[static_cast<std::size_t>(i)];
    const int start = std::max(taps.start - offset, 0);
    const int stop = std::min(taps.start - offset + static_cast<int>(taps.values.size()), length);
    if (start >= stop) continue;
    axis.first = std::min(axis.first, i);
    axis.last = i + 1;
    const std::vector<int> integers = to_integers(taps.values, axis.shift);
    Window& window = axis.windows[static_cast<std::size_t>(i)];
    window.first_quad = start / 4;
    window.quads = (stop + 3) / 4 - window.first_quad;
    window.weights = static_cast<int>(axis.weights.size());
    axis.max_quads = std::max(axis.max_quads, window.quads);
    for (int quad = window.first_quad; quad < window.first_quad + window.quads; ++quad) {
      std::int16_t four[4] = {0, 0, 0, 0};
      for (int k = 0; k < 4; ++k) {
        const int pixel = quad * 4 + k;
        if (pixel >= start && pixel < stop) {
          const int tap = pixel + offset - taps.start;
          four[k] = static_cast<std::int16_t>(integers[static_cast<std::size_t>(tap)]);
        }
      }
      axis.weights.push_back(pack(four));
    }
  }
  return axis;
}

}  // namespace fetalclip
