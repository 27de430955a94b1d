"""Which layers can take a constant per channel of their output, and how."""

# C channels, K channels of a layer's output

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from accuracy_booster.fastpath.layer_classes import computes_as
from accuracy_booster.surgery.gated import ungated_class


@dataclass(frozen=True)
class Row:
    """How a layer is scaled: which of its tensors are multiplied.

    Attributes:
        tensors: their names. The first is there; the others may be None.
        last: its output has the channels last, [N, ..., C].
        transposed: its weight is [C in, K / groups, ...].
    """

    tensors: tuple[str, ...] = ("weight", "bias")
    last: bool = False
    transposed: bool = False


def _rows(module: str, names: str, row: Row = Row()) -> dict[str, Row]:
    return {f"{module}.{name}": row for name in names.split()}


LAST, WEIGHT, GAIN, GAMMA = Row(last=True), ("weight",), ("gain", "bias"), ("gamma",)
# by qualified name, so that no library is imported for its classes
KNOWN: dict[str, Row] = {
    **_rows("torch.nn.modules.batchnorm", "BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm"),
    **_rows("torch.nn.modules.instancenorm", "InstanceNorm1d InstanceNorm2d InstanceNorm3d"),
    **_rows("torch.nn.modules.normalization", "GroupNorm"),
    **_rows("torch.nn.modules.normalization", "LayerNorm", LAST),
    **_rows("torch.nn.modules.normalization", "RMSNorm", Row(WEIGHT, last=True)),
    **_rows("torch.nn.modules.linear", "Linear", LAST),
    **_rows("torch.nn.modules.conv", "Conv1d Conv2d Conv3d"),
    **_rows(
        "torch.nn.modules.conv",
        "ConvTranspose1d ConvTranspose2d ConvTranspose3d",
        Row(transposed=True),
    ),
    **_rows("torchvision.ops.misc", "FrozenBatchNorm2d"),
    **_rows("torchvision.models.convnext", "LayerNorm2d"),
    **_rows("timm.layers.norm_act", "BatchNormAct2d SyncBatchNormAct FrozenBatchNormAct2d"),
    **_rows("timm.layers.norm_act", "GroupNormAct GroupNorm1Act LayerNormAct2d"),
    **_rows("timm.layers.norm_act", "LayerNormAct", LAST),
    **_rows("timm.layers.norm", "GroupNorm GroupNorm1 LayerNorm2d LayerNorm2dFp32"),
    **_rows("timm.layers.norm", "LayerNorm LayerNormFp32", LAST),
    **_rows("timm.layers.norm", "RmsNorm", Row(WEIGHT, last=True)),
    **_rows("timm.layers.norm", "RmsNorm2d", Row(WEIGHT)),
    **_rows("timm.layers.conv2d_same", "Conv2dSame"),
    **_rows("timm.layers.std_conv", "ScaledStdConv2d ScaledStdConv2dSame", Row(GAIN)),
    **_rows("timm.layers.layer_scale", "LayerScale", Row(GAMMA, last=True)),
    **_rows("timm.layers.layer_scale", "LayerScale2d", Row(GAMMA)),
}
# f(p y) = p f(y) for every p >= 0
HOMOGENEOUS = (nn.Identity, nn.ReLU, nn.LeakyReLU)


def row_of(module: nn.Module) -> Row | None:
    """The row of a module's class, or of the one that a subclass computes like; None if unknown."""
    own = ungated_class(module)
    for cls in own.__mro__:
        row = KNOWN.get(f"{cls.__module__}.{cls.__qualname__}")
        if row is not None and computes_as(own, cls):
            return row
    return None


def holders(model: nn.Module) -> Counter[int]:
    """How many places of a network hold each parameter and buffer, by its identity."""
    return Counter(
        id(tensor)
        for module in model.modules()
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None
    )


def why_not(
    module: nn.Module, held: Counter[int], *, last: bool | None, negative: bool
) -> str | None:
    """Why a module cannot take constants per channel, in a few words; None if it can.

    Args:
        held: `holders` of the network.
        last: whether the channels are the last dimension; None for [N, C].
        negative: some constants are below 0.
    """
    name, row = ungated_class(module).__name__, row_of(module)
    if row is None:
        return f"no weight of a {name} is known to scale its output"
    if "forward" in module.__dict__:
        return f"another tool gave this {name} a forward of its own"
    if last is not None and row.last != last:
        return f"the channels of a {name} are not those of the gate"
    if len(getattr(module, "normalized_shape", (0,))) != 1:
        return f"the {name} normalises more than the channels"
    for place, tensor in enumerate(row.tensors):
        value = getattr(module, tensor, None)
        if value is None and place == 0:
            return f"the {name} has no {tensor} (affine=False)"
        if value is None:
            continue
        if all(value is not t.get(tensor) for t in (module._parameters, module._buffers)):
            return f"the {name}'s {tensor} is parametrised"
        if held[id(value)] > 1:
            return f"other modules share the {name}'s {tensor}"
        if not value.is_floating_point():
            return f"the {name}'s {tensor} is {value.dtype}"
    for step in (getattr(module, "drop", None), getattr(module, "act", None)):
        if step is not None and (type(step) not in HOMOGENEOUS or step._forward_hooks):
            return f"the {name} goes on with {type(step).__name__}"
        if isinstance(step, HOMOGENEOUS[1:]) and negative:
            return f"the {name} goes on with {type(step).__name__}, and some constants are below 0"
    return None


@torch.no_grad()
def scale(module: nn.Module, p: torch.Tensor) -> None:
    """Multiply a module's output by p[K], in place; its parameters stay the same objects."""
    row = row_of(module)
    assert row is not None
    for name in row.tensors:
        tensor = getattr(module, name)
        if tensor is None:
            continue
        factor = p.to(tensor.device, torch.float64)
        if row.transposed and name == "weight":
            groups = int(module.groups)  # type: ignore[arg-type]
            rows = len(tensor) // groups
            factor = factor.view(groups, 1, -1).expand(-1, rows, -1).flatten(0, 1)
        factor = factor.view(*factor.shape, *[1] * (tensor.ndim - factor.ndim))
        # a new tensor: a copied buffer may share its memory with another one
        tensor.data = (tensor.double() * factor).to(tensor.dtype)
