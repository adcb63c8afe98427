// IEEE 754 half precision from double, rounded to nearest even, for tables of 256 values.
#pragma once

#include <cmath>
#include <cstdint>

namespace fetalclip {

inline std::uint16_t to_half(double value) {
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(value);
  if (magnitude >= 65520.0) return static_cast<std::uint16_t>(sign | 0x7c00);  // infinity
  if (magnitude < std::ldexp(1.0, -14)) {
    // Subnormals count units of 2^-24; rounding up to 1024 of them gives the least normal number.
    return static_cast<std::uint16_t>(sign | std::lrint(std::ldexp(magnitude, 24)));
  }
  int exponent = 0;
  const double fraction = std::frexp(magnitude, &exponent);  // in [0.5, 1)
  const long mantissa = std::lrint(std::ldexp(fraction, 11)) - 1024;
  // A mantissa rounded up to 1024 carries into the exponent, as it should.
  return static_cast<std::uint16_t>(sign | (((exponent + 14) << 10) + mantissa));
}

}  // namespace fetalclip
