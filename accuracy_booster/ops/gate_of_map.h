// The weights of a gate from the map that a convolution reads, before the convolution runs:
//
//     p = scale * sigmoid(the stages(the means of what each tap reads))
//
// `gate_of_map.py` says what the arguments mean. In torch's operations this is five or more small
// steps for each gate; at batch 1 starting them takes longer than they do.

// N batch, C input channels, H W space, T taps of the kernel

#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "conv_operands.h"
#include "tap_means.h"
#include "vectors.h"

namespace {

constexpr int64_t FEW_SAMPLES = 4;  // for which a library's matrix product is slow

// d[N, C] @ weights[K, C]^T + bias[K] for a few samples.
inline void multiply_few(const float* d, int64_t samples, int64_t C, const float* weights,
                         const float* bias, int64_t K, float* to) {
  const int64_t grain = std::max<int64_t>(1, WORTH_A_THREAD / std::max<int64_t>(C, 1));
  at::parallel_for(0, K, grain, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; k++)
      for (int64_t n = 0; n < samples; n++) {
        const float *row = weights + k * C, *of = d + n * C;
        Vector sums[2] = {};
        int64_t c = 0;
        for (; c + 2 * LANES <= C; c += 2 * LANES)
          for (int v = 0; v < 2; v++)
            sums[v] += load(row + c + v * LANES) * load(of + c + v * LANES);
        for (; c < C; c += LANES) {
          const int some = std::min<int64_t>(LANES, C - c);
          sums[0] += load_some(row + c, some) * load_some(of + c, some);
        }
        float total = bias[k];
        const Vector both = sums[0] + sums[1];
        for (int lane = 0; lane < LANES; lane++) total += both[lane];
        to[n * K + k] = total;
      }
  });
}

// d[N, C] -> the next stage's input: d * weight + bias for weight [C], d @ weight^T + bias for
// weight [K, C].
inline at::Tensor stage(const at::Tensor& d, const at::Tensor& weight, const at::Tensor& bias) {
  if (weight.dim() == 2 && d.size(0) > FEW_SAMPLES) return at::addmm(bias, d, weight.t());
  const int64_t N = d.size(0), C = d.size(1), K = weight.size(0);
  const at::Tensor to = at::empty({N, K}, d.options());
  const float *from = d.const_data_ptr<float>(), *w = weight.const_data_ptr<float>();
  const float* b = bias.const_data_ptr<float>();
  float* out = to.data_ptr<float>();
  if (weight.dim() == 2) {
    multiply_few(from, N, C, w, b, K, out);
  } else {
    for (int64_t n = 0; n < N; n++)
      for (int64_t c = 0; c < C; c++) out[n * C + c] = from[n * C + c] * w[c] + b[c];
  }
  return to;
}

at::Tensor gate_of_map(const at::Tensor& x, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                       at::IntArrayRef padding, at::IntArrayRef dilation, at::TensorList weights,
                       at::TensorList biases, double scale) {
  TORCH_CHECK(x.dim() == 4 && x.scalar_type() == at::kFloat, "x must be float32 [N, C, H, W]");
  TORCH_CHECK(weights.size() == biases.size() && !weights.empty(), "each stage needs a bias");
  const bool pointwise = kernel_size[0] == 1 && kernel_size[1] == 1;
  const bool pads = padding[0] != 0 || padding[1] != 0, strides = stride[0] != 1 || stride[1] != 1;
  TORCH_CHECK((pointwise && !pads) || !strides,
              "kernels larger than 1x1 need stride 1, and others no padding");
  TORCH_CHECK(x.size(2) > 0 && x.size(3) > 0, "a map without positions has no mean");
  if (x.numel() == 0) return at::empty({x.size(0), weights.back().size(0)}, x.options());
  const at::Tensor map = x.contiguous(at::MemoryFormat::ChannelsLast);
  Geometry g;
  g.N = x.size(0), g.C = x.size(1), g.H = x.size(2), g.W = x.size(3);
  std::copy_n(kernel_size.begin(), 2, g.kernel.begin());
  std::copy_n(stride.begin(), 2, g.stride.begin());
  std::copy_n(padding.begin(), 2, g.padding.begin());
  std::copy_n(dilation.begin(), 2, g.dilation.begin());
  g.find_outputs();
  at::Tensor d = at::empty({g.N, g.C * g.taps()}, map.options().memory_format(c10::nullopt));
  tap_means(g, map.const_data_ptr<float>(), d.data_ptr<float>());
  for (size_t i = 0; i < weights.size(); i++) {
    const at::Tensor weight = weights[i].contiguous(), bias = biases[i].contiguous();
    const int64_t width = weight.dim() == 2 ? weight.size(1) : weight.size(0);
    TORCH_CHECK(weight.dim() <= 2 && width == d.size(1) && bias.dim() == 1 &&
                    bias.size(0) == weight.size(0),
                "stage ", i, " does not take ", d.size(1), " numbers");
    TORCH_CHECK(weight.scalar_type() == at::kFloat && bias.scalar_type() == at::kFloat,
                "the stages must be float32");
    d = stage(d, weight, bias);
    float* value = d.data_ptr<float>();
    const Vector factor = everywhere(scale);
    const bool last = i + 1 == weights.size();
    for (int64_t at = 0; at < d.numel(); at += LANES) {
      const int some = std::min<int64_t>(LANES, d.numel() - at);
      const Vector y = load_some(value + at, some);
      const Vector next = last ? scaled_sigmoid(factor, y) : at_least(Vector{}, y);
      store_some(value + at, next, some);
    }
  }
  return d;
}

}  // namespace
