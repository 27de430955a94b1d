"""The check of `ab.fold(..., verify=True)`: the folded network computes what the network does."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from accuracy_booster.surgery.inputs import Example, as_inputs, map_tensors, moved, tensors_of

TOLERANCE = 1e-5  # of the largest |output|, in float32


@torch.no_grad()
def verify(model: nn.Module, folded: nn.Module, example: Example) -> None:
    """Compare the outputs of both networks with the model's output in float64.

    Rounding alone makes a deep network differ from its float64 self. So the folded network may be
    up to three times as far from float64 as the model is, or 1e-5 of the largest output, if that is
    more.

    Args:
        model: the network, in eval mode.
        folded: what came of it.
        example: inputs; random numbers take the place of tensors that are constant.

    Raises:
        RuntimeError: if the folded network is further off, or the model's output is not finite.
    """
    like = next(model.parameters())
    args, kwargs = as_inputs(moved(example, like))

    def varied(x: torch.Tensor) -> torch.Tensor:
        constant = x.is_floating_point() and x.numel() > 0 and bool((x == x.flatten()[0]).all())
        return torch.randn_like(x) if constant else x

    args, kwargs = map_tensors(varied, (args, kwargs))
    wide_args, wide_kwargs = moved((args, kwargs), like.double())
    exact = tensors_of(copy.deepcopy(model).double()(*wide_args, **wide_kwargs))
    own, others = (tensors_of(m(*args, **kwargs)) for m in (model, folded))
    allowed = TOLERANCE * max(1.0, torch.finfo(like.dtype).eps / torch.finfo(torch.float32).eps)
    for truth, a, b in zip(exact, own, others, strict=True):
        largest = float(truth.abs().max())
        if not math.isfinite(largest):
            raise RuntimeError(
                "cannot verify: the model's own output is not finite; give another example"
            )
        before, after = (float((x - truth).abs().max()) for x in (a, b))
        if not after <= max(allowed * largest, 3 * before):
            raise RuntimeError(
                f"the folded network is {after:.3g} from the exact output, the model {before:.3g}; "
                f"at most {allowed * largest:.3g} was expected ({allowed:.0e} of the largest)"
            )
