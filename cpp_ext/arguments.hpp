// From Python's arguments to a FrameView and an output buffer: the one place that checks them.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "resampler.hpp"

namespace fetalclip {

// The pixels of `image` within `region`, not copied.
// Raises InvalidImageError or InvalidImageTypeError of fetalclip_edge.errors.
FrameView frame_of(pybind11::handle image, pybind11::handle color, pybind11::handle region);

// `out` itself when it fits, a new array when it is None.
pybind11::array output_of(pybind11::handle out, const Options& options);

}  // namespace fetalclip
