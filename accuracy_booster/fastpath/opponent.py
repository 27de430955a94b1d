"""What a boosted network is compared with: the network without gates, as fast as torch makes it.

A ratio to a slow network flatters. So the unboosted network is compiled with frozen weights, and a
profile of one call must show what torch can join: every convolution frozen, and every residual sum
and ReLU that follows a convolution computed in it.
"""

# N batch, C channels, H W space

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from accuracy_booster.fastpath.frozen import MAPS, REMEDY, Frozen, profile, where
from accuracy_booster.fastpath.neighbours import Neighbours
from accuracy_booster.surgery.torch_functions import SUMS
from accuracy_booster.surgery.trace import Call, Trace, Value

CONVOLUTIONS, RELUS = {"conv2d", "conv3d"}, {"relu", "relu_"}


class Stock:
    """A network compiled as people run it today, to be called as the network is.

    Attributes:
        network: the network.
        frozen: what a profile of one call shows; None where none was made, as on a GPU.
    """

    def __init__(self, network: nn.Module, *, graphs: bool = False):
        self.network = network
        mode = "reduce-overhead" if graphs else None
        self.forward = torch.compile(network, dynamic=False, mode=mode)
        self.frozen: Frozen | None = None

    def __call__(self, *inputs: Any) -> Any:
        with torch.no_grad(), freezing():
            return self.forward(*inputs)


def stock(network: nn.Module, *example: torch.Tensor, graphs: bool = False) -> Stock:
    """Compile a network as people run it today, and check that it is as fast as torch makes it.

    This is `torch.compile` with the setting `torch._inductor.config.freezing` and without
    gradients. Nothing of this package is in the result.

    Args:
        network: without gates of ours, in eval mode.
        example: what it is called with.
        graphs: on a GPU, record the kernels once and replay them (CUDA graphs).

    Raises:
        ValueError: for a network in training mode, or with kernels of this package; and on the CPU,
            where the profile of a call does not show what torch can join.
    """
    if network.training:
        raise ValueError("the network is in training mode; call network.eval() first")
    compiled = Stock(network, graphs=graphs)
    compiled(*example)
    if all(x.device.type == "cpu" for x in example):
        compiled.frozen = profile(compiled, *example)
        if compiled.frozen.ours:
            raise ValueError(
                f"{compiled.frozen.ours} convolutions are of this package's kernel, and people who "
                "do not use it have none; pass the network that was not folded"
            )
        check_joined(compiled.frozen, joinable(network, *example))
    return compiled


def joinable(network: nn.Module, *example: torch.Tensor) -> Frozen:
    """What torch can freeze and join in a network, from one pass of it, without compiling it.

    `packed`, `sums` and `relus` are the fewest that the compiled network must have, and `plain` the
    most. torch joins more than is counted here: sums with a vector, other activations.
    """
    trace = Neighbours(network, example if len(example) > 1 else example[0]).trace
    calls = {id(v.call): v.call for v in trace.values if v.call is not None}.values()
    convolutions = [
        call
        for call in calls
        if call.name in CONVOLUTIONS and trace.is_live(call) and len(call.outputs[0].shape) in MAPS
    ]
    frozen = sum(_is_frozen(call) for call in convolutions)
    return Frozen(
        packed=frozen,
        plain=len(convolutions) - frozen,
        sums=sum(_joins_sum(trace, call) for call in calls),
        relus=sum(_joins_relu(trace, call) for call in calls),
    )


def check_joined(found: Frozen, expected: Frozen) -> None:
    """Raise for a compiled network in which torch has joined less than it can.

    Args:
        found: what its profile shows. A convolution of our own kernel counts as one with all that
            it could compute.
        expected: what `joinable` says.

    Raises:
        ValueError: with the numbers.
    """
    enough = (
        found.plain <= expected.plain
        and found.packed + found.ours >= expected.packed
        and found.sums + found.ours >= expected.sums
        and found.relus + found.ours >= expected.relus
    )
    if not enough:
        raise ValueError(
            f"the network without a block is slower than torch can make it: {found.packed} of "
            f"{expected.packed} convolutions are frozen, {found.sums} of {expected.sums} residual "
            f"sums and {found.relus} of {expected.relus} ReLUs are computed in one ({where()}); a "
            f"ratio to it would flatter a block; {REMEDY}"
        )


def freezing() -> AbstractContextManager[None]:
    """The setting with which torch.compile freezes weights; its option does not (torch 2.15)."""
    import torch._inductor.config as settings

    return settings.patch(freezing=True)


def _is_frozen(convolution: Call) -> bool:
    """Whether its weights are constants: all that follows the network's input is its map."""
    return len(convolution.inputs) == 1


def _ends_convolution(trace: Trace, value: Value) -> bool:
    """Whether a value is the output of a frozen convolution, or of the norm after it, for one use.

    Such a norm becomes part of the convolution when it is frozen.
    """
    call = value.call
    if call is None or not trace.is_read_once(value):
        return False
    if call.name == "batch_norm":
        value = call.inputs[0]
        call = value.call
        if call is None or not trace.is_read_once(value):
            return False
    return call.name in CONVOLUTIONS and _is_frozen(call) and len(value.shape) in MAPS


def _joins_sum(trace: Trace, call: Call) -> bool:
    """Whether a call adds two maps of one shape, and a convolution can do it."""
    if call.name not in SUMS or len(call.inputs) != 2 or not trace.is_live(call):
        return False
    one, other = call.inputs
    scaled = call.keywords.get("alpha", 1) != 1
    if one is other or one.shape != other.shape or scaled:
        return False
    return _ends_convolution(trace, one) or _ends_convolution(trace, other)


def _joins_relu(trace: Trace, call: Call) -> bool:
    """Whether a call is a ReLU, and the convolution or the sum before it can do it."""
    if call.name not in RELUS or not trace.is_live(call):
        return False
    before = call.inputs[0]
    if _ends_convolution(trace, before):
        return True
    total = before.call
    return total is not None and trace.is_read_once(before) and _joins_sum(trace, total)
