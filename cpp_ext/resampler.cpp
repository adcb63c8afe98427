#include "resampler.hpp"

#include <algorithm>
#include <cstring>

#include "half.hpp"

namespace fetalclip {
namespace {

// Streams change their geometry rarely; a few cover a region that is switched on and off.
constexpr std::size_t kGeometriesKept = 8;

int round_up(int value, int to) { return (value + to - 1) / to * to; }

// A row of pixels with any strides, side by side.
void pack_row(const std::uint8_t* from, const FrameView& frame, std::uint8_t* to) {
  for (int x = 0; x < frame.width; ++x) {
    for (int c = 0; c < frame.channels; ++c) {
      *to++ = from[x * frame.pixel_stride + c * frame.channel_stride];
    }
  }
}

}  // namespace

struct Resampler::Geometry {
  int width;
  int height;
  AxisWeights columns;
  AxisWeights rows;
};

std::vector<const Kernels*> usable_kernels() {
  std::vector<const Kernels*> usable{&kPortableKernels};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) {
    usable.push_back(&kAvx2Kernels);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
      usable.push_back(&kAvx512Kernels);
    }
  }
#endif
  return usable;
}

Resampler::Resampler(const Options& options, const Kernels& kernels)
    : options_(options), kernels_(kernels) {
  for (std::size_t c = 0; c < 3; ++c) {
    scale_[c] = static_cast<float>(1.0 / (255.0 * options.std[c]));
    offset_[c] = static_cast<float>(-options.mean[c] / options.std[c]);
    for (int level = 0; level < 256; ++level) {
      halves_[c][static_cast<std::size_t>(level)] =
          to_half((level / 255.0 - options.mean[c]) / options.std[c]);
    }
  }
}

std::shared_ptr<const Resampler::Geometry> Resampler::geometry_of(int width, int height) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = std::find_if(geometries_.begin(), geometries_.end(), [&](const auto& known) {
    return known->width == width && known->height == height;
  });
  if (found != geometries_.end()) {
    std::rotate(found, found + 1, geometries_.end());  // the last used goes last
    return geometries_.back();
  }
  const int canvas = std::max(width, height);
  const auto axis = [&](int length) {
    return make_axis(options_.filter, canvas, length, options_.size, kernels_.pack);
  };
  auto made = std::make_shared<const Geometry>(Geometry{width, height, axis(width), axis(height)});
  if (geometries_.size() == kGeometriesKept) geometries_.erase(geometries_.begin());
  geometries_.push_back(made);
  return made;
}

// The 16 rows from `row` on, where they are contiguous. Reading a frame that is not in the cache
// takes longer than the arithmetic; done side by side, the two take little more than the reading.
Ahead Resampler::ahead_of(const FrameView& frame, int row) {
  Ahead ahead;
  if (row >= frame.height || frame.pixel_stride != frame.channels) return ahead;
  for (int r = 0; r < kRows; ++r) {
    ahead.rows[r] = frame.data + std::min(row + r, frame.height - 1) * frame.row_stride;
  }
  ahead.bytes = frame.width * frame.channels;
  return ahead;
}

// Points `rows` at 16 rows of each plane to resize, converting colours on the way. Rows beyond
// the last stand for it; their weights are zero. Returns the number of planes.
int Resampler::load_rows(const FrameView& frame, int row, Scratch& scratch,
                         const std::uint8_t* rows[3][kRows]) const {
  const bool split = frame.channels == 3 && options_.channels == 3;
  const std::size_t width = static_cast<std::size_t>(frame.width);
  std::uint8_t* const planes = scratch.planes.at_least((split ? 3u : 1u) * kRows * width);
  std::uint8_t* const packed = scratch.packed.at_least(3 * width);
  // Three bytes in a row, read backwards, are the other order of colours.
  const bool backwards = frame.channel_stride == -1;
  const bool bgr = frame.bgr != backwards;
  const bool adjacent = frame.channels == 1
                            ? frame.pixel_stride == 1
                            : frame.pixel_stride == 3 && (frame.channel_stride == 1 || backwards);
  for (int r = 0; r < kRows; ++r) {
    const int y = std::min(row + r, frame.height - 1);
    const std::uint8_t* pixels = frame.data + y * frame.row_stride;
    if (frame.channels == 1) {
      if (!adjacent) {
        std::uint8_t* const plane = planes + static_cast<std::size_t>(r) * width;
        pack_row(pixels, frame, plane);
        pixels = plane;
      }
      rows[0][r] = pixels;
      continue;
    }
    if (!adjacent) {
      pack_row(pixels, frame, packed);
      pixels = packed;
    } else if (backwards) {
      pixels -= 2;
    }
    const bool blue_first = adjacent ? bgr : frame.bgr;
    if (!split) {
      std::uint8_t* const plane = planes + static_cast<std::size_t>(r) * width;
      kernels_.luma_row(pixels, frame.width, blue_first, plane);
      rows[0][r] = plane;
      continue;
    }
    std::uint8_t* to[3];
    for (std::size_t c = 0; c < 3; ++c) {
      to[c] = planes + (c * kRows + static_cast<std::size_t>(r)) * width;
      rows[blue_first ? 2 - c : c][r] = to[c];
    }
    kernels_.split_row(pixels, frame.width, to);
  }
  return split ? 3 : 1;
}

void Resampler::write_row(const std::uint8_t* levels, int channel, int y, void* out) const {
  const int size = options_.size;
  const std::size_t c = static_cast<std::size_t>(channel);
  const std::size_t at = (c * static_cast<std::size_t>(size) + static_cast<std::size_t>(y)) *
                         static_cast<std::size_t>(size);
  switch (options_.output) {
    case Output::uint8:
      std::memcpy(static_cast<std::uint8_t*>(out) + at, levels, static_cast<std::size_t>(size));
      break;
    case Output::float16: {
      std::uint16_t* const to = static_cast<std::uint16_t*>(out) + at;
      for (int x = 0; x < size; ++x) to[x] = halves_[c][levels[x]];
      break;
    }
    case Output::float32:
      kernels_.normalise_row(levels, size, scale_[c], offset_[c], static_cast<float*>(out) + at);
      break;
  }
}

void Resampler::run(const FrameView& frame, void* out) const {
  const std::shared_ptr<const Geometry> geometry = geometry_of(frame.width, frame.height);
  const AxisWeights& columns = geometry->columns;
  const AxisWeights& vertical = geometry->rows;
  ScratchPool::Lease lease(pool_);
  Scratch& scratch = *lease;

  const int size = options_.size;
  const int begin = columns.first / 16 * 16;
  const int end = round_up(columns.last, 16);
  std::uint8_t* const levels = scratch.row.at_least(static_cast<std::size_t>(round_up(size, 16)));
  std::memset(levels, 0, static_cast<std::size_t>(round_up(size, 16)));
  const auto write_padding = [&](int from, int to) {
    for (int c = 0; c < options_.channels; ++c) {
      for (int y = from; y < to; ++y) write_row(levels, c, y, out);
    }
  };
  write_padding(0, vertical.first);
  write_padding(vertical.last, size);

  std::uint8_t* const quads =
      scratch.quads.at_least(static_cast<std::size_t>(round_up(frame.width, 64)) * kRows);
  // Every window that is not yet complete fits in the ring together with the next 16 rows.
  const int ring_rows = vertical.max_quads + kQuadRows;
  const std::size_t row_bytes = static_cast<std::size_t>(round_up(size, 16)) * 4;
  const std::size_t plane_bytes = row_bytes * static_cast<std::size_t>(ring_rows);
  std::uint8_t* const ring = scratch.ring.at_least(3 * plane_bytes);
  const auto ring_row = [&](int plane, int quad) {
    return ring + static_cast<std::size_t>(plane) * plane_bytes +
           static_cast<std::size_t>(quad % ring_rows) * row_bytes;
  };
  scratch.row_quads.resize(static_cast<std::size_t>(vertical.max_quads));

  int y = vertical.first;
  for (int row = 0; row < frame.height; row += kRows) {
    const std::uint8_t* rows[3][kRows];
    const int planes = load_rows(frame, row, scratch, rows);
    const Ahead ahead = ahead_of(frame, row + kRows);
    for (int p = 0; p < planes; ++p) {
      std::uint8_t* to[kQuadRows];
      for (int q = 0; q < kQuadRows; ++q) to[q] = ring_row(p, row / 4 + q);
      kernels_.gather_quads(rows[p], frame.width, quads);
      kernels_.resize_columns(quads, columns, to, p == 0 ? ahead : Ahead{});
    }
    const int complete = row / 4 + kQuadRows;
    for (; y < vertical.last; ++y) {
      const Window& window = vertical.windows[static_cast<std::size_t>(y)];
      if (window.first_quad + window.quads > complete) break;
      for (int p = 0; p < planes; ++p) {
        for (int q = 0; q < window.quads; ++q) {
          scratch.row_quads[static_cast<std::size_t>(q)] = ring_row(p, window.first_quad + q);
        }
        kernels_.resize_rows(scratch.row_quads.data(), window, vertical, begin, end, levels);
        for (int c = p; c < (planes == 1 ? options_.channels : p + 1); ++c) {
          write_row(levels, c, y, out);
        }
      }
    }
  }
}

}  // namespace fetalclip
