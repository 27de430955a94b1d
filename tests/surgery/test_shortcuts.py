"""Sums and concatenations of other kinds have no shortcut, and so no branch."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.drawn_branches import (
    names,
)
from support.residual_blocks import (
    PICTURE,
    WIDTH,
    Body,
    StemAndBody,
    branch,
    conv,
)
from torch import nn

import accuracy_booster as ab


class TwoConvs(Body):
    def __init__(self):
        nn.Module.__init__(self)
        self.a = nn.Sequential(conv(), nn.BatchNorm2d(WIDTH))
        self.b = nn.Sequential(conv(WIDTH, WIDTH, 1), nn.BatchNorm2d(WIDTH))

    def forward(self, x):
        return F.relu(self.a(x) + self.b(x))


class TwoBranches(Body):
    """Neither side is a shortcut."""

    def __init__(self):
        super().__init__()
        self.g = branch()

    def forward(self, x):
        return self.f(x) + self.g(x)


class RepVGG(TwoConvs):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(WIDTH)

    def forward(self, x):
        return F.relu(self.a(x) + self.b(x) + self.norm(x))


class RepVGGPlain(TwoConvs):
    """The identity first, and without a norm."""

    def forward(self, x):
        return F.relu(x + self.a(x) + self.b(x))


class Pyramid(Body):
    def __init__(self):
        nn.Module.__init__(self)
        self.stage1 = nn.Sequential(conv(stride=2), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.stage2 = nn.Sequential(conv(stride=2), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.lateral = nn.ModuleList(conv(WIDTH, WIDTH, 1) for _ in range(3))
        self.smooth = conv()

    def forward(self, x):
        c1 = self.stage1(x)
        c2 = self.stage2(c1)
        p2 = self.lateral[2](c2)
        p1 = self.lateral[1](c1) + F.interpolate(p2, size=c1.shape[2:], mode="nearest")
        p0 = self.lateral[0](x) + F.interpolate(p1, scale_factor=2.0, mode="bilinear")
        return self.smooth(p0), self.smooth(p1)


class UNet(Body):
    def __init__(self):
        nn.Module.__init__(self)
        self.down = nn.Sequential(nn.MaxPool2d(2), conv(), nn.ReLU(), conv(), nn.ReLU())
        self.up = nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2)
        self.last = conv(2 * WIDTH, WIDTH)

    def forward(self, x):
        return self.last(torch.cat((x, self.up(self.down(x))), 1))


class UNetUpsample(UNet):
    def forward(self, x):
        y = F.interpolate(self.down(x), scale_factor=2, mode="bilinear")
        return self.last(torch.cat((y, x), 1))


class Dense(Body):
    def __init__(self):
        nn.Module.__init__(self)
        self.f, self.g = branch(), branch(2 * WIDTH, WIDTH)

    def forward(self, x):
        x = torch.cat((x, self.f(x)), 1)
        return torch.cat((x, self.g(x)), 1)


class Inception(Body):
    def __init__(self):
        super().__init__()
        self.g = branch()

    def forward(self, x):
        return torch.cat((self.f(x), self.g(x), F.max_pool2d(x, 3, 1, 1)), 1)


class Positions(Body):
    """A sum with a parameter is no residual sum."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, WIDTH, 12, 12))

    def forward(self, x):
        return self.f(x) + self.position


class Gated(Body):
    """SE alone: a product, and the sum inside is of its two descriptors."""

    def __init__(self):
        nn.Module.__init__(self)
        self.fc = nn.Sequential(conv(WIDTH, WIDTH, 1), nn.ReLU(), conv(WIDTH, WIDTH, 1))

    def forward(self, x):
        a, m = self.fc(F.adaptive_avg_pool2d(x, 1)), self.fc(F.adaptive_max_pool2d(x, 1))
        return x * torch.sigmoid(a + m)


NOT_RESIDUAL = [
    *[TwoConvs, TwoBranches, RepVGG, RepVGGPlain, Pyramid, UNet, UNetUpsample, Dense, Inception],
    *[Positions, Gated],
]


@pytest.mark.parametrize("kind", NOT_RESIDUAL, ids=lambda kind: kind.__name__)
def test_other_sums_and_concatenations_are_no_sites(kind):
    model = StemAndBody(kind())
    with pytest.raises(ValueError, match="no residual branch"):
        ab.plan(model, "ab", example=PICTURE)


def test_octave_networks():
    provider = pytest.importorskip("pytorchcv.model_provider")
    assert len(names(provider.get_model("octresnet10_ad2"), torch.zeros(1, 3, 224, 224))) == 7
