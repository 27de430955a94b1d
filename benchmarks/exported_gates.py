"""Folded gates in other graph forms than `ab.export` writes, for `exported.py`.

The gate's weights p[N, K, 1, 1] come from means over space and affine maps. Three choices are left:

- which operators these are (`KINDS`): pooling or a reduction gives the means, and an affine map of
  single channels is a depthwise convolution, or a product and a sum;
- what the mean reads: the input of the convolution before the gate, or its output;
- how p meets the map z[N, K, H, W]:
    "broadcast": z * p. It is the smallest graph. onnxruntime leaves its blocked layout for it.
    "map": p is first resized to [N, K, H, W], so that both factors have one shape. onnxruntime
        multiplies these in its blocked layout.
"""

# N batch, C channels in, K channels out, H W space

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from accuracy_booster.blocks import Dense
from accuracy_booster.fastpath.folded_gates import MeanGate
from accuracy_booster.fastpath.folded_modules import FoldedGate, GatedConv, Scale

# {kind: (whether pooling gives the means, whether maps of single channels are convolutions)}
KINDS = {"convolutions": (True, True), "pooled": (True, False), "reduced": (False, False)}
PRODUCTS = ("broadcast", "map")


class GraphGate(nn.Module):
    """t[N, C, H, W] -> p[N, K, 1, 1], the weights of a folded gate.

    Args:
        stages: 1x1 convolutions; a ReLU stands between two of them.
        kind: one of `KINDS`.
        scale: of the sigmoid.
        space: (H, W) of the maps. A file has one size of images, so it is a constant.
    """

    def __init__(
        self, stages: Sequence[nn.Conv2d], kind: str, scale: float, space: tuple[int, int]
    ):
        super().__init__()
        self.pools, convolves = KINDS[kind]
        self.stages = nn.ModuleList(stages if convolves else map(_as_product, stages))
        self.scale, self.space = scale, space

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        d = F.avg_pool2d(t, self.space) if self.pools else t.mean((2, 3), keepdim=True)
        for i, stage in enumerate(self.stages):
            d = stage(F.relu(d) if i else d)
        p = torch.sigmoid(d)
        return p if self.scale == 1 else self.scale * p


class Affine(nn.Module):
    """d[N, K, 1, 1] -> weight * d + bias, with weight[K] and bias[K] of a depthwise convolution."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        assert conv.bias is not None
        self.weight = nn.Parameter(conv.weight.detach().view(1, -1, 1, 1))
        self.bias = nn.Parameter(conv.bias.detach().view(1, -1, 1, 1))

    def forward(self, d: torch.Tensor) -> torch.Tensor:
        return d * self.weight + self.bias


def _as_product(stage: nn.Conv2d) -> nn.Module:
    return Affine(stage) if is_channelwise(stage) else stage


def is_channelwise(stage: nn.Conv2d) -> bool:
    """Whether a stage maps each channel to itself."""
    return stage.groups == stage.in_channels == stage.out_channels


class Product(nn.Module):
    """z[N, K, H, W] and p[N, K, 1, 1] -> p * z, in one of the forms of `PRODUCTS`."""

    def __init__(self, form: str, space: tuple[int, int]):
        super().__init__()
        self.form, self.space = form, space

    def forward(self, z: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        if self.form == "broadcast":
            return z * p
        # onnxruntime resizes linearly with all threads, but repeats values with one; of one
        # position both give the same
        factors = tuple(map(float, self.space))
        return z * F.interpolate(p, scale_factor=factors, mode="bilinear")


class GraphConv(nn.Module):
    """h[N, C, H, W] -> p * conv(h).

    Args:
        conv: the convolution before the gate.
        gate: what gives p, from h (`side` "input") or from conv(h) ("output").
        product: how they are multiplied.
    """

    def __init__(self, conv: nn.Module, gate: GraphGate, side: str, product: Product):
        super().__init__()
        self.conv, self.gate, self.product = conv, gate, product
        self.side = side

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        z = self.conv(h)
        return self.product(z, self.gate(h if self.side == "input" else z))


class GraphScale(nn.Module):
    """z[N, K, H, W] -> p * z, for gates that follow no convolution."""

    def __init__(self, gate: GraphGate, product: Product):
        super().__init__()
        self.gate, self.product = gate, product

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.product(z, self.gate(z))


def pointwise(weight: torch.Tensor, bias: torch.Tensor | None, groups: int = 1) -> nn.Conv2d:
    """The 1x1 convolution with this weight[K, C / groups] and bias[K]."""
    out, per_group = weight.shape
    conv = nn.Conv2d(per_group * groups, out, 1, groups=groups, device="meta")
    conv.weight = nn.Parameter(weight.detach()[:, :, None, None].contiguous())
    conv.bias = nn.Parameter(weight.new_zeros(out) if bias is None else bias.detach())
    return conv.eval()


def stages_of(gate: FoldedGate) -> list[nn.Conv2d] | None:
    """The stages of a folded gate as 1x1 convolutions; None if one is something else."""
    found = []
    for stage in gate.stages:
        if isinstance(stage, Scale):
            found.append(pointwise(stage.weight[:, None], stage.bias, len(stage.bias)))
        elif isinstance(stage, Dense):
            found.append(pointwise(stage.weight, stage.bias, stage.groups))
        elif isinstance(stage, nn.Linear):
            found.append(pointwise(stage.weight, stage.bias))
        else:
            return None
    return found


def reads_input(conv: nn.Module) -> bool:
    """Whether the mean of a convolution's output is an affine map of the mean of its input."""
    return (
        isinstance(conv, nn.Conv2d)
        and (conv.kernel_size, conv.stride, conv.groups) == ((1, 1), (1, 1), 1)
        and conv.padding in ((0, 0), "valid", "same")
    )


@torch.no_grad()
def in_form(folded: nn.Module, kind: str, product: str, image: torch.Tensor) -> nn.Module:
    """A copy of a folded network whose gates have another graph form, with the same outputs.

    Gates that read the means of the taps of a larger kernel stay as they are.

    Args:
        folded: what `ab.fold(..., kernel="off")` gave.
        kind, product: of `KINDS` and `PRODUCTS`.
        image: [1, C, H, W].
    """
    network = copy.deepcopy(folded)
    sites = {name: m for name, m in network.named_modules() if isinstance(m, GatedConv | MeanGate)}
    shapes: dict[str, tuple[torch.Size, torch.Size]] = {}
    hooks = [
        module.register_forward_hook(
            lambda _, given, gives, name=name: shapes.update({name: (given[0].shape, gives.shape)})
        )
        for name, module in sites.items()
    ]
    network(image)
    for hook in hooks:
        hook.remove()
    for name, (given, gives) in shapes.items():
        module, stages = sites[name], stages_of(sites[name].gate)
        inputs = getattr(module, "form", "output") == "input"
        if stages is None or (inputs and not reads_input(module.conv)):
            continue
        gate = GraphGate(stages, kind, module.gate.scale, (given if inputs else gives)[2:])
        scaled = Product(product, gives[2:])
        if isinstance(module, MeanGate):
            new: nn.Module = GraphScale(gate, scaled)
        else:
            new = GraphConv(module.conv, gate, "input" if inputs else "output", scaled)
        network.set_submodule(name, new.eval())
    return network
