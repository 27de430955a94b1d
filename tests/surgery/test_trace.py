"""The trace sees every write: through views, into parts, by out= and by in-place functions."""

from __future__ import annotations

import pytest
import torch
from support.drawn_branches import (
    CHANNELS,
    IMAGE,
    ONE,
    TWO,
    DrawnNet,
    assert_gates_act_once,
    names,
)


def in_zeros(net, x):
    out = torch.zeros(x.shape[0], CHANNELS, *x.shape[2:])
    out[:, :3].copy_(x[:, :3])
    return out + net.b[0](out)


def padded_by_copy(net, x):
    out = x.new_zeros(x.shape[0], CHANNELS, 16, 16)
    for i in range(len(x)):
        out[i, :, : x.shape[2], : x.shape[3]].copy_(x[i])
    return out + net.b[0](out)


def in_empty(net, x):
    out = torch.empty_like(x)
    out.copy_(x)
    out += net.b[0](x)
    return out


def by_index_put(net, x):
    out = torch.zeros_like(x)
    out.index_put_((torch.arange(len(x)),), x)
    return out + net.b[0](out)


def by_setitem(net, x):
    out = torch.zeros(x.shape[0], CHANNELS, 16, 16)
    out[:, :, 2:-2, 2:-2] = x
    return out + net.b[0](out)


def through_a_view(net, x):
    y = net.b[0](x)
    y.view(-1).add_(x.reshape(-1))
    return y


def by_out(net, x):
    out = torch.empty_like(x)
    torch.add(x, net.b[0](x), out=out)
    return out + net.b[1](out)


def coupling(net, x):
    a, b = x.chunk(2, 1)
    a = a + net.h[0](b)
    b = b + net.h[1](a)
    a = a + net.h[2](b)
    return torch.cat((a, b + net.h[3](a)), 1)


FOUND = {
    "two branches": (lambda n, x: x + n.b[0](x) + n.b[1](x), TWO),
    "sum of a list": (lambda n, x: sum([x, n.b[0](x), n.b[1](x)]), TWO),
    "a pool beside": (lambda n, x: x + n.b[0](x) + n.pool(x), ONE),
    "zeros": (in_zeros, ONE),
    "padded by copy": (padded_by_copy, ONE),
    "empty_like": (in_empty, ONE),
    "index_put": (by_index_put, ONE),
    "setitem": (by_setitem, ONE),
    "a view": (through_a_view, ONE),
    "out=": (by_out, TWO),
    "x - b": (lambda n, x: x - n.b[0](x), ONE),
    "b - x": (lambda n, x: n.b[0](x) - x, ONE),
    "lerp": (lambda n, x: torch.lerp(x, n.b[0](x), 0.5), ONE),
    "addcmul": (lambda n, x: torch.addcmul(x, torch.ones(1), n.b[0](x)), ONE),
    "stack": (lambda n, x: torch.stack([x, n.b[0](x), n.b[1](x)]).sum(0), TWO),
    "foreach": (lambda n, x: torch._foreach_add([x], [n.b[0](x)])[0], ONE),
    "complex": (lambda n, x: (x.to(torch.cfloat) + n.b[0](x).to(torch.cfloat)).real, ONE),
    "alpha": (lambda n, x: torch.add(x, n.b[0](x), alpha=0.5), ONE),
    "detach": (lambda n, x: x.detach() + n.b[0](x), ONE),
    "where": (lambda n, x: torch.where(x > 0, x, torch.zeros(())) + n.b[0](x), ONE),
    "neg": (lambda n, x: x + -n.b[0](x), ONE),
    "abs": (lambda n, x: x + n.b[0](x).abs(), ONE),
    "flip": (lambda n, x: x + n.b[0](x).flip(3), ONE),
    "clamp": (lambda n, x: x + n.b[0](x).clamp(-1, 1), ONE),
    "flattened": (lambda n, x: (x.flatten(1) + n.b[0](x).flatten(1)).view_as(x), ONE),
    "coupling": (coupling, [f"h.{i}.4" for i in range(4)]),
}


@pytest.mark.parametrize("kind", FOUND)
def test_every_branch_is_a_site_and_its_gate_acts_once(kind):
    torch.manual_seed(0)
    run, sites = FOUND[kind]
    model = DrawnNet(run)
    assert sorted(names(model)) == sites
    assert_gates_act_once(model, IMAGE, torch.randn(2, 3, 12, 12))
