"""Why a site cannot take the fast path, in a few words; None if it can.

`ab.fuse` asks `why_not_fused`. `ab.fold` asks `why_not_folded`, and for the gates that this leaves
`why_gate_stays`. Both reports show the answers.
"""

# N batch, C channels

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.fastpath.class_swapping import has_fused_class
from accuracy_booster.fastpath.layer_classes import (
    CONVOLUTIONS,
    LAYERS,
    NORMS,
    is_plain_layer,
    is_plain_norm,
)
from accuracy_booster.fastpath.neighbours import SiteContext
from accuracy_booster.fastpath.timm_norms import after_norm
from accuracy_booster.surgery.gated import ungated_class
from accuracy_booster.surgery.hooks import is_hooked

NO_MAP = "it did not run in the pass, or gave no feature map"


def why_not_fused(
    module: nn.Module, gate: Recalibrate | None, context: SiteContext | None
) -> str | None:
    """Why a norm or convolution cannot be fused with its gate, if it has one, and the sum."""
    if gate is not None and (reason := _reads_more_than_means(gate)):
        return reason
    if context is not None and len(context.shape) == 2:
        return "its output is [N, C]: there is no space to take means over, and nothing to share"
    if not has_fused_class(module):
        name = ungated_class(module).__name__
        return f"a {name} is no batch norm or convolution that can be fused"
    if context is None:
        return NO_MAP
    is_conv = isinstance(module, CONVOLUTIONS)
    if context.call not in (("conv1d", "conv2d", "conv3d") if is_conv else ("batch_norm",)):
        return "it runs several times in a pass"
    if reason := _does_more_than_norm(module):
        return reason
    if is_conv and gate is None:
        return "a convolution without a gate has nothing to fuse"
    return None


def why_not_folded(
    modules: Mapping[str, nn.Module], name: str, gate: Recalibrate, context: SiteContext | None
) -> str | None:
    """Why the gate of a module cannot be folded, with the norm and the convolution before it."""
    module = modules[name]
    if reason := _reads_more_than_means(gate):
        return reason
    if not isinstance(module, (*NORMS, *LAYERS)):
        return f"a {ungated_class(module).__name__} is no batch norm, convolution or linear layer"
    if context is None:
        return NO_MAP
    if not context.call:
        return "it runs several times in a pass, or a module inside it gives its output"
    if is_plain_layer(module) and context.call != "batch_norm":
        if isinstance(module, nn.Linear) and len(context.shape) != 2:
            return "its linear layer runs on sequences or maps whose channels come last"
        return "a hook reads its convolution" if is_hooked(module) else None
    if not is_plain_norm(module):
        return "its norm has a hook, a class of its own, or no running statistics"
    if reason := _does_more_than_norm(module):
        return reason
    if not context.conv or not is_plain_layer(modules[context.conv]):
        return "no plain convolution or linear layer alone feeds its norm"
    return "a hook reads its convolution" if is_hooked(modules[context.conv]) else None


def why_gate_stays(gate: Recalibrate) -> str | None:
    """Why a gate cannot be folded where it is, to read the mean of its module's output."""
    if reason := _reads_more_than_means(gate, anywhere=True):
        return reason
    inside = list(gate[0].modules())
    if any(map(is_hooked, inside)):
        return "a hook reads a layer of its gate"
    if any(map(is_parametrized, inside)):
        return "a weight of its gate is parametrised"
    return None


def _reads_more_than_means(gate: Recalibrate, *, anywhere: bool = False) -> str | None:
    """Why the mean of each channel is not enough to know a gate's weights.

    The channels must come first, or with `anywhere` first or last.
    """
    if gate.layout != "NCHW" and not anywhere:
        return f"its map is {gate.layout}"
    recipe = gate.recipe
    if len(recipe.gates) != 1 or not recipe.gates[0].reads_only_mean:
        return f"the gate reads more than each channel's mean: {recipe}"
    return None


def _does_more_than_norm(module: nn.Module) -> str | None:
    """Which activation of timm's norm stands between normalising and the gate."""
    steps = after_norm(module)
    return f"its norm goes on with {type(steps[-1]).__name__}" if steps else None
