"""In a compiled network the sum and the activation after a packed convolution join it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._inductor.utils import run_and_get_code

from accuracy_booster.fastpath.compiled import Compiled
from accuracy_booster.fastpath.packed_modules import PackedConv2d
from accuracy_booster.ops import packed_conv
from accuracy_booster.ops.packed_conv import BY_POSITIONS

reason = packed_conv.why_not(nn.Conv2d(1, 1, 1))
pytestmark = pytest.mark.skipif(reason is not None, reason=f"no kernel here: {reason}")


def packed(*given):
    return PackedConv2d(nn.Conv2d(*given), BY_POSITIONS)


class Block(nn.Module):
    """A residual block; `kind` says what comes after its last convolution."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.first, self.mid = packed(16, 16, 1), packed(16, 16, 3, 1, 1)
        self.last, self.after = packed(16, 16, 1), packed(16, 20, 1)

    def forward(self, x):
        h = torch.relu(self.first(x))
        if self.kind == "the convolution reads the shortcut":
            return torch.relu(self.last(h) + h), None
        y = self.last(self.mid(h))
        if self.kind == "sum and relu":
            return torch.relu(y + h), None
        if self.kind == "sum on the right":
            return self.after(torch.relu(h + y)), None
        if self.kind == "shortcut is read later":
            return torch.relu(y + h), self.after(h)
        if self.kind == "relu6":
            return nn.functional.relu6(y + h), None
        if self.kind == "crossed limits":
            return y.clamp_min(2.0).clamp_max(1.0), None
        if self.kind == "sum after the relu":
            return torch.relu(y) + h, None
        if self.kind == "read twice":
            return torch.relu(y + h), y.sum()
        if self.kind == "input is the shortcut":
            return torch.relu(self.last(x) + x), None
        if self.kind == "other shape":
            return torch.relu(y + h.mean((2, 3), keepdim=True)), None
        if self.kind == "with itself":
            return torch.relu(y + y), None
        return torch.relu(torch.add(y, h, alpha=2)), None


@pytest.mark.parametrize(
    ("kind", "convolutions", "onto"),
    [
        ("sum and relu", 3, 1),
        ("sum on the right", 4, 1),
        ("relu6", 3, 1),
        ("shortcut is read later", 4, 0),
        ("the convolution reads the shortcut", 2, 0),
        ("input is the shortcut", 1, 0),
        ("crossed limits", 3, 0),
        ("sum after the relu", 3, 0),
        ("read twice", 3, 0),
        ("other shape", 3, 0),
        ("with itself", 3, 0),
        ("alpha", 3, 0),
    ],
)
@torch.no_grad()
def test_what_joins(kind, convolutions, onto):
    torch.manual_seed(0)
    torch._dynamo.reset()
    block = Block(kind).eval()
    x = torch.randn(2, 16, 5, 5).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    found, (code, *_) = run_and_get_code(Compiled(block), x)
    for a, b in zip(found, block(x), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)
    assert torch.equal(x, before)
    assert code.count("accuracy_booster.packed_conv_onto.default(") == onto
    assert code.count("accuracy_booster.packed_conv.default(") == convolutions - onto
    if kind in ("sum and relu", "sum on the right", "relu6"):
        assert "cpp_fused" not in code.partition("def call(")[2]  # no pass beside the convolutions


@pytest.mark.parametrize(
    "parts",
    [
        lambda h: h.chunk(2, 1),
        lambda h: h.split(16, 1),
        lambda h: (h[:, :16], h[:, 16:]),
        lambda h: (h.unbind(0)[0][None, :16].expand(2, -1, -1, -1), h.unbind(0)[1]),
        lambda h: (h.narrow(1, 0, 16), h.transpose(2, 3)),
    ],
)
@torch.no_grad()
def test_a_shortcut_whose_parts_are_read_later_is_not_overwritten(parts):
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = packed(3, 32, 3, 1, 1), packed(16, 32, 3, 1, 1)

        def forward(self, x):
            h = self.first(x)
            a, b = parts(h)
            return (self.second(a) + h).mean((2, 3)), b + 1

    torch.manual_seed(0)
    torch._dynamo.reset()
    model = Parts().eval()
    x = torch.randn(2, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    for a, b in zip(Compiled(model)(x), model(x), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_images_in_another_order_of_memory_are_not_copied_at_each_convolution():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 16, 3), packed(16, 16, 1)

        def forward(self, x):
            return self.second(torch.relu(self.first(x)))

    torch.manual_seed(0)
    torch._dynamo.reset()
    model = Two().eval()
    x = torch.randn(2, 3, 6, 6)
    found, (code, *_) = run_and_get_code(Compiled(model), x)
    assert torch.allclose(found, model(x), rtol=1e-4, atol=1e-5)
    assert "cpp_fused" not in code.partition("def call(")[2]


@torch.no_grad()
def test_a_shortcut_that_torchs_convolutions_read_before_is_overwritten():
    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.start, self.first = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1)
            self.last = packed(16, 16, 1)

        def forward(self, x):
            h = self.start(x)
            h = torch.relu(self.last(torch.relu(self.first(h))) + h)
            return torch.relu(self.last(torch.relu(self.first(h))) + h)

    torch.manual_seed(0)
    torch._dynamo.reset()
    model = Blocks().eval()
    x = torch.randn(2, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    found, (code, *_) = run_and_get_code(Compiled(model), x)
    assert torch.allclose(found, model(x), rtol=1e-4, atol=1e-5)
    assert code.count("accuracy_booster.packed_conv_onto.default(") == 2
