"""What a network may do with a feature map y and another one, x, of the same shape [3, 4, 5, 6]."""

# torch's own functions, Python's operators, and changes in place

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def twice_added(y, x):
    y += x
    y += 2 * x
    return y


def added_and_read(y, x):
    q = y
    y += x
    return q * y


def added_then_relu(y, x):
    y += x
    return F.relu(y, inplace=True) * y


def sum_read_twice(y, x):
    total = y + x
    return total.relu() * total + total.sum() * y


def changed(y, x):
    y = y * 1
    y[0] = 0
    return y


OPERATIONS = {
    "+": lambda y, x: y + x,
    "x+": lambda y, x: x + y,
    "-": lambda y, x: y - x,
    "x-": lambda y, x: x - y,
    "*": lambda y, x: y * x,
    "x*": lambda y, x: x * y,
    "/": lambda y, x: y / (x.abs() + 1),
    "x/": lambda y, x: x / (y.abs() + 1),
    "2-": lambda y, x: 2 - y,
    "2/": lambda y, x: 2 / (y.abs() + 1),
    "**": lambda y, x: y**2,
    "2**": lambda y, x: 2**y,
    "@": lambda y, x: y @ x.transpose(2, 3),
    "x@": lambda y, x: x.transpose(2, 3) @ y,
    "//": lambda y, x: y.detach() // 0.5 * y,
    "%": lambda y, x: y % 0.5,
    "neg": lambda y, x: -y,
    "pos": lambda y, x: +y,
    "abs": lambda y, x: abs(y),
    "==": lambda y, x: (y == x) * y,
    "!=": lambda y, x: (y != x) * y,
    "== 0": lambda y, x: (y == 0) * y,
    "!= 0": lambda y, x: (y != 0) * y,
    ">": lambda y, x: (y > 0) * y,
    "x>": lambda y, x: (x > y) * y,
    "<=": lambda y, x: (y <= x) * y,
    "number": lambda y, x: y + 3,
    "0+": lambda y, x: sum([y, x]),
    "broadcast": lambda y, x: y + x[:, :, :1, :1],
    "larger": lambda y, x: y + x[None],
    "float32": lambda y, x: y + x.float(),
    "integer": lambda y, x: y + torch.ones(3, 4, 5, 6, dtype=torch.int64),
    "deferred": lambda y, x: y + y,
    "alpha": lambda y, x: torch.add(y, x, alpha=2),
    "x alpha": lambda y, x: torch.add(x, y, alpha=2),
    "torch.add": lambda y, x: torch.add(y, x),
    "torch.add named": lambda y, x: torch.add(input=y, other=x),
    ".add": lambda y, x: y.add(x),
    "x.add": lambda y, x: x.add(y),
    "x.add alpha": lambda y, x: x.add(y, alpha=3),
    "torch.sub": lambda y, x: torch.sub(y, x),
    "+=": lambda y, x: twice_added(y, x),
    "+= read": added_and_read,
    "+= relu_": added_then_relu,
    "x+=": lambda y, x: x.clone().add_(y),
    "-=": lambda y, x: y.__isub__(x),
    "sum read twice": sum_read_twice,
    "sum of three": lambda y, x: F.relu(y + x + x),
    "relu": lambda y, x: torch.relu(y),
    "relu named": lambda y, x: torch.relu(input=y),
    "F.relu named": lambda y, x: F.relu(input=y, inplace=False),
    ".relu": lambda y, x: (y + x).relu(),
    ".relu_": lambda y, x: (y + x).relu_(),
    "F.relu": lambda y, x: F.relu(y + x) + x,
    "F.relu in place": lambda y, x: F.relu(y + x, True),
    "nn.ReLU": lambda y, x: nn.ReLU(inplace=True)(y + x),
    "relu then use": lambda y, x: F.relu(y) * y,
    "silu": lambda y, x: F.silu(y + x),
    "cat": lambda y, x: torch.cat([y, x], 1),
    "cat of sums": lambda y, x: torch.cat((x, y + x), dim=1),
    "stack": lambda y, x: torch.stack([x, y, y]),
    "index": lambda y, x: y[:, 1:, ..., ::2],
    "mask": lambda y, x: y[x > 0],
    "setitem": changed,
    "iter": lambda y, x: torch.stack(list(y)),
    "chunk": lambda y, x: y.chunk(2, 1)[1],
    "shape": lambda y, x: y.view(y.shape[0], -1) * len(y) + y.size(1) + y.ndim + y.dim(),
    "mean": lambda y, x: y.mean((2, 3)) * 2,
    "flatten": lambda y, x: torch.flatten(y, 1),
    "T": lambda y, x: y.mT,
    "dropout": lambda y, x: F.dropout(y, 0.5, training=True),
    "dropout eval": lambda y, x: F.dropout(y, 0.5, training=False),
    "pool": lambda y, x: F.adaptive_avg_pool2d(y, 1),
    "conv": lambda y, x: F.conv2d(y, x[:, :, :3, :3]),
    "where": lambda y, x: torch.where(x > 0, y, x),
    "einsum": lambda y, x: torch.einsum("nchw,nchw->nc", y, x),
    "detach": lambda y, x: y.detach() * y,
    "clone": lambda y, x: y.clone(),
    "float": lambda y, x: y.float().double(),
    "to": lambda y, x: y.to(torch.float64) + x,
    "new": lambda y, x: y * y.new_ones(1) + torch.zeros_like(y),
    "item": lambda y, x: y * y.sum().item(),
    "float of one": lambda y, x: y * float(y.detach()[0, 0, 0, 0]),
}
