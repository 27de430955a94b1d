"""A norm that was folded into the layer before it is recognised by the numbers."""

# C channels

import copy

import pytest
import torch
from support.networks import randomise
from torch import nn
from torch.nn.utils import fusion

from accuracy_booster.surgery.folded_norms import foldable_norm, layer_with_norm

C = 4
LAYERS = {
    "conv": (lambda bias: nn.Conv2d(3, C, 3, bias=bias), nn.BatchNorm2d),
    "conv1d": (lambda bias: nn.Conv1d(3, C, 3, bias=bias), nn.BatchNorm1d),
    "transposed": (lambda bias: nn.ConvTranspose2d(3, C, 3, bias=bias), nn.BatchNorm2d),
    "linear": (lambda bias: nn.Linear(3, C, bias=bias), nn.BatchNorm1d),
}


def owner(layer, bias, norm=None):
    make, norm_class = LAYERS[layer]
    return randomise(nn.ModuleDict({"layer": make(bias), "norm": (norm or norm_class)(C)}))


def fold(layer, norm):
    """As ultralytics and others do: the layer stays the same module."""
    if isinstance(layer, nn.Linear):
        weights = fusion.fuse_linear_bn_weights
        options = {}
    else:
        weights = fusion.fuse_conv_bn_weights
        options = {"transpose": isinstance(layer, nn.ConvTranspose2d)}
    mean, var = norm.running_mean, norm.running_var
    layer.weight, layer.bias = weights(
        layer.weight, layer.bias, mean, var, norm.eps, norm.weight, norm.bias, **options
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("when", ["before", "after"])
def test_folded(layer, bias, dtype, when):
    modules = owner(layer, bias)
    kept = foldable_norm(modules, modules["norm"])
    if when == "before":
        modules.to(dtype)
    fold(modules["layer"], modules["norm"])
    del modules["norm"]
    if when == "after":
        modules.to(dtype)
    assert layer_with_norm(modules, kept) == "layer"


def new_statistics(modules):
    randomise(modules["norm"])


def new_bias(modules):
    modules["layer"].bias = nn.Parameter(torch.randn(C))


def another_eps(modules):
    modules["norm"].eps = 0.1


@pytest.mark.parametrize("change", [new_statistics, new_bias, another_eps, None])
def test_not_folded(change):
    modules = owner("conv", False)
    kept = foldable_norm(modules, modules["norm"])
    if change is not None:
        fold(modules["layer"], modules["norm"])
        change(modules)
    del modules["norm"]
    assert layer_with_norm(modules, kept) is None


def test_what_a_training_did_before_the_fold_counts():
    modules = owner("conv", True)
    kept = foldable_norm(modules, modules["norm"])
    optimizer = torch.optim.SGD(modules.parameters(), lr=0.1)
    modules["norm"](modules["layer"](torch.randn(2, 3, 5, 5))).square().sum().backward()
    optimizer.step()
    fold(modules["layer"], modules["norm"])
    del modules["norm"]
    assert layer_with_norm(modules, kept) == "layer"


def test_copied_together_with_the_network():
    modules = owner("conv", True)
    modules.__dict__["kept"] = foldable_norm(modules, modules["norm"])
    modules = copy.deepcopy(modules)
    fold(modules["layer"], modules["norm"])
    del modules["norm"]
    assert layer_with_norm(modules, modules.__dict__["kept"]) == "layer"


def test_a_layer_built_anew_under_another_name():
    modules = owner("conv", True)
    kept = foldable_norm(modules, modules["norm"])
    new = fusion.fuse_conv_bn_eval(modules["layer"].eval(), modules["norm"].eval())
    del modules["norm"], modules["layer"]
    modules["fused"] = new
    assert layer_with_norm(modules, kept) == "fused"


def pair():
    return [nn.Conv2d(C, C, 1, bias=False), nn.BatchNorm2d(C)]


@pytest.mark.parametrize(
    ("trained", "order", "expected"),
    [
        (True, [0, 1, 2, 3], ["0", "2"]),
        (True, [0, 2, 1, 3], ["0", "1"]),  # both layers first
        (True, [1, 3, 0, 2], ["2", "3"]),  # both norms first
        (False, [0, 1, 2, 3], ["0", "2"]),
        (False, [0, 2, 1, 3], [None, None]),  # zero biases fit everywhere: no guess
    ],
)
def test_which_of_two_layers(trained, order, expected):
    parts = [*pair(), *pair()]
    if trained:
        randomise(nn.ModuleList(parts))
    layers = [(parts[0], parts[1]), (parts[2], parts[3])]
    block = nn.ModuleDict({str(i): parts[place] for i, place in enumerate(order)})
    kept = [foldable_norm(block, norm) for _, norm in layers]
    for layer, norm in layers:
        fold(layer, norm)
        del block[next(name for name, module in block.items() if module is norm)]
    assert [layer_with_norm(block, one) for one in kept] == expected


@pytest.mark.parametrize(
    "norm",
    [
        nn.GroupNorm(2, C),
        nn.LayerNorm(C),
        nn.BatchNorm2d(C, track_running_stats=False),
        nn.Conv2d(C, C, 1),
    ],
)
def test_other_modules_are_not_folded(norm):
    modules = nn.ModuleDict({"layer": nn.Conv2d(C, C, 1), "norm": norm})
    assert foldable_norm(modules, norm) is None


def test_a_norm_without_weights_and_a_frozen_one():
    import torchvision

    for norm in (
        lambda c: nn.BatchNorm2d(c, affine=False),
        torchvision.ops.FrozenBatchNorm2d,
    ):
        modules = owner("conv", False, norm)
        kept = foldable_norm(modules, modules["norm"])
        if modules["norm"].__class__ is nn.BatchNorm2d:
            fold(modules["layer"], modules["norm"])
        else:  # its tensors are buffers
            scale = modules["norm"].weight * (modules["norm"].running_var + 1e-5).rsqrt()
            shift = modules["norm"].bias - modules["norm"].running_mean * scale
            modules["layer"].bias = nn.Parameter(shift)
        del modules["norm"]
        assert layer_with_norm(modules, kept) == "layer"


def test_without_numbers_the_new_bias_counts():
    modules = owner("conv", False).to("meta")
    kept = foldable_norm(modules, modules["norm"])
    assert layer_with_norm(modules, kept) is None
    fold(modules["layer"], modules["norm"])
    del modules["norm"]
    assert layer_with_norm(modules, kept) == "layer"
