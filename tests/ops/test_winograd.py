"""3x3 convolutions in Winograd's form against float64: shapes, terms, schedules, refusals."""

# N batch, C input channels, K output channels, H W space, P Q space of the output, A = m + 2

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from support.threads import call_from_threads
from torch import nn

from accuracy_booster.ops import packed_conv, winograd
from accuracy_booster.ops.packed_conv import BY_POSITIONS, Schedule

OP = torch.ops.accuracy_booster.packed_conv
ONTO = torch.ops.accuracy_booster.packed_conv_onto
reason = packed_conv.why_not(nn.Conv2d(1, 1, 3))
needs_kernel = pytest.mark.skipif(reason is not None, reason=f"no kernel here: {reason}")
OUTPUTS = (2, 4)

# N, C, K, H, W, padding
SHAPES = [
    (1, 5, 3, 1, 1, 1),
    (3, 33, 65, 2, 3, 1),
    (1, 16, 20, 5, 1, (0, 1)),
    (1, 3, 33, 1, 1, 2),
    (3, 7, 50, 9, 8, 0),
    (1, 48, 40, 7, 7, (2, 0)),
    (3, 20, 16, 6, 11, (1, 2)),
    (1, 1, 1, 13, 10, (0, 2)),
]
# blocks of one tile, of some, of all; groups of one panel, of two, of all
BLOCKS = [(1, 1), (3, 2), (28, 1 << 30), (1 << 30, 1), (1 << 30, 1 << 30)]


def make(n, c, k, h, w, padding):
    """A layer, its map, and scale and shortcut for its output."""
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(c, k, 3, padding=padding).requires_grad_(False)
    x = torch.randn(n, c, h, w, generator=generator)
    shortcut = torch.randn(conv(x).shape, generator=generator)
    return conv, x, torch.rand(n, k, generator=generator), shortcut


def arguments(conv, x, schedule, scale=None, shortcut=None, low=None, high=None, **changes):
    """Of the operator; `changes` replace what the layer says."""
    given = {"bias": conv.bias, "gate": None, **changes}
    if "packed" not in given:
        given["packed"] = packed_conv.pack(conv.weight, conv.groups, schedule.outputs)
    return (
        *(x, given["packed"], given["bias"], conv.out_channels, conv.kernel_size),
        *(conv.stride, conv.padding, conv.dilation, conv.groups, scale, given["gate"], None),
        *(shortcut, low, high, schedule.as_list()),
    )


def exact(conv, x, scale=None, shortcut=None, low=None, high=None):
    """The same in float64, by torch."""
    bias = None if conv.bias is None else conv.bias.double()
    y = F.conv2d(x.double(), conv.weight.double(), bias, padding=conv.padding)
    y = y if scale is None else y * scale.double()[:, :, None, None]
    y = y if shortcut is None else y + shortcut.double()
    return y if low is None and high is None else y.clamp(low, high)


def assert_close(found, truth):
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert found.shape == truth.shape
    assert float((found - truth).abs().max()) <= 3e-6 * max(1.0, float(truth.abs().max()))


@pytest.fixture
def threads():
    """A function that sets the number of threads; afterwards it is as before."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize(("c", "k"), [(5, 3), (16, 16), (33, 65), (1, 40)])
def test_packing_is_undone(c, k, outputs):
    weight = torch.randn(k, c, 3, 3)
    packed = packed_conv.pack(weight, 1, outputs)
    points, panels, length, width = packed.shape
    assert packed.is_contiguous()
    assert (points, length) == ((outputs + 2) ** 2, c)
    assert width in packed_conv.WIDTHS
    assert panels * width - k in range(width)
    found = packed_conv.unpack(packed, k, [3, 3], outputs)
    torch.testing.assert_close(found, weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_in_float64_weights_come_back_to_the_last_places(outputs):
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    again = winograd.transform_back(winograd.transform(weight, outputs), outputs)
    torch.testing.assert_close(again, weight, rtol=1e-13, atol=1e-13)


@needs_kernel
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_and_reference_compute_the_convolution(shape, outputs, threads):
    conv, x, scale, shortcut = make(*shape)
    all_terms = {"scale": scale, "shortcut": shortcut, "low": -0.5, "high": 0.5}
    for terms in ({}, all_terms):
        truth = exact(conv, x, **terms)
        for number, (tiles, panels) in itertools.product((1, 2, 3), BLOCKS):
            threads(number)
            given = arguments(conv, x, Schedule(tiles, panels, outputs), **terms)
            assert_close(OP(*given), truth)
        assert_close(packed_conv.reference(*given), truth)


@needs_kernel
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("k", [20, 64])
def test_all_terms_in_all_combinations(k, outputs):
    conv, x, scale, shortcut = make(2, 6, k, 5, 7, 1)
    clamps = ({}, {"low": 0.0}, {"high": 0.3}, {"low": -0.2, "high": 0.3})
    for has_bias, p, s, clamp in itertools.product(
        (True, False), (None, scale), (None, shortcut), clamps
    ):
        layer = nn.Conv2d(6, k, 3, padding=1, bias=has_bias).requires_grad_(False)
        layer.weight.copy_(conv.weight)
        truth = exact(layer, x, p, s, **clamp)
        given = arguments(layer, x, Schedule(3, 1, outputs), p, s, **clamp)
        assert_close(OP(*given), truth)
        if s is not None:
            for order in (torch.channels_last, torch.contiguous_format):
                written = s.clone(memory_format=order)
                ONTO(written, *given[:12], *given[13:])
                assert written.is_contiguous(memory_format=order)
                assert_close(written.contiguous(memory_format=torch.channels_last), truth)


@needs_kernel
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_neither_threads_nor_blocks_change_a_bit(outputs, threads):
    conv, x, scale, shortcut = make(3, 16, 80, 9, 9, 1)
    one = None
    for number, (tiles, panels) in itertools.product((1, 2, 3, 5), BLOCKS):
        threads(number)
        schedule = Schedule(tiles, panels, outputs)
        y = OP(*arguments(conv, x, schedule, scale, shortcut, 0.0))
        one = y if one is None else one
        assert torch.equal(y, one), (number, tiles, panels)


@needs_kernel
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_any_order_in_memory_is_taken(outputs):
    conv, x, scale, shortcut = make(2, 6, 20, 9, 8, 1)
    truth = exact(conv, x, scale, shortcut)
    wide, schedule = torch.randn(2, 6, 9, 16), Schedule(28, 1, outputs)
    wide[..., ::2] = x
    packed = packed_conv.pack(conv.weight, 1, outputs)
    scattered = packed.transpose(0, 2).contiguous().transpose(0, 2)
    for map_ in (x, x.contiguous(memory_format=torch.channels_last), wide[..., ::2]):
        given = arguments(
            conv, map_, schedule, scale.t().contiguous().t(), shortcut, packed=scattered
        )
        assert_close(OP(*given), truth)
    same = x[:1].expand(2, -1, -1, -1)
    assert_close(OP(*arguments(conv, same, schedule)), exact(conv, same))


def rounding_error(conv, x, schedule):
    """The root of the mean squared difference to float64."""
    return float((OP(*arguments(conv, x, schedule)) - exact(conv, x)).square().mean().sqrt())


@needs_kernel
def test_rounding_errors_are_near_those_of_the_sums_of_products():
    torch.manual_seed(0)
    conv = nn.Conv2d(256, 256, 3, padding=1).requires_grad_(False)
    x = torch.randn(1, 256, 12, 12)
    sums = rounding_error(conv, x, BY_POSITIONS)
    assert sums > 0
    assert rounding_error(conv, x, Schedule(28, 1, 2)) < 1.2 * sums
    assert rounding_error(conv, x, Schedule(28, 1, 4)) < 3 * sums


@needs_kernel
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_what_is_not_a_number_stays_in_its_tiles(outputs):
    conv, x, *_ = make(2, 5, 20, 13, 13, 1)
    clean = OP(*arguments(conv, x, Schedule(28, 1, outputs), low=0.0, high=6.0))
    x[0, 1, 0, 0] = torch.nan
    y = OP(*arguments(conv, x, Schedule(28, 1, outputs), low=0.0, high=6.0))
    assert y[0, :, :2, :2].isnan().all()
    far = [y[0, :, outputs:], y[0, :, :, outputs:], y[1]]
    assert all(map_.isfinite().all() for map_ in far)
    # the memory that threads keep leaves nothing of it to later calls
    x[0, 1, 0, 0] = torch.inf
    OP(*arguments(conv, x, Schedule(28, 1, outputs)))
    again = make(2, 5, 20, 13, 13, 1)[1]
    assert torch.equal(
        OP(*arguments(conv, again, Schedule(28, 1, outputs), None, None, 0.0, 6.0)), clean
    )


@needs_kernel
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_no_images_give_no_images(outputs):
    conv, x, *_ = make(1, 4, 16, 3, 5, 1)
    assert OP(*arguments(conv, x[:0], Schedule(28, 1, outputs))).shape == (0, 16, 3, 5)


GATE = torch.ones(3, 16)
REFUSED = {
    "stride": ({"stride": 2}, {}, 4, "stride 1, dilation 1 and groups=1"),
    "dilation": ({"dilation": 2}, {}, 2, "stride 1, dilation 1 and groups=1"),
    "groups": ({"groups": 2}, {}, 4, "stride 1, dilation 1 and groups=1"),
    "5x5": ({"kernel_size": 5}, {}, 4, "needs a 3x3 kernel"),
    "1x3": ({"kernel_size": (1, 3)}, {}, 2, "needs a 3x3 kernel"),
    "gate": ({}, {"gate": GATE}, 2, "a gate needs .* no Winograd form"),
    "3 outputs": ({}, {}, 3, "2 or 4 outputs a side, not 3"),
    "-1 outputs": ({}, {}, -1, "outputs must be 0, 2 or 4"),
    "weights of 2x2": ({}, {"packed": torch.ones(16, 1, 4, 16)}, 4, "packed weights do not fit"),
    "weights of sums": ({}, {"packed": torch.ones(1, 1, 36, 16)}, 2, "packed weights do not fit"),
    "small map": ({"padding": (0, 1)}, {}, 2, r"larger than the padded map \[2, 9\]"),
}


@needs_kernel
@pytest.mark.parametrize("what", REFUSED)
def test_what_has_not_this_form_is_refused(what):
    layer, changes, outputs, message = REFUSED[what]
    conv = nn.Conv2d(4, 16, **{"kernel_size": 3, "padding": 2, **layer}).requires_grad_(False)
    x = torch.randn(1, 4, 2 if what == "small map" else 7, 9)
    packed = torch.ones((outputs + 2) ** 2, 1, 4, 16)
    with pytest.raises(RuntimeError, match=message):
        OP(*arguments(conv, x, Schedule(28, 1, outputs), **{"packed": packed, **changes}))


@needs_kernel
def test_a_schedule_of_two_numbers_is_refused():
    conv, x, *_ = make(1, 4, 16, 3, 5, 1)
    with pytest.raises(RuntimeError, match=r"must be \(positions, panels, outputs\)"):
        OP(*arguments(conv, x, Schedule(28, 1, 2))[:-1], [28, 1])


def test_which_layers_have_this_form():
    assert winograd.takes(nn.Conv2d(4, 8, 3))
    assert winograd.takes(nn.Conv2d(4, 8, 3, padding=(2, 0), bias=False))
    others = [{"stride": 2}, {"stride": (1, 2)}, {"dilation": (2, 1)}, {"groups": 2}]
    assert not any(winograd.takes(nn.Conv2d(4, 8, 3, **options)) for options in others)
    assert not any(winograd.takes(nn.Conv2d(4, 8, kernel)) for kernel in (1, 5, (3, 1)))


@needs_kernel
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_gradients_are_those_of_the_convolution(outputs):
    conv, x, scale, shortcut = make(2, 6, 20, 5, 5, 1)
    packed = packed_conv.pack(conv.weight, 1, outputs)
    bias = conv.bias.clone()
    leaves = [t.requires_grad_() for t in (x, packed, bias, scale, shortcut)]
    schedule = Schedule(28, 1, outputs)
    y = OP(*arguments(conv, x, schedule, scale, shortcut, 0.0, packed=packed, bias=bias))
    y.square().sum().backward()
    doubles = [
        t.detach().double().requires_grad_() for t in (x, conv.weight, bias, scale, shortcut)
    ]
    z, w, b, p, s = doubles
    truth = (F.conv2d(z, w, b, padding=1) * p[:, :, None, None] + s).relu()
    truth.square().sum().backward()
    torch.testing.assert_close(y.double(), truth, rtol=1e-5, atol=1e-5)
    for i in (0, 2, 3, 4):
        torch.testing.assert_close(leaves[i].grad.double(), doubles[i].grad, rtol=1e-4, atol=1e-4)
    for _ in range(3):  # along some direction of the weights, since packing is linear
        direction = torch.randn_like(conv.weight)
        found = float((packed.grad * packed_conv.pack(direction, 1, outputs)).sum())
        assert found == pytest.approx(float((w.grad * direction).sum()), rel=1e-4, abs=1e-2)


@needs_kernel
def test_threads_of_python_may_call_it_at_the_same_time():
    given = [
        arguments(*make(*shape)[:2], Schedule(4, 1, outputs))
        for shape in ((2, 16, 48, 9, 9, 1), (1, 40, 20, 5, 6, 1))
        for outputs in OUTPUTS
    ]
    expected = [OP(*g) for g in given]
    found = []

    def call():
        for _ in range(10):
            found.append([OP(*g) for g in given])

    call_from_threads(call)
    assert len(found) == 40
    assert all(torch.equal(a, b) for ys in found for a, b in zip(ys, expected, strict=True))


@needs_kernel
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_the_operator_keeps_torchs_rules(outputs):
    conv, x, scale, shortcut = make(2, 6, 20, 5, 5, 1)
    given = arguments(conv, x, Schedule(28, 1, outputs), scale, shortcut, 0.0)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(OP.default, given, test_utils=checks)
    torch.library.opcheck(
        ONTO.default,
        (shortcut.contiguous(memory_format=torch.channels_last), *given[:12], *given[13:]),
        test_utils=checks,
    )


def test_other_kernels_are_refused():
    with pytest.raises(ValueError, match="3x3 kernels, and this one is 1x3"):
        packed_conv.pack(torch.ones(2, 2, 1, 3), 1, 4)
