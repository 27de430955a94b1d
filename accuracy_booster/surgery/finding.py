"""Find the ends of residual branches, from how data flow in one pass and not from class names.

Which branches count. A residual site is the end of the branch of a sum `shortcut + branch` of two
equally shaped maps that come from one value. The shortcut is that value itself, or something
without weights (pooling, padding, striding), or a projection without a nonlinearity. The branch has
layers and a nonlinearity. So these are no sites: the parallel branches of RepVGG and MobileOne (no
nonlinearity in a branch), the sums of resolutions in HRNet and feature pyramids (neither side is a
projection), gates and attention inside a branch.

- The maps may have any number of dimensions of space: [N, C], [N, C, L], [N, C, H, W],
  [N, C, D, H, W]. Branches on token maps [N, L, C], and branches that mix positions without any
  convolution, are those of a transformer and get no gate, since a gate weighs the channels of a
  feature map by their mean over space.
- A branch that upsamples after its last layer that sees more than one position is not residual,
  whether it upsamples by interpolate, pixel_shuffle, a transposed convolution or by hand: the sum
  joins two resolutions (a long sum of U-Net or Linknet), and a gate would scale the whole decoder
  below it. Where the shortcut is upsampled too, it is a residual block.
- A concatenation of two counts where one is an identity half or a pooled shortcut that the other
  does not read (ShuffleNet). DenseNet's do not count: there the input is handed on unscaled, every
  later layer reads the new features, and there is no sum in which a gate could keep them small. Use
  where="conv" there.

Which sums are residual is in `sums` and `shortcuts`, other joins are in `joins`, and where on a
branch the gate stands is in `placing`.
"""

# N batch, C channels, H W space

from __future__ import annotations

from dataclasses import dataclass

from accuracy_booster.surgery.joins import concatenated_branch, joined_otherwise
from accuracy_booster.surgery.layouts import layout_of
from accuracy_booster.surgery.placing import place
from accuracy_booster.surgery.shortcuts import between
from accuracy_booster.surgery.sites import Site
from accuracy_booster.surgery.sums import is_inner, summed_branches
from accuracy_booster.surgery.torch_functions import CONVOLUTIONS
from accuracy_booster.surgery.trace import Call, Trace, Value


@dataclass(frozen=True)
class Found:
    """A site and why it is one, or why residual branches have no site (then `site` is None)."""

    site: Site | None
    reason: str
    on_tokens: bool = False  # they are a transformer's, not branches of feature maps


def residual_sites(trace: Trace) -> list[Found]:
    """Every residual branch of the pass, in the order of execution."""
    found: list[Found] = []
    taken: set[str] = set()
    handled: set[int] = set()  # in `x + b(x) + c(x)` the branch b belongs to both sums
    tokens: list[str] = []
    for value in trace.values:
        call = value.call
        if call is None or call.outputs[0] is not value:
            continue
        branches = summed_branches(call, trace)
        if not branches and (one := concatenated_branch(call, trace)) is not None:
            branches = [(one[0], call, one[1])]
        name = next(filter(None, reversed(value.modules)), call.module) or "the network"
        for end, reader, reason in branches:
            if end.index in handled:
                continue
            if _is_on_tokens(end, reader, trace):
                handled.add(end.index)
                tokens.append(name)
                continue
            site = place(end, reader, trace)
            if not isinstance(site, Site):
                if end.call is not None and is_inner(end.call, trace):
                    continue  # its terms are looked at one by one
                reason = f"the branch that {name} sums has no place for a gate: {site}"
            handled.add(end.index)
            key = site.name if isinstance(site, Site) else reason
            if key not in taken:
                taken.add(key)
                found.append(Found(site if isinstance(site, Site) else None, reason))
        if not branches and (joined := joined_otherwise(call, trace)) and joined not in taken:
            taken.add(joined)
            found.append(Found(None, joined))
    if tokens:
        many = f"{len(tokens)} branches are" if len(tokens) > 1 else "a branch is"
        reason = f"{many} made of linear layers or on token maps [N, L, C] (such as {tokens[0]}'s)"
        found.append(Found(None, f"{reason}, which are no feature maps", on_tokens=True))
    return found


def _is_on_tokens(end: Value, call: Call, trace: Trace) -> bool:
    """Whether a branch is a transformer's, and not one of feature maps.

    That is so if its map has one dimension of positions and its channels last; or if it has several
    dimensions of positions and no convolution looks at them; or if positions were put into the
    batch.
    """
    if len(end.shape) == 2:
        return end.shape[0] != trace.values[0].shape[0]
    if len(end.shape) == 3 and layout_of(end) == "NHWC":
        return True
    common = -1
    for value in call.inputs:
        common &= value.ancestors
    forks = [trace.values[common.bit_length() - 1]] if common > 0 else [trace.values[0]]
    return not any(c.name in CONVOLUTIONS and c.learned for c in between(forks, end, trace))
