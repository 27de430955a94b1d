"""Networks with gates, the weights of these by hooks, and what `ab.gates` must find of them."""

# N images, C channels, K classes, H W space

from __future__ import annotations

import copy

import timm
import torch
import torchvision
from torch import nn

import accuracy_booster as ab
from accuracy_booster.blocks.recalibrate import Gate
from accuracy_booster.inspection.accumulating import Accumulator


class Net(nn.Module):
    """Two convolutions with a block after each, and a head: the blocks are a user's own modules."""

    def __init__(self, block="ab", channels=6, classes=3, **more):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.first = ab.Recalibrate(channels, block, spatial_size=(8, 8), **more)
        self.mid = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = ab.Recalibrate(channels, block, spatial_size=(8, 8), **more)
        self.head = nn.Linear(channels, classes)

    def forward(self, x):
        x = self.second(self.mid(self.first(self.stem(x)).tanh()))
        return self.head(x.mean((2, 3)))


def lively(model, seed=0):
    """Parameters and running statistics for which no two images have the same weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for gate in (m for m in model.modules() if isinstance(m, Gate)):
            for name, tensor in [*gate.named_parameters(), *gate.named_buffers()]:
                if tensor.is_floating_point():
                    noise = torch.randn(tensor.shape, generator=generator).to(tensor)
                    tensor.copy_(noise.abs() + 0.1 if "var" in name else noise)
    return model


def images(count=13, size=8, seed=0, channels=3):
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(count, channels, 1, 1, generator=generator)
    return torch.randn(count, channels, size, size, generator=generator) + own


def weights_by_hook(model, batches):
    """{name of a gate module: p[N, C]}, each the quotient of what comes out of it and goes in."""
    model = copy.deepcopy(model).double().eval()
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, Gate):
            module.register_forward_hook(
                lambda m, args, y, name=name: found.setdefault(name, []).append(
                    (y / args[0]).flatten(2).mean(2)
                )
            )
    with torch.no_grad():
        for x in batches:
            model(x.double())
    return {name: torch.cat(ps) for name, ps in found.items()}


def assert_gates_are(gates, expected, **close):
    """Means and spreads are those of the weights; gates are told apart by their order."""
    close = close or {"rtol": 1e-4, "atol": 1e-5}
    assert len(gates) == len(expected) > 0
    assert max(float(gate.spread.max()) for gate in gates.values()) > 0.01  # there is what to see
    for (site, gate), (name, p) in zip(gates.items(), expected.items(), strict=True):
        one = p if gate.channels > 1 else p.mean(1, keepdim=True)
        assert gate.count == len(p), (site, name)
        torch.testing.assert_close(gate.mean, one.mean(0), **close)
        torch.testing.assert_close(gate.spread, one.std(0, correction=0), **close)


def gathered(p, labels, scale, order, sizes):
    one = Accumulator(p.shape[1], scale)
    for part in torch.as_tensor(order).split(sizes):
        one.add(p[part], None if labels is None else labels[part], part)
    return one


def result(accumulator):
    about = {"site": "a", "recipe": "r", "width": accumulator.channels, "spatial_size": None}
    return accumulator.result(**about, per_position=False, shared=False)


def boosted(name, block="ab"):
    torch.manual_seed(0)
    if name.startswith("timm/"):
        full = {"zero_init_last": False} if "resnet" in name else {}  # 0 / 0
        net = timm.create_model(name[5:], num_classes=5, **full)
    else:
        net = torchvision.models.get_model(name, num_classes=5)
    return lively(ab.boost(net, block, example=torch.zeros(1, 3, 32, 32)))


X, Y = images(13), torch.arange(13) % 3


def pairs(x=X, y=Y, size=5):
    return [*zip(x.split(size), y.split(size), strict=True)]


BYTES = (X * 10).clamp(0, 255).to(torch.uint8)
