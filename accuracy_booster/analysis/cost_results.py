"""What `ab.complexity` found: the cost of a network, of its base network and of each block."""

# N batch, H W space

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from accuracy_booster.analysis.counter import Count


@dataclass(frozen=True)
class Cost:
    """What a network or a block costs for one batch.

    Attributes:
        parameters: how many numbers all parameters hold; buffers do not count.
        weights: the same for convolutions and dense layers alone, without biases and norms. For a
            block this is what the paper's Table 1 counts.
        macs: multiply-adds, in the convention that was asked for.
        flops: floating point operations: 2 per multiply-add, and all other arithmetic
            (`ab.analysis.operators.KINDS`). The paper's FLOPS are MACs.
        activations: elements that convolutions, dense layers and matrix products give.
        rtm: run-time memory in bytes: 4 * (weights + activations) for a block. A network counts all
            its other parameters too.
        rtm_paper: the same by the formulas of the paper's Table 1. They take both layers of an SE
            block to give C / r outputs, where the second gives C.
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
    """What a block on one module's output [N, channels, *spatial_size] costs.

    Attributes:
        site: the name of the module.
        spatial_size: zeros for a module that does not run.
        depth: the block's number of layers with weights, without norms (Table 10).
    """

    site: str
    channels: int
    spatial_size: tuple[int, ...]
    depth: int


@dataclass(frozen=True)
class Complexity(Cost):
    """What a network costs, what it costs without its gates, and what each block costs.

    Attributes:
        base: the network without its gates.
        blocks: one for each gate, in the order of the network's modules.
        depth: layers that a block adds, 0 without blocks (Table 10).
        uncounted: operators that cannot be counted, and how often they ran.
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
        """The blocks' weights without biases and norms, as in the paper's Tables 1, 2 and 4."""
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
