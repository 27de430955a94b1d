"""Branches of several kinds whose containers are gated."""

# Gates are forced to p = 0.5, so a gate that is lost or applied twice changes the output.

import torch
from torch import nn

SIZE = (2, 3, 32, 32)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def assert_gated(network, x, expected):
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected, **CLOSE)


class Steps(nn.Module):
    """A residual block whose branch is a Sequential."""

    def __init__(self, *steps):
        super().__init__()
        self.b = nn.Sequential(*steps)

    def forward(self, x):
        return torch.relu(x + self.b(x))


def steps():
    return [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)]


class Looped(nn.Module):
    """A branch that runs its children one after the other, in a way of its own."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.first, self.norm, self.last = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        modules = {
            "children": self.children,
            "named_children": lambda: [m for _, m in self.named_children()],
            "_modules": self._modules.values,
            "modules": lambda: [m for m in self.modules() if isinstance(m, nn.Conv2d)],
        }[self.way]()
        for module in modules:
            x = module(x)
        return 2 * x  # so the branch itself is the place


class Tail(nn.Sequential):
    def forward(self, x):
        return super().forward(x).tanh()


class Summing(nn.ModuleDict):
    """Parallel layers, summed."""

    def forward(self, x):
        return sum(module(x) for module in self.values())


BRANCHES = {
    "Sequential": lambda: nn.Sequential(*steps()),
    "nested": lambda: nn.Sequential(nn.Sequential(*steps()), nn.Sequential(nn.ReLU())),
    "tail": lambda: Tail(*steps()),
    "parallel": lambda: Summing({"a": nn.Conv2d(4, 4, 1), "b": nn.Conv2d(4, 4, 3, padding=1)}),
    **{w: lambda w=w: Looped(w) for w in ("children", "named_children", "_modules", "modules")},
}


class Branch(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.b = BRANCHES[kind]()

    def forward(self, x):
        x = self.stem(x).relu()
        return (x + self.b(x)).relu()
