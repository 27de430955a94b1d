// A convolution of float32 maps in channels-last memory, finished while its result is in registers:
//
//     out = clamp((conv(x) + bias) * scale + shortcut, low, high)
//
// `packed_conv.py` says what the arguments mean and how the weights are packed.
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

// Write past the caches, for a map that is larger than they are.
inline void stream(float* to, Vector value) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, reinterpret_cast<__m512>(value));
#else
  _mm256_stream_ps(to, reinterpret_cast<__m256>(value));
#endif
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
  bool clamps, streams;
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
    if (finish.streams) {
      all([&](int m, int v, Vector& y) { stream(finish.out[m] + v * LANES, y); });
    } else {
      all([&](int m, int v, Vector& y) { store(finish.out[m] + v * LANES, y); });
    }
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
  float* out;
  float low, high;
  bool clamps, streams;
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

void run(const Geometry& g, const Operands& o, int64_t block, int64_t group) {
  const int64_t positions = g.N * g.P * g.Q, taps = g.taps();
  const int64_t channels = g.C / g.groups, columns = g.K / g.groups;  // of one group
  const int64_t panels = (columns + o.width - 1) / o.width, total = g.groups * panels;
  const std::vector<float> zeros(g.C, 0.f);
  const Rows finder(g, o.x, zeros.data());

  // A task is a block of positions by a group of panels. There must be enough for all threads.
  const int64_t threads = at::get_num_threads();
  block = std::clamp<int64_t>(block, 1, std::min(positions, MOST_POSITIONS));
  group = std::clamp<int64_t>(group, 1, total);
  auto blocks = [&] { return (positions + block - 1) / block; };
  auto groups = [&] { return (total + group - 1) / group; };
  while (threads > 1 && blocks() * groups() < 2 * threads && (group > 1 || block > 2 * ROWS)) {
    if (group > 1) group = (group + 1) / 2;
    else block = (block + 1) / 2;
  }
  at::parallel_for(0, blocks() * groups(), 1, [&](int64_t begin, int64_t end) {
    std::vector<const float*> rows(block * taps);
    for (int64_t task = begin; task < end; task++) {
      // the blocks of one group of panels follow each other, so that its weights stay in the cache
      const int64_t start = task % blocks() * block, stop = std::min(positions, start + block);
      const int64_t from = task / blocks() * group, to = std::min(total, from + group);
      // tiles of about the same number of rows, since small tiles are slow
      const int64_t number = (stop - start + ROWS - 1) / ROWS;
      int64_t of = 0;  // the group of channels that the rows begin in
      finder.find(start, stop - start, rows.data());
      for (int64_t panel = from; panel < to; panel++) {
        const int64_t inside = panel % panels * o.width;
        if (of != panel / panels) {
          const int64_t step = (panel / panels - of) * channels;
          for (auto& row : rows)
            if (row != zeros.data()) row += step;
          of = panel / panels;
        }
        const float* weights = o.weights + panel * taps * channels * o.width;
        for (int64_t i = 0; i < number; i++) {
          const int64_t first = (stop - start) * i / number;
          const int count = (stop - start) * (i + 1) / number - first;
          for (int64_t part = 0; part < o.width && inside + part < columns; part += COLUMNS) {
            Finish finish;
            const int64_t column = of * columns + inside + part;
            finish.columns = std::min<int64_t>({COLUMNS, columns - inside - part, o.width - part});
            finish.bias = o.bias ? o.bias + column : nullptr;
            finish.scale[0] = finish.shortcut[0] = nullptr;
            finish.low = o.low, finish.high = o.high;
            finish.clamps = o.clamps, finish.streams = o.streams;
            for (int m = 0; m < count; m++) {
              const int64_t position = start + first + m, at = position * g.K + column;
              finish.out[m] = o.out + at;
              if (o.shortcut) finish.shortcut[m] = o.shortcut + at;
              if (o.scale) finish.scale[m] = o.scale + position / (g.P * g.Q) * g.K + column;
            }
            if (!o.streams) {
              const bool below = panel + 1 == to;  // the next tile begins a new row of tiles
              const int64_t step = below ? from * o.width - column : COLUMNS;
              ask_for(o, start + first + (below ? count : 0), count, positions, g.K, column + step);
            }
            const float* ahead = weights + taps * channels * o.width;  // the next panel
            const auto& chosen = finish.columns > LANES ? WIDE : NARROW;
            chosen[count - 1](rows.data() + first * taps, taps, channels, weights + part, o.width,
                              ahead, finish);
          }
        }
      }
    }
    if (o.streams) _mm_sfence();
  });
}

using Pair = at::IntArrayRef;
using Optional = std::optional<at::Tensor>;

// The convolution; with `in_place` it is written where the shortcut is.
at::Tensor compute(const at::Tensor& x, const at::Tensor& packed, const Optional& bias,
                   int64_t out_channels, Pair kernel_size, Pair stride, Pair padding, Pair dilation,
                   int64_t groups, const Optional& scale, const Optional& shortcut,
                   std::optional<double> low, std::optional<double> high, Pair schedule,
                   bool in_place) {
  TORCH_CHECK(x.dim() == 4 && packed.dim() == 4, "x must be [N, C, H, W] and packed [G, B, L, W]");
  TORCH_CHECK(schedule.size() == 3, "schedule must be (positions, panels, stream)");
  Geometry g;
  g.N = x.size(0), g.C = x.size(1), g.H = x.size(2), g.W = x.size(3);
  g.K = out_channels, g.groups = groups;
  std::copy_n(kernel_size.begin(), 2, g.kernel.begin());
  std::copy_n(stride.begin(), 2, g.stride.begin());
  std::copy_n(padding.begin(), 2, g.padding.begin());
  std::copy_n(dilation.begin(), 2, g.dilation.begin());
  g.P = (g.H + 2 * g.padding[0] - g.dilation[0] * (g.kernel[0] - 1) - 1) / g.stride[0] + 1;
  g.Q = (g.W + 2 * g.padding[1] - g.dilation[1] * (g.kernel[1] - 1) - 1) / g.stride[1] + 1;
  TORCH_CHECK(g.P > 0 && g.Q > 0, "the kernel is larger than the padded map [", g.H, ", ", g.W, "]");
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
  o.shortcut = shortcut ? own_shortcut.const_data_ptr<float>() : nullptr;
  o.out = out.data_ptr<float>();
  o.low = low.value_or(-most), o.high = high.value_or(most);
  o.clamps = low || high;
  o.width = packed.size(3);
  const bool aligned = g.K / groups % LANES == 0 && reinterpret_cast<uintptr_t>(o.out) % 64 == 0;
  o.streams = schedule[2] && aligned;
  run(g, o, schedule[0], schedule[1]);
  return out;
}

at::Tensor packed_conv(const at::Tensor& x, const at::Tensor& packed, const Optional& bias,
                       int64_t out_channels, Pair kernel_size, Pair stride, Pair padding,
                       Pair dilation, int64_t groups, const Optional& scale,
                       const Optional& shortcut, std::optional<double> low,
                       std::optional<double> high, Pair schedule) {
  return compute(x, packed, bias, out_channels, kernel_size, stride, padding, dilation, groups,
                 scale, shortcut, low, high, schedule, false);
}

void packed_conv_onto(at::Tensor shortcut, const at::Tensor& x, const at::Tensor& packed,
                      const Optional& bias, int64_t out_channels, Pair kernel_size, Pair stride,
                      Pair padding, Pair dilation, int64_t groups, const Optional& scale,
                      std::optional<double> low, std::optional<double> high, Pair schedule) {
  const at::Tensor out =
      compute(x, packed, bias, out_channels, kernel_size, stride, padding, dilation, groups, scale,
              shortcut, low, high, schedule, true);
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
                          const Optional& shortcut, std::optional<double> low,
                          std::optional<double> high, Pair schedule) {
  auto wants = [](const Optional& t) { return t && t->requires_grad(); };
  if (at::GradMode::is_enabled() && (x.requires_grad() || packed.requires_grad() || wants(bias) ||
                                     wants(scale) || wants(shortcut))) {
    const at::Tensor weight = unpacked(packed, out_channels, kernel_size);
    const std::vector<int64_t> none(2, 0);
    at::Tensor y = at::convolution(x, weight, bias, stride, padding, dilation, false, none, groups);
    if (scale) y = at::mul(y, scale->unsqueeze(-1).unsqueeze(-1));
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
                 scale, shortcut, low, high, schedule);
}

}  // namespace

TORCH_LIBRARY_IMPL(accuracy_booster, CPU, m) {
  m.impl("packed_conv", &packed_conv);
  m.impl("packed_conv_onto", &packed_conv_onto);
}
TORCH_LIBRARY_IMPL(accuracy_booster, AutogradCPU, m) { m.impl("packed_conv", &with_gradients); }
