"""What a network and its blocks cost: parameters, arithmetic, activations, memory, depth."""

# N batch, C channels, H W space

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from accuracy_booster.analysis import conventions
from accuracy_booster.analysis.counter import Count, OperationCounter
from accuracy_booster.surgery import attached, disabled
from accuracy_booster.surgery.attention import Replaced
from accuracy_booster.surgery.examples import default_size
from accuracy_booster.surgery.inputs import Example, as_inputs, map_tensors, tensors_of
from accuracy_booster.surgery.quiet_passes import quiet_pass
from accuracy_booster.surgery.refusing import copy_of_lazy, is_lazy

BYTES = 4  # of a float32


@dataclass(frozen=True)
class Cost:
    """What a network or a block costs for one batch.

    Attributes:
        parameters: all of them, as a state_dict holds them (without buffers).
        weights: those of convolutions and dense layers alone; no biases, no norms. For a block this
            is what the paper's Table 1 counts.
        macs: multiply-adds, in the convention that was asked for.
        flops: floating point operations: 2 per multiply-add, and everything else that was counted
            (`ab.analysis.counter.KINDS`). The paper's FLOPS are MACs.
        activations: elements that convolutions, dense layers and matrix products give.
        rtm: run-time memory in bytes, 4 * (weights + activations); a network counts all parameters.
        rtm_paper: the same with the formulas of Table 1, which give both layers of an SE block
            C / r outputs, where the second has C.
    """

    parameters: int
    weights: int
    macs: int
    flops: int
    activations: int
    rtm: int
    rtm_paper: int

    def __sub__(self, other: Cost) -> Cost:
        mine, others = asdict(self), asdict(other)
        return Cost(**{name: mine[name] - others[name] for name in Cost.__dataclass_fields__})


@dataclass(frozen=True)
class BlockCost(Cost):
    """The block on one module's output [N, channels, *spatial_size].

    `depth` is its number of layers with weights, norms aside (Table 10).
    """

    site: str
    channels: int
    spatial_size: tuple[int, ...]
    depth: int


@dataclass(frozen=True)
class Complexity(Cost):
    """A network's cost, that of the same network without gates, and that of each block.

    Attributes:
        base: the unboosted network.
        blocks: one for each gate, in the order of the network's modules.
        depth: layers that a block adds, 0 without blocks (Table 10).
        uncounted: operators that nobody knows how to count, and how often they ran.
        count: the arithmetic by kind, from which `macs` and `flops` are made.
    """

    base: Cost
    blocks: list[BlockCost]
    depth: int
    input_size: tuple[int, ...]
    batch_size: int
    convention: str
    uncounted: dict[str, int]
    count: Count

    @property
    def extra(self) -> Cost:
        """What boosting added."""
        return self - self.base

    @property
    def block_weights(self) -> int:
        """The extra parameters as the paper's Tables 1, 2 and 4 count them: no biases, no norms."""
        return sum(block.weights for block in self.blocks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        names = ("input_size", "batch_size", "convention", "depth", "uncounted")
        kinds = {
            "maps": {k: n for k, n in self.count.maps.items() if n},
            "vectors": {k: n for k, n in self.count.vectors.items() if n},
        }
        return {
            **{name: getattr(self, name) for name in Cost.__dataclass_fields__},
            **{name: getattr(self, name) for name in names},
            **{"block_weights": self.block_weights, "count": kinds},
            **{"base": asdict(self.base), "extra": asdict(self.extra)},
            "blocks": [asdict(block) for block in self.blocks],
        }


def complexity(
    model: nn.Module,
    input_size: tuple[int, ...] | None = None,
    *,
    batch_size: int = 1,
    convention: str = "mac",
    example: Example | None = None,
) -> Complexity:
    """Count a network, boosted or not, and its blocks. Nothing in the model changes.

    Counting takes two quick passes in eval mode (four for batches, whose cost is extrapolated from
    one image and two), or none of the arithmetic for a model on the meta device.

    Args:
        model: any network that maps images [N, C, H, W] to something, on any device; or maps
            [N, C, L], [N, C, D, H, W] or [N, C].
        input_size: (C, H, W) of an image, or (C, L), (C, D, H, W), (C,); by default that of the
            model's own configuration (timm, Hugging Face, ours), else (3, 224, 224).
        batch_size: images in a batch; MACs, FLOPs, activations and memory are those of the batch.
        convention: what `macs` counts beside multiply-adds: "mac" (nothing), "mac+norm",
            "mac+sum", "mac+bias" (the paper's: `ab.analysis.conventions`), or other such sums.
        example: instead of input_size, an input, or several: a tuple by position, a dict by name.
            Its first sample counts, `batch_size` times; what is no tensor, or is of another length
            than the tensor of the most dimensions, stays as it is.

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
    if is_lazy(model):  # a pass gives their weights a shape, and a query changes nothing
        model = copy_of_lazy(model)
    if example is not None and input_size is not None:
        raise ValueError(f"input_size={input_size} and an example are given; give one of them")
    if example is None:
        size = _size(model, input_size)
        example, remedy = torch.zeros(1, *size), "pass another input_size=(C, H, W)"
    else:
        size, remedy = _size_of_example(example), "pass another example"
    gates = attached(model)
    total, of, shapes, uncounted = _count(model, example, batch_size, remedy)
    with disabled(model):
        plain = _count(model, example, batch_size, remedy)[0] if gates else total
    if uncounted:
        listed = ", ".join(f"{name} ({n}x)" for name, n in uncounted.items())
        warnings.warn(
            f"{type(model).__name__}: cannot count {listed}; "
            "torch.utils.flop_counter.register_flop_formula teaches how",
            stacklevel=2,
        )
    blocks = []
    for name, gate in gates.items():
        weights = _weights(gate)
        cost = _cost(_size_of(gate), weights, weights, of[name], convention)
        unknown = (0,) * (2 + gate.spatial_dims)  # of a module that does not run
        shape = shapes.get(name, unknown)
        shape = shape[2:] if gate.layout == "NCHW" else shape[1:-1]
        depth = sum(_is_layer(module) for module in gate.modules())
        blocks.append(
            BlockCost(**cost, site=name, channels=gate.channels, spatial_size=shape, depth=depth)
        )
    added = sum(block.parameters for block in blocks), sum(block.weights for block in blocks)
    parameters, weights = _size_of(model), _weights(model)
    replaced = [m.__dict__["original"] for m in model.modules() if isinstance(m, Replaced)]
    own = parameters - added[0] + sum(map(_size_of, replaced))
    own_weights = weights - added[1] + sum(map(_weights, replaced))
    stored = parameters - added[0] + added[1]
    return Complexity(
        **_cost(parameters, weights, stored, total, convention),
        base=Cost(**_cost(own, own_weights, own, plain, convention)),
        blocks=blocks,
        depth=max((block.depth for block in blocks), default=0),
        input_size=size,
        batch_size=batch_size,
        convention=convention,
        uncounted=uncounted,
        count=total,
    )


def _cost(
    parameters: int, weights: int, stored: int, count: Count, convention: str
) -> dict[str, Any]:
    return {
        "parameters": parameters,
        "weights": weights,
        "macs": conventions.count(count, convention),
        "flops": count.flops,
        "activations": count.outputs,
        "rtm": BYTES * (stored + count.outputs),
        "rtm_paper": BYTES * (stored + count.outputs - count.compressed),
    }


def _size_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _is_layer(module: nn.Module) -> bool:
    return any(p.ndim > 1 for p in module.parameters(recurse=False))


def _weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.ndim > 1)


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
    """The tensor of the most dimensions: the image, if there is one."""
    return max(tensors_of(example), key=lambda x: x.ndim)


def _of_samples(example: Example, count: int) -> Example:
    """The first sample, `count` times."""
    first = _main(example)

    def repeat(x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 0 or first.ndim == 0 or len(x) != len(first):
            return x
        return x[:1].expand(count, *x.shape[1:]).contiguous()

    return map_tensors(repeat, example)


def _count(model: nn.Module, example: Example, batch_size: int, remedy: str):
    """The counts of the network and of its gates for one batch, the gates' input shapes, gaps."""
    one = _pass(model, _of_samples(example, 1), remedy)
    if batch_size == 1:
        return one.total, one.of, one.shapes, dict(one.uncounted)
    # what is computed from weights alone does not grow with the batch
    two = _pass(model, _of_samples(example, 2), remedy)

    def grown(first: Count, second: Count) -> Count:
        return first.combine(second, 2 - batch_size, batch_size - 1)

    of = {name: grown(count, two.of[name]) for name, count in one.of.items()}
    return grown(one.total, two.total), of, one.shapes, dict(one.uncounted)


def _pass(model: nn.Module, example: Example, remedy: str) -> OperationCounter:
    # in a network on [N, C, L] the maps have three dimensions
    map_dims = 3 if _main(example).ndim == 3 else 4
    counter = OperationCounter(attached(model), map_dims=map_dims)
    with quiet_pass(model, example, remedy) as x, counter.watching(model), counter:
        args, kwargs = as_inputs(x)
        model(*args, **kwargs)
    return counter
