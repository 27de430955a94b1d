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

#include "vectors.h"

namespace {

constexpr int64_t WORTH_A_THREAD = 1 << 15;  // numbers to read
constexpr int64_t FEW_SAMPLES = 4;           // for which a library's matrix product is slow

// The positions that a tap reads along one side: first, first + step, ... before last.
struct Range {
  int64_t first, last, step;
  int64_t size() const { return (last - first + step - 1) / step; }
};

inline std::vector<Range> ranges_of(int64_t side, int64_t kernel, int64_t stride, int64_t padding,
                                    int64_t dilation) {
  const int64_t outputs = (side + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
  std::vector<Range> found;
  for (int64_t tap = 0; tap < kernel; tap++) {
    const int64_t from = tap * dilation - padding;  // kernels larger than 1x1 have stride 1
    const int64_t first = std::clamp<int64_t>(from, 0, side);
    const int64_t end = kernel == 1 ? side : from + outputs;
    found.push_back({first, std::max(first, std::min(side, end)), stride});
  }
  return found;
}

inline void add(const float* from, int64_t count, float factor, float* to) {
  for (int64_t c = 0; c < count; c++) to[c] += factor * from[c];
}

// The sums of what each tap reads of some channels of a map x[H, W, C].
class TapSums {
 public:
  TapSums(std::vector<Range> down, std::vector<Range> across, int64_t H, int64_t W, int64_t C)
      : down_(std::move(down)), across_(std::move(across)), H_(H), W_(W), C_(C) {}

  int64_t taps() const { return down_.size() * across_.size(); }

  // To sums[taps][channels]. Most taps read nearly all of the map: from its sum they subtract the
  // rows and columns that they do not read, and add the corners, which are then subtracted twice.
  void find(const float* x, int64_t channels, float* sums) const {
    if (taps() == 1) return rectangle(x, down_[0], across_[0], channels, sums);
    std::vector<float> some(channels);
    const Range all_rows{0, H_, 1}, all_columns{0, W_, 1};
    rectangle(x, all_rows, all_columns, channels, some.data());
    for (int64_t t = 0; t < taps(); t++) std::copy(some.begin(), some.end(), sums + t * channels);
    const std::vector<int64_t> rows = left_out(down_, H_), columns = left_out(across_, W_);
    const int64_t I = down_.size(), J = across_.size();
    auto add_to = [&](int64_t i, int64_t j, float factor) {
      add(some.data(), channels, factor, sums + (i * J + j) * channels);
    };
    for (int64_t h : rows) {
      rectangle(x, {h, h + 1, 1}, all_columns, channels, some.data());
      for (int64_t i = 0; i < I; i++)
        for (int64_t j = 0; j < J && !has(down_[i], h); j++) add_to(i, j, -1.f);
    }
    for (int64_t w : columns) {
      rectangle(x, all_rows, {w, w + 1, 1}, channels, some.data());
      for (int64_t j = 0; j < J; j++)
        for (int64_t i = 0; i < I && !has(across_[j], w); i++) add_to(i, j, -1.f);
    }
    for (int64_t h : rows)
      for (int64_t w : columns) {
        std::copy_n(x + (h * W_ + w) * C_, channels, some.data());
        for (int64_t i = 0; i < I; i++)
          for (int64_t j = 0; j < J; j++)
            if (!has(down_[i], h) && !has(across_[j], w)) add_to(i, j, 1.f);
      }
  }

 private:
  static bool has(const Range& range, int64_t at) { return at >= range.first && at < range.last; }

  // The places that some tap does not read.
  static std::vector<int64_t> left_out(const std::vector<Range>& ranges, int64_t side) {
    std::vector<int64_t> found;
    for (int64_t at = 0; at < side; at++)
      if (!std::all_of(ranges.begin(), ranges.end(), [&](const Range& r) { return has(r, at); }))
        found.push_back(at);
    return found;
  }

  void rectangle(const float* x, const Range& down, const Range& across, int64_t channels,
                 float* to) const {
    int64_t c = 0;
    for (; c + 2 * LANES <= channels; c += 2 * LANES) vectors<2>(x + c, down, across, to + c);
    for (; c + LANES <= channels; c += LANES) vectors<1>(x + c, down, across, to + c);
    if (c == channels) return;
    std::fill(to + c, to + channels, 0.f);
    for (int64_t h = down.first; h < down.last; h += down.step)
      for (int64_t w = across.first; w < across.last; w += across.step)
        add(x + (h * W_ + w) * C_ + c, channels - c, 1.f, to + c);
  }

  // V vectors of a rectangle; sums of four positions in turn are kept apart, so that one need not
  // wait for the other.
  template <int V>
  void vectors(const float* x, const Range& down, const Range& across, float* to) const {
    Vector apart[4][V] = {};
    const int64_t step = across.step * C_;
    for (int64_t h = down.first; h < down.last; h += down.step) {
      const float* from = x + (h * W_ + across.first) * C_;
      int64_t left = across.size();
      for (; left >= 4; left -= 4, from += 4 * step)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
#pragma GCC unroll 2
          for (int v = 0; v < V; v++) apart[i][v] += load(from + i * step + v * LANES);
      for (; left > 0; left--, from += step)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) apart[0][v] += load(from + v * LANES);
    }
#pragma GCC unroll 2
    for (int v = 0; v < V; v++)
      store(to + v * LANES, (apart[0][v] + apart[1][v]) + (apart[2][v] + apart[3][v]));
  }

  std::vector<Range> down_, across_;
  int64_t H_, W_, C_;
};

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

inline at::Tensor tap_means(const at::Tensor& map, at::IntArrayRef kernel_size,
                            at::IntArrayRef stride, at::IntArrayRef padding,
                            at::IntArrayRef dilation) {
  const int64_t N = map.size(0), C = map.size(1), H = map.size(2), W = map.size(3);
  auto ranges = [&](int i, int64_t side) {
    return ranges_of(side, kernel_size[i], stride[i], padding[i], dilation[i]);
  };
  const auto down = ranges(0, H), across = ranges(1, W);
  auto outputs = [&](int i, int64_t side) {
    return (side + 2 * padding[i] - dilation[i] * (kernel_size[i] - 1) - 1) / stride[i] + 1;
  };
  const float positions = outputs(0, H) * outputs(1, W);
  const TapSums sums(down, across, H, W, C);
  const int64_t taps = sums.taps();
  at::Tensor means = at::empty({N, C * taps}, map.options().memory_format(c10::nullopt));
  const float* x = map.const_data_ptr<float>();
  float* to = means.data_ptr<float>();
  // a part of the channels for each thread, where there are fewer samples
  const int64_t threads = at::get_num_threads();
  int64_t parts = std::clamp<int64_t>(threads / N, 1, std::max<int64_t>(1, C / (2 * LANES)));
  const int64_t size = H * W * C;
  if (size < WORTH_A_THREAD) parts = 1;
  const int64_t grain = std::max<int64_t>(1, WORTH_A_THREAD * parts / size);
  at::parallel_for(0, N * parts, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> own;
    for (int64_t task = begin; task < end; task++) {
      const int64_t n = task / parts, part = task % parts;
      const int64_t first = C * part / parts, channels = C * (part + 1) / parts - first;
      own.resize(taps * channels);
      sums.find(x + n * H * W * C + first, channels, own.data());
      for (int64_t t = 0; t < taps; t++)
        for (int64_t c = 0; c < channels; c++)
          to[(n * C + first + c) * taps + t] = own[t * channels + c] / positions;
    }
  });
  return means;
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
  at::Tensor d = tap_means(map, kernel_size, stride, padding, dilation);
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
    const float factor = scale;
    const bool last = i + 1 == weights.size();
    for (int64_t at = 0; at < d.numel(); at += LANES) {
      const int some = std::min<int64_t>(LANES, d.numel() - at);
      const Vector y = load_some(value + at, some);
      const Vector next = last ? factor / (1.f + exponential(-y)) : at_least(Vector{}, y);
      store_some(value + at, next, some);
    }
  }
  return d;
}

}  // namespace
