// What a convolution is and what it reads and writes.

// N batch, C input channels, K output channels, H W space, P Q space of the output, G groups

#pragma once

#include <array>
#include <cstdint>

namespace {

// How many positions the output has along one side.
inline int64_t outputs_of(int64_t side, int64_t kernel, int64_t stride, int64_t padding,
                          int64_t dilation) {
  return (side + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

struct Geometry {
  int64_t N, C, H, W, K, P, Q, groups;
  std::array<int64_t, 2> kernel, stride, padding, dilation;
  int64_t taps() const { return kernel[0] * kernel[1]; }
  void find_outputs() {
    P = outputs_of(H, kernel[0], stride[0], padding[0], dilation[0]);
    Q = outputs_of(W, kernel[1], stride[1], padding[1], dilation[1]);
  }
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
