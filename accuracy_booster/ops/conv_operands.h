// What a convolution is and what it reads and writes.

// N batch, C input channels, K output channels, H W space, P Q space of the output, G groups

#pragma once

#include <array>
#include <cstdint>

namespace {

struct Geometry {
  int64_t N, C, H, W, K, P, Q, groups;
  std::array<int64_t, 2> kernel, stride, padding, dilation;
  int64_t taps() const { return kernel[0] * kernel[1]; }
};

struct Operands {
  const float *x, *weights, *bias, *scale, *shortcut;
  const float *means, *gate;  // or null: [N, taps * C / G], one group; [3, K]
  float* out;
  float low, high;
  bool clamps;
  int64_t width;  // columns of a packed panel
};

}  // namespace
