// The convolution as sums of products, each of an input channel at a tap and its weight.
//
// The kernel computes a tile of ROWS positions by COLUMNS output channels at a time. A position's
// values for one tap of the convolution (a place in its window) are C numbers in a row, and an array
// of pointers says where each of these rows begins. So stride, padding and dilation only change the
// pointers: a tap that lies in the padding points to a row of zeros. The sums of a tile stay in
// registers over all taps and input channels. Then bias, scale, shortcut and clamp are applied and
// the tile is written once.

// N batch, C input channels, K output channels, H W space, P Q space of the output, G groups

#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "conv_operands.h"
#include "tap_means.h"
#include "vectors.h"

namespace {

constexpr int64_t MOST_POSITIONS = 512;  // of a task, whose rows are found once
constexpr int64_t SMALL_WEIGHTS = 1 << 17;  // numbers that stay in a core's cache of 2 MiB
constexpr int64_t LARGE_SAMPLE = 512;       // positions, with which one row more costs nothing

// What happens to the sums of a tile. Pointers are to the first of the tile's columns.
struct Finish {
  const float* bias;                      // or null
  std::array<const float*, ROWS> scale;   // null in front: none
  std::array<const float*, ROWS> shortcut;
  std::array<float*, ROWS> out;
  float low, high;
  bool clamps;
  int columns;  // how many of the tile's columns there are
  // what the next tile writes, and what it adds to if that lies elsewhere (null in front: it does
  // not): brought into the cache one row after the other, since many requests at once would keep
  // the weights waiting
  std::array<const float*, ROWS> next_out, next_shortcut;
  int steps;  // from one row to the next, minus 1; a power of 2, minus 1
};

template <int V>
inline void ask_for(const Finish& finish, int row) {
#pragma GCC unroll 2
  for (int c = 0; c < V * LANES; c += 16) {
    __builtin_prefetch(finish.next_out[row] + c, 1, 2);
    if (finish.next_shortcut[0]) __builtin_prefetch(finish.next_shortcut[row] + c, 0, 2);
  }
}

// rows[m * taps + t] is where position m finds its `channels` values for tap t. `ahead` are weights
// that are brought into the cache meanwhile.
template <int M, int V>
void tile(const float* const* rows, int taps, int channels, const float* weights, int width,
          Ahead ahead, const Finish& finish) {
  Vector sums[M][V] = {};
  int asked = 0, step = 0;
  for (int t = 0; t < taps; t++) {
    const float* row[M];
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) row[m] = rows[m * taps + t];
    for (int c = 0; c < channels; c++, step++, weights += width) {
      if ((step & finish.steps) == 0 && asked < M) ask_for<V>(finish, asked++);
      ahead.ask();
      Vector w[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) w[v] = load(weights + v * LANES);
#pragma GCC unroll 16
      for (int m = 0; m < M; m++) {
        const Vector x = everywhere(row[m][c]);
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) sums[m][v] += x * w[v];
      }
    }
  }
  const int columns = finish.columns;
  if (columns == V * LANES) {
    auto all = [&](auto&& change) {
#pragma GCC unroll 16
      for (int m = 0; m < M; m++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) change(m, v, sums[m][v]);
    };
    if (finish.bias) {
      all([&](int, int v, Vector& y) { y += load(finish.bias + v * LANES); });
    }
    if (finish.scale[0]) {
      all([&](int m, int v, Vector& y) { y *= load(finish.scale[m] + v * LANES); });
    }
    if (finish.shortcut[0]) {
      all([&](int m, int v, Vector& y) { y += load(finish.shortcut[m] + v * LANES); });
    }
    if (finish.clamps) {
      const Vector low = everywhere(finish.low), high = everywhere(finish.high);
      all([&](int, int, Vector& y) { y = at_most(high, at_least(low, y)); });
    }
    all([&](int m, int v, Vector& y) { store(finish.out[m] + v * LANES, y); });
    return;
  }
  for (int m = 0; m < M; m++) {  // the last columns of a group, some lanes of which are not there
    for (int v = 0; v < V; v++) {
      const int first = v * LANES, count = std::min(LANES, columns - first);
      if (count <= 0) break;
      Vector y = sums[m][v];
      if (finish.bias) y += load_some(finish.bias + first, count);
      if (finish.scale[0]) y *= load_some(finish.scale[m] + first, count);
      if (finish.shortcut[0]) y += load_some(finish.shortcut[m] + first, count);
      if (finish.clamps) y = at_most(everywhere(finish.high), at_least(everywhere(finish.low), y));
      store_some(finish.out[m] + first, y, count);
    }
  }
}

using Tile = void (*)(const float* const*, int, int, const float*, int, Ahead, const Finish&);

template <int V, int... M>
constexpr std::array<Tile, ROWS> tiles(std::integer_sequence<int, M...>) {
  return {tile<M + 1, V>...};
}

constexpr auto NARROW = tiles<1>(std::make_integer_sequence<int, ROWS>{});
constexpr auto WIDE = tiles<2>(std::make_integer_sequence<int, ROWS>{});

// Where the rows of positions begin, for all taps: [positions, taps].
class Rows {
 public:
  Rows(const Geometry& g, const float* x, const float* zeros) : g_(g), x_(x), zeros_(zeros) {
    for (int64_t i = 0; i < g.kernel[0]; i++)
      for (int64_t j = 0; j < g.kernel[1]; j++)
        offsets_.push_back((i * g.dilation[0] * g.W + j * g.dilation[1]) * g.C);
  }

  void find(int64_t first, int count, const float** rows) const {
    const int64_t taps = g_.taps();
    int64_t n = first / (g_.P * g_.Q), p = first / g_.Q % g_.P, q = first % g_.Q;
    for (int m = 0; m < count; m++) {
      const int64_t y = p * g_.stride[0] - g_.padding[0], x = q * g_.stride[1] - g_.padding[1];
      const int64_t last_y = y + (g_.kernel[0] - 1) * g_.dilation[0];
      const int64_t last_x = x + (g_.kernel[1] - 1) * g_.dilation[1];
      const float** own = rows + m * taps;
      if (y >= 0 && x >= 0 && last_y < g_.H && last_x < g_.W) {
        const float* from = x_ + ((n * g_.H + y) * g_.W + x) * g_.C;
        for (int64_t t = 0; t < taps; t++) own[t] = from + offsets_[t];
      } else {
        for (int64_t i = 0, t = 0; i < g_.kernel[0]; i++) {
          const int64_t h = y + i * g_.dilation[0];
          for (int64_t j = 0; j < g_.kernel[1]; j++, t++) {
            const int64_t w = x + j * g_.dilation[1];
            const bool inside = h >= 0 && h < g_.H && w >= 0 && w < g_.W;
            own[t] = inside ? x_ + ((n * g_.H + h) * g_.W + w) * g_.C : zeros_;
          }
        }
      }
      if (++q == g_.Q) {
        q = 0;
        if (++p == g_.P) p = 0, n++;
      }
    }
  }

 private:
  const Geometry& g_;
  const float *x_, *zeros_;
  std::vector<int64_t> offsets_;
};

// The weights of a gate for `count` samples and the `columns` of one tile, into rows of p:
//
//     p = factor * sigmoid(weight * mean(conv(x)) + bias)
//
// The mean over space commutes with the convolution. So the means of what each tap reads are one
// more position of the convolution, and the gate costs no pass over a map and no matrix.
inline void weigh(const Operands& o, const float* means, int64_t count, int64_t length, int64_t row,
                  const float* weights, int64_t column, int columns, float* p, int64_t stride) {
  const float *weight = o.gate + column, *bias = weight + row, *factor = bias + row;
  for (int64_t first = 0; first < count; first += ROWS) {
    const int rows = std::min<int64_t>(ROWS, count - first);
    std::array<const float*, ROWS> read;
    Finish finish{};
    finish.columns = columns;
    finish.bias = o.bias ? o.bias + column : nullptr;
    finish.steps = INT32_MAX;
    for (int m = 0; m < rows; m++) {
      read[m] = means + (first + m) * length;
      finish.out[m] = p + (first + m) * stride;
    }
    finish.next_out.fill(p);
    const auto& chosen = columns > LANES ? WIDE : NARROW;
    chosen[rows - 1](read.data(), 1, length, weights, o.width, Ahead{weights, 0}, finish);
    for (int m = 0; m < rows; m++)
      for (int v = 0; v < columns; v += LANES) {
        const int some = std::min(LANES, columns - v);
        const Vector d = load_some(finish.out[m] + v, some);
        const Vector x = load_some(weight + v, some) * d + load_some(bias + v, some);
        store_some(finish.out[m] + v, scaled_sigmoid(load_some(factor + v, some), x), some);
      }
  }
}

// Where the weights of a gate are while tiles are computed: those of sample n begin at n * stride.
struct Factors {
  const float* first;  // of the first sample
  int64_t stride, sample;
  const float* of(int64_t n) const { return first + (n - sample) * stride; }
};

// One convolution, cut into tasks for the threads.
class Direct {
 public:
  Direct(const Geometry& g, const Operands& o, int64_t block, int64_t group)
      : g_(g), o_(o), positions_(g.N * g.P * g.Q), space_(g.P * g.Q), taps_(g.taps()),
        channels_(g.C / g.groups), columns_(g.K / g.groups), length_(taps_ * channels_),
        panels_((columns_ + o.width - 1) / o.width), total_(g.groups * panels_),
        zeros_(g.C, 0.f), rows_(g, o.x, zeros_.data()) {
    const int64_t threads = at::get_num_threads();
    block_ = std::clamp<int64_t>(block, 1, std::min(positions_, MOST_POSITIONS));
    group_ = std::clamp<int64_t>(group, 1, total_);
    while (threads > 1 && blocks() * groups() < 2 * threads) {
      if (group_ > 1) group_ = (group_ + 1) / 2;
      else if (block_ > 2 * ROWS) block_ = (block_ + 1) / 2;
      else break;
    }
    if (!o.gate) return;
    // A map that is read for the means stays in the cache for the tiles, a sample at a time.
    if (!o.means && g.N >= threads && space_ >= LARGE_SAMPLE) gate_ = BY_SAMPLE;
    else gate_ = block_ >= space_ ? IN_PANEL : BEFORE;
    if (gate_ != IN_PANEL) p_.resize(g_.N * row_of_p());
    if (!o.means) means_.resize(g_.N * length_);
    if (!o.means && gate_ != BY_SAMPLE) tap_means(g, o.x, means_.data());
  }

  void run() {
    if (gate_ == BY_SAMPLE) {
      at::parallel_for(0, g_.N, 1, [&](int64_t begin, int64_t end) {
        Space space;
        for (int64_t n = begin; n < end; n++) run_sample(n, space);
      });
      return;
    }
    if (gate_ == BEFORE)
      at::parallel_for(0, total_, 1, [&](int64_t begin, int64_t end) {
        for (int64_t panel = begin; panel < end; panel++)
          weigh_panel(0, g_.N, panel, p_.data() + panel * o_.width, row_of_p());
      });
    at::parallel_for(0, blocks() * groups(), 1, [&](int64_t begin, int64_t end) {
      Space space;
      // the blocks of one group of panels follow each other, so that its weights stay in the cache
      for (int64_t task = begin; task < end; task++) {
        const int64_t first = task % blocks() * block_, from = task / blocks() * group_;
        run_task(first, std::min(positions_, first + block_), from, std::min(total_, from + group_),
                 space);
      }
    });
  }

 private:
  // A gate's weights are computed before all tiles, before those of a sample, or by the task that
  // has read its panel.
  enum Gate { NONE, BEFORE, BY_SAMPLE, IN_PANEL };
  struct Space {  // what a thread needs
    std::vector<const float*> rows;
    std::vector<float> p;
  };

  int64_t blocks() const { return (positions_ + block_ - 1) / block_; }
  int64_t groups() const { return (total_ + group_ - 1) / group_; }

  int64_t first_column(int64_t panel) const {
    return panel / panels_ * columns_ + panel % panels_ * o_.width;
  }

  int64_t row_of_p() const { return total_ * o_.width; }

  void run_sample(int64_t n, Space& space) {
    float* means = means_.data() + n * length_;
    TapSums(g_).find(o_.x + n * g_.H * g_.W * g_.C, g_.C, means);
    for (int64_t c = 0; c < length_; c++) means[c] /= space_;
    for (int64_t panel = 0; panel < total_; panel++)
      weigh_panel(n, 1, panel, p_.data() + n * row_of_p() + panel * o_.width, row_of_p());
    const int64_t end = (n + 1) * space_;
    for (int64_t first = n * space_; first < end; first += block_)
      run_task(first, std::min(end, first + block_), 0, total_, space);
  }

  void weigh_panel(int64_t sample, int64_t samples, int64_t panel, float* p, int64_t stride) {
    const int64_t inside = panel * o_.width;
    const float* means = (o_.means ? o_.means : means_.data()) + sample * length_;
    const float* weights = o_.weights + panel * length_ * o_.width;
    for (int64_t part = 0; part < o_.width && inside + part < columns_; part += COLUMNS) {
      const int some = std::min<int64_t>({COLUMNS, columns_ - inside - part, o_.width - part});
      weigh(o_, means, samples, length_, g_.K, weights + part, inside + part, some, p + part,
            stride);
    }
  }

  // The tiles of some positions and panels.
  void run_task(int64_t first, int64_t last, int64_t from, int64_t to, Space& space) {
    const int64_t sample = first / space_, samples = (last - 1) / space_ + 1 - sample;
    if (gate_ == IN_PANEL) space.p.resize(samples * o_.width);
    space.rows.resize(block_ * taps_);
    rows_.find(first, last - first, space.rows.data());
    int64_t of = 0;  // the group of channels that the rows begin in
    for (int64_t panel = from; panel < to; panel++) {
      for (; of < panel / panels_; of++)
        for (auto& pointer : space.rows)
          if (pointer != zeros_.data()) pointer += channels_;
      Factors factors{nullptr, g_.K, 0};
      if (o_.scale) factors.first = o_.scale + of * columns_ + panel % panels_ * o_.width;
      if (gate_ == BEFORE || gate_ == BY_SAMPLE)
        factors = {p_.data() + panel * o_.width, row_of_p(), 0};
      if (gate_ == IN_PANEL) {
        weigh_panel(sample, samples, panel, space.p.data(), o_.width);
        factors = {space.p.data(), o_.width, sample};
      }
      run_panel(first, last, panel, from, to, space, factors);
    }
  }

  // The tiles of some positions and one panel of those from `from` to `to`.
  void run_panel(int64_t begin, int64_t end, int64_t panel, int64_t from, int64_t to,
                 const Space& space, const Factors& factors) {
    const int64_t next = panel + 1 == to ? from : panel + 1;
    const int64_t inside = panel % panels_ * o_.width, offset = first_column(panel);
    const float* weights = o_.weights + panel * length_ * o_.width;
    // tiles of about the same number of rows, since small tiles are slow
    const int64_t number = (end - begin + ROWS - 1) / ROWS;
    for (int64_t i = 0; i < number; i++) {
      const int64_t first = begin + (end - begin) * i / number;
      const int count = begin + (end - begin) * (i + 1) / number - first;
      for (int64_t part = 0; part < o_.width && inside + part < columns_; part += COLUMNS) {
        const int64_t column = offset + part;
        Finish finish;
        finish.columns = std::min<int64_t>({COLUMNS, columns_ - inside - part, o_.width - part});
        finish.bias = o_.bias ? o_.bias + column : nullptr;
        finish.scale[0] = finish.shortcut[0] = nullptr;
        finish.low = o_.low, finish.high = o_.high;
        finish.clamps = o_.clamps;
        for (int m = 0; m < count; m++) {
          const int64_t at = (first + m) * g_.K + column;
          finish.out[m] = o_.out + at;
          if (o_.shortcut) finish.shortcut[m] = o_.shortcut + at;
          if (factors.first) finish.scale[m] = factors.of((first + m) / space_) + part;
        }
        look_ahead(finish, i + 1 < number ? first + count : next > panel ? begin : end,
                   i + 1 < number ? column : first_column(next), count);
        const int64_t size = length_ * o_.width;
        const Ahead ahead =
            small_ ? inputs_ahead(begin, end, (panel - from) * number + i, (to - from) * number)
                   : Ahead::part(weights + size, size, length_, i, number);
        const auto& chosen = finish.columns > LANES ? WIDE : NARROW;
        chosen[count - 1](space.rows.data() + (first - begin) * taps_, taps_, channels_,
                          weights + part, o_.width, ahead, finish);
      }
    }
  }

  // Of what the next positions read, the i-th part. Where it is not in a row there is none.
  Ahead inputs_ahead(int64_t begin, int64_t end, int64_t i, int64_t parts) const {
    const int64_t count = std::min(end - begin, positions_ - end);
    const bool in_a_row = taps_ == 1 && g_.groups == 1 && g_.H == g_.P && g_.W == g_.Q;
    if (!in_a_row || count <= 0) return {o_.weights, 0};
    return Ahead::part(o_.x + end * g_.C, count * g_.C, length_, i, parts);
  }

  // Notes where the next tile of `count` rows writes, and what it adds to.
  void look_ahead(Finish& finish, int64_t first, int64_t column, int count) const {
    const bool apart = o_.shortcut && o_.shortcut != o_.out;
    finish.next_shortcut[0] = nullptr;
    for (int m = 0; m < count; m++) {
      const int64_t at = std::min(first + m, positions_ - 1) * g_.K + column;
      finish.next_out[m] = o_.out + at;
      if (apart) finish.next_shortcut[m] = o_.shortcut + at;
    }
    finish.steps = length_ >= 8 * ROWS ? 7 : length_ >= 4 * ROWS ? 3 : length_ >= 2 * ROWS ? 1 : 0;
  }

  const Geometry& g_;
  const Operands& o_;
  const int64_t positions_, space_, taps_, channels_, columns_, length_, panels_, total_;
  const std::vector<float> zeros_;
  const Rows rows_;
  int64_t block_, group_;  // positions and panels of a task
  const bool small_ = length_ * total_ * o_.width <= SMALL_WEIGHTS;
  Gate gate_ = NONE;
  std::vector<float> means_, p_;
};

}  // namespace
