"""A map that is computed only when it is read looks like the tensor that it stands for."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.map_operations import OPERATIONS
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn
from torch.utils.checkpoint import checkpoint

import accuracy_booster as ab
from accuracy_booster.ops.deferred import DeferredMap

pytestmark = WARNINGS_ARE_ERRORS


CLOSE = {"rtol": 1e-10, "atol": 1e-11}


def scaled(grad: bool = True):
    """A deferred map z * scale, its z, and its value."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 3, 4, 5, generator=generator, requires_grad=grad)
    scale = torch.randn(2, 3, generator=generator)
    return DeferredMap.affine(z, None, scale, None), z, z * scale[:, :, None, None]


class Branching(nn.Module):
    """A residual block whose forward asks about the branch's map before it adds to it."""

    def __init__(self, ask):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.ask = ask

    def forward(self, x):
        y = self.bn(self.conv(x.relu()))
        y = y + x if self.ask(y) else y - x
        return F.relu(y)


ASKS = {
    "is_tensor": torch.is_tensor,
    "isinstance": lambda y: isinstance(y, torch.Tensor),
    "type": lambda y: issubclass(type(y), torch.Tensor),
    "shape": lambda y: isinstance(y, torch.Tensor) and y.size(1) == 8 and y.dim() == 4,
    "dtype": lambda y: torch.is_floating_point(y) and y.dtype == torch.float32 and not y.is_cuda,
    "no parameter": lambda y: not isinstance(y, (nn.Parameter, tuple, list, dict)),
    "numbers": lambda y: y.numel() == y.shape.numel() and y.device.type == "cpu",
}


@pytest.mark.parametrize("kind", ["fused", "folded"])
@pytest.mark.parametrize("ask", ASKS)
def test_code_that_asks_goes_the_same_way(ask, kind):
    torch.manual_seed(0)
    net = nn.Sequential(Branching(ASKS[ask]), Branching(ASKS[ask]))
    x = torch.randn(3, 8, 6, 6)
    ab.boost(net, "ab", example=x[:1])
    for p in net.parameters():
        nn.init.normal_(p)
    net.eval()
    other = ab.fuse(copy.deepcopy(net), example=x) if kind == "fused" else ab.fold(net, example=x)
    assert ab.fast_path(other).taken == 2
    seen = []
    other[0].ask = lambda y: [seen.append(type(y)), ASKS[ask](y)][1]
    torch.testing.assert_close(other(x), net(x), rtol=1e-4, atol=1e-4)
    assert seen == [DeferredMap]  # a deferred map was asked
    if kind == "fused":
        for training in (True, False):
            grads = []
            for model in (net, other):
                model.train(training).zero_grad()
                copy.deepcopy(model)(x)  # statistics of a copy move
                model(x).square().sum().backward()
                grads.append([p.grad for p in model.parameters()])
            for a, b in zip(*grads, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


SAME = {
    "numpy": lambda y: torch.from_numpy(y.numpy()),
    "np.asarray": lambda y: torch.from_numpy(np.asarray(y)),
    "as_tensor": torch.as_tensor,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda y: pickle.loads(pickle.dumps(y)),
    "data": lambda y: y.data,
    "dlpack": torch.from_dlpack,
    "aten": torch.ops.aten.alias,
    "list": lambda y: torch.stack(list(y)),
    "memory": lambda y: torch.frombuffer(
        (__import__("ctypes").c_char * 480).from_address(y.data_ptr()), dtype=torch.float32
    ).reshape(y.shape),
    "vmap": torch.vmap(lambda row: row * 1),
    "function": lambda y: Double.apply(y) / 2,
    "script": torch.jit.script(nn.Identity()),
    "mul_": lambda y: [y.mul_(2), y.div_(2), y][2],
    "iadd": lambda y: y.__iadd__(torch.ones(())).__isub__(1),
}


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


@pytest.mark.parametrize("work", SAME)
def test_what_reads_it_reads_its_value(work):
    y, _, value = scaled(grad=False)
    torch.testing.assert_close(SAME[work](y) + 0, value)
    torch.testing.assert_close(y + 0, value)  # and changed nothing, or put it back


def test_it_is_saved_and_printed_as_its_value():
    y, _, value = scaled(grad=False)
    buffer = io.BytesIO()
    torch.save({"y": y}, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer)["y"]
    assert type(loaded) is torch.Tensor
    assert torch.equal(loaded, value)
    y, _, value = scaled(grad=False)
    assert (repr(y), f"{y}") == (repr(value), f"{value}")


def test_it_has_the_attributes_of_its_value():
    y, z, value = scaled()
    assert (y.shape, y.ndim, y.dtype, y.device) == (value.shape, 4, value.dtype, value.device)
    assert y.requires_grad
    assert not y.is_leaf
    assert y.grad_fn is not None
    y.register_hook(lambda grad: grad * 3)
    F.relu(y).sum().backward()
    expected = torch.autograd.grad(F.relu(value).sum(), z)[0]
    torch.testing.assert_close(z.grad, 3 * expected)
    with torch.no_grad():
        assert not scaled()[0].requires_grad


def test_in_place_changes_stay():
    y, _, value = scaled(grad=False)
    y.mul_(2)
    y -= 1
    y[0] = 0
    expected = value * 2 - 1
    expected[0] = 0
    torch.testing.assert_close(F.relu(y + value), F.relu(expected + value))


@pytest.mark.parametrize(
    "work",
    [Double.apply, lambda y: checkpoint(lambda x: x * 2, y, use_reentrant=True)],
    ids=["autograd.Function", "reentrant checkpoint"],
)
def test_a_gradient_that_would_be_lost_is_an_error(work):
    y, *_ = scaled()
    with pytest.raises(RuntimeError, match=r"give it y.clone\(\), or take the block out"):
        work(y).sum().backward()
    y, z, value = scaled()
    work(y.clone()).sum().backward()
    torch.testing.assert_close(z.grad, torch.autograd.grad(2 * value.sum(), z)[0])


def test_a_checkpoint_around_the_sum_gives_the_same_gradient():
    y, z, value = scaled()
    x = torch.ones_like(value)
    checkpoint(lambda a, b: F.relu(a + b), y, x, use_reentrant=False).sum().backward()
    torch.testing.assert_close(z.grad, torch.autograd.grad(F.relu(value + x).sum(), z)[0])


def test_a_compiled_part_takes_it():
    part = torch.compile(lambda a, b: F.relu(a + b), backend="eager")
    y, z, value = scaled()
    x = torch.ones_like(value)
    found = part(y, x)
    torch.testing.assert_close(found, F.relu(value + x))
    found.sum().backward()
    torch.testing.assert_close(z.grad, torch.autograd.grad(F.relu(value + x).sum(), z)[0])


def test_inference_mode():
    with torch.inference_mode():
        y, _, value = scaled(grad=False)
        assert torch.equal(F.relu(y + value), F.relu(value + value))


def deferred(followed_by="relu", dtype=torch.float64):
    """A deferred map, its value, a map to add, the leaves of the one and of the other."""
    z, other = (torch.randn(3, 4, 5, 6, dtype=torch.float64) for _ in range(2))
    mean, scale, shift = (torch.randn(3, 4, dtype=torch.float64) for _ in range(3))
    leaves = [v.to(dtype).requires_grad_() for v in (z, mean, scale, shift)]
    exact = [v.detach().clone().requires_grad_() for v in leaves]
    z, mean, scale, shift = exact
    value = (z - mean[:, :, None, None]) * scale[:, :, None, None] + shift[:, :, None, None]
    return (
        DeferredMap.affine(*leaves, followed_by=followed_by),
        value,
        other.to(dtype),
        leaves,
        exact,
    )


@pytest.mark.parametrize("followed_by", ["relu", "sum"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_is_done_with_a_deferred_map(operation, followed_by):
    p, value, x, leaves, exact = deferred(followed_by)
    work = OPERATIONS[operation]
    torch.manual_seed(3)
    expected = work(value, x)
    torch.manual_seed(3)
    found = work(p, x)
    if isinstance(found, DeferredMap):
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        assert found.device == expected.device
        assert found.ndim == expected.ndim
        found = found.compute()
    torch.testing.assert_close(found, expected, **CLOSE)
    grad = torch.randn(expected.shape, dtype=expected.dtype)
    expected.backward(grad)
    found.backward(grad)
    for a, b in zip(leaves, exact, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9)


def test_a_sum_is_deferred_until_its_relu():
    p, _, x, *_ = deferred()
    assert isinstance(p + x, DeferredMap)
    assert isinstance(x + p, DeferredMap)
    assert type(torch.relu(p + x)) is torch.Tensor
    assert type(p + 1) is torch.Tensor
    assert type((p + x) + x) is torch.Tensor
    p, _, x, *_ = deferred("sum")
    assert type(p + x) is torch.Tensor


@pytest.mark.parametrize("work", [bool, float, int, hash, repr, str], ids=lambda f: f.__name__)
def test_python_functions_of_a_deferred_map(work):
    """They do what they do with the tensor: errors too."""
    p, value, *_ = deferred()
    try:
        work(value)
    except (RuntimeError, ValueError, TypeError) as e:
        with pytest.raises(type(e)):
            work(p)
    else:
        assert work in (hash, repr, str)
        assert work is hash or work(p)


def test_a_deferred_map_of_one_value():
    one = torch.full((1, 1, 1, 1), 2.0)
    p = DeferredMap.affine(one, None, torch.full((1, 1), 3.0), None)
    assert (bool(p), float(p), int(p), p.item(), p.tolist()) == (True, 6.0, 6, 6.0, [[[[6.0]]]])
    zero = DeferredMap.affine(one, None, torch.zeros(1, 1), None)
    assert not zero


def test_a_deferred_map_of_16_bits_adds_in_16_bits_as_torch_does():
    p, _, x, *_ = deferred(dtype=torch.bfloat16)
    with torch.no_grad():
        found = p + x
    assert found.dtype == torch.bfloat16
    assert (p + x.float()).dtype == torch.float32
