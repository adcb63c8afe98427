// The model's input from one frame: pad to a square, resize as Pillow does, normalise.
// Knows nothing of Python.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernels.hpp"
#include "scratch.hpp"
#include "weights.hpp"

namespace fetalclip {

enum class Output { uint8, float16, float32 };

struct Options {
  int size = 224;
  Filter filter = Filter::bicubic;
  int channels = 3;  // 1 or 3, of the model's input
  Output output = Output::float32;
  std::array<double, 3> mean{};  // ignored for uint8, which holds the grey levels themselves
  std::array<double, 3> std{1.0, 1.0, 1.0};
};

// 8-bit pixels anywhere in memory; strides in bytes, of either sign.
struct FrameView {
  const std::uint8_t* data = nullptr;
  int width = 0;
  int height = 0;
  int channels = 1;  // 1 or 3
  bool bgr = false;
  std::ptrdiff_t row_stride = 0;
  std::ptrdiff_t pixel_stride = 1;
  std::ptrdiff_t channel_stride = 1;
};

// The instruction sets this machine can run, the best last.
std::vector<const Kernels*> usable_kernels();

class Resampler {
 public:
  Resampler(const Options& options, const Kernels& kernels);

  // Writes (channels, size, size) values of the output type. Safe to call from several threads.
  void run(const FrameView& frame, void* out) const;

  const Options& options() const { return options_; }
  const Kernels& kernels() const { return kernels_; }

 private:
  struct Geometry;

  std::shared_ptr<const Geometry> geometry_of(int width, int height) const;
  static Ahead ahead_of(const FrameView& frame, int row);
  int load_rows(const FrameView& frame, int row, Scratch& scratch,
                const std::uint8_t* rows[3][kRows]) const;
  void write_row(const std::uint8_t* levels, int channel, int y, void* out) const;

  Options options_;
  const Kernels& kernels_;
  std::array<float, 3> scale_;
  std::array<float, 3> offset_;
  std::array<std::array<std::uint16_t, 256>, 3> halves_;  // float16 of each grey level
  mutable ScratchPool pool_;
  mutable std::mutex mutex_;  // guards geometries_
  mutable std::vector<std::shared_ptr<const Geometry>> geometries_;  // the last used ones
};

}  // namespace fetalclip
