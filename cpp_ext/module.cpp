// fetalclip_edge._native: the preprocessing in C++. See _native.pyi for its Python face.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arguments.hpp"
#include "resampler.hpp"

namespace py = pybind11;

namespace fetalclip {
namespace {

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels* kernels : usable_kernels()) names.emplace_back(kernels->name);
  return names;
}

const Kernels& kernels_named(const std::optional<std::string>& name) {
  const std::vector<const Kernels*> usable = usable_kernels();
  if (!name) return *usable.back();
  for (const Kernels* kernels : usable) {
    if (*name == kernels->name) return *kernels;
  }
  throw std::invalid_argument("instruction_set must be one of instruction_sets(), got " + *name);
}

template <class Value>
Value choose(const char* argument, const std::string& given,
             const std::vector<std::pair<const char*, Value>>& choices) {
  for (const auto& [name, value] : choices) {
    if (given == name) return value;
  }
  throw std::invalid_argument(std::string(argument) + " is unknown: " + given);
}

std::unique_ptr<Resampler> make_resampler(int size, const std::string& interpolation, int channels,
                                          const std::string& dtype,
                                          const std::vector<double>& mean,
                                          const std::vector<double>& std,
                                          const std::optional<std::string>& instruction_set) {
  if (size < 1 || size > 8192) throw std::invalid_argument("size must be 1 to 8192");
  if (channels != 1 && channels != 3) throw std::invalid_argument("channels must be 1 or 3");
  if (static_cast<int>(mean.size()) != channels || static_cast<int>(std.size()) != channels) {
    throw std::invalid_argument("mean and std must have one value a channel");
  }
  Options options;
  options.size = size;
  options.channels = channels;
  options.filter = choose<Filter>(
      "interpolation", interpolation, {{"bicubic", Filter::bicubic}, {"bilinear", Filter::bilinear}});
  options.output = choose<Output>("dtype", dtype,
                                  {{"uint8", Output::uint8},
                                   {"float16", Output::float16},
                                   {"float32", Output::float32}});
  std::copy(mean.begin(), mean.end(), options.mean.begin());
  std::copy(std.begin(), std.end(), options.std.begin());
  return std::make_unique<Resampler>(options, kernels_named(instruction_set));
}

py::array call(const Resampler& self, const py::object& image, const py::object& color,
               const py::object& region, const py::object& out) {
  const FrameView frame = frame_of(image, color, region);
  py::array output = output_of(out, self.options());
  void* const to = output.mutable_data();
  {
    const py::gil_scoped_release release;
    self.run(frame, to);
  }
  return output;
}

}  // namespace
}  // namespace fetalclip

PYBIND11_MODULE(_native, module) {
  using fetalclip::Resampler;
  module.doc() = "Preprocessing in C++.";
  module.def("instruction_sets", fetalclip::instruction_sets,
             "The instruction sets this machine can run, the best last.");
  py::class_<Resampler>(module, "Resampler")
      .def(py::init(&fetalclip::make_resampler), py::arg("size"), py::kw_only(),
           py::arg("interpolation"), py::arg("channels"), py::arg("dtype"), py::arg("mean"),
           py::arg("std"), py::arg("instruction_set") = py::none())
      .def_property_readonly("instruction_set",
                             [](const Resampler& self) { return self.kernels().name; })
      .def("__call__", fetalclip::call, py::arg("image"), py::arg("color") = "rgb",
           py::arg("region") = py::none(), py::arg("out") = py::none());
}
