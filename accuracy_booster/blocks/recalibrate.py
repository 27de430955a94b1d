"""The block itself: describe each channel, weigh it, apply the weight."""

# N batch, C channels, H W space

from __future__ import annotations

import torch
from torch import nn

from accuracy_booster.blocks.grammar import GateRecipe, Recipe
from accuracy_booster.blocks.layers import GateNorm
from accuracy_booster.blocks.parts import Bn, Context, Sigmoid
from accuracy_booster.blocks.table import recipe as as_recipe
from accuracy_booster.ops import rescale, without_autocast


class Gate(nn.Module):
    """One gate of a recipe: x[N, C, H, W] -> weights, and x scaled by them.

    Its layers are children under their part's name, in the order of execution.
    """

    def __init__(
        self, recipe: GateRecipe, channels: int, spatial_size: tuple[int, int] | None = None
    ):
        super().__init__()
        self.recipe = recipe
        self.channels = channels
        names: list[str] = []
        for part, kind, place in recipe.flow():
            at = Context(kind, channels, spatial_size, recipe.bias_is_dead(place))
            same = sum(part.name == other.name for other in recipe.parts[:place])
            names.append(f"{part.name}_{same + 1}" if same else part.name)
            self.add_module(names[-1], part.build(at))
        count = len(recipe.descriptors)
        self._describe, weigh = names[:count], names[count:]
        ends = [i for i, p in enumerate(recipe.weigh) if isinstance(p, (Bn, Sigmoid))]
        # of several descriptors, each passes the shared layers on its own
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
        return p if self.recipe.scale == 1 else self.recipe.scale * p

    def _run(self, names: list[str], x: torch.Tensor) -> torch.Tensor:
        for name in names:
            layer = getattr(self, name)
            if x.ndim == 2:  # N * C values: full precision costs nothing
                with without_autocast(x):
                    x = layer(x)
            else:
                x = layer(x)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(
                f"a gate for {self.channels} channels takes [N, {self.channels}, H, W], "
                f"got {list(x.shape)}"
            )
        return rescale(x, self.weigh(self.describe(x)))


class Recalibrate(nn.Sequential):
    """A re-calibration block: x[N, C, H, W] -> x scaled by its gates, of the same shape and dtype.

    Args:
        channels: C.
        recipe: a name (`ab.list_recipes()`), a text (`"gap | dense(groups=C) | bn | sigmoid"`) or
            an `ab.recipe(...)`.
        spatial_size: (H, W) of the maps, or one number for both; needed only by recipes with a
            weight for each position (designs G and H, Gather-Excite's learned global gather).
        layout: "NCHW", or "NHWC" for x[N, H, W, C].

    Raises:
        ValueError: for a recipe that does not parse, groups that do not divide the channels, or a
            spatial size that is needed and not given.

    Source: Accuracy Booster, section 3 (for `ab` and `ab_plus`); `ab.list_recipes` has the rest.
    """

    def __init__(
        self,
        channels: int,
        recipe: str | Recipe = "ab",
        *,
        spatial_size: int | tuple[int, int] | None = None,
        layout: str = "NCHW",
    ):
        parsed = as_recipe(recipe)
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"channels={channels!r} must be a whole number >= 1")
        size = (spatial_size, spatial_size) if isinstance(spatial_size, int) else spatial_size
        if size is not None:
            size = (int(size[0]), int(size[1]))
            if min(size) < 1:
                raise ValueError(f"spatial_size={spatial_size!r} must be >= 1")
        super().__init__(*(Gate(gate, channels, size) for gate in parsed.gates))
        self.channels = channels
        self.recipe = parsed
        self.spatial_size = size
        if layout not in ("NCHW", "NHWC"):
            raise ValueError(f"layout={layout!r} must be 'NCHW' or 'NHWC'")
        self.layout = layout
        self.enabled = True  # `ab.disabled` turns it off for a while
        self.name_norms("")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.enabled:
            return x
        if self.layout == "NHWC":
            return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return super().forward(x)

    def name_norms(self, prefix: str) -> None:
        """Tell each batch norm its qualified name, for its errors."""
        for name, module in self.named_modules():
            if isinstance(module, GateNorm):
                module.where = f"{prefix}.{name}" if prefix else f"{name} of Recalibrate"

    def extra_repr(self) -> str:
        return f"{self.channels}, {str(self.recipe)!r}"
