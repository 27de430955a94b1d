"""The block as a module: it describes each channel, weighs it and applies the weight."""

# N batch, C channels, H W space: of one, two or three dimensions, or none ([N, C])

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from accuracy_booster.blocks.gate_norm import GateNorm
from accuracy_booster.blocks.grammar import GateRecipe, Recipe
from accuracy_booster.blocks.named import recipe as as_recipe
from accuracy_booster.blocks.part import Context
from accuracy_booster.blocks.parts import Bn, ChannelPoolPart, Sigmoid
from accuracy_booster.blocks.versions import VERSION
from accuracy_booster.ops import is_proxy, rescale

SHAPES = ("N, C", "N, C, L", "N, C, H, W", "N, C, D, H, W")  # by the dimensions of space


SCALE = "scale"  # in the metadata of a gate's state dict
INITS = {1: "paper", 2: "identity"}  # {scale of the sigmoid: how `ab.boost` makes such gates}


class Gate(nn.Module):
    """One gate of a recipe: x[N, C, H, W] -> x scaled by the gate's weights.

    Its layers are child modules. Each has its part's name, and they run in their order.
    """

    spatial_dims = 2  # version 0.1 pickled gates without it
    change: Callable[[torch.Tensor], torch.Tensor] | None = None  # of the weights; as spatial_dims
    _version = VERSION  # of the grammar; torch records it in state dicts

    def __init__(
        self,
        recipe: GateRecipe,
        channels: int,
        spatial_size: tuple[int, ...] | None = None,
        spatial_dims: int = 2,
    ):
        super().__init__()
        self.recipe = recipe
        self.channels = channels
        self.spatial_dims = spatial_dims
        self.change = None  # `inspection.gate_weights.weights_changed` sets it for a while
        names: list[str] = []
        for part, kind, place in recipe.flow():
            dead = recipe.bias_is_dead(place)
            at = Context(kind, channels, spatial_size, dead, spatial_dims)
            same = sum(part.name == other.name for other in recipe.parts[:place])
            names.append(f"{part.name}_{same + 1}" if same else part.name)
            self.add_module(names[-1], part.build(at))
        count = len(recipe.descriptors)
        self._describe, weigh = names[:count], names[count:]
        ends = [i for i, p in enumerate(recipe.weigh) if isinstance(p, (Bn, Sigmoid))]
        # each descriptor goes through the shared layers; the joint layers take the sum
        self._shared, self._joint = weigh[: ends[0]], weigh[ends[0] :]

    def describe(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x[N, C, H, W] -> its descriptors (most recipes have one): d[N, C], or maps."""
        return [self._run([name], x) for name in self._describe]

    def weigh(self, descriptors: list[torch.Tensor]) -> torch.Tensor:
        """Descriptors -> p: [N, C], or [N, 1, H, W], or [N, C, h, w]."""
        total = self._run(self._shared, descriptors[0])
        for descriptor in descriptors[1:]:
            total = total + self._run(self._shared, descriptor)
        p = self._run(self._joint, total)
        p = p if self.recipe.scale == 1 else self.recipe.scale * p
        return p if self.change is None else self.change(p)

    def _run(self, names: list[str], x: torch.Tensor) -> torch.Tensor:
        for name in names:
            layer = getattr(self, name)
            # a tool may have put a norm for maps in the place of ours (timm's SplitBatchNorm2d)
            for_maps = isinstance(layer, nn.BatchNorm2d)
            on_map = for_maps and not is_proxy(x) and x.ndim == 2
            x = layer(x[..., None, None]).flatten(1) if on_map else layer(x)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.check(x)
        return rescale(x, self.weigh(self.describe(x)))

    def check(self, x: torch.Tensor) -> None:
        """Raise for a map that is not [N, C, H, W] with the gate's channels.

        Raises:
            ValueError: for such a map.
        """
        # a proxy of torch.fx has no shape
        if not is_proxy(x) and (x.ndim != 2 + self.spatial_dims or x.shape[1] != self.channels):
            takes = SHAPES[self.spatial_dims].replace("C", str(self.channels))
            raise ValueError(
                f"a gate for {self.channels} channels takes [{takes}], got {list(x.shape)}"
                + self._remedy(x)
            )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        """Load weights. Those of version 1 had the order (mean, maximum) and are reversed."""
        weight, former = f"{prefix}conv2d.weight", local_metadata.get("version") == 1
        if former and weight in state_dict and ChannelPoolPart() in self.recipe.descriptors:
            state_dict[weight] = state_dict[weight].flip(1)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        scale = local_metadata.get(SCALE, self.recipe.scale)  # plain dicts of tensors do not say
        if scale != self.recipe.scale:
            errors: list[str] = args[-1]
            errors.append(
                f"{prefix.rstrip('.')}: the weights are those of a gate that ends in "
                f"{scale} * sigmoid, and this gate ends in {self.recipe.scale} * sigmoid; boost "
                f"with init={INITS.get(scale, 'the same')!r}, or with ab.rebuild_gates"
            )

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        """Save the weights, and the scale of the sigmoid in their metadata.

        Gates that start as in the paper and as the identity have the same weights by name and
        shape, and would take each other's in silence.
        """
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", {})
        metadata.setdefault(prefix[:-1], {})[SCALE] = self.recipe.scale

    def _remedy(self, x: torch.Tensor) -> str:
        """How to build the gate for a map with other dimensions of space."""
        dims = x.ndim - 2
        if dims == self.spatial_dims or not 0 <= dims < len(SHAPES):
            return ""
        return f"; for maps [{SHAPES[dims]}] build it with spatial_dims={dims}"


class Recalibrate(nn.Sequential):
    """A re-calibration block: x[N, C, H, W] -> x scaled by its gates, of the same shape and dtype.

    Args:
        channels: C.
        recipe: a name (`ab.list_recipes()`), a text (`"gap | dense(groups=C) | bn | sigmoid"`) or
            an `ab.recipe(...)`.
        spatial_size: (H, W) of the maps, (L,) or (D, H, W), () for [N, C], or one number for all
            sides. Its length is the number of dimensions of space. The sizes are needed only by
            recipes with a weight for each position (designs G and H, Gather-Excite's learned
            global gather).
        layout: "NCHW", or "NHWC" for maps whose channels come last, with any number of dimensions.
        spatial_dims: the number of dimensions of space, 0 to 3, where spatial_size does not say it;
            2 by default.

    Raises:
        ValueError: for a recipe that does not parse, groups that do not divide the channels, a
            spatial size that is needed and not given, or a part that needs positions on [N, C].

    Source: Accuracy Booster, section 3 (for `ab` and `ab_plus`); `ab.list_recipes` has the rest.
    """

    spatial_dims = 2  # version 0.1 pickled blocks without it

    def __init__(
        self,
        channels: int,
        recipe: str | Recipe = "ab",
        *,
        spatial_size: int | tuple[int, ...] | None = None,
        layout: str = "NCHW",
        spatial_dims: int | None = None,
    ):
        parsed = as_recipe(recipe)
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"channels={channels!r} must be a whole number >= 1")
        size, dims = _space(spatial_size, spatial_dims)
        super().__init__(*(Gate(gate, channels, size, dims) for gate in parsed.gates))
        self.channels = channels
        self.recipe = parsed
        self.spatial_size = size
        self.spatial_dims = dims
        if layout not in ("NCHW", "NHWC"):
            raise ValueError(f"layout={layout!r} must be 'NCHW' or 'NHWC'")
        self.layout = layout
        self.enabled = True  # `ab.disabled` turns it off for a while
        self.name_norms("")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.enabled:
            return x
        if self.layout == "NHWC" and self.spatial_dims:
            last = self.spatial_dims + 1
            if not is_proxy(x) and x.ndim != last + 1:
                raise ValueError(
                    f"a gate for maps with {self.spatial_dims} dimensions of space and the "
                    f"channels last got {list(x.shape)}; build it with spatial_dims={x.ndim - 2}"
                )
            y = super().forward(x.permute(0, last, *range(1, last)))
            return y.permute(0, *range(2, last + 1), 1)
        return super().forward(x)

    def name_norms(self, prefix: str) -> None:
        """Tell each batch norm its name in the network, for its messages."""
        for name, module in self.named_modules():
            if isinstance(module, GateNorm):
                module.where = f"{prefix}.{name}" if prefix else f"{name} of Recalibrate"

    @property
    def _is_hf_initialized(self) -> bool:
        """What transformers asks of each module, and sets after it has initialised the module."""
        return bool(self.__dict__.get("_is_hf_initialized", False))

    @_is_hf_initialized.setter
    def _is_hf_initialized(self, done: bool) -> None:
        """Give what a checkpoint lacked its first values, since transformers knows no gates.

        `from_pretrained` builds networks on the meta device and leaves such tensors empty.
        """
        self.__dict__["_is_hf_initialized"] = done
        if done and self.__dict__.pop("made_on_meta", False):
            fresh = type(self)(
                self.channels,
                self.recipe,
                spatial_size=self.spatial_size,
                spatial_dims=self.spatial_dims,
                layout=self.layout,
            ).state_dict()
            for name, tensor in self.state_dict(keep_vars=True).items():
                if not getattr(tensor, "_is_hf_initialized", False):
                    tensor.detach().copy_(fresh[name])

    def extra_repr(self) -> str:
        other = "" if self.spatial_dims == 2 else f", spatial_dims={self.spatial_dims}"
        return f"{self.channels}, {str(self.recipe)!r}{other}"


def _space(
    size: int | tuple[int, ...] | None, dims: int | None
) -> tuple[tuple[int, ...] | None, int]:
    """The size of the maps, if it is given, and their number of dimensions of space."""
    if dims is not None and not (isinstance(dims, int) and 0 <= dims < len(SHAPES)):
        raise ValueError(f"spatial_dims={dims!r} must be 0, 1, 2 or 3")
    if size is None:
        return None, 2 if dims is None else dims
    sides = (size,) * (2 if dims is None else dims) if isinstance(size, int) else tuple(size)
    if len(sides) >= len(SHAPES):
        raise ValueError(f"spatial_size={size!r} must have 0 to 3 sides, as (H, W) has two")
    if dims is not None and len(sides) != dims:
        raise ValueError(
            f"spatial_size={size!r} has {len(sides)} sides, and spatial_dims={dims}; give one of "
            "them"
        )
    sides = tuple(map(int, sides))
    if min(sides, default=1) < 1:
        raise ValueError(f"spatial_size={size!r} must be >= 1")
    return sides, len(sides)
