"""Which convolutions of a folded network run in our kernel now, whatever it went through since."""

from __future__ import annotations

import torch
from torch import nn

from accuracy_booster.fastpath.folded_modules import GatedConv
from accuracy_booster.fastpath.packed_modules import PackedConv2d
from accuracy_booster.surgery.hooks import is_hooked


def why_torch_runs(module: nn.Module | None) -> str | None:
    """Why torch's kernel computes a convolution that was packed, in a few words.

    None if ours computes it, for maps of the type and on the device of its weights, where no
    gradients are needed.

    Args:
        module: what stands in the convolution's place; None if nothing does.
    """
    if module is None:
        return "it is no longer in the network"
    if not isinstance(module, PackedConv2d):
        return f"a {type(module).__name__} took its place"
    weight = module._parameters.get("weight")
    if weight is None:
        return "its weight is parametrised"
    if weight.dtype != torch.float32:
        dtype = str(weight.dtype).removeprefix("torch.")
        return f"its weights are {dtype}, and our kernel takes float32"
    if weight.device.type != "cpu":
        return f"its weights are on {weight.device}, and our kernel runs on the CPU"
    if not module.available:
        return "it was loaded where our kernel cannot be compiled"
    with torch.no_grad():
        takes = module.takes(torch.empty(1, module.in_channels, 1, 1, device="cpu"))
    what = "autocast, a transform, an exporter or ops.backend.using('unfused')"
    return None if takes else f"{what} is at work"


def gates_inside(model: nn.Module) -> list[bool]:
    """Of each gate that was folded into a kernel: whether it is still computed there."""
    return [
        why_torch_runs(module.conv) is None and not is_hooked(module.conv)
        for module in model.modules()
        if isinstance(module, GatedConv) and module.form == "kernel"
    ]
