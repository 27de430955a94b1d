"""`ab.complexity`: the parameters, arithmetic, activations, memory and depth of a network."""

# N batch, C channels, H W space

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from accuracy_booster.analysis import conventions
from accuracy_booster.analysis.cost_results import BlockCost, Complexity, Cost
from accuracy_booster.analysis.counter import Count, OperationCounter
from accuracy_booster.blocks import Recalibrate
from accuracy_booster.surgery import attached, disabled
from accuracy_booster.surgery.attention import Replaced
from accuracy_booster.surgery.examples import default_size
from accuracy_booster.surgery.inputs import Example, as_inputs, map_tensors, tensors_of
from accuracy_booster.surgery.quiet_passes import quiet_pass
from accuracy_booster.surgery.refusing import copy_of_lazy, is_lazy

BYTES = 4  # of a float32


def complexity(
    model: nn.Module,
    input_size: tuple[int, ...] | None = None,
    *,
    batch_size: int = 1,
    convention: str = "mac",
    example: Example | None = None,
) -> Complexity:
    """Count the operations of a network, boosted or not, and of its blocks.

    Nothing in the model changes. The operations are counted in a pass in eval mode, and in one more
    without the gates. The cost of a batch is extrapolated from one image and two. A model on the
    meta device computes nothing, so it is counted without any arithmetic.

    Args:
        model: any network on images [N, C, H, W], or on [N, C, L], [N, C, D, H, W] or [N, C], on
            any device.
        input_size: (C, H, W) of an image, or (C, L), (C, D, H, W), (C,); by default that of the
            model's own configuration (timm, Hugging Face, ours), else (3, 224, 224).
        batch_size: images in a batch; MACs, FLOPs, activations and memory are those of the batch.
        convention: what `macs` counts beside multiply-adds: "mac" (nothing), "mac+norm",
            "mac+sum", "mac+bias" (those of the paper: `ab.analysis.conventions`), or other such
            sums.
        example: instead of input_size, an input, or several: a tuple by position, a dict by name.
            Its first sample is repeated `batch_size` times. Two things are not repeated: what is
            no tensor, and tensors whose length is not that of the tensor with the most dimensions.

    Raises:
        ValueError: for an unknown convention, a size that is no (C, ...), or one that the network
            or a gate with a weight for each position cannot take.

    Warns:
        UserWarning: of operators that cannot be counted; they are in `uncounted` too.
    """
    conventions.terms_of(convention)
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected an nn.Module, got {type(model).__name__}")
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be a whole number >= 1")
    if example is not None and input_size is not None:
        raise ValueError(f"input_size={input_size} and an example are given; give one of them")
    if is_lazy(model):  # a pass gives lazy modules their shapes, and a query changes nothing
        model = copy_of_lazy(model)
    if example is None:
        size = _size(model, input_size)
        example, remedy = torch.zeros(1, *size), "pass another input_size=(C, H, W)"
    else:
        size, remedy = _size_of_example(example), "pass another example"
    gates = attached(model)
    counted = _count(model, example, batch_size, remedy)
    with disabled(model):
        without = _count(model, example, batch_size, remedy) if gates else counted
    if counted.uncounted:
        listed = ", ".join(f"{name} ({n}x)" for name, n in counted.uncounted.items())
        warnings.warn(
            f"{type(model).__name__}: cannot count {listed}; "
            "torch.utils.flop_counter.register_flop_formula teaches how",
            stacklevel=2,
        )
    blocks = [_block(site, gate, counted, convention) for site, gate in gates.items()]
    added = sum(block.parameters for block in blocks)
    added_weights = sum(block.weights for block in blocks)
    parameters, weights = _parameters(model), _weights(model)
    # the attention modules that gates replaced belong to the network without gates
    replaced = [m.__dict__["original"] for m in model.modules() if isinstance(m, Replaced)]
    base = parameters - added + sum(map(_parameters, replaced))
    base_weights = weights - added_weights + sum(map(_weights, replaced))
    stored = parameters - added + added_weights
    return Complexity(
        **_cost(parameters, weights, stored, counted.total, convention),
        base=Cost(**_cost(base, base_weights, base, without.total, convention)),
        blocks=blocks,
        depth=max((block.depth for block in blocks), default=0),
        input_size=size,
        batch_size=batch_size,
        convention=convention,
        uncounted=counted.uncounted,
        count=counted.total,
    )


def _block(site: str, gate: Recalibrate, counted: _Counted, convention: str) -> BlockCost:
    weights = _weights(gate)
    not_run = (0,) * (2 + gate.spatial_dims)
    shape = counted.shapes.get(site, not_run)
    return BlockCost(
        **_cost(_parameters(gate), weights, weights, counted.of[site], convention),
        site=site,
        channels=gate.channels,
        spatial_size=shape[2:] if gate.layout == "NCHW" else shape[1:-1],
        depth=sum(_is_layer(module) for module in gate.modules()),
    )


def _cost(
    parameters: int, weights: int, stored: int, count: Count, convention: str
) -> dict[str, Any]:
    """The fields of a `Cost`; `stored` is how many parameters count as run-time memory."""
    return {
        "parameters": parameters,
        "weights": weights,
        "macs": conventions.count(count, convention),
        "flops": count.flops,
        "activations": count.outputs,
        "rtm": BYTES * (stored + count.outputs),
        "rtm_paper": BYTES * (stored + count.outputs - count.compressed),
    }


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _weights(module: nn.Module) -> int:
    """How many numbers the weights of layers hold; biases and norms have one dimension."""
    return sum(p.numel() for p in module.parameters() if p.ndim > 1)


def _is_layer(module: nn.Module) -> bool:
    return any(p.ndim > 1 for p in module.parameters(recurse=False))


def _size(model: nn.Module, given: Any) -> tuple[int, ...]:
    if given is None:
        return default_size(model)
    whole = isinstance(given, (tuple, list)) and all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in given
    )
    if not whole or not 1 <= len(given) <= 4:
        raise ValueError(
            f"input_size={given} must be whole numbers >= 1: (C, H, W), or (C,), (C, L), "
            "(C, D, H, W)"
        )
    return tuple(given)


def _size_of_example(example: Example) -> tuple[int, ...]:
    """The size of one sample of the main tensor."""
    return tuple(_main(as_inputs(example)).shape[1:])


def _main(example: Any) -> torch.Tensor:
    """The tensor with the most dimensions: the image, if there is one."""
    return max(tensors_of(example), key=lambda x: x.ndim)


def _of_samples(example: Example, count: int) -> Example:
    """The first sample, `count` times."""
    main = _main(example)

    def repeat(x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 0 or main.ndim == 0 or len(x) != len(main):
            return x
        return x[:1].expand(count, *x.shape[1:]).contiguous()

    return map_tensors(repeat, example)


@dataclass(frozen=True)
class _Counted:
    """What was counted for one batch.

    Attributes:
        total: of the whole network.
        of: {site: of the block there}.
        shapes: {site: the shape of the block's input, for one image}.
        uncounted: as in `Complexity`, for one image.
    """

    total: Count
    of: dict[str, Count]
    shapes: dict[str, tuple[int, ...]]
    uncounted: dict[str, int]


def _count(model: nn.Module, example: Example, batch_size: int, remedy: str) -> _Counted:
    one = _pass(model, _of_samples(example, 1), remedy)
    if batch_size == 1:
        return _Counted(one.total, one.of, one.shapes, dict(one.uncounted))
    # what is computed from weights alone does not grow with the batch
    two = _pass(model, _of_samples(example, 2), remedy)

    def extrapolated(first: Count, second: Count) -> Count:
        return first.combine(second, 2 - batch_size, batch_size - 1)

    of = {site: extrapolated(count, two.of[site]) for site, count in one.of.items()}
    return _Counted(extrapolated(one.total, two.total), of, one.shapes, dict(one.uncounted))


def _pass(model: nn.Module, example: Example, remedy: str) -> OperationCounter:
    # in a network on [N, C, L] the feature maps have three dimensions
    map_dims = 3 if _main(example).ndim == 3 else 4
    counter = OperationCounter(attached(model), map_dims=map_dims)
    with quiet_pass(model, example, remedy) as x, counter.watching(model), counter:
        args, kwargs = as_inputs(x)
        model(*args, **kwargs)
    return counter
