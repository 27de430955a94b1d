// A 3x3 convolution with stride 1 in Winograd's form, F(m x m, 3x3): a tile of m x m outputs takes
// (m + 2)^2 products for each pair of channels, where the sums of products take 9 m^2. That is 2.25
// times as many for m = 2 and 4 times as many for m = 4.
//
// A tile reads A x A inputs, A = m + 2. Along each side, A inputs d and 3 weights g give m outputs
//
//     y = out((G g) * in(d))
//
// where `in` and `out` are the sums below, and G is in `winograd.py`. So the kernel transforms the
// inputs of some tiles to A^2 matrices [tiles, C], multiplies each by one of the A^2 packed matrices
// [C, K], and transforms the products back. Only the last step writes the output, and finishes it.
//
// The sums come from polynomials at the points 0, -+1 and infinity for m = 2, and 0, -+11/16, -+11/8
// and infinity for m = 4. With these points of m = 4 the rounding errors are about 2 times those of
// the sums of products; with the usual points (0, -+1, -+2) they are 4 times.
//
// Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.

// N batch, C input channels, K output channels, H W space, P Q space of the output

#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>
#include <vector>

#include "conv_operands.h"
#include "vectors.h"

namespace {

constexpr float NEAR = 11.f / 16, FAR = 11.f / 8;  // the points of m = 4; their powers are exact
constexpr float NEAR2 = NEAR * NEAR, FAR2 = FAR * FAR;

// `in` along one side: A inputs d, one after the other, to A numbers, `step` apart.
template <int A>
inline void transform(const Vector* d, Vector* to, int step) {
  if constexpr (A == 4) {
    to[0] = d[0] - d[2];
    to[step] = d[1] + d[2];
    to[2 * step] = d[2] - d[1];
    to[3 * step] = d[1] - d[3];
  } else {
    const Vector near_even = d[4] - FAR2 * d[2], near_odd = d[3] - FAR2 * d[1];
    const Vector far_even = d[4] - NEAR2 * d[2], far_odd = d[3] - NEAR2 * d[1];
    to[0] = (NEAR2 * FAR2) * d[0] + (d[4] - (NEAR2 + FAR2) * d[2]);
    to[step] = near_even + NEAR * near_odd;
    to[2 * step] = near_even - NEAR * near_odd;
    to[3 * step] = far_even + FAR * far_odd;
    to[4 * step] = far_even - FAR * far_odd;
    to[5 * step] = (NEAR2 * FAR2) * d[1] + (d[5] - (NEAR2 + FAR2) * d[3]);
  }
}

// `out` along one side: A products to m outputs, `step` apart.
template <int A>
inline void transform_back(const Vector* from, Vector* y, int step) {
  if constexpr (A == 4) {
    y[0] = from[0] + from[1] + from[2];
    y[step] = from[1] - from[2] - from[3];
  } else {
    const Vector near = from[1] + from[2], near_odd = from[1] - from[2];
    const Vector far = from[3] + from[4], far_odd = from[3] - from[4];
    y[0] = from[0] + near + far;
    y[step] = NEAR * near_odd + FAR * far_odd;
    y[2 * step] = NEAR2 * near + FAR2 * far;
    y[3 * step] = (NEAR * NEAR2) * near_odd + ((FAR * FAR2) * far_odd + from[5]);
  }
}

// out[M, V * LANES] = rows[M, channels] @ weights[channels, V * LANES]. Rows are `apart` numbers
// apart, those of weights `width`, those of out `out_apart`. `ahead` are weights that are brought
// into the cache meanwhile.
template <int M, int V>
void product(const float* rows, int64_t apart, int channels, const float* weights, int width,
             Ahead ahead, float* out, int64_t out_apart) {
  Vector sums[M][V] = {};
  for (int c = 0; c < channels; c++, weights += width, rows++) {
    ahead.ask();
    Vector w[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) w[v] = load(weights + v * LANES);
    // few addresses, since there are not registers for one of each row
    const float* every_third[] = {rows, rows + 3 * apart, rows + 6 * apart, rows + 9 * apart,
                                  rows + 12 * apart};
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) {
      const Vector x = everywhere(every_third[m / 3][m % 3 * apart]);
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) sums[m][v] += x * w[v];
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; m++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) store(out + m * out_apart + v * LANES, sums[m][v]);
}

using Product = void (*)(const float*, int64_t, int, const float*, int, Ahead, float*, int64_t);

template <int V, int... M>
constexpr std::array<Product, ROWS> products(std::integer_sequence<int, M...>) {
  return {product<M + 1, V>...};
}

constexpr auto NARROW_PRODUCT = products<1>(std::make_integer_sequence<int, ROWS>{});
constexpr auto WIDE_PRODUCT = products<2>(std::make_integer_sequence<int, ROWS>{});

constexpr int64_t MOST_SCRATCH = 1 << 22;  // numbers of transformed inputs, and of products

// Memory of a thread that it keeps from call to call: new memory costs more than filling it.
class Scratch {
 public:
  ~Scratch() { std::free(memory_); }

  float* of(int64_t numbers) {
    if (numbers > size_) {
      std::free(memory_);
      size_ = 0;
      const int64_t bytes = (numbers * sizeof(float) + 63) / 64 * 64;
      memory_ = static_cast<float*>(std::aligned_alloc(64, bytes));
      if (!memory_) throw std::bad_alloc();
      size_ = numbers;
    }
    return memory_;
  }

 private:
  float* memory_ = nullptr;
  int64_t size_ = 0;
};

inline Scratch& inputs_scratch() {
  static thread_local Scratch scratch;
  return scratch;
}

inline Scratch& products_scratch() {
  static thread_local Scratch scratch;
  return scratch;
}

// One convolution of A x A tiles; the packed weights are [A * A, panels, C, width].
template <int A>
class Winograd {
 public:
  Winograd(const Geometry& g, const Operands& o, int64_t block, int64_t group)
      : g_(g), o_(o), down_((g.P + M - 1) / M), across_((g.Q + M - 1) / M),
        tiles_(g.N * down_ * across_), panels_((g.K + o.width - 1) / o.width),
        row_((g.C + LANES - 1) / LANES * LANES + 16),  // rows a power of 2 apart share cache lines
        zeros_(g.C, 0.f) {
    const int64_t threads = at::get_num_threads();
    const int64_t most_tiles = std::max<int64_t>(1, MOST_SCRATCH / (POINTS * row_));
    block = std::clamp<int64_t>(block, 1, std::min(tiles_, most_tiles));
    shares_ = threads > 1 && tiles_ <= most_tiles && tiles_ / block < threads;
    const int64_t sums = POINTS * (shares_ ? tiles_ : block) * o.width;  // of a panel
    const int64_t most_panels = std::max<int64_t>(1, MOST_SCRATCH / sums);
    group_ = std::clamp<int64_t>(group, 1, std::min(panels_, most_panels));
    if (shares_) group_ = std::min(group_, (panels_ + threads - 1) / threads);
    // as much work for each thread
    blocks_ = shares_ ? 1 : ((tiles_ + block - 1) / block + threads - 1) / threads * threads;
  }

  // Few tiles: the threads transform them together, and then share the panels. Many: each thread
  // takes blocks of tiles.
  void run() {
    const int64_t groups = (panels_ + group_ - 1) / group_;
    if (shares_) {
      float* inputs = inputs_scratch().of(POINTS * tiles_ * row_);
      at::parallel_for(0, tiles_, 1, [&](int64_t begin, int64_t end) {
        read(begin, end, inputs + begin * row_, tiles_ * row_);
      });
      at::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) compute(0, tiles_, inputs, i * group_);
      });
      return;
    }
    at::parallel_for(0, blocks_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; block++) {
        const int64_t first = tiles_ * block / blocks_, last = tiles_ * (block + 1) / blocks_;
        if (first == last) continue;
        float* inputs = inputs_scratch().of(POINTS * (last - first) * row_);
        read(first, last, inputs, (last - first) * row_);
        for (int64_t i = 0; i < groups; i++) compute(first, last, inputs, i * group_);
      }
    });
  }

 private:
  static constexpr int M = A - 2, POINTS = A * A;

  // Tiles to `to`, [POINTS, tiles, C]; the points are `apart` numbers apart.
  void read(int64_t first, int64_t last, float* to, int64_t apart) const {
    for (int64_t tile = first; tile < last; tile++, to += row_) {
      const int64_t n = tile / (down_ * across_);
      const int64_t top = tile / across_ % down_ * M - g_.padding[0];
      const int64_t left = tile % across_ * M - g_.padding[1];
      const float* from[POINTS];
      for (int i = 0; i < A; i++)
        for (int j = 0; j < A; j++) {
          const int64_t h = top + i, w = left + j;
          const bool inside = h >= 0 && h < g_.H && w >= 0 && w < g_.W;
          from[i * A + j] = inside ? o_.x + ((n * g_.H + h) * g_.W + w) * g_.C : zeros_.data();
        }
      int64_t c = 0;
      for (; c + LANES <= g_.C; c += LANES)
        read_vectors(to + c, apart, [&](int point) { return load(from[point] + c); });
      if (const int some = g_.C - c)
        read_vectors(to + c, apart, [&](int point) { return load_some(from[point] + c, some); });
    }
  }

  template <typename Load>
  static void read_vectors(float* to, int64_t apart, Load&& input) {
    Vector halfway[POINTS];
    for (int i = 0; i < A; i++) {
      Vector row[A];
#pragma GCC unroll 6
      for (int j = 0; j < A; j++) row[j] = input(i * A + j);
      transform<A>(row, halfway + i, A);
    }
    for (int j = 0; j < A; j++) {
      Vector column[A];
      transform<A>(halfway + j * A, column, 1);
#pragma GCC unroll 6
      for (int i = 0; i < A; i++) store(to + (i * A + j) * apart, column[i]);
    }
  }

  // The outputs of some tiles, whose inputs are transformed, for one group of panels.
  void compute(int64_t first, int64_t last, const float* inputs, int64_t panel) const {
    const int64_t end = std::min(panels_, panel + group_), tiles = last - first;
    const int64_t columns = (end - panel) * o_.width;
    float* sums = products_scratch().of(POINTS * tiles * columns);
    multiply(tiles, inputs, panel, end, sums, columns);
    for (int64_t tile = 0; tile < tiles; tile++)
      for (int64_t c = 0; c < columns && panel * o_.width + c < g_.K; c += LANES)
        write(first + tile, panel * o_.width + c, sums + tile * columns + c, tiles * columns);
  }

  void multiply(int64_t tiles, const float* inputs, int64_t panel, int64_t end, float* sums,
                int64_t columns) const {
    const int64_t size = g_.C * o_.width, number = (tiles + ROWS - 1) / ROWS;
    for (int point = 0; point < POINTS; point++)
      for (int64_t k = panel; k < end; k++) {
        const float* weights = o_.weights + (point * panels_ + k) * size;
        const bool last = k + 1 == end;  // then the next point follows
        const float* next = last ? weights + (panels_ - (end - panel) + 1) * size : weights + size;
        if (last && point + 1 == POINTS) next = weights;
        for (int64_t i = 0; i < number; i++) {
          const int64_t first = tiles * i / number, count = tiles * (i + 1) / number - first;
          const float* rows = inputs + (point * tiles + first) * row_;
          float* to = sums + (point * tiles + first) * columns + (k - panel) * o_.width;
          for (int64_t part = 0; part < o_.width; part += COLUMNS) {
            const auto& chosen = o_.width - part > LANES ? WIDE_PRODUCT : NARROW_PRODUCT;
            chosen[count - 1](rows, row_, g_.C, weights + part, o_.width,
                              Ahead::part(next, size, g_.C, i, number), to + part, columns);
          }
        }
      }
  }

  // The products of a tile for LANES channels from k on, back to its outputs.
  void write(int64_t tile, int64_t k, const float* sums, int64_t apart) const {
    const int64_t n = tile / (down_ * across_);
    const int64_t top = tile / across_ % down_ * M, left = tile % across_ * M;
    Vector halfway[M * A];
    for (int i = 0; i < A; i++) {
      Vector row[A];
#pragma GCC unroll 6
      for (int j = 0; j < A; j++) row[j] = load(sums + (i * A + j) * apart);
      transform_back<A>(row, halfway + i, A);
    }
    const int some = std::min<int64_t>(LANES, g_.K - k);
    const Vector bias = o_.bias ? load_some(o_.bias + k, some) : Vector{};
    const Vector scale = o_.scale ? load_some(o_.scale + n * g_.K + k, some) : everywhere(1.f);
    const Vector low = everywhere(o_.low), high = everywhere(o_.high);
    const int64_t down = std::min<int64_t>(M, g_.P - top);
    const int64_t across = std::min<int64_t>(M, g_.Q - left);
    for (int64_t j = 0; j < across; j++) {
      Vector column[M];
      transform_back<A>(halfway + j * A, column, 1);
      for (int64_t i = 0; i < down; i++) {
        const int64_t at = ((n * g_.P + top + i) * g_.Q + left + j) * g_.K + k;
        Vector y = (column[i] + bias) * scale;
        if (some == LANES) {
          if (o_.shortcut) y += load(o_.shortcut + at);
          if (o_.clamps) y = at_most(high, at_least(low, y));
          store(o_.out + at, y);
        } else {
          if (o_.shortcut) y += load_some(o_.shortcut + at, some);
          if (o_.clamps) y = at_most(high, at_least(low, y));
          store_some(o_.out + at, y, some);
        }
      }
    }
  }

  const Geometry& g_;
  const Operands& o_;
  const int64_t down_, across_, tiles_, panels_, row_;
  const std::vector<float> zeros_;
  int64_t group_, blocks_;  // panels computed together; blocks of tiles
  bool shares_;
};

}  // namespace
