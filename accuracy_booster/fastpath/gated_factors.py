"""An attention module that is one factor per channel, and the gate after it, as one factor.

SE, effective SE and ECA give y = s x, where the factors s[N, C] depend on the mean m of x over
space. The mean of y then is s m, which is what a gate after the module reads. So the gate needs no
reduction of its own, and p s x is one pass.

    m = mean over space of x
    p s x, where s = s(m) and p = gate(s m)

The factors come from the module itself, which runs on a map of two positions with the values 1 and
2 m - 1. The mean of that map is m, so the module gives s at the first position.
"""

# N batch, C channels, H W space

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from accuracy_booster.fastpath.epilogue import Epilogue
from accuracy_booster.fastpath.folded_modules import FoldedGate
from accuracy_booster.fastpath.gated_convolution import mean_over_space
from accuracy_booster.fastpath.layer_classes import computes_as
from accuracy_booster.ops import accumulation_dtype, leaf_module, rescale, without_autocast
from accuracy_booster.surgery.gated import applied_gate, ungated_class
from accuracy_booster.surgery.hooks import is_hooked

# by name, so that no library is imported for its classes
KNOWN = {
    "timm.layers.squeeze_excite.SEModule",
    "timm.layers.squeeze_excite.EffectiveSEModule",
    "timm.layers.eca.EcaModule",
    "timm.models.senet.SEModule",
    "timm.models._efficientnet_blocks.SqueezeExcite",
    "torchvision.ops.misc.SqueezeExcitation",
    "transformers.models.regnet.modeling_regnet.RegNetSELayer",
}
PROBES = ((2, 3, 4), (3, 1, 7))  # N, H, W of the maps on which a module is tried
CLOSE = 1e-9  # of the largest output, in float64


class GatedFactor(nn.Module):
    """x[N, C, H, W] -> p * module(x), where p[N, C] are the weights of a folded gate.

    Args:
        module: an attention module without its gate, for which `is_factor` is true.
        gate: what gives p from the mean of the module's output.
        epilogue: what follows.
    """

    def __init__(self, module: nn.Module, gate: FoldedGate, epilogue: Epilogue):
        super().__init__()
        self.module, self.gate = module, gate
        self.epilogue = epilogue

    @leaf_module(may_defer=False)  # users of a torch.fx graph may read any node
    def forward(self, x: torch.Tensor, may_defer: bool = True) -> Any:
        """A tensor; with `may_defer` it may be a deferred map."""
        mean = mean_over_space(x)
        s = factors(self.module, mean.to(x.dtype)).to(accumulation_dtype(x.dtype))
        with without_autocast(mean):
            p = self.gate(s * mean)
        scale = p * s
        if may_defer:
            deferred = self.epilogue.defer(self, x, None, scale, None)
            if deferred is not None:
                return deferred
        return rescale(x, scale)


def factors(module: nn.Module, mean: torch.Tensor) -> torch.Tensor:
    """mean[N, C] of a map -> the factors s[N, C] that the module has for the map."""
    two = torch.stack([torch.ones_like(mean), 2 * mean - 1], 2)
    return module(two[:, :, None])[:, :, 0, 0]


def is_factor(module: nn.Module, channels: int) -> bool:
    """Whether a module multiplies each channel by a factor that depends on the means alone.

    Its class must be known, and it is tried on random maps in float64, since the options of such
    modules may make them something else (a maximum beside the mean).
    """
    cls = ungated_class(module)
    known = [c for c in cls.__mro__ if f"{c.__module__}.{c.__qualname__}" in KNOWN]
    gates = (applied_gate(module), *map(applied_gate, module.children()))
    if not known or not computes_as(cls, known[0]) or "forward" in module.__dict__:
        return False
    if any(map(is_hooked, module.modules())) or sum(g is not None for g in gates) > 1:
        return False
    return _acts_as_factor(module, channels)


@torch.no_grad()
def _acts_as_factor(module: nn.Module, channels: int) -> bool:
    """Whether the module gives s x on random maps x, with s that `factors` gives."""
    tried = copy.deepcopy(module).double()
    gate = applied_gate(tried)
    if gate is not None:
        gate.enabled = False
    like = next(tried.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    for n, height, width in PROBES:
        x = 3 * torch.randn(n, channels, height, width, generator=generator, dtype=torch.float64)
        x = x.to(like.device)
        expected = tried(x)
        found = rescale(x, factors(tried, mean_over_space(x)))
        if not (found - expected).abs().max() <= CLOSE * expected.abs().max():
            return False
    return True
