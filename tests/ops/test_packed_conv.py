"""The convolution kernel against float64, over odd shapes; its gradients, compiled and exported."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.threads import call_from_threads
from torch import nn

from accuracy_booster.ops import packed_conv
from accuracy_booster.ops.packed_conv import BY_PANELS, BY_POSITIONS, Schedule
from accuracy_booster.ops.pooled_conv import has_pooled_form, tap_sums

OP = torch.ops.accuracy_booster.packed_conv
reason = packed_conv.why_not(nn.Conv2d(1, 1, 1))
needs_kernel = pytest.mark.skipif(reason is not None, reason=f"no kernel here: {reason}")

# N, C, K, H, W, kernel, stride, padding, dilation, groups
SHAPES = [
    (2, 8, 64, 7, 7, 1, 1, 0, 1, 1),
    (1, 5, 3, 1, 1, 1, 1, 0, 1, 1),
    (3, 33, 65, 5, 3, 1, 1, 0, 1, 1),
    (1, 64, 16, 9, 1, 1, 2, 0, 1, 1),
    (1, 16, 16, 32, 32, 3, 1, 1, 1, 1),
    (2, 7, 50, 6, 11, 3, 2, 1, 1, 1),
    (1, 3, 20, 13, 10, 7, 2, 3, 1, 1),
    (2, 12, 40, 9, 8, (1, 5), (2, 1), (0, 2), 1, 4),
    (1, 48, 48, 7, 7, 3, 1, 1, 1, 2),
    (1, 12, 6, 7, 7, 3, 1, 4, 3, 3),
    (2, 4, 4, 5, 5, (3, 2), (3, 2), (2, 0), (2, 1), 1),
]
SCHEDULES = [BY_POSITIONS, BY_PANELS, Schedule(5, 2), Schedule(1, 1)]


def make(n, c, k, h, w, kernel, stride, padding, dilation, groups):
    """A layer, its map, and shortcut and scale for its output."""
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(c, k, kernel, stride, padding, dilation, groups)
    x = torch.randn(n, c, h, w, generator=generator)
    with torch.no_grad():
        y = conv(x)
    shortcut = torch.randn(y.shape, generator=generator)
    return conv, x, torch.rand(n, k, generator=generator), shortcut


def arguments(
    conv, x, scale=None, shortcut=None, low=None, high=None, gate=None, schedule=BY_POSITIONS
):
    means = None
    if gate is not None and conv.kernel_size != (1, 1):
        sums, area = tap_sums(x, conv)
        means = sums.transpose(1, 2).flatten(1) / area
    return (
        *(x, packed_conv.pack(conv.weight, conv.groups), conv.bias, conv.out_channels),
        *(conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups),
        *(scale, gate, means, shortcut, low, high, schedule.as_list()),
    )


def exact(conv, x, scale=None, shortcut=None, low=None, high=None, gate=None):
    """The same in float64, by torch."""
    places = conv.stride, conv.padding, conv.dilation, conv.groups
    y = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), *places)
    if gate is not None:
        weight, bias, factor = gate.double()
        scale = factor * torch.sigmoid(weight * y.mean((2, 3)) + bias)
    if scale is not None:
        y = y * scale.double()[:, :, None, None]
    if shortcut is not None:
        y = y + shortcut.double()
    return y if low is None and high is None else y.clamp(low, high)


def assert_close(found, truth):
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert found.shape == truth.shape
    assert float((found - truth).abs().max()) <= 2e-6 * max(1.0, float(truth.abs().max()))


@pytest.mark.parametrize("shape", SHAPES)
def test_packing_is_undone(shape):
    conv, *_ = make(*shape)
    packed = packed_conv.pack(conv.weight, conv.groups)
    assert packed.is_contiguous()
    assert len(packed) == conv.groups
    assert packed.shape[3] in packed_conv.WIDTHS
    found = packed_conv.unpack(packed, conv.out_channels, list(conv.kernel_size))
    assert torch.equal(found, conv.weight)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_kernel_and_reference_compute_the_convolution(shape, schedule):
    conv, x, scale, shortcut = make(*shape)
    for terms in (
        {},
        {"low": 0.0},
        {"scale": scale},
        {"shortcut": shortcut, "low": -0.5, "high": 0.5},
        {"scale": scale, "shortcut": shortcut, "low": 0.0, "high": None},
    ):
        given = arguments(conv, x, **terms, schedule=schedule)
        truth = exact(conv, x, **terms)
        assert_close(OP(*given), truth)
        assert_close(packed_conv.reference(*given), truth)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_a_gate_of_each_channel_is_computed_on_the_way(shape, schedule):
    conv, x, _, shortcut = make(*shape)
    if conv.groups > 1 or not has_pooled_form(conv):
        conv = nn.Conv2d(conv.in_channels, conv.out_channels, 1, 2)
        shortcut = torch.randn(conv(x).shape)
    gate = torch.randn(3, conv.out_channels)
    terms = {"gate": gate, "shortcut": shortcut, "low": 0.0}
    given, truth = arguments(conv, x, **terms, schedule=schedule), exact(conv, x, **terms)
    assert_close(OP(*given), truth)
    assert_close(packed_conv.reference(*given), truth)


@needs_kernel
@torch.no_grad()
def test_any_order_in_memory_is_taken():
    conv, x, scale, shortcut = make(2, 6, 20, 9, 8, 3, 1, 1, 1, 1)
    truth = exact(conv, x, scale, shortcut)
    wide = torch.randn(2, 6, 9, 16)
    wide[..., ::2] = x
    for map_ in (x, x.contiguous(memory_format=torch.channels_last), wide[..., ::2]):
        assert_close(OP(*arguments(conv, map_, scale.t().contiguous().t(), shortcut)), truth)


@needs_kernel
@torch.no_grad()
def test_not_a_number_stays_one():
    conv, x, *_ = make(1, 4, 16, 3, 3, 1, 1, 0, 1, 1)
    x[0, 1, 2, 2] = torch.nan
    y = OP(*arguments(conv, x, low=0.0, high=6.0))
    assert y[0, :, 2, 2].isnan().all()
    assert y[0, :, :2].isfinite().all()


@needs_kernel
def test_a_shut_gate_does_not_hide_an_infinite_number():
    x = torch.ones(1, 1, 2, 2)
    x[0, 0, 0, 0] = torch.inf
    conv = nn.Conv2d(1, 1, 1, bias=False).requires_grad_(False)
    nn.init.ones_(conv.weight)
    gate = torch.tensor([[-1.0], [0.0], [1.0]])  # sigmoid(-infinity) = 0
    found = OP(*arguments(conv, x, gate=gate, low=0.0))
    truth = packed_conv.reference(*arguments(conv, x, gate=gate, low=0.0))
    torch.testing.assert_close(found, truth, equal_nan=True)
    assert found[0, 0, 0, 0].isnan()


@needs_kernel
@torch.no_grad()
def test_no_images_give_no_images():
    conv, x, *_ = make(1, 4, 16, 3, 3, 1, 1, 0, 1, 1)
    assert OP(*arguments(conv, x[:0])).shape == (0, 16, 3, 3)


@needs_kernel
@torch.no_grad()
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.randn(1, 4, 3, 3, dtype=torch.float64)}, "x must be float32"),
        ({"x": torch.randn(1, 5, 3, 3)}, "do not fit a map of 5 channels"),
        ({"scale": torch.ones(1, 3)}, r"scale must be \[1, 16\], is \[1, 3\]"),
        ({"shortcut": torch.ones(1, 16, 1, 1)}, r"shortcut must be \[1, 16, 3, 3\]"),
        ({"shortcut": torch.ones(1, 16, 3, 3).half()}, "shortcut must be float32"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    conv, x, *_ = make(1, 4, 16, 3, 3, 1, 1, 0, 1, 1)
    with pytest.raises(RuntimeError, match=message):
        OP(*arguments(conv, **{"x": x, **change}))


@needs_kernel
@torch.no_grad()
def test_a_kernel_larger_than_the_map_is_refused():
    conv = nn.Conv2d(3, 16, 3, 2)
    with pytest.raises(RuntimeError, match=r"larger than the padded map \[2, 9\]"):
        OP(*arguments(conv, torch.randn(1, 3, 2, 9)))


@needs_kernel
@pytest.mark.parametrize("threads", [1, 2, 5])
@torch.no_grad()
def test_the_number_of_threads_changes_no_bit(threads):
    conv, x, scale, shortcut = make(3, 16, 80, 9, 9, 3, 1, 1, 1, 1)
    given = arguments(conv, x, scale, shortcut, 0.0)
    one = OP(*given)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(OP(*given), one)
    finally:
        torch.set_num_threads(before)


# batches smaller and larger than the number of threads, weights smaller and larger than a cache
GATED = [(1, 64, 40, 6, 5), (5, 24, 40, 6, 5), (1, 520, 544, 2, 2), (9, 520, 544, 2, 2)]


@needs_kernel
@pytest.mark.parametrize("schedule", [BY_POSITIONS, BY_PANELS, Schedule(3, 4)])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("shape", GATED)
@torch.no_grad()
def test_gates_under_threads(shape, threads, schedule):
    conv, x, _, shortcut = make(*shape, 1, 1, 0, 1, 1)
    terms = {"gate": torch.randn(3, conv.out_channels), "shortcut": shortcut, "low": 0.0}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = OP(*arguments(conv, x, **terms, schedule=schedule))
    finally:
        torch.set_num_threads(before)
    assert_close(found, exact(conv, x, **terms))


@needs_kernel
@torch.no_grad()
def test_a_gate_that_is_open_or_shut():
    conv, x, *_ = make(1, 4, 16, 3, 3, 1, 1, 0, 1, 1)
    one, zero = torch.ones(16), torch.zeros(16)
    plain = OP(*arguments(conv, x))
    wide_open = OP(*arguments(conv, x, gate=torch.stack([zero, 1e6 * one, one])))
    assert torch.equal(wide_open, plain)
    shut = OP(*arguments(conv, x, gate=torch.stack([zero, -1e6 * one, one])))
    assert float(shut.abs().max()) < 1e-30
    at_start = OP(*arguments(conv, x, gate=torch.stack([zero, zero, 2 * one])))
    assert torch.equal(at_start, plain)  # 2 * sigmoid(0) is 1


@needs_kernel
def test_threads_of_python_may_call_it_at_the_same_time():
    conv, x, scale, shortcut = make(2, 16, 48, 9, 9, 3, 1, 1, 1, 1)
    given = arguments(conv, x, scale, shortcut, 0.0)
    found = []

    def call():
        with torch.no_grad():
            found.extend(OP(*given) for _ in range(20))

    call_from_threads(call)
    assert len(found) == 80
    assert all(torch.equal(y, found[0]) for y in found)


@needs_kernel
def test_gradients_are_those_of_the_convolution():
    conv, x, scale, shortcut = make(2, 6, 20, 5, 5, 3, 1, 1, 1, 2)
    packed = packed_conv.pack(conv.weight, 2).requires_grad_()
    leaves = [t.requires_grad_() for t in (x, scale, shortcut)]
    given = arguments(conv, x, scale, shortcut, 0.0)
    y = OP(x, packed, *given[2:])
    y.square().sum().backward()
    found = [t.grad for t in (*leaves, conv.bias)]
    found.append(packed_conv.unpack(packed.grad, 20, [3, 3]))
    doubles = [t.detach().double().requires_grad_() for t in (x, scale, shortcut)]
    double = nn.Conv2d(6, 20, 3, padding=1, groups=2).double()
    double.load_state_dict(conv.state_dict())
    z, p, s = doubles
    (double(z) * p[:, :, None, None] + s).relu().square().sum().backward()
    for a, b in zip(
        found, [z.grad, p.grad, s.grad, double.bias.grad, double.weight.grad], strict=True
    ):
        assert torch.allclose(a.double(), b, rtol=1e-4, atol=1e-4)


class Calls(nn.Module):
    """A network that is one call of the operator."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv
        self.register_buffer("packed", packed_conv.pack(conv.weight, conv.groups))

    def forward(self, x):
        given = arguments(self.conv, x, low=0.0)
        return OP(x, self.packed, *given[2:]) + 1


@needs_kernel
@torch.no_grad()
def test_compilers_and_exporters_take_it_whole(tmp_path):
    conv, x, *_ = make(2, 6, 20, 9, 8, 3, 1, 1, 1, 1)
    conv.requires_grad_(False)
    network = Calls(conv).eval()
    truth = exact(conv, x, low=0.0) + 1
    assert_close(torch.compile(network, fullgraph=True)(x), truth)
    torch.export.save(torch.export.export(network, (x,)), tmp_path / "network.pt2")
    loaded = torch.export.load(tmp_path / "network.pt2")
    assert "accuracy_booster.packed_conv" in loaded.graph_module.code
    assert_close(loaded.module()(x), truth)


@needs_kernel
def test_the_operator_keeps_torchs_rules():
    conv, x, scale, shortcut = make(2, 6, 20, 5, 5, 3, 1, 1, 1, 1)
    with torch.no_grad():
        checks = ("test_schema", "test_faketensor")
        torch.library.opcheck(
            OP.default, arguments(conv, x, scale, shortcut, 0.0), test_utils=checks
        )


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Conv1d(4, 4, 3), "Conv1d"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "reflect"),
        (nn.Conv2d(4, 4, 3, padding="same"), "same"),
        (nn.Conv2d(4, 4, 3, groups=4), "depthwise"),
        (nn.Conv2d(4, 4, 3).double(), "float64"),
        (nn.Conv2d(4, 4, 3, device="meta"), "meta"),
    ],
)
def test_layers_that_cannot_be_packed_say_why(layer, words):
    assert words in packed_conv.why_not(layer)
