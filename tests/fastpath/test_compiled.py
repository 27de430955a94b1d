"""Inference compiled with frozen weights: what the profile shows, and what is refused."""

import contextlib

import pytest
import torch
from torch import nn

import accuracy_booster as ab
from accuracy_booster.fastpath import compiled
from accuracy_booster.fastpath.frozen import Frozen, check, profile


class Residual(nn.Module):
    """Two convolutions, the second one's output added to the first one's."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.second = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(16), nn.BatchNorm2d(16)])

    def forward(self, x):
        x = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(x)) + x)


@pytest.fixture
def network():
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = Residual()
    for norm in network.norms:
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.running_mean)
    return network.eval().to(memory_format=torch.channels_last)


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last)


def test_it_freezes_and_the_option_of_torch_compile_does_not(network, x):
    run = ab.compile_for_inference(network, x, sums=True)
    assert run.frozen == Frozen(packed=2, plain=0, sums=1, relus=2)
    torch.testing.assert_close(run(x), network(x).detach(), rtol=1e-4, atol=1e-5)
    assert not run(x).requires_grad
    larger = torch.randn(3, 3, 20, 20).to(memory_format=torch.channels_last)
    assert profile(run, larger) == run.frozen, "another shape is frozen too"
    torch._dynamo.reset()
    option = torch.compile(network, dynamic=False, options={"freezing": True})
    with torch.no_grad():
        found = profile(option, x)
    if found.packed:
        pytest.skip(f"torch {torch.__version__} freezes with the option")
    assert found == Frozen(packed=0, plain=2, sums=0)
    with pytest.raises(ValueError, match="not frozen: none of 2 convolutions has constant weights"):
        check(found)


def test_what_is_not_frozen_is_refused(network, x, monkeypatch):
    monkeypatch.setattr(compiled, "compiling", contextlib.nullcontext)
    with pytest.raises(ValueError, match=r"not frozen: none of 2 .*a ratio to it would flatter"):
        ab.compile_for_inference(network, x)
    check(Frozen(packed=2, plain=1, sums=1), sums=True)  # one that nobody can freeze
    check(Frozen(packed=2, plain=0, sums=0))
    with pytest.raises(ValueError, match="convolution and residual sum stay apart: none of 2"):
        check(Frozen(packed=2, plain=0, sums=0), sums=True)


def test_what_cannot_be_compiled_is_refused(network, x):
    with pytest.raises(ValueError, match=r"training mode; call network\.eval\(\)"):
        ab.compile_for_inference(network.train(), x)
    with pytest.raises(ValueError, match="compiled already"):
        ab.compile_for_inference(torch.compile(network.eval(), backend="eager"), x)
    with pytest.raises(ValueError, match="example"):
        ab.compile_for_inference(network)
