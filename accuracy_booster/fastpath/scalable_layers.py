"""Which layers can take a constant per channel of their output, and how they take it."""

# C channels, K channels of a layer's output

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from accuracy_booster.fastpath.layer_classes import computes_as
from accuracy_booster.surgery.gated import ungated_class


@dataclass(frozen=True)
class ScalableClass:
    """What must be multiplied to scale the output of a class of layers.

    Attributes:
        tensors: the names of its parameters or buffers. A layer must have the first one; the others
            may be None.
        last: whether its output has the channels last, [N, ..., C].
        transposed: whether its weight is [C in, K / groups, ...], as in transposed convolutions.
    """

    tensors: tuple[str, ...] = ("weight", "bias")
    last: bool = False
    transposed: bool = False


def _by_name(
    module: str, names: str, how: ScalableClass = ScalableClass()
) -> dict[str, ScalableClass]:
    return {f"{module}.{name}": how for name in names.split()}


LAST, WEIGHT, GAIN, GAMMA = ScalableClass(last=True), ("weight",), ("gain", "bias"), ("gamma",)
# {qualified name: ...}; by name, so that no library is imported for its classes
KNOWN: dict[str, ScalableClass] = {
    **_by_name("torch.nn.modules.batchnorm", "BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm"),
    **_by_name("torch.nn.modules.instancenorm", "InstanceNorm1d InstanceNorm2d InstanceNorm3d"),
    **_by_name("torch.nn.modules.normalization", "GroupNorm"),
    **_by_name("torch.nn.modules.normalization", "LayerNorm", LAST),
    **_by_name("torch.nn.modules.normalization", "RMSNorm", ScalableClass(WEIGHT, last=True)),
    **_by_name("torch.nn.modules.linear", "Linear", LAST),
    **_by_name("torch.nn.modules.conv", "Conv1d Conv2d Conv3d"),
    **_by_name(
        "torch.nn.modules.conv",
        "ConvTranspose1d ConvTranspose2d ConvTranspose3d",
        ScalableClass(transposed=True),
    ),
    **_by_name("torchvision.ops.misc", "FrozenBatchNorm2d"),
    **_by_name("torchvision.models.convnext", "LayerNorm2d"),
    **_by_name("timm.layers.norm_act", "BatchNormAct2d SyncBatchNormAct FrozenBatchNormAct2d"),
    **_by_name("timm.layers.norm_act", "GroupNormAct GroupNorm1Act LayerNormAct2d"),
    **_by_name("timm.layers.norm_act", "LayerNormAct", LAST),
    **_by_name("timm.layers.norm", "GroupNorm GroupNorm1 LayerNorm2d LayerNorm2dFp32"),
    **_by_name("timm.layers.norm", "LayerNorm LayerNormFp32", LAST),
    **_by_name("timm.layers.norm", "RmsNorm", ScalableClass(WEIGHT, last=True)),
    **_by_name("timm.layers.norm", "RmsNorm2d", ScalableClass(WEIGHT)),
    **_by_name("timm.layers.conv2d_same", "Conv2dSame"),
    **_by_name("timm.layers.std_conv", "ScaledStdConv2d ScaledStdConv2dSame", ScalableClass(GAIN)),
    **_by_name("timm.layers.layer_scale", "LayerScale", ScalableClass(GAMMA, last=True)),
    **_by_name("timm.layers.layer_scale", "LayerScale2d", ScalableClass(GAMMA)),
}
# modules f with f(p y) = p f(y) for every p >= 0
HOMOGENEOUS = (nn.Identity, nn.ReLU, nn.LeakyReLU)


def scalable_class(module: nn.Module) -> ScalableClass | None:
    """How a module is scaled, by its class or the known class that it computes as; else None."""
    own = ungated_class(module)
    for cls in own.__mro__:
        how = KNOWN.get(f"{cls.__module__}.{cls.__qualname__}")
        if how is not None and computes_as(own, cls):
            return how
    return None


def holders(model: nn.Module) -> Counter[int]:
    """{id of a parameter or buffer: how many modules of the network hold it}."""
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
        last: whether the gate's channels are the last dimension; None for [N, C].
        negative: whether some constants are below 0.
    """
    name, how = ungated_class(module).__name__, scalable_class(module)
    if how is None:
        return f"no weight of a {name} is known to scale its output"
    if "forward" in module.__dict__:
        return f"another tool gave this {name} a forward of its own"
    if last is not None and how.last != last:
        return f"the channels of a {name} are not those of the gate"
    if len(getattr(module, "normalized_shape", (0,))) != 1:
        return f"the {name} normalises more than the channels"
    for place, tensor in enumerate(how.tensors):
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
    """Multiply a module's output by p[K], in place; its parameters stay the same objects.

    Args:
        module: one for which `why_not` gives None.
    """
    how = scalable_class(module)
    assert how is not None
    for name in how.tensors:
        tensor = getattr(module, name)
        if tensor is None:
            continue
        factor = p.to(tensor.device, torch.float64)
        if how.transposed and name == "weight":
            groups = int(module.groups)  # type: ignore[arg-type]
            rows = len(tensor) // groups
            factor = factor.view(groups, 1, -1).expand(-1, rows, -1).flatten(0, 1)
        factor = factor.view(*factor.shape, *[1] * (tensor.ndim - factor.ndim))
        # not in place: another buffer may be a view of the same memory
        tensor.data = (tensor.double() * factor).to(tensor.dtype)
