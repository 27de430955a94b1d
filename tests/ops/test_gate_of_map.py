"""The weights of a gate from a convolution's input against float64: in steps, and by the map."""

# N batch, C channels of the map, K channels of the gate, H W space, T taps of the kernel

from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from accuracy_booster.ops import packed_conv
from accuracy_booster.ops.gate_of_map import reference

OP = torch.ops.accuracy_booster.gate_of_map
reason = packed_conv.why_not(nn.Conv2d(1, 1, 1))
pytestmark = pytest.mark.skipif(reason is not None, reason=f"no kernel here: {reason}")


class Layer(NamedTuple):
    """Of a convolution, as `nn.Conv2d` takes it."""

    kernel_size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def conv(self, c, k):
        return nn.Conv2d(c, k, **self._asdict()).requires_grad_(False)


LAYERS = {
    "1x1": Layer(),
    "1x1, stride 2": Layer(stride=(2, 2)),
    "1x1, stride 3 down": Layer(stride=(3, 1)),
    "1x1, padded": Layer(padding=(1, 2)),
    "3x3": Layer((3, 3), padding=(1, 1)),
    "3x3, not padded": Layer((3, 3)),
    "3x3, padded by 3 and 0": Layer((3, 3), padding=(3, 0)),
    "5x5, dilated": Layer((5, 5), padding=(4, 4), dilation=(2, 2)),
    "1x3": Layer((1, 3), padding=(1, 1)),
    "2x1": Layer((2, 1), padding=(1, 0), dilation=(3, 1)),
}
# N, C, H, W
MAPS = [(1, 5, 7, 9), (3, 33, 7, 5), (1, 64, 4, 7), (6, 16, 9, 5)]


def gates(layer, c, k=20):
    """A convolution, and [(weights, biases, scale)] of gates of its output.

    The first stage reads the output's mean: a product of each number, or a matrix.
    """
    conv = layer.conv(c, k)
    row, wide, narrow = torch.randn(k), torch.randn(k, 7), torch.randn(7, k) / 4
    return conv, [
        ([row], [torch.randn(k)], 1.0),
        ([narrow, wide], [torch.randn(7), torch.randn(k)], 2.0),
        ([narrow, torch.randn(7), wide], [torch.randn(7), torch.randn(7), torch.zeros(k)], 1.5),
    ]


def of_input(conv, weights, biases):
    """The stages with the convolution as a part of the first: they read the means of its taps."""
    matrix, first, bias = conv.weight.flatten(1).double(), weights[0].double(), biases[0].double()
    if first.ndim == 1:
        bias, matrix = bias + first * conv.bias, first[:, None] * matrix
    else:
        bias, matrix = bias + first @ conv.bias.double(), first @ matrix
    return [matrix.float(), *weights[1:]], [bias.float(), *biases[1:]]


def exact(conv, x, weights, biases, scale):
    """conv -> mean -> stages in float64, by torch."""
    d = F.conv2d(
        *(x.double(), conv.weight.double(), conv.bias.double()),
        **{name: getattr(conv, name) for name in ("stride", "padding", "dilation")},
    ).mean((2, 3))
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        d = d.relu() if i else d
        d = d * weight if weight.ndim == 1 else d @ weight.double().t()
        d = d + bias
    return scale * d.sigmoid()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("shape", MAPS, ids=str)
def test_operator_and_reference_are_the_gate(shape, layer):
    x, geometry = torch.randn(shape), LAYERS[layer]
    for order in (torch.contiguous_format, torch.channels_last):
        conv, found = gates(geometry, shape[1])
        for weights, biases, scale in found:
            merged = of_input(conv, weights, biases)
            truth = exact(conv, x, weights, biases, scale)
            p = OP(x.contiguous(memory_format=order), *geometry, *merged, scale)
            assert p.is_contiguous()
            torch.testing.assert_close(p.double(), truth, rtol=3e-6, atol=3e-6)
            again = reference(x, *geometry, *merged, scale)
            torch.testing.assert_close(again.double(), truth, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("layer", ["1x1, stride 2", "3x3", "5x5, dilated"])
def test_a_product_of_each_number_may_come_first(layer):
    geometry, x = LAYERS[layer], torch.randn(3, 9, 6, 7)
    width = 9 * geometry.kernel_size[0] * geometry.kernel_size[1]
    weights, biases = [torch.randn(width)], [torch.randn(width)]
    doubles = [t.double() for t in weights], [t.double() for t in biases]
    truth = reference(x.double(), *geometry, *doubles, 1.0)
    torch.testing.assert_close(
        OP(x, *geometry, weights, biases, 1.0).double(), truth, atol=3e-6, rtol=3e-6
    )


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("layer", ["1x1", "1x1, stride 2", "3x3"])
def test_maps_and_matrices_that_are_shared_out_to_threads(layer, n):
    geometry = LAYERS[layer]
    x = torch.randn(n, 72, 24, 20)  # more numbers than one thread reads alone
    conv, found = gates(geometry, 72, 600)
    weights, biases, scale = found[1]
    merged = of_input(conv, weights, biases)
    truth = exact(conv, x, weights, biases, scale)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            p = OP(x, *geometry, *merged, scale)
            torch.testing.assert_close(p.double(), truth, rtol=3e-6, atol=3e-6)
    finally:
        torch.set_num_threads(before)


def test_any_order_in_memory_is_taken():
    geometry, x = LAYERS["3x3"], torch.randn(2, 10, 6, 5)
    conv, found = gates(geometry, 10)
    weights, biases, scale = found[1]
    (matrix, *more), merged = of_input(conv, weights, biases)
    wide = torch.zeros(2, 10, 6, 10)
    wide[..., ::2] = x
    apart = torch.zeros(len(merged[0]), 2)
    apart[:, 0] = merged[0]
    expected = OP(x, *geometry, [matrix, *more], merged, scale)
    transposed = matrix.t().contiguous().t()
    given = [transposed, *more], [apart[:, 0], *merged[1:]]
    assert torch.equal(OP(wide[..., ::2], *geometry, *given, scale), expected)


def test_a_gate_that_is_open_or_shut():
    x, one = torch.randn(2, 20, 3, 3), torch.ones(20)
    open_, shut = (OP(x, *Layer(), [0 * one], [value * one], 2.0) for value in (1e4, -1e4))
    assert torch.equal(open_, torch.full((2, 20), 2.0))
    assert float(shut.abs().max()) < 1e-30
    at_start = OP(x, *Layer(), [0 * one], [0 * one], 2.0)
    assert torch.equal(at_start, torch.ones(2, 20))  # 2 * sigmoid(0) is 1


@pytest.mark.parametrize("n", [2, 6])
def test_not_a_number_stays_one_in_its_image(n):
    x, geometry = torch.randn(n, 5, 4, 4), LAYERS["3x3"]
    x[0, 1, 2, 2] = torch.nan
    conv, found = gates(geometry, 5)
    for weights, biases, scale in found:
        p = OP(x, *geometry, *of_input(conv, weights, biases), scale)
        assert p[0].isnan().all()
        assert p[1:].isfinite().all()


def test_no_images_give_no_weights():
    conv, found = gates(Layer(), 5)
    weights, biases, scale = found[1]
    assert OP(torch.randn(0, 5, 4, 4), *Layer(), *of_input(conv, weights, biases), scale).shape == (
        0,
        20,
    )


C, K = 5, 4
ROW, MATRIX, BIAS = torch.ones(C), torch.ones(K, C), torch.ones(K)
REFUSED = {
    "no stage": ({"weights": [], "biases": []}, "each stage needs a bias"),
    "one bias for two": ({"weights": [ROW, MATRIX]}, "each stage needs a bias"),
    "another width": ({"weights": [torch.ones(K, 3)]}, "stage 0 does not take 5 numbers"),
    "taps left out": ({"layer": LAYERS["3x3"]}, "stage 0 does not take 45 numbers"),
    "another row": ({"weights": [torch.ones(K)]}, "stage 0 does not take 5 numbers"),
    "another second": (
        {"weights": [MATRIX, MATRIX], "biases": [BIAS, BIAS]},
        "stage 1 does not take 4 numbers",
    ),
    "another bias": ({"biases": [torch.ones(3)]}, "stage 0 does not take"),
    "three dimensions": ({"weights": [torch.ones(K, C, 1)]}, "stage 0 does not take"),
    "float64 stages": ({"weights": [MATRIX.double()]}, "stages must be float32"),
    "float64 bias": ({"biases": [BIAS.double()]}, "stages must be float32"),
    "float64 map": ({"x": torch.ones(2, C, 3, 3).double()}, "x must be float32"),
    "one image": ({"x": torch.ones(C, 3, 3)}, r"x must be float32 \[N, C, H, W\]"),
    "3x3, stride 2": (
        {"layer": Layer((3, 3), (2, 2)), "weights": [torch.ones(K, 9 * C)]},
        "kernels larger than 1x1 need stride 1, and others no padding",
    ),
    "1x1, stride 2, padded": (
        {"layer": Layer((1, 1), (2, 2), (1, 1))},
        "kernels larger than 1x1 need stride 1, and others no padding",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused(what):
    changes, message = REFUSED[what]
    given = {"x": torch.ones(2, C, 3, 3), "layer": Layer(), "weights": [MATRIX], "biases": [BIAS]}
    given |= changes
    with pytest.raises(RuntimeError, match=message):
        OP(given["x"], *given["layer"], given["weights"], given["biases"], 1.0)


def test_the_operator_keeps_torchs_rules():
    for layer, shape in itertools.product(("1x1, stride 2", "3x3"), ((1, 5, 4, 6), (6, 5, 4, 6))):
        conv, found = gates(LAYERS[layer], 5)
        weights, biases, scale = found[1]
        given = (torch.randn(shape), *LAYERS[layer], *of_input(conv, weights, biases), scale)
        torch.library.opcheck(OP.default, given, test_utils=("test_schema", "test_faketensor"))


def test_maps_without_positions_are_refused():
    with pytest.raises(RuntimeError, match="without positions"):
        OP(torch.ones(2, 3, 0, 4), *Layer(), [torch.ones(3)], [torch.ones(3)], 1.0)
