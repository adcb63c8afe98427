#include "arguments.hpp"

#include <string>
#include <vector>

namespace py = pybind11;

namespace fetalclip {
namespace {

// Beyond this the 32-bit sums of the resize are not proven.
constexpr py::ssize_t kLongestSide = 32767;

[[noreturn]] void fail(const char* error, const std::string& message) {
  const py::object type = py::module_::import("fetalclip_edge.errors").attr(error);
  PyErr_SetString(type.ptr(), message.c_str());
  throw py::error_already_set();
}

[[noreturn]] void fail_value(const std::string& message) { fail("InvalidImageError", message); }
[[noreturn]] void fail_type(const std::string& message) { fail("InvalidImageTypeError", message); }

std::string text(py::handle object) { return py::cast<std::string>(py::str(object)); }
std::string quoted(py::handle object) { return py::cast<std::string>(py::repr(object)); }
std::string type_name(py::handle object) {
  return py::cast<std::string>(py::type::handle_of(object).attr("__name__"));
}
std::string shape_of(const py::array& array) { return text(array.attr("shape")); }

struct Rectangle {
  py::ssize_t x, y, width, height;
};

Rectangle region_of(py::handle region, py::ssize_t width, py::ssize_t height) {
  if (region.is_none()) return {0, 0, width, height};
  py::ssize_t values[4];
  const bool sequence = PySequence_Check(region.ptr()) != 0 && !PyUnicode_Check(region.ptr());
  if (!sequence || py::len(region) != 4) {
    fail_type("region must be four integers (x, y, width, height), got " + quoted(region));
  }
  int index = 0;
  for (const py::handle item : region) {
    values[index] = PyNumber_AsSsize_t(item.ptr(), nullptr);  // clips what does not fit
    if (PyErr_Occurred() != nullptr) {
      PyErr_Clear();
      fail_type("region must be four integers (x, y, width, height), got " + quoted(region));
    }
    ++index;
  }
  const Rectangle r{values[0], values[1], values[2], values[3]};
  if (r.width < 1 || r.height < 1) {
    fail_value("region must be at least 1 pixel wide and high, got " + quoted(region));
  }
  if (r.x < 0 || r.y < 0 || r.x > width - r.width || r.y > height - r.height) {
    fail_value("region must lie within the image, which is " + std::to_string(width) +
               " wide and " + std::to_string(height) + " high, got " + quoted(region));
  }
  return r;
}

bool is_bgr(py::handle color, bool gray_image) {
  const std::string name = py::isinstance<py::str>(color) ? text(color) : "";
  if (name != "rgb" && name != "bgr" && name != "gray") {
    fail_value("color must be \"rgb\", \"bgr\" or \"gray\", got " + quoted(color));
  }
  if (name == "gray" && !gray_image) {
    fail_value(
        "color is \"gray\" but image has three channels; pass (H, W), or say \"rgb\" or \"bgr\"");
  }
  return name == "bgr";
}

const char* dtype_name(Output output) {
  switch (output) {
    case Output::uint8:
      return "uint8";
    case Output::float16:
      return "float16";
    default:
      return "float32";
  }
}

}  // namespace

FrameView frame_of(py::handle image, py::handle color, py::handle region) {
  if (!py::isinstance<py::array>(image)) {
    fail_type("image must be a numpy array of uint8, got " + type_name(image));
  }
  const auto array = py::reinterpret_borrow<py::array>(image);
  if (array.dtype().kind() != 'u' || array.itemsize() != 1) {
    fail_type("image must be uint8, got " + text(array.dtype()));
  }
  const py::ssize_t dims = array.ndim();
  if (dims == 3 && array.shape(2) == 1) {
    fail_value("image of one channel must be passed as (H, W), got " + shape_of(array) +
               "; use image[:, :, 0]");
  }
  if (dims != 2 && !(dims == 3 && array.shape(2) == 3)) {
    fail_value("image must be (H, W) or (H, W, 3), got " + shape_of(array));
  }
  const py::ssize_t height = array.shape(0);
  const py::ssize_t width = array.shape(1);
  if (width < 1 || height < 1) fail_value("image is empty: its shape is " + shape_of(array));
  const Rectangle r = region_of(region, width, height);
  if (r.width > kLongestSide || r.height > kLongestSide) {
    fail_value("image sides must be at most " + std::to_string(kLongestSide) + ", got " +
               shape_of(array));
  }
  FrameView frame;
  frame.bgr = is_bgr(color, dims == 2);
  frame.data = static_cast<const std::uint8_t*>(array.data()) + r.y * array.strides(0) +
               r.x * array.strides(1);
  frame.width = static_cast<int>(r.width);
  frame.height = static_cast<int>(r.height);
  frame.row_stride = array.strides(0);
  frame.pixel_stride = array.strides(1);
  if (dims == 3) {
    frame.channels = 3;
    frame.channel_stride = array.strides(2);
  }
  return frame;
}

py::array output_of(py::handle out, const Options& options) {
  const py::dtype dtype(dtype_name(options.output));
  const py::ssize_t size = options.size;
  const py::tuple shape = py::make_tuple(1, options.channels, size, size);
  if (out.is_none()) {
    return py::array(dtype, std::vector<py::ssize_t>{1, options.channels, size, size});
  }
  if (!py::isinstance<py::array>(out)) {
    fail_type("out must be a numpy array, got " + type_name(out));
  }
  auto array = py::reinterpret_borrow<py::array>(out);
  if (!array.dtype().equal(dtype)) {
    fail_type("out must be " + text(dtype) + ", got " + text(array.dtype()));
  }
  if (!shape.equal(array.attr("shape"))) {
    fail_value("out must have the shape " + text(shape) + ", got " + shape_of(array));
  }
  constexpr int wanted = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_ |
                         py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  if ((array.flags() & wanted) != wanted) {
    fail_value("out must be C-contiguous, aligned and writeable, got flags " +
               text(array.attr("flags").attr("num")));
  }
  return array;
}

}  // namespace fetalclip
