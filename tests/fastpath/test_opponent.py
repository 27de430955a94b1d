"""The network that others are compared with: what torch can join, and what is refused."""

# N batch, C channels, H W space

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import accuracy_booster as ab
from accuracy_booster.fastpath import opponent
from accuracy_booster.fastpath.frozen import Frozen
from accuracy_booster.fastpath.opponent import check_joined, joinable, stock


class Branch(nn.Module):
    """A convolution, its norm, the sum with the input and a ReLU, in the form that `end` gives."""

    def __init__(self, end):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.end = end
        nn.init.uniform_(self.norm.running_mean)

    def forward(self, x):
        return self.end(self, x)


def whole(net, x):
    return F.relu(net.norm(net.conv(x)) + x)


def make(end=whole, seed=0):
    torch.manual_seed(seed)
    return Branch(end).eval().to(memory_format=torch.channels_last)


@pytest.fixture
def x():
    torch._dynamo.reset()
    torch.manual_seed(1)
    return torch.randn(2, 8, 8, 8).to(memory_format=torch.channels_last)


# how a branch ends: what torch can join in it
ENDS = {
    "conv + norm + sum + relu": (whole, Frozen(1, 0, 1, 1)),
    "the shortcut first": (lambda n, x: F.relu(x + n.norm(n.conv(x))), Frozen(1, 0, 1, 1)),
    "no norm": (lambda n, x: torch.relu_(n.conv(x) + x), Frozen(1, 0, 1, 1)),
    "no sum": (lambda n, x: F.relu(n.norm(n.conv(x))), Frozen(1, 0, 0, 1)),
    "no relu": (lambda n, x: n.norm(n.conv(x)) + x, Frozen(1, 0, 1, 0)),
    "another activation": (lambda n, x: F.silu(n.norm(n.conv(x)) + x), Frozen(1, 0, 1, 0)),
    "a relu before the sum": (lambda n, x: F.relu(n.norm(n.conv(x))) + x, Frozen(1, 0, 0, 1)),
    "a gate": (
        lambda n, x: F.relu(torch.sigmoid(x.mean((2, 3), True)) * n.norm(n.conv(x)) + x),
        Frozen(1, 0, 0, 0),
    ),
    "the map is read twice": (
        lambda n, x: F.relu((y := n.norm(n.conv(x))) + x) * y,
        Frozen(1, 0, 0),
    ),
    "the sum is read twice": (lambda n, x: F.relu(y := n.norm(n.conv(x)) + x) * y, Frozen(1, 0, 1)),
    "a factor": (lambda n, x: F.relu(torch.add(n.norm(n.conv(x)), x, alpha=2)), Frozen(1, 0, 0)),
    "a weight that depends on the input": (
        lambda n, x: F.relu(F.conv2d(x, n.conv.weight * x.mean(), padding=1) + x),
        Frozen(0, 1, 0),
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_can_be_joined_is_what_torch_joins(name, x):
    end, expected = ENDS[name]
    network = make(end)
    assert joinable(network, x) == expected
    compiled = stock(network, x)
    assert compiled.frozen == expected
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), network(x), rtol=1e-4, atol=1e-5)


def test_networks_of_one_class_keep_their_own_weights(x):
    networks = [make(seed=seed) for seed in range(3)]
    compiled = [stock(network, x) for network in networks]
    for network, run in zip(networks, compiled, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(run(x), network(x), rtol=1e-4, atol=1e-5)
        assert run.frozen == Frozen(1, 0, 1, 1)
        assert not run(x).requires_grad


def test_the_sums_of_known_networks():
    found = joinable(ab.create_model("resnet50").eval(), torch.zeros(1, 3, 64, 64))
    assert found == Frozen(packed=53, plain=0, sums=16, relus=49)
    found = joinable(ab.create_model("timm/seresnet50").eval(), torch.zeros(1, 3, 64, 64))
    # Two more in each SE, with a ReLU. Its product stands between a branch's last convolution and
    # the sum, so only the four shortcuts that are convolutions can add, and apply the ReLU after.
    assert found == Frozen(packed=53 + 32, plain=0, sums=4, relus=33 + 4 + 16)


def test_what_is_not_frozen_is_refused(x, monkeypatch):
    monkeypatch.setattr(opponent, "freezing", contextlib.nullcontext)
    said = "0 of 1 convolutions are frozen, 0 of 1 residual sums and 0 of 1 ReLUs"
    with pytest.raises(ValueError, match=said):
        stock(make(), x)


def test_a_compiler_that_joins_nothing_is_refused(x, monkeypatch):
    """The weights are frozen, and the patterns that join sum and ReLU are off."""
    from torch._inductor.fx_passes import post_grad

    passes = post_grad.pass_patterns
    monkeypatch.setattr(post_grad, "pass_patterns", [])
    torch._inductor.codecache.FxGraphCache.clear()
    with pytest.raises(ValueError, match="0 of 1 residual sums and 0 of 1 ReLUs"):
        stock(make(), x)
    assert passes


def test_what_is_not_as_people_have_it_is_refused(x, monkeypatch):
    with pytest.raises(ValueError, match=r"training mode; call network\.eval\(\)"):
        stock(make().train(), x)
    monkeypatch.setattr(opponent, "profile", lambda *call: Frozen(0, 0, 0, 0, ours=1))
    with pytest.raises(ValueError, match="1 convolutions are of this package's kernel"):
        stock(make(), x)


EXPECTED = Frozen(packed=53, plain=1, sums=16, relus=49)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Frozen(0, 53, 0, 0), "0 of 53 convolutions are frozen"),
        (Frozen(52, 1, 16, 49), "52 of 53 convolutions are frozen"),
        (Frozen(53, 2, 16, 49), "53 of 53 convolutions are frozen"),
        (Frozen(53, 1, 15, 49), "15 of 16 residual sums"),
        (Frozen(53, 1, 16, 48), "48 of 49 ReLUs"),
        (Frozen(0, 0, 0, 0), "0 of 53"),
    ],
)
def test_one_that_is_apart_is_enough_to_refuse(found, said):
    with pytest.raises(ValueError, match=f"{said}.* would flatter a block.*--compile off"):
        check_joined(found, EXPECTED)


def test_as_much_or_more_is_accepted():
    check_joined(EXPECTED, EXPECTED)
    check_joined(Frozen(60, 0, 20, 50), EXPECTED)
    check_joined(Frozen(packed=20, plain=0, sums=0, relus=16, ours=33), EXPECTED)
