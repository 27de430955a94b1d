"""A feature map that waits for its sum and ReLU is a tensor to whoever asks."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import accuracy_booster as ab
from accuracy_booster.ops.deferred import Pending


def waiting(grad: bool = True):
    """A pending map, what it is made from, and its value."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 3, 4, 5, generator=generator, requires_grad=grad)
    scale = torch.randn(2, 3, generator=generator)
    return Pending(z, None, scale, None), z, z * scale[:, :, None, None]


class Branching(nn.Module):
    """A residual block whose forward asks what it has before it goes on."""

    def __init__(self, ask, then: str = "relu"):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.ask, self.then = ask, then

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
    assert seen == [Pending]  # it was asked of a map that waits
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
    y, _, value = waiting(grad=False)
    torch.testing.assert_close(SAME[work](y) + 0, value)
    torch.testing.assert_close(y + 0, value)  # and changed nothing, or put it back


def test_it_is_saved_and_printed_as_its_value():
    y, _, value = waiting(grad=False)
    buffer = io.BytesIO()
    torch.save({"y": y}, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer)["y"]
    assert type(loaded) is torch.Tensor
    assert torch.equal(loaded, value)
    y, _, value = waiting(grad=False)
    assert (repr(y), f"{y}") == (repr(value), f"{value}")


def test_it_has_the_attributes_of_its_value():
    y, z, value = waiting()
    assert (y.shape, y.ndim, y.dtype, y.device) == (value.shape, 4, value.dtype, value.device)
    assert y.requires_grad
    assert not y.is_leaf
    assert y.grad_fn is not None
    y.register_hook(lambda grad: grad * 3)
    F.relu(y).sum().backward()
    expected = torch.autograd.grad(F.relu(value).sum(), z)[0]
    torch.testing.assert_close(z.grad, 3 * expected)
    with torch.no_grad():
        assert not waiting()[0].requires_grad


def test_in_place_changes_stay():
    y, _, value = waiting(grad=False)
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
    y, *_ = waiting()
    with pytest.raises(RuntimeError, match=r"give it y.clone\(\), or take the block out"):
        work(y).sum().backward()
    y, z, value = waiting()
    work(y.clone()).sum().backward()
    torch.testing.assert_close(z.grad, torch.autograd.grad(2 * value.sum(), z)[0])


def test_a_checkpoint_around_the_sum_gives_the_same_gradient():
    y, z, value = waiting()
    x = torch.ones_like(value)
    checkpoint(lambda a, b: F.relu(a + b), y, x, use_reentrant=False).sum().backward()
    torch.testing.assert_close(z.grad, torch.autograd.grad(F.relu(value + x).sum(), z)[0])


def test_a_compiled_part_takes_it():
    part = torch.compile(lambda a, b: F.relu(a + b), backend="eager")
    y, z, value = waiting()
    x = torch.ones_like(value)
    found = part(y, x)
    torch.testing.assert_close(found, F.relu(value + x))
    found.sum().backward()
    torch.testing.assert_close(z.grad, torch.autograd.grad(F.relu(value + x).sum(), z)[0])


def test_inference_mode():
    with torch.inference_mode():
        y, _, value = waiting(grad=False)
        assert torch.equal(F.relu(y + value), F.relu(value + value))


pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True"),
    pytest.mark.filterwarnings("ignore:the batch norm of the gate"),
    pytest.mark.filterwarnings("ignore:a norm that holds a gate was frozen"),
    pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:the network has .* attention modules already"),
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    torch._dynamo.reset()


CLOSE = {"rtol": 1e-10, "atol": 1e-11}


def pending(last="relu", dtype=torch.float64):
    z, other = (torch.randn(3, 4, 5, 6, dtype=torch.float64) for _ in range(2))
    mean, scale, shift = (torch.randn(3, 4, dtype=torch.float64) for _ in range(3))
    leaves = [v.to(dtype).requires_grad_() for v in (z, mean, scale, shift)]
    exact = [v.detach().clone().requires_grad_() for v in leaves]
    z, mean, scale, shift = exact
    value = (z - mean[:, :, None, None]) * scale[:, :, None, None] + shift[:, :, None, None]
    return Pending(*leaves, last=last), value, other.to(dtype), leaves, exact


def twice_added(p, x):
    p += x
    p += 2 * x
    return p


def added_and_read(p, x):
    q = p
    p += x
    return q * p


def added_then_relu(p, x):
    p += x
    return F.relu(p, inplace=True) * p


def sum_read_twice(p, x):
    total = p + x
    return total.relu() * total + total.sum() * p


def changed(p, x):
    p = p * 1
    p[0] = 0
    return p


OPERATIONS = {
    "+": lambda p, x: p + x,
    "x+": lambda p, x: x + p,
    "-": lambda p, x: p - x,
    "x-": lambda p, x: x - p,
    "*": lambda p, x: p * x,
    "x*": lambda p, x: x * p,
    "/": lambda p, x: p / (x.abs() + 1),
    "x/": lambda p, x: x / (p.abs() + 1),
    "2-": lambda p, x: 2 - p,
    "2/": lambda p, x: 2 / (p.abs() + 1),
    "**": lambda p, x: p**2,
    "2**": lambda p, x: 2**p,
    "@": lambda p, x: p @ x.transpose(2, 3),
    "x@": lambda p, x: x.transpose(2, 3) @ p,
    "//": lambda p, x: p.detach() // 0.5 * p,
    "%": lambda p, x: p % 0.5,
    "neg": lambda p, x: -p,
    "pos": lambda p, x: +p,
    "abs": lambda p, x: abs(p),
    "==": lambda p, x: (p == x) * p,
    "!=": lambda p, x: (p != x) * p,
    "== 0": lambda p, x: (p == 0) * p,
    "!= 0": lambda p, x: (p != 0) * p,
    ">": lambda p, x: (p > 0) * p,
    "x>": lambda p, x: (x > p) * p,
    "<=": lambda p, x: (p <= x) * p,
    "number": lambda p, x: p + 3,
    "0+": lambda p, x: sum([p, x]),
    "broadcast": lambda p, x: p + x[:, :, :1, :1],
    "larger": lambda p, x: p + x[None],
    "float32": lambda p, x: p + x.float(),
    "integer": lambda p, x: p + torch.ones(3, 4, 5, 6, dtype=torch.int64),
    "pending": lambda p, x: p + p,
    "alpha": lambda p, x: torch.add(p, x, alpha=2),
    "x alpha": lambda p, x: torch.add(x, p, alpha=2),
    "torch.add": lambda p, x: torch.add(p, x),
    "torch.add named": lambda p, x: torch.add(input=p, other=x),
    ".add": lambda p, x: p.add(x),
    "x.add": lambda p, x: x.add(p),
    "x.add alpha": lambda p, x: x.add(p, alpha=3),
    "torch.sub": lambda p, x: torch.sub(p, x),
    "+=": lambda p, x: twice_added(p, x),
    "+= read": added_and_read,
    "+= relu_": added_then_relu,
    "x+=": lambda p, x: x.clone().add_(p),
    "-=": lambda p, x: p.__isub__(x),
    "sum read twice": sum_read_twice,
    "sum of three": lambda p, x: F.relu(p + x + x),
    "relu": lambda p, x: torch.relu(p),
    "relu named": lambda p, x: torch.relu(input=p),
    "F.relu named": lambda p, x: F.relu(input=p, inplace=False),
    ".relu": lambda p, x: (p + x).relu(),
    ".relu_": lambda p, x: (p + x).relu_(),
    "F.relu": lambda p, x: F.relu(p + x) + x,
    "F.relu in place": lambda p, x: F.relu(p + x, True),
    "nn.ReLU": lambda p, x: nn.ReLU(inplace=True)(p + x),
    "relu then use": lambda p, x: F.relu(p) * p,
    "silu": lambda p, x: F.silu(p + x),
    "cat": lambda p, x: torch.cat([p, x], 1),
    "cat of sums": lambda p, x: torch.cat((x, p + x), dim=1),
    "stack": lambda p, x: torch.stack([x, p, p]),
    "index": lambda p, x: p[:, 1:, ..., ::2],
    "mask": lambda p, x: p[x > 0],
    "setitem": changed,
    "iter": lambda p, x: torch.stack(list(p)),
    "chunk": lambda p, x: p.chunk(2, 1)[1],
    "shape": lambda p, x: p.view(p.shape[0], -1) * len(p) + p.size(1) + p.ndim + p.dim(),
    "mean": lambda p, x: p.mean((2, 3)) * 2,
    "flatten": lambda p, x: torch.flatten(p, 1),
    "T": lambda p, x: p.mT,
    "dropout": lambda p, x: F.dropout(p, 0.5, training=True),
    "dropout eval": lambda p, x: F.dropout(p, 0.5, training=False),
    "pool": lambda p, x: F.adaptive_avg_pool2d(p, 1),
    "conv": lambda p, x: F.conv2d(p, x[:, :, :3, :3]),
    "where": lambda p, x: torch.where(x > 0, p, x),
    "einsum": lambda p, x: torch.einsum("nchw,nchw->nc", p, x),
    "detach": lambda p, x: p.detach() * p,
    "clone": lambda p, x: p.clone(),
    "float": lambda p, x: p.float().double(),
    "to": lambda p, x: p.to(torch.float64) + x,
    "new": lambda p, x: p * p.new_ones(1) + torch.zeros_like(p),
    "item": lambda p, x: p * p.sum().item(),
    "float of one": lambda p, x: p * float(p.detach()[0, 0, 0, 0]),
}


@pytest.mark.parametrize("last", ["relu", "sum"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_is_done_with_a_pending_map(operation, last):
    p, value, x, leaves, exact = pending(last)
    work = OPERATIONS[operation]
    torch.manual_seed(3)
    expected = work(value, x)
    torch.manual_seed(3)
    found = work(p, x)
    if isinstance(found, Pending):
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


def test_a_sum_waits_and_its_relu_ends_it():
    p, _, x, *_ = pending()
    assert isinstance(p + x, Pending)
    assert isinstance(x + p, Pending)
    assert isinstance(torch.relu(p + x), torch.Tensor)
    assert not isinstance(p + 1, Pending)
    assert not isinstance((p + x) + x, Pending)
    p, _, x, *_ = pending("sum")
    assert isinstance(p + x, torch.Tensor)


@pytest.mark.parametrize("work", [bool, float, int, hash, repr, str], ids=lambda f: f.__name__)
def test_python_functions_of_a_pending_map(work):
    """They do what they do with the tensor: errors too."""
    p, value, *_ = pending()
    try:
        work(value)
    except (RuntimeError, ValueError, TypeError) as e:
        with pytest.raises(type(e)):
            work(p)
    else:
        assert work in (hash, repr, str)
        assert work is hash or work(p)


def test_a_pending_map_of_one_value():
    one = torch.full((1, 1, 1, 1), 2.0)
    p = Pending(one, None, torch.full((1, 1), 3.0), None)
    assert (bool(p), float(p), int(p), p.item(), p.tolist()) == (True, 6.0, 6, 6.0, [[[[6.0]]]])
    zero = Pending(one, None, torch.zeros(1, 1), None)
    assert not zero


def test_a_pending_map_of_16_bits_adds_in_16_bits_as_torch_does():
    p, _, x, *_ = pending(dtype=torch.bfloat16)
    with torch.no_grad():
        found = p + x
    assert found.dtype == torch.bfloat16
    assert (p + x.float()).dtype == torch.float32
