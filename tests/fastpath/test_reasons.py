"""What cannot be fused or folded is reported with the reason, and computes what it did."""

# N batch, C channels, H W space

from __future__ import annotations

import re

import pytest
import timm
import torch
import torch.nn.functional as F
from support.folded_networks import (
    IN_FLOAT64,
    OneBranch,
    boosted,
    norms_left,
    tied,
)
from support.fused_networks import (
    ResidualBlock,
    ResidualNet,
    assert_same_pass,
    pair,
)
from support.gated_networks import difference
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import accuracy_booster as ab
from accuracy_booster.surgery import attached

pytestmark = WARNINGS_ARE_ERRORS


class ByLayerNorm(ResidualBlock):
    def __init__(self):
        super().__init__(norm=nn.GroupNorm(2, 6))


class Twice(ResidualBlock):
    """Its last norm runs twice in a pass."""

    def branch(self, x):
        return self.bn2(F.relu(self.bn2(self.conv2(x))))


OTHERS = {  # what is not fused: how it is built, its recipe, the reason
    "cbam": (lambda: ResidualNet(ResidualBlock()), "cbam", "more than each channel's mean"),
    "dw3": (lambda: ResidualNet(ResidualBlock()), "dw3_bn", "more than each channel's mean"),
    "group_norm": (lambda: ResidualNet(ByLayerNorm()), "ab", "GroupNorm is no batch norm"),
    "group_norm_plain": (lambda: ResidualNet(ByLayerNorm()), None, "GroupNorm is no batch norm"),
    "twice": (lambda: ResidualNet(Twice()), ["blocks.0.bn2"], "several times"),
    "convnext": (
        lambda: timm.create_model("convnext_atto", num_classes=4, conv_mlp=False),
        "ab",
        "NHWC|no BatchNorm2d",
    ),
    "conv": (lambda: ResidualNet(ResidualBlock(norm=nn.Conv2d(6, 6, 1))), None, "nothing to fuse"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_fused_is_reported_and_right(name):
    build, recipe, reason = OTHERS[name]
    places = {"where": recipe} if isinstance(recipe, list) else {}
    recipe = "ab" if places else recipe
    unfused, other, x = pair(build(), recipe, side=32 if name == "convnext" else 7, **places)
    report = ab.fast_path(other)
    slow = [p for p in report.places if not p.fast]
    assert slow
    for place in slow:
        assert re.search(reason, place.how), place
        assert place.name in str(report)
    assert f"{report.taken} of {len(report.places)} places" in report.summary()
    for training in (True, False):
        assert_same_pass(unfused.train(training), other.train(training), x)


class TwoNorms(OneBranch):
    """A convolution that two norms read in turn."""

    def __init__(self):
        super().__init__()
        self.bn3 = nn.BatchNorm2d(8)

    def branch(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(F.relu(self.bn3(self.conv2(x)))))


class Shared(OneBranch):
    """A convolution's output that two norms read."""

    def __init__(self):
        super().__init__()
        self.bn3 = nn.BatchNorm2d(8)

    def branch(self, x):
        z = self.conv2(F.relu(self.bn1(self.conv1(x))))
        return self.bn2(z) * self.bn3(z).sigmoid()


class Skip(OneBranch):
    """A convolution's output that is read past its norm."""

    def branch(self, x):
        z = self.conv2(F.relu(self.bn1(self.conv1(x))))
        return self.bn2(z) + z


class OneNorm(OneBranch):
    """A norm that runs after two convolutions."""

    def branch(self, x):
        return self.bn2(self.conv2(F.relu(self.bn2(self.conv1(x)))))


class Between(OneBranch):
    """Something stands between convolution and norm."""

    def branch(self, x):
        return self.bn2(F.relu(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Returned(OneBranch):
    """A convolution's output is returned too."""

    def forward(self, x):
        x = self.stem(x)
        z = self.conv2(F.relu(self.bn1(self.conv1(x))))
        return torch.cat([self.head(F.relu(self.bn2(z) + x).mean((2, 3))), z.mean((2, 3))], 1)


def without_statistics():
    return OneBranch(norm=nn.BatchNorm2d(8, track_running_stats=False))


def by_weight_norm():
    return OneBranch(weight_norm(nn.Conv2d(8, 8, 3, padding=1)))


def transposed():
    return OneBranch(nn.ConvTranspose2d(8, 8, 3, padding=1))


NOT_FED = "no plain convolution or linear layer alone feeds its norm"
# the norms that stay in the network without gates; why the gate is not folded with its convolution
ODD = {
    TwoNorms: ({"bn2", "bn3"}, NOT_FED),
    Shared: ({"bn2", "bn3"}, NOT_FED),
    Skip: ({"bn2"}, NOT_FED),
    OneNorm: ({"bn2"}, "it runs several times in a pass"),
    Between: ({"bn2"}, NOT_FED),
    Returned: ({"bn2"}, NOT_FED),
    tied: (set(), None),
    without_statistics: ({"bn2"}, "no running statistics"),
    by_weight_norm: ({"bn2"}, NOT_FED),
    transposed: ({"bn2"}, NOT_FED),
}


@pytest.mark.parametrize("recipe", ["ab", None])
@pytest.mark.parametrize("build", ODD, ids=lambda f: f.__name__)
def test_odd_networks_stay_right(build, recipe, form):
    model, x = boosted(build(), recipe)
    folded = ab.fold(model, example=x[:1], verify=True)
    assert difference(model, folded, x) < IN_FLOAT64
    left, reason = ODD[build]
    if recipe is None:
        unused = {"bn1"} if build is OneNorm else set()
        assert set(norms_left(folded)) - unused == left
        return
    (site,) = ab.fast_path(folded).places
    assert site.fast
    assert site.extra_reduction == (reason is not None)
    assert (reason or "the gate from the mean") in site.how
    assert len(attached(folded)) == (0 if reason is None else 1)


@pytest.mark.parametrize("module", ["conv1", "bn1", "conv2", "bn2"])
@pytest.mark.parametrize("pre", [False, True])
@pytest.mark.parametrize("recipe", ["ab", None])
def test_a_users_hook_sees_and_changes_what_it_did(module, pre, recipe, form):
    model = OneBranch()
    seen = []
    if pre:
        model.get_submodule(module).register_forward_pre_hook(lambda m, a: (2 * a[0],))
    else:
        model.get_submodule(module).register_forward_hook(lambda m, a, y: seen.append(y) or 2 * y)
    model, x = boosted(model, recipe)
    folded = ab.fold(model, example=x[:1])
    seen.clear()
    assert difference(model, folded, x) < IN_FLOAT64
    if not pre:
        first, second = seen
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("pre", [False, True])
def test_a_hook_on_a_convolution_with_a_gate(pre, form):
    model, x = OneBranch(), None
    if pre:
        model.conv2.register_forward_pre_hook(lambda m, a: (a[0] + 1,))
    else:
        model.conv2.register_forward_hook(lambda m, a, y: 2 * y + 1)
    model, x = boosted(model, where=["conv2"])
    folded = ab.fold(model, example=x[:1])
    assert difference(model, folded, x) < IN_FLOAT64
    (place,) = ab.fast_path(folded).places
    assert (place.fast, place.extra_reduction) == (True, True)
    assert "hook" in place.how
