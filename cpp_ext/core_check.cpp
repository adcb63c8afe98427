// Checks the core against the same arithmetic written plainly, with no Python: for cross builds.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "resampler.hpp"

namespace {

using fetalclip::FrameView;
using fetalclip::Options;
using fetalclip::Resampler;

// A small generator, so that every machine sees the same pixels.
std::vector<std::uint8_t> noise(std::size_t count) {
  std::vector<std::uint8_t> pixels(count);
  std::uint32_t state = 12345;
  for (std::uint8_t& pixel : pixels) {
    state = state * 1664525u + 1013904223u;
    pixel = static_cast<std::uint8_t>(state >> 24);
  }
  return pixels;
}

double cubic(double x) {
  x = std::fabs(x);
  if (x < 1.0) return 1.5 * x * x * x - 2.5 * x * x + 1.0;
  return x < 2.0 ? -0.5 * x * x * x + 2.5 * x * x - 4.0 * x + 2.0 : 0.0;
}

std::uint8_t to_level(double value) {
  return static_cast<std::uint8_t>(std::fmin(std::fmax(std::floor(value + 0.5), 0.0), 255.0));
}

// One line of the padded square: out[i] from in[0], in[step], ..., which lie at `offset` in it.
void resize_line(const std::uint8_t* in, int step, int length, int canvas, std::uint8_t* out,
                 int out_step, int size) {
  const double scale = static_cast<double>(canvas) / size;
  const double stretch = std::fmax(scale, 1.0);
  const int offset = (canvas - length) / 2;
  for (int i = 0; i < size; ++i) {
    const double center = (i + 0.5) * scale;
    double sum = 0.0, total = 0.0;
    for (int j = 0; j < canvas; ++j) {
      const double weight = cubic((j + 0.5 - center) / stretch);
      total += weight;
      if (j >= offset && j < offset + length) sum += weight * in[(j - offset) * step];
    }
    out[i * out_step] = to_level(sum / total);
  }
}

std::vector<std::uint8_t> expected(const std::vector<std::uint8_t>& gray, int width, int height,
                                   int size) {
  const int canvas = width > height ? width : height;
  std::vector<std::uint8_t> across(static_cast<std::size_t>(size * height));
  std::vector<std::uint8_t> result(static_cast<std::size_t>(size * size));
  for (int y = 0; y < height; ++y) {
    resize_line(gray.data() + y * width, 1, width, canvas, across.data() + y * size, 1, size);
  }
  for (int x = 0; x < size; ++x) {
    resize_line(across.data() + x, size, height, canvas, result.data() + x, size, size);
  }
  return result;
}

bool check(int width, int height, int size, const fetalclip::Kernels& kernels) {
  const std::vector<std::uint8_t> gray = noise(static_cast<std::size_t>(width * height));
  std::vector<std::uint8_t> color;
  for (std::uint8_t pixel : gray) color.insert(color.end(), 3, pixel);
  Options options;
  options.size = size;
  options.channels = 1;
  options.output = fetalclip::Output::uint8;
  const Resampler resampler(options, kernels);
  std::vector<std::uint8_t> from_gray(static_cast<std::size_t>(size * size));
  std::vector<std::uint8_t> from_color(from_gray.size());
  FrameView frame;
  frame.data = gray.data();
  frame.width = width;
  frame.height = height;
  frame.row_stride = width;
  resampler.run(frame, from_gray.data());
  frame.data = color.data();
  frame.channels = 3;
  frame.row_stride = 3 * width;
  frame.pixel_stride = 3;
  resampler.run(frame, from_color.data());

  const std::vector<std::uint8_t> wanted = expected(gray, width, height, size);
  int largest = 0;
  std::uint32_t sum = 0;  // equal on all machines
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const int difference = std::abs(wanted[i] - from_gray[i]);
    largest = difference > largest ? difference : largest;
    sum = sum * 31u + from_gray[i];
  }
  std::printf("%-8s %4d x %4d -> %3d: largest difference %d, checksum %08x%s\n", kernels.name,
              width, height, size, largest, static_cast<unsigned>(sum),
              from_gray == from_color ? "" : ", colour differs");
  return largest <= 1 && from_gray == from_color;
}

}  // namespace

int main() {
  const int geometries[][3] = {{800, 540, 224}, {333, 517, 224}, {97, 61, 224},
                               {1, 1, 224},     {17, 3, 5},      {641, 2, 32}};
  bool good = true;
  for (const fetalclip::Kernels* kernels : fetalclip::usable_kernels()) {
    for (const auto& g : geometries) good = check(g[0], g[1], g[2], *kernels) && good;
  }
  return good ? 0 : 1;
}
