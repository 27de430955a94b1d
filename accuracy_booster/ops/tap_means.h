// The means of what each tap of a kernel reads: from these the mean of the output is known before
// the convolution runs.

// N batch, C input channels, H W space, T taps of the kernel

#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "conv_operands.h"
#include "vectors.h"

namespace {

constexpr int64_t WORTH_A_THREAD = 1 << 15;  // numbers to read

// The positions that a tap reads along one side: first, first + step, ... before last.
struct Range {
  int64_t first, last, step;
  int64_t size() const { return (last - first + step - 1) / step; }
};

inline std::vector<Range> ranges_of(int64_t side, int64_t kernel, int64_t stride, int64_t padding,
                                    int64_t dilation) {
  const int64_t outputs = outputs_of(side, kernel, stride, padding, dilation);
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

// The sums of what each tap reads of some channels of one sample, [H, W, C].
class TapSums {
 public:
  explicit TapSums(const Geometry& g)
      : down_(ranges_of(g.H, g.kernel[0], g.stride[0], g.padding[0], g.dilation[0])),
        across_(ranges_of(g.W, g.kernel[1], g.stride[1], g.padding[1], g.dilation[1])), H_(g.H),
        W_(g.W), C_(g.C) {}

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

// x[N, H, W, C] -> means[N, C * T], the taps of a channel in a row, by all threads.
inline void tap_means(const Geometry& g, const float* x, float* means) {
  const TapSums sums(g);
  const int64_t taps = sums.taps(), size = g.H * g.W * g.C;
  const float positions = g.P * g.Q;
  // a part of the channels for each thread, where there are fewer samples
  const int64_t most_parts = std::max<int64_t>(1, g.C / (2 * LANES));
  const int64_t parts = size < WORTH_A_THREAD
                            ? 1
                            : std::clamp<int64_t>(at::get_num_threads() / g.N, 1, most_parts);
  const int64_t grain = std::max<int64_t>(1, WORTH_A_THREAD * parts / size);
  at::parallel_for(0, g.N * parts, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> own;
    for (int64_t task = begin; task < end; task++) {
      const int64_t n = task / parts, part = task % parts;
      const int64_t first = g.C * part / parts, channels = g.C * (part + 1) / parts - first;
      own.resize(taps * channels);
      sums.find(x + n * size + first, channels, own.data());
      for (int64_t t = 0; t < taps; t++)
        for (int64_t c = 0; c < channels; c++)
          means[(n * g.C + first + c) * taps + t] = own[t * channels + c] / positions;
    }
  });
}

}  // namespace
