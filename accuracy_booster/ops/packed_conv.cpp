// A convolution of float32 maps in channels-last memory, finished while its result is at hand:
//
//     out = clamp((conv(x) + bias) * p + shortcut, low, high)
//
// p[N, K] are the weights of a gate: given, or computed on the way (`weigh`). `packed_conv.py` says
// what the arguments mean and how the weights of the convolution are packed. `direct_conv.h` and
// `winograd_conv.h` compute it; here are the operators.

// N batch, C input channels, K output channels, H W space, P Q space of the output, G groups

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/add.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "conv_operands.h"
#include "direct_conv.h"
#include "gate_of_map.h"
#include "vectors.h"
#include "winograd_conv.h"

namespace {

using Pair = at::IntArrayRef;
using Optional = std::optional<at::Tensor>;

void check_winograd(const Geometry& g, int64_t side) {
  auto all = [](const std::array<int64_t, 2>& pair, int64_t value) {
    return pair[0] == value && pair[1] == value;
  };
  TORCH_CHECK(side == 4 || side == 6, "Winograd's tiles have 2 or 4 outputs a side, not ", side - 2);
  TORCH_CHECK(all(g.kernel, 3) && all(g.stride, 1) && all(g.dilation, 1) && g.groups == 1,
              "Winograd's form needs a 3x3 kernel with stride 1, dilation 1 and groups=1");
}

// The convolution; with `in_place` it is written where the shortcut is.
at::Tensor compute(const at::Tensor& x, const at::Tensor& packed, const Optional& bias,
                   int64_t out_channels, Pair kernel_size, Pair stride, Pair padding, Pair dilation,
                   int64_t groups, const Optional& scale, const Optional& gate,
                   const Optional& means, const Optional& shortcut, std::optional<double> low,
                   std::optional<double> high, Pair schedule, bool in_place) {
  TORCH_CHECK(x.dim() == 4 && packed.dim() == 4, "x must be [N, C, H, W] and packed [G, B, L, W]");
  TORCH_CHECK(schedule.size() == 3, "schedule must be (positions, panels, outputs)");
  Geometry g;
  g.N = x.size(0), g.C = x.size(1), g.H = x.size(2), g.W = x.size(3);
  g.K = out_channels, g.groups = groups;
  std::copy_n(kernel_size.begin(), 2, g.kernel.begin());
  std::copy_n(stride.begin(), 2, g.stride.begin());
  std::copy_n(padding.begin(), 2, g.padding.begin());
  std::copy_n(dilation.begin(), 2, g.dilation.begin());
  for (auto [side, i] : {std::pair{g.H, 0}, std::pair{g.W, 1}})
    TORCH_CHECK(side + 2 * g.padding[i] > g.dilation[i] * (g.kernel[i] - 1),
                "the kernel is larger than the padded map [", g.H, ", ", g.W, "]");
  g.find_outputs();
  TORCH_CHECK(g.C % groups == 0 && g.K % groups == 0, "groups=", groups, " must divide channels");
  TORCH_CHECK(schedule[2] >= 0, "schedule's outputs must be 0, 2 or 4");
  const int64_t side = schedule[2] ? schedule[2] + 2 : 0;  // of Winograd's tiles
  if (side) check_winograd(g, side);
  const int64_t matrices = side ? side * side : groups;
  const int64_t length = side ? g.C : g.taps() * (g.C / groups);
  TORCH_CHECK(packed.size(0) == matrices && packed.size(2) == length,
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
    TORCH_CHECK(!scale && groups == 1 && !side,
                "a gate needs groups=1, no scale, and no Winograd form");
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
  if (side == 4) Winograd<4>(g, o, schedule[0], schedule[1]).run();
  else if (side == 6) Winograd<6>(g, o, schedule[0], schedule[1]).run();
  else Direct(g, o, schedule[0], schedule[1]).run();
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

// The packed weights of Winograd's form [A * A, B, C, W], for A x A tiles -> weight [K, C, 3, 3]
at::Tensor unpacked_winograd(const at::Tensor& packed, int64_t out_channels, int64_t side) {
  std::vector<float> left(3 * side, 0.f);  // left @ G is the identity
  const float odd = side == 4 ? 1.f : NEAR * (NEAR2 - FAR2);
  left[0] = side == 4 ? 1.f : NEAR2 * FAR2;
  left[side + 1] = odd, left[side + 2] = -odd;
  left[3 * side - 1] = 1.f;
  const at::Tensor inverse = at::tensor(left).view({3, side}).to(packed.scalar_type());
  const at::Tensor points = packed.view({side, side, -1, packed.size(2), packed.size(3)});
  const at::Tensor taps = inverse.matmul(points.permute({2, 4, 3, 0, 1})).matmul(inverse.t());
  return taps.flatten(0, 1).slice(0, 0, out_channels);
}

// [G, B, L, W] -> the convolution's weight [K, C / G, kh, kw]
at::Tensor unpacked(const at::Tensor& packed, int64_t out_channels, Pair kernel_size,
                    int64_t outputs) {
  if (outputs) return unpacked_winograd(packed, out_channels, outputs + 2);
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
    const at::Tensor weight = unpacked(packed, out_channels, kernel_size, schedule[2]);
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

// For a program without Python. In Python `packed_conv.py` and `gate_of_map.py` define the operators,
// with the same texts, before this file is loaded.
#define GEOMETRY "int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation"
#define OPERANDS                                                                       \
  "Tensor x, Tensor packed, Tensor? bias, int out_channels, " GEOMETRY ", int groups," \
  "Tensor? scale, Tensor? gate, Tensor? means"
#define END "float? low, float? high, int[3] schedule"
TORCH_LIBRARY_FRAGMENT(accuracy_booster, m) {
  if (c10::Dispatcher::singleton().findSchema({"accuracy_booster::packed_conv", ""})) return;
  m.def("packed_conv(" OPERANDS ", Tensor? shortcut, " END ") -> Tensor");
  m.def("packed_conv_onto(Tensor(a!) shortcut, " OPERANDS ", " END ") -> ()");
  m.def("gate_of_map(Tensor x, " GEOMETRY
        ", Tensor[] weights, Tensor[] biases, float scale) -> Tensor");
}

TORCH_LIBRARY_IMPL(accuracy_booster, CPU, m) {
  m.impl("packed_conv", &packed_conv);
  m.impl("packed_conv_onto", &packed_conv_onto);
  m.impl("gate_of_map", &gate_of_map);
}
TORCH_LIBRARY_IMPL(accuracy_booster, AutogradCPU, m) { m.impl("packed_conv", &with_gradients); }
