"""A shortcut and a branch that meet in something other than a sum are reported."""

from __future__ import annotations

import pytest
import torch
from support.drawn_branches import (
    IMAGE,
    DrawnNet,
)

import accuracy_booster as ab


def three_times(net, x):
    for _ in range(3):
        x = x + net.b[0](x)
    return x


SKIPPED = {
    "einsum": (lambda n, x: torch.einsum("nchw,nchw->nchw", x, n.b[0](x)), "torch.einsum"),
    "stack": (lambda n, x: torch.einsum("snchw->nchw", torch.stack([x, n.b[0](x)])), "torch.stack"),
    "maximum": (lambda n, x: torch.maximum(x, n.b[0](x)), "torch.maximum"),
    "complex": (lambda n, x: torch.complex(x, n.b[0](x)).abs(), "torch.complex"),
    "addcmul": (lambda n, x: torch.addcmul(x, x, n.b[0](x)), "torch.addcmul"),
    "index_add": (lambda n, x: x.clone().index_add_(0, torch.tensor([0]), n.b[0](x)), "index_add_"),
    "clamp": (lambda n, x: x + n.b[0](x).clamp(min=0.1), "ends in torch.clamp"),
    "pow": (lambda n, x: x + n.b[0](x).pow(2).exp(), "ends in torch.exp"),
    "loop": (three_times, r"runs 3 times in a pass; where=\['b.0.4'\]"),
}


@pytest.mark.parametrize("kind", SKIPPED)
def test_what_gets_no_gate_is_told_alone_and_beside_others(kind):
    run, reason = SKIPPED[kind]
    with pytest.raises(ValueError, match=f"has residual branches, but .*{reason}"):
        ab.plan(DrawnNet(run), "ab", example=IMAGE)
    beside = DrawnNet(lambda n, x: (y := run(n, x)) + n.b[2](y))
    planned = ab.plan(beside, "ab", example=IMAGE)
    assert [gate.site.name for gate in planned.gates] == ["b.2.4"]
    assert len(planned.skipped) == 1
