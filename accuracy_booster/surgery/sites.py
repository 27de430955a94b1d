"""Where gates go: named modules of a network, with the shape of what comes out of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from accuracy_booster.errors import unknown


@dataclass(frozen=True)
class Site:
    """The output [N, channels, *spatial_size] of the module `name`."""

    name: str
    channels: int
    spatial_size: tuple[int, int]


def measure(model: nn.Module, names: Iterable[str], input_size: tuple[int, int, int]) -> list[Site]:
    """The sites at `names`, from one pass of a zero image [1, *input_size] in eval mode.

    Training flags, buffers and random states stay as they were.

    Raises:
        ValueError: for a name that is no module of the model, an output that is no feature map, or
            an input the network cannot take.
    """
    modules = dict(model.named_modules())
    names = list(names)
    for name in names:
        if name not in modules:
            raise unknown("module", name, modules)
    found: dict[str, torch.Tensor] = {}
    handles = [
        modules[name].register_forward_hook(
            lambda module, args, output, name=name: found.__setitem__(name, output)
        )
        for name in names
    ]
    training = {module: module.training for module in model.modules()}
    like = next(model.parameters())
    try:
        model.eval()
        devices = [like.device] if like.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            model(torch.zeros(1, *input_size, device=like.device, dtype=like.dtype))
    except (RuntimeError, ValueError, IndexError) as e:
        reason = str(e).splitlines()[0]
        raise ValueError(f"the network cannot take input_size={input_size}: {reason}") from e
    finally:
        for handle in handles:
            handle.remove()
        for module, flag in training.items():
            module.training = flag
    sites = []
    for name in names:
        output = found.get(name)
        if not isinstance(output, torch.Tensor) or output.ndim != 4:
            got = "nothing: it is not run" if output is None else type(output).__name__
            if isinstance(output, torch.Tensor):
                got = f"shape {list(output.shape)}"
            raise ValueError(f"module {name!r} does not give a feature map [N, C, H, W] but {got}")
        sites.append(Site(name, output.shape[1], (output.shape[2], output.shape[3])))
    return sites
