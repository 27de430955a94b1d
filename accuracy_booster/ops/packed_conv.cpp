// A convolution of float32 maps in channels-last memory, finished while its result is in registers:
//
//     out = clamp((conv(x) + bias) * p + shortcut, low, high)
//
// p[N, K] are the weights of a gate: given, or computed on the way (`weigh`). `packed_conv.py` says
// what the arguments mean and how the weights of the convolution are packed.
//
// The kernel computes a tile of ROWS positions by COLUMNS output channels at a time. A position's
// values for one tap of the convolution (a place in its window) are C numbers in a row, and an array
// of pointers says where each of these rows begins. So stride, padding and dilation only change the
// pointers: a tap that lies in the padding points to a row of zeros. The sums of a tile stay in
// registers over all taps and input channels. Then bias, scale, shortcut and clamp are applied and
// the tile is written once.
//
// Vectors are those of the compiler (`vector_size`), so the same source serves AVX2 and AVX-512.

// N batch, C input channels, K output channels, H W space, P Q space of the output, G groups

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/add.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <torch/library.h>

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 14;  // 28 of 32 registers hold sums
#else
constexpr int LANES = 8, ROWS = 6;  // 12 of 16
#endif
constexpr int VECTORS = 2, COLUMNS = VECTORS * LANES;
constexpr int64_t MOST_POSITIONS = 512;  // of a task, whose rows are found once
constexpr int64_t CACHED = 1 << 18;  // numbers that stay in a core's cache of 2 MiB beside others

typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef float Unaligned __attribute__((vector_size(LANES * 4), aligned(4)));

inline Vector load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }

inline Vector load_some(const float* from, int count) {
  alignas(64) float buffer[LANES] = {};
  std::memcpy(buffer, from, count * sizeof(float));
  return *reinterpret_cast<const Vector*>(buffer);
}

inline void store(float* to, Vector value) { *reinterpret_cast<Unaligned*>(to) = value; }

inline void store_some(float* to, Vector value, int count) {
  alignas(64) float buffer[LANES];
  *reinterpret_cast<Vector*>(buffer) = value;
  std::memcpy(to, buffer, count * sizeof(float));
}

// The larger of each two numbers; what is not a number in `y` stays so.
inline Vector at_least(Vector low, Vector y) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vector>(
      _mm512_max_ps(reinterpret_cast<__m512>(low), reinterpret_cast<__m512>(y)));
#else
  return reinterpret_cast<Vector>(
      _mm256_max_ps(reinterpret_cast<__m256>(low), reinterpret_cast<__m256>(y)));
#endif
}

inline Vector at_most(Vector high, Vector y) { return -at_least(-high, -y); }

inline Vector everywhere(float value) { return value - Vector{}; }

// What happens to the sums of a tile. Pointers are to the first of the tile's columns.
struct Finish {
  const float* bias;                      // or null
  std::array<const float*, ROWS> scale;   // null in front: none
  std::array<const float*, ROWS> shortcut;
  std::array<float*, ROWS> out;
  float low, high;
  bool clamps;
  int columns;  // how many of the tile's columns there are
};

// rows[m * taps + t] is where position m finds its `channels` values for tap t. While a tile is
// computed, as many weights from `ahead` on are brought into the cache as the tile itself reads.
template <int M, int V>
void tile(const float* const* rows, int taps, int channels, const float* weights, int width,
          const float* ahead, const Finish& finish) {
  Vector sums[M][V] = {};
  for (int t = 0; t < taps; t++) {
    const float* row[M];
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) row[m] = rows[m * taps + t];
    for (int c = 0; c < channels; c++, weights += width, ahead += width) {
      Vector w[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) {
        w[v] = load(weights + v * LANES);
        if (v * LANES % 16 == 0) __builtin_prefetch(ahead + v * LANES, 0, 2);
      }
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

using Tile = void (*)(const float* const*, int, int, const float*, int, const float*,
                      const Finish&);

template <int V, int... M>
constexpr std::array<Tile, ROWS> tiles(std::integer_sequence<int, M...>) {
  return {tile<M + 1, V>...};
}

constexpr auto NARROW = tiles<1>(std::make_integer_sequence<int, ROWS>{});
constexpr auto WIDE = tiles<2>(std::make_integer_sequence<int, ROWS>{});

struct Geometry {
  int64_t N, C, H, W, K, P, Q, groups;
  std::array<int64_t, 2> kernel, stride, padding, dilation;
  int64_t taps() const { return kernel[0] * kernel[1]; }
};

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

struct Operands {
  const float *x, *weights, *bias, *scale, *shortcut;
  const float *means, *gate;  // or null: [N, taps * C / G], one group; [3, K]
  float* out;
  float low, high;
  bool clamps;
  int64_t width;  // columns of a packed panel
};

// Bring what the next tile adds to and writes into the cache, while this one is computed.
inline void ask_for(const Operands& o, int64_t first, int count, int64_t positions, int64_t row,
                    int64_t column) {
  const bool apart = o.shortcut && o.shortcut != o.out;
  for (int m = 0; m < count; m++) {
    const int64_t at = std::min(first + m, positions - 1) * row + column;
    for (int c = 0; c < COLUMNS; c += 16) {
      if (apart) __builtin_prefetch(o.shortcut + at + c, 0, 2);
      __builtin_prefetch(o.out + at + c, 1, 2);
    }
  }
}

// exp(x), to 2 units in the last place: 2^n times a polynomial of what is left.
inline Vector exponential(Vector x) {
  x = at_most(everywhere(88.f), at_least(everywhere(-87.f), x));
  typedef int32_t Whole __attribute__((vector_size(LANES * 4)));
  const Vector scaled = x * 1.44269504f;
  const Vector half = scaled < Vector{} ? everywhere(-.5f) : everywhere(.5f);
  const Whole n = __builtin_convertvector(scaled + half, Whole);
  const Vector power = __builtin_convertvector(n, Vector);
  const Vector r = (x - power * 0.693359375f) + power * 2.12194440e-4f;
  Vector y = everywhere(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                  5.0000001201e-1f})
    y = y * r + c;
  y = y * r * r + r + 1.f;
  return y * reinterpret_cast<Vector>((n + 127) << 23);
}

// One position by one panel: as `tile`, but the sums of four channels in turn are kept apart, so
// that one need not wait for the other.
template <int V>
void line(const float* row, int64_t length, const float* weights, int width, Vector* sums) {
  Vector apart[4][V] = {};
  for (int64_t c = 0; c < length; c += 4)
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      if (c + i >= length) break;
#pragma GCC unroll 2
      for (int v = 0; v < V; v++)
        apart[i][v] += everywhere(row[c + i]) * load(weights + (c + i) * width + v * LANES);
    }
  for (int v = 0; v < V; v++) sums[v] = (apart[0][v] + apart[1][v]) + (apart[2][v] + apart[3][v]);
}

// The weights of a gate for `count` samples and the `columns` of one tile, into rows of p:
//
//     p = factor * sigmoid(weight * mean(conv(x)) + bias)
//
// The mean over space commutes with the convolution. So the means of what each tap reads are one
// more position of the convolution, and the gate costs no pass over a map and no matrix.
void weigh(const Operands& o, const float* means, int64_t count, int64_t length, int64_t row,
           const float* weights, int64_t column, int columns, float* p, int64_t stride) {
  const float *weight = o.gate + column, *bias = weight + row, *factor = bias + row;
  for (int64_t n = 0; n < count; n++) {
    Vector sums[VECTORS];
    if (columns > LANES) line<2>(means + n * length, length, weights, o.width, sums);
    else line<1>(means + n * length, length, weights, o.width, sums);
    for (int v = 0; v < VECTORS && v * LANES < columns; v++) {
      const int first = v * LANES, some = std::min(LANES, columns - first);
      auto read = [&](const float* from) { return load_some(from + first, some); };
      Vector d = sums[v];
      if (o.bias) d += read(o.bias + column);
      const Vector x = read(weight) * d + read(bias);
      store_some(p + n * stride + first, read(factor) / (1.f + exponential(-x)), some);
    }
  }
}

// x[N, H, W, C] -> the sum over some positions of one sample that a 1x1 kernel reads, onto `to`.
inline void add_up(const Geometry& g, const float* x, int64_t sample, int64_t begin, int64_t end,
                   float* to) {
  for (int64_t i = begin; i < end; i++) {
    const int64_t y = i / g.Q * g.stride[0], w = i % g.Q * g.stride[1];
    const float* from = x + ((sample * g.H + y) * g.W + w) * g.C;
    for (int64_t c = 0; c < g.C; c++) to[c] += from[c];
  }
}

// Where the weights of a gate are while tiles are computed: those of sample n begin at n * stride.
struct Factors {
  const float* first;  // of the first sample
  int64_t stride, sample;
  const float* of(int64_t n) const { return first + (n - sample) * stride; }
};

// One convolution, cut into tasks for the threads.
class Work {
 public:
  Work(const Geometry& g, const Operands& o, int64_t block, int64_t group)
      : g_(g), o_(o), positions_(g.N * g.P * g.Q), space_(g.P * g.Q), taps_(g.taps()),
        channels_(g.C / g.groups), columns_(g.K / g.groups), length_(taps_ * channels_),
        panels_((columns_ + o.width - 1) / o.width), total_(g.groups * panels_),
        zeros_(g.C, 0.f), rows_(g, o.x, zeros_.data()) {
    const int64_t threads = at::get_num_threads();
    const bool small = length_ * total_ * o.width < CACHED;  // the weights stay in the cache
    block_ = std::clamp<int64_t>(block, 1, std::min(positions_, MOST_POSITIONS));
    group_ = std::clamp<int64_t>(group, 1, total_);
    inner_ = block_;
    // The means of a sample are taken by the task that reads it next, where there are samples
    // enough and they stay in the cache.
    by_sample_ = o.gate && !o.means && g.N >= threads && space_ * g.C <= CACHED;
    if (by_sample_) {
      const int64_t most = std::max<int64_t>(1, g.N / (2 * threads));
      const int64_t samples = std::clamp<int64_t>(block / space_, 1, most);
      block_ = samples * space_, group_ = total_;
      inner_ = small ? std::min(inner_, block_) : block_;
      gate_ = small ? IN_TASK : IN_PANEL;
    } else if (o.gate) {
      if (!o.means) average();
      gate_ = block_ >= space_ ? IN_PANEL : BEFORE;
    }
    while (!by_sample_ && threads > 1 && blocks() * groups() < 2 * threads) {
      if (group_ > 1) group_ = (group_ + 1) / 2;
      else if (block_ > 2 * ROWS) block_ = inner_ = (block_ + 1) / 2;
      else break;
    }
  }

  void run() {
    if (gate_ == BEFORE) {
      p_.resize(g_.N * total_ * o_.width);
      at::parallel_for(0, total_, 1, [&](int64_t begin, int64_t end) {
        for (int64_t panel = begin; panel < end; panel++)
          weigh_panel(means(0), g_.N, panel, p_.data() + panel * o_.width, total_ * o_.width);
      });
    }
    at::parallel_for(0, blocks() * groups(), 1, [&](int64_t begin, int64_t end) {
      Space space;
      for (int64_t task = begin; task < end; task++) run_task(task, space);
    });
  }

 private:
  enum Gate { NONE, BEFORE, IN_TASK, IN_PANEL };  // when a gate's weights are computed
  struct Space {  // what a thread needs
    std::vector<const float*> rows;
    std::vector<float> means, p;
  };

  int64_t blocks() const { return (positions_ + block_ - 1) / block_; }
  int64_t groups() const { return (total_ + group_ - 1) / group_; }

  const float* means(int64_t sample) const {
    return (o_.means ? o_.means : means_.data()) + sample * length_;
  }

  // The means of what a 1x1 kernel reads, by all threads.
  void average() {
    const int64_t parts = std::max<int64_t>(1, at::get_num_threads() / g_.N);
    std::vector<float> sums(g_.N * parts * g_.C, 0.f);
    at::parallel_for(0, g_.N * parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; task++) {
        const int64_t n = task / parts, part = task % parts;
        add_up(g_, o_.x, n, space_ * part / parts, space_ * (part + 1) / parts,
               sums.data() + task * g_.C);
      }
    });
    means_.resize(g_.N * g_.C);
    for (int64_t n = 0; n < g_.N; n++)
      for (int64_t c = 0; c < g_.C; c++) {
        float sum = 0;
        for (int64_t part = 0; part < parts; part++) sum += sums[(n * parts + part) * g_.C + c];
        means_[n * g_.C + c] = sum / space_;
      }
  }

  void weigh_panel(const float* means, int64_t samples, int64_t panel, float* p, int64_t stride) {
    const int64_t inside = panel * o_.width;
    const float* weights = o_.weights + panel * length_ * o_.width;
    for (int64_t part = 0; part < o_.width && inside + part < columns_; part += COLUMNS) {
      const int some = std::min<int64_t>({COLUMNS, columns_ - inside - part, o_.width - part});
      weigh(o_, means, samples, length_, g_.K, weights + part, inside + part, some, p + part,
            stride);
    }
  }

  void run_task(int64_t task, Space& space) {
    // the blocks of one group of panels follow each other, so that its weights stay in the cache
    const int64_t start = task % blocks() * block_, stop = std::min(positions_, start + block_);
    const int64_t from = task / blocks() * group_, to = std::min(total_, from + group_);
    const int64_t sample = start / space_, samples = (stop - 1) / space_ + 1 - sample;
    const float* own = nullptr;
    if (by_sample_) {
      space.means.assign(samples * length_, 0.f);
      for (int64_t n = 0; n < samples; n++)
        add_up(g_, o_.x, sample + n, 0, space_, space.means.data() + n * length_);
      for (float& value : space.means) value /= space_;
      own = space.means.data();
    } else if (gate_ == IN_PANEL) {
      own = means(sample);
    }
    const int64_t row = total_ * o_.width;
    if (gate_ == IN_TASK) {
      space.p.resize(samples * row);
      for (int64_t panel = 0; panel < total_; panel++)
        weigh_panel(own, samples, panel, space.p.data() + panel * o_.width, row);
    }
    if (gate_ == IN_PANEL) space.p.resize(samples * o_.width);
    space.rows.resize(inner_ * taps_);
    for (int64_t first = start; first < stop; first += inner_) {
      const int64_t last = std::min(stop, first + inner_);
      rows_.find(first, last - first, space.rows.data());
      int64_t of = 0;  // the group of channels that the rows begin in
      for (int64_t panel = from; panel < to; panel++) {
        for (; of < panel / panels_; of++)
          for (auto& pointer : space.rows)
            if (pointer != zeros_.data()) pointer += channels_;
        Factors factors{nullptr, g_.K, 0};
        if (gate_ == BEFORE) factors = {p_.data() + panel * o_.width, row, 0};
        if (gate_ == IN_TASK) factors = {space.p.data() + panel * o_.width, row, sample};
        if (gate_ == IN_PANEL) {
          weigh_panel(own, samples, panel, space.p.data(), o_.width);
          factors = {space.p.data(), o_.width, sample};
        }
        if (o_.scale) factors.first = o_.scale + of * columns_ + panel % panels_ * o_.width;
        run_panel(first, last, panel, panel + 1 == to ? from : panel + 1, space, factors);
      }
    }
  }

  // The tiles of some positions and one panel; `next` is the panel that follows.
  void run_panel(int64_t begin, int64_t end, int64_t panel, int64_t next, const Space& space,
                 const Factors& factors) {
    const int64_t inside = panel % panels_ * o_.width, offset = panel / panels_ * columns_ + inside;
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
        const bool below = next <= panel;  // the next tile begins a new row of tiles
        ask_for(o_, first + (below ? count : 0), count, positions_, g_.K,
                below ? next * o_.width : column + COLUMNS);
        const auto& chosen = finish.columns > LANES ? WIDE : NARROW;
        chosen[count - 1](space.rows.data() + (first - begin) * taps_, taps_, channels_,
                          weights + part, o_.width, weights + length_ * o_.width, finish);
      }
    }
  }

  const Geometry& g_;
  const Operands& o_;
  const int64_t positions_, space_, taps_, channels_, columns_, length_, panels_, total_;
  const std::vector<float> zeros_;
  const Rows rows_;
  int64_t block_, group_, inner_;  // positions and panels of a task; positions found at once
  bool by_sample_ = false;
  Gate gate_ = NONE;
  std::vector<float> means_, p_;
};

using Pair = at::IntArrayRef;
using Optional = std::optional<at::Tensor>;

// The convolution; with `in_place` it is written where the shortcut is.
at::Tensor compute(const at::Tensor& x, const at::Tensor& packed, const Optional& bias,
                   int64_t out_channels, Pair kernel_size, Pair stride, Pair padding, Pair dilation,
                   int64_t groups, const Optional& scale, const Optional& gate,
                   const Optional& means, const Optional& shortcut, std::optional<double> low,
                   std::optional<double> high, Pair schedule, bool in_place) {
  TORCH_CHECK(x.dim() == 4 && packed.dim() == 4, "x must be [N, C, H, W] and packed [G, B, L, W]");
  TORCH_CHECK(schedule.size() == 2, "schedule must be (positions, panels)");
  Geometry g;
  g.N = x.size(0), g.C = x.size(1), g.H = x.size(2), g.W = x.size(3);
  g.K = out_channels, g.groups = groups;
  std::copy_n(kernel_size.begin(), 2, g.kernel.begin());
  std::copy_n(stride.begin(), 2, g.stride.begin());
  std::copy_n(padding.begin(), 2, g.padding.begin());
  std::copy_n(dilation.begin(), 2, g.dilation.begin());
  auto places = [&](int64_t side, int i) {
    const int64_t room = side + 2 * g.padding[i] - g.dilation[i] * (g.kernel[i] - 1) - 1;
    TORCH_CHECK(room >= 0, "the kernel is larger than the padded map [", g.H, ", ", g.W, "]");
    return room / g.stride[i] + 1;
  };
  g.P = places(g.H, 0), g.Q = places(g.W, 1);
  TORCH_CHECK(g.C % groups == 0 && g.K % groups == 0, "groups=", groups, " must divide channels");
  TORCH_CHECK(packed.size(0) == groups && packed.size(2) == g.taps() * (g.C / groups),
              "the packed weights do not fit a map of ", g.C, " channels");
  TORCH_CHECK(packed.size(3) % LANES == 0, "the panels must have a multiple of ", LANES, " columns");
  auto checked = [](const at::Tensor& t, at::IntArrayRef sizes, const char* name) {
    TORCH_CHECK(t.scalar_type() == at::kFloat, name, " must be float32");
    TORCH_CHECK(sizes.empty() || t.sizes() == sizes, name, " must be ", sizes, ", is ", t.sizes());
    return t.dim() == 4 && !sizes.empty() ? t.contiguous(at::MemoryFormat::ChannelsLast)
                                          : t.contiguous();
  };
  TORCH_CHECK(x.scalar_type() == at::kFloat, "x must be float32");
  const at::Tensor map = x.contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor weights = checked(packed, {}, "packed");
  at::Tensor own_bias, own_scale, own_shortcut;
  if (bias) own_bias = checked(*bias, {g.K}, "bias");
  if (scale) own_scale = checked(*scale, {g.N, g.K}, "scale");
  at::Tensor own_gate, own_means;
  if (gate) {
    TORCH_CHECK(!scale && groups == 1, "a gate needs groups=1 and no scale");
    const int64_t length = packed.size(2);
    own_gate = checked(*gate, {3, g.K}, "gate");
    if (means) own_means = checked(*means, {g.N, length}, "means");
    const bool pointwise = g.taps() == 1 && g.padding[0] == 0 && g.padding[1] == 0;
    TORCH_CHECK(means || pointwise, "a gate needs the means for a kernel larger than 1x1");
  }
  if (shortcut) own_shortcut = checked(*shortcut, {g.N, g.K, g.P, g.Q}, "shortcut");
  const at::Tensor out =
      in_place ? own_shortcut
               : at::empty({g.N, g.K, g.P, g.Q},
                           x.options().memory_format(at::MemoryFormat::ChannelsLast));
  if (out.numel() == 0) return out;

  constexpr double most = std::numeric_limits<float>::infinity();
  Operands o;
  o.x = map.const_data_ptr<float>(), o.weights = weights.const_data_ptr<float>();
  o.bias = bias ? own_bias.const_data_ptr<float>() : nullptr;
  o.scale = scale ? own_scale.const_data_ptr<float>() : nullptr;
  o.gate = gate ? own_gate.const_data_ptr<float>() : nullptr;
  o.means = gate && means ? own_means.const_data_ptr<float>() : nullptr;
  o.shortcut = shortcut ? own_shortcut.const_data_ptr<float>() : nullptr;
  o.out = out.data_ptr<float>();
  o.low = low.value_or(-most), o.high = high.value_or(most);
  o.clamps = low || high;
  o.width = packed.size(3);
  Work(g, o, schedule[0], schedule[1]).run();
  return out;
}

at::Tensor packed_conv(const at::Tensor& x, const at::Tensor& packed, const Optional& bias,
                       int64_t out_channels, Pair kernel_size, Pair stride, Pair padding,
                       Pair dilation, int64_t groups, const Optional& scale,
                       const Optional& gate, const Optional& means, const Optional& shortcut,
                       std::optional<double> low, std::optional<double> high, Pair schedule) {
  return compute(x, packed, bias, out_channels, kernel_size, stride, padding, dilation, groups,
                 scale, gate, means, shortcut, low, high, schedule, false);
}

void packed_conv_onto(at::Tensor shortcut, const at::Tensor& x, const at::Tensor& packed,
                      const Optional& bias, int64_t out_channels, Pair kernel_size, Pair stride,
                      Pair padding, Pair dilation, int64_t groups, const Optional& scale,
                      const Optional& gate, const Optional& means,
                      std::optional<double> low, std::optional<double> high, Pair schedule) {
  const at::Tensor out =
      compute(x, packed, bias, out_channels, kernel_size, stride, padding, dilation, groups, scale,
              gate, means, shortcut, low, high, schedule, true);
  if (!out.is_same(shortcut) && out.data_ptr() != shortcut.data_ptr()) shortcut.copy_(out);
}

// [G, B, L, W] -> the convolution's weight [K, C / G, kh, kw]
at::Tensor unpacked(const at::Tensor& packed, int64_t out_channels, Pair kernel_size) {
  const int64_t groups = packed.size(0), taps = kernel_size[0] * kernel_size[1];
  const at::Tensor rows = packed.permute({0, 1, 3, 2}).flatten(1, 2);  // [G, B * W, L]
  return rows.slice(1, 0, out_channels / groups)
      .unflatten(2, {taps, -1})
      .permute({0, 1, 3, 2})
      .reshape({out_channels, -1, kernel_size[0], kernel_size[1]});
}

// With gradients the same is computed by torch's own operations.
at::Tensor with_gradients(const at::Tensor& x, const at::Tensor& packed, const Optional& bias,
                          int64_t out_channels, Pair kernel_size, Pair stride, Pair padding,
                          Pair dilation, int64_t groups, const Optional& scale,
                          const Optional& gate, const Optional& means, const Optional& shortcut,
                          std::optional<double> low, std::optional<double> high, Pair schedule) {
  auto wants = [](const Optional& t) { return t && t->requires_grad(); };
  if (at::GradMode::is_enabled() && (x.requires_grad() || packed.requires_grad() || wants(bias) ||
                                     wants(scale) || wants(gate) || wants(shortcut))) {
    const at::Tensor weight = unpacked(packed, out_channels, kernel_size);
    const std::vector<int64_t> none(2, 0);
    at::Tensor y = at::convolution(x, weight, bias, stride, padding, dilation, false, none, groups);
    Optional factors = scale;
    if (gate) {
      const at::Tensor scaled = at::mul(y.mean({2, 3}), gate->select(0, 0));
      const at::Tensor inner = at::add(scaled, gate->select(0, 1));
      factors = at::mul(inner.sigmoid(), gate->select(0, 2));
    }
    if (factors) y = at::mul(y, factors->unsqueeze(-1).unsqueeze(-1));
    if (shortcut) y = at::add(y, *shortcut);
    if (low || high) {
      auto limit = [](std::optional<double> v) {
        return v ? std::optional<at::Scalar>(*v) : std::nullopt;
      };
      y = at::clamp(y, limit(low), limit(high));
    }
    return y;
  }
  at::AutoDispatchBelowADInplaceOrView below;
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("accuracy_booster::packed_conv", "")
                             .typed<decltype(packed_conv)>();
  return op.call(x, packed, bias, out_channels, kernel_size, stride, padding, dilation, groups,
                 scale, gate, means, shortcut, low, high, schedule);
}

}  // namespace

TORCH_LIBRARY_IMPL(accuracy_booster, CPU, m) {
  m.impl("packed_conv", &packed_conv);
  m.impl("packed_conv_onto", &packed_conv_onto);
}
TORCH_LIBRARY_IMPL(accuracy_booster, AutogradCPU, m) { m.impl("packed_conv", &with_gradients); }
