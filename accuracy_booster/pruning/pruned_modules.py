"""How modules lose channels: layers, norms and gates; and `Expand`, which puts zeros back."""

# N batch, C channels before, K channels kept, H W space (or L, or D H W, or nothing: [N, C])

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from accuracy_booster.blocks import Recalibrate, Recipe
from accuracy_booster.blocks.parts import DensePart, Part
from accuracy_booster.surgery.attaching import attach
from accuracy_booster.surgery.hooks import is_hooked
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.sites import Site

CHANNELWISE = {"gap", "gmp", "gather", "dwconv", "bn", "relu", "sigmoid"}  # parts of a recipe


class Expand(nn.Module):
    """x[N, K, H, W] -> [N, C, H, W]: the kept channels at their indices, zeros at all others.

    It is one gather from the map with a channel of zeros at its end. Compilers make one pass of it
    and the sum that follows.

    Args:
        kept: the indices of the K channels, ascending, each below `channels`.
        channels: C.
        space: how many dimensions follow the channels: 2 of [N, K, H, W], 0 of [N, K] and of maps
            whose channels come last.
    """

    places: torch.Tensor

    def __init__(self, kept: torch.Tensor, channels: int, space: int = 2):
        super().__init__()
        places = torch.full((channels,), len(kept), device=kept.device)
        places[kept] = torch.arange(len(kept), device=kept.device)
        self.register_buffer("places", places)
        self.space = space

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with_zeros = F.pad(x, (0, 0) * self.space + (0, 1))
        return with_zeros.index_select(-1 - self.space, self.places)

    def extra_repr(self) -> str:
        return f"to {len(self.places)} channels"


def _take(module: nn.Module, name: str, kept: torch.Tensor, dim: int = 0) -> None:
    """Keep some indices of one dimension of a parameter or buffer; None stays None."""
    old = getattr(module, name, None)
    if old is None:
        return
    new = old.detach().index_select(dim, kept.to(old.device))
    if new.ndim == 4 and not old.is_contiguous():
        new = new.contiguous(memory_format=torch.channels_last)
    if name in module._parameters:
        module._parameters[name] = nn.Parameter(new, old.requires_grad)
    else:
        module._buffers[name] = new


def keep_outputs(layer: nn.Module, kept: torch.Tensor) -> None:
    """Make a convolution or linear layer give only the kept channels, in place."""
    _take(layer, "weight", kept)
    _take(layer, "bias", kept)
    name = "out_features" if isinstance(layer, nn.Linear) else "out_channels"
    setattr(layer, name, len(kept))


def keep_inputs(layer: nn.Module, kept: torch.Tensor) -> None:
    """Make a layer read only the kept channels, in place; each of its groups keeps as many."""
    groups = getattr(layer, "groups", 1)
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    if groups == 1:
        _take(layer, "weight", kept, 1)
    else:
        width = weight.shape[1]
        columns = (kept.view(groups, -1) % width).to(weight.device)
        rows = weight.detach().unflatten(0, (groups, -1))
        new = [w.index_select(1, own) for w, own in zip(rows, columns, strict=True)]
        layer._parameters["weight"] = nn.Parameter(torch.cat(new), weight.requires_grad)
    name = "in_features" if isinstance(layer, nn.Linear) else "in_channels"
    setattr(layer, name, len(kept))


def keep_channels(module: nn.Module, kept: torch.Tensor) -> None:
    """Make a norm, a depthwise convolution or a PReLU act on only the kept channels, in place."""
    if isinstance(module, nn.PReLU):
        if module.num_parameters > 1:
            _take(module, "weight", kept)
            module.num_parameters = len(kept)
        return
    for name in ("weight", "bias", "running_mean", "running_var"):
        _take(module, name, kept)
    count = len(kept)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.num_features = count
    else:
        module.in_channels = module.out_channels = module.groups = count  # type: ignore[assignment]


def why_not_gate(gate: Recalibrate) -> str | None:
    """Why a gate's weights would change if other channels are gone; None if they would not."""
    if part := next(filter(None, map(_mixes, _parts(gate.recipe))), None):
        return (
            f"its gate weighs a channel by others ({part} in {gate.recipe}); of='outputs' takes "
            "gates that act channel by channel, such as ab, and of='inner' takes any"
        )
    if any(map(is_hooked, gate.modules())) or any(map(parametrize.is_parametrized, gate.modules())):
        return "a hook reads its gate, or the gate is parametrised"
    return None


def _parts(recipe: Recipe) -> list[Part]:
    return [part for gate in recipe.gates for part in gate.parts]


def _mixes(part: Part) -> Part | None:
    """The part itself, if one channel of its output depends on other channels; else None."""
    own = isinstance(part, DensePart) and part.groups == "C"
    return None if own or part.name in CHANNELWISE else part


def attach_smaller(model: nn.Module, name: str, old: Recalibrate, kept: torch.Tensor) -> None:
    """Put a gate on module `name` that weighs the kept channels as `old` does."""
    size = (1,) * old.spatial_dims if old.spatial_size is None else old.spatial_size
    attach(model, old.recipe, [Site(name, len(kept), size, old.layout)])
    new = attached(model)[name]
    for before, after in zip(old.modules(), new.modules(), strict=True):
        after.training = before.training
        for key, value in before._parameters.items():
            if value is not None:
                rows = value.detach().index_select(0, kept.to(value.device))
                after._parameters[key] = nn.Parameter(rows, value.requires_grad)
        for key, buffer in before._buffers.items():
            if buffer is not None:  # a scalar buffer counts batches, and stays
                index = kept.to(buffer.device)
                after._buffers[key] = buffer.index_select(0, index) if buffer.ndim else buffer
    new.enabled = old.enabled
