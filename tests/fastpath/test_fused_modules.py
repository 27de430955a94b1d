"""Fused networks on maps with 0 to 3 dimensions of space."""

from __future__ import annotations

import copy

import pytest
import torch
from support.ranks import (
    Block,
    Last,
    boosted,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attach
from accuracy_booster.surgery.sites import Site

pytestmark = pytest.mark.filterwarnings("ignore:the batch norm of the gate")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def results(net, x):
    x = x.clone().requires_grad_()
    for p in net.parameters():
        p.grad = None
    y = net(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    (y * weights).sum().backward()
    return [
        y.detach(),
        x.grad,
        *(p.grad for p in net.parameters()),
        *(b.clone() for b in net.buffers()),
    ]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recipe", ["ab", "se"])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("kind", [Block, Last])
@pytest.mark.parametrize("dims", [1, 3])
def test_fused_networks_compute_the_same(dims, kind, kernel, recipe, training):
    net, x = boosted(dims, kernel, recipe, kind)
    other = ab.fuse(copy.deepcopy(net), example=x[:1])
    assert ab.fast_path(other).taken == 2, str(ab.fast_path(other))
    expected = results(net.train(training), x)
    for a, b in zip(expected, results(other.train(training), x), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-9)
    ab.unfuse(other)
    assert {type(m) for m in other.modules()} == {type(m) for m in net.modules()}


def test_vectors_are_not_fused_and_the_reason_is_true():
    net, x = boosted(0)
    expected = net.train()(x)
    other = ab.fuse(copy.deepcopy(net), example=x[:2])
    path = ab.fast_path(other)
    assert path.taken == 0
    assert "its output is [N, C]: there is no space to take means over" in str(path)
    assert torch.equal(other.train()(x), expected)


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18"])
def test_video_networks_are_fused_and_folded(name):
    from torchvision.models import video

    net = getattr(video, name)(num_classes=5)
    sites = [
        Site(f"{module}.conv2.1", block.conv2[1].num_features, (1, 1, 1))
        for module, block in net.named_modules()
        if isinstance(block, video.resnet.BasicBlock)
    ]
    assert len(sites) == 8
    attach(net, "ab", sites)
    net.double()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_var.uniform_(0.5, 2)
                module.running_mean.normal_()
    x = torch.randn(4, 3, 4, 16, 16, dtype=torch.float64)
    folded = ab.fold(net.eval(), example=x, verify=True)
    fused = ab.fuse(copy.deepcopy(net), example=x[:1])
    for model in (folded, fused):
        assert ab.fast_path(model).taken == 8, str(ab.fast_path(model))
        torch.testing.assert_close(model(x), net(x), rtol=1e-8, atol=1e-9)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm3d)]
    other = copy.deepcopy(net).train()
    # of two samples a norm amplifies rounding
    torch.testing.assert_close(fused.train()(x), other(x), rtol=1e-5, atol=1e-6)
    for (key, a), b in zip(other.state_dict().items(), fused.state_dict().values(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-7, msg=key)
