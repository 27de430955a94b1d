"""Names of networks, and every registered network forward and backward."""

# N batch, C channels, H W space

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from support.networks_of_ours import (
    macs,
    on_meta,
    parameters,
)

import accuracy_booster as ab
from accuracy_booster.models import MODELS


@pytest.mark.parametrize(
    ("name", "classes", "count", "multiply_adds"),
    [
        ("resnet56", 100, 858_868, (125.49e6, 0.01e6)),
        ("resnet164", 100, 1_726_388, (247.670e6, 0.001e6)),
        ("resnet164v1", 100, 1_734_452, (244.524e6, 0.001e6)),
        ("wrn22_10", 100, 26_855_604, (3.828e9, 0.001e9)),
    ],
)
def test_counts_of_the_paper(name, classes, count, multiply_adds):
    """`shared/paper/counting.md`: to within a unit of the last printed digit."""
    model = on_meta(name, num_classes=classes)
    assert parameters(model) == count
    printed, unit = multiply_adds
    assert macs(model) == pytest.approx(printed, abs=unit)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet57", "resnet56"),
        ("ResNet56", "resnet56"),
        ("wrn22-10", "wrn22_10"),
        ("x", "wrn16_4"),
    ],
)
def test_unknown_names_give_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=rf"{re.escape(name)}.*{nearest}") as caught:
        ab.create_model(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("resnet1?", {"resnet14", "resnet18"}),
        ("resnet1[16]*", {"resnet110", "resnet164", "resnet164v1"}),
        ("wrn*_10", {"wrn22_10", "wrn28_10"}),
        ("resnet164", {"resnet164"}),
        ("*v1", {"resnet164v1", "resnet50v1", "resnet101v1", "resnet152v1"}),
        ("*net_g?", {"shufflenet_g3"}),
        ("resnet", set()),
    ],
)
def test_list_models_filters(pattern, names):
    found = ab.list_models(pattern)
    assert len(found) == len(set(found))
    assert set(found) == names


def test_list_models_lists_the_papers_networks():
    papers = {*(f"resnet{d}" for d in (20, 32, 44, 56, 110)), "resnet164", "wrn22_10"}
    assert papers | {"resnet164v1"} <= set(ab.list_models())
    assert ab.list_models() == list(MODELS)


@pytest.mark.parametrize("recipe", [None, "ab"])
@pytest.mark.parametrize("name", [n for n in ab.list_models() if not re.match("wrn2._10", n)])
def test_forward_and_backward_reach_every_parameter(name, recipe):
    torch.manual_seed(0)
    model = ab.create_model(name, block=recipe, num_classes=3)
    x = torch.randn(4, 3, 8, 8)
    F.cross_entropy(model(x), torch.tensor([0, 1, 2, 0])).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        dead = name == "resnet164v1" and parameter_name.endswith("conv3.bias")
        # (without gates, every way from those biases leads through a norm that removes the mean)
        assert dead or parameter.grad.any(), parameter_name
