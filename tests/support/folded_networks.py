"""A network with one residual branch, to be folded in many variants."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import pickle

import torch
import torch.nn.functional as F
from torch import nn

import accuracy_booster as ab
from support.networks import randomise

IN_FLOAT64 = 1e-10
MEANS = [  # recipes that read each channel's mean alone
    *("ab", "ab_plus", "ab_nobn", "ab_plus_nobn", "ab_g2", "se", "eca"),
    *("ge_theta_minus", "design_e", "design_f"),
]


def copied_and_exported(folded, x):
    """The network as copies, compilers, exporters and tracers give it, each to be called with x."""
    return (
        copy.deepcopy(folded),
        pickle.loads(pickle.dumps(folded)),
        torch.compile(folded, backend="aot_eager", fullgraph=True),
        torch.export.export(folded, (x,)).module(),
        torch.jit.trace(folded, (x,)),
        torch.fx.symbolic_trace(folded),
    )


def norms_left(model):
    """The names of batch norms."""
    kinds = nn.modules.batchnorm._BatchNorm
    return [name for name, m in model.named_modules() if isinstance(m, kinds)]


class OneBranch(nn.Module):
    """A stem, one residual branch that ends in the layer `last` and `norm`, and a head."""

    def __init__(self, last=None, norm=None, channels=8):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = last or nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = norm or nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, 4)

    def branch(self, x):
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))

    def block(self, x):
        return F.relu(self.branch(x) + x)

    def forward(self, x):
        return self.head(self.block(self.stem(x)).mean((2, 3)))


def boosted(model, recipe="ab", side=7, where=("bn2",), n=3):
    """(the network with gates far from the identity, images), in float64 and eval mode."""
    x = torch.randn(n, 3, side, side, dtype=torch.float64)
    if recipe is not None:
        ab.boost(model, recipe, example=x[:1].float(), where=list(where))
    return randomise(model, signs=True).double().eval(), x


def tied():
    """One whose convolutions share a weight."""
    model = OneBranch()
    model.conv2.weight = model.conv1.weight
    return model
