"""Finds the stages of any classification network by one pass through it, not by its class.

A *stage* is the part of a network that computes at one resolution. Its feature map is the last
output of a module at that resolution. Outputs inside a module that itself halves the resolution do
not count: inside ResNet's `layer2`, some still have the size of `layer1`'s output.
"""

# N batch, C channels, H W space

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from accuracy_booster.detection.feature_maps import run_to
from accuracy_booster.models.heads import classifier
from accuracy_booster.surgery.examples import default_size
from accuracy_booster.surgery.gated import ATTRIBUTE
from accuracy_booster.surgery.inputs import tensors_of
from accuracy_booster.surgery.quiet_passes import quiet_pass, traced
from accuracy_booster.surgery.trace import Trace, Value

MAX_STRIDE = 64
MOST = 4  # the largest number of stages, as in torchvision: "layer1" to "layer4"
# Sizes (H, W) of the images that are passed through the network. H and W differ, so that a stride
# can be told from a global pool. The second size is for networks that do not pad.
SIZES = ((128, 160), (224, 288))
SMALL = (64, 96)  # for networks that were made for small images


@dataclass(frozen=True)
class Stage:
    """One stage of a network.

    Attributes:
        name: the module whose output is the stage's map.
        channels: of the map.
        stride: pixels of the image per position of the map, a power of two.
        tensors: the names of the parameters and buffers of the modules that first run in this
            stage, those of its gates included.
        after: a chain of modules from the map of the stage before to this one, in which each takes
            only the output of the one before it; None if there is no such chain.
    """

    name: str
    channels: int
    stride: int
    tensors: tuple[str, ...] = ()
    after: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Stages:
    """The last stages of a network, four at most. Each map has half the size of the one before.

    Attributes:
        stages: the finest first.
        stem: the names of the parameters and buffers of what runs before the first stage.
        head: the modules with weights that run after the last map, or never.
    """

    stages: tuple[Stage, ...]
    stem: tuple[str, ...]
    head: tuple[str, ...]


@dataclass
class _Pass:
    """What one pass through the network showed.

    Attributes:
        trace: the values that were computed.
        size: (H, W) of the image.
        outputs: the outputs of the modules that ran once, by name.
    """

    trace: Trace
    size: tuple[int, int]
    outputs: dict[str, Value] = field(default_factory=dict)

    def stride(self, value: Value) -> int | None:
        """Pixels per position of a map; None for no map, or if the strides of its sides differ."""
        if len(value.shape) != 4 or 0 in value.shape:
            return None
        ratios = [side / own for side, own in zip(self.size, value.shape[2:], strict=True)]
        powers = [round(math.log2(ratio)) for ratio in ratios]
        return 2 ** powers[0] if powers[0] == powers[1] and powers[0] >= 0 else None


def find_stages(network: nn.Module) -> Stages:
    """The stages of a classification network, boosted or not. The network is not changed.

    Raises:
        ValueError: for a network whose images do not have 3 channels, and for one without two maps
            of which one is half as large as the other, such as a vision transformer.
    """
    channels, *size = default_size(network)
    if channels != 3 or len(size) != 2:
        raise ValueError(
            f"{type(network).__name__} takes inputs of {channels} channels and {len(size)} "
            "dimensions of space; a detector's images have 3 channels (in_chans=3) and 2"
        )
    sizes = [SMALL] if max(size) <= 64 else list(SIZES)
    failure: ValueError | None = None
    for height, width in dict.fromkeys((*sizes, (size[0], size[1]))):
        try:
            found = _look(network, (height, width))
        except ValueError as e:  # the network takes images of one size only
            failure = failure or e
            continue
        values = _maps(network, found)
        if len(values) > 1:
            return _as_stages(network, found, values)
        failure = ValueError(
            f"{type(network).__name__} has no two feature maps of which one has half the other's "
            "size, so a detector cannot stand on it (vision transformers have one size only); "
            "take a convolutional network with stages, such as a ResNet"
        )
    assert failure is not None
    raise failure


def _look(network: nn.Module, size: tuple[int, int]) -> _Pass:
    """Pass a blank image of this size (H, W) through the network."""
    trace = traced(network, [torch.zeros(1, 3, *size)])
    found = _Pass(trace, size)
    for value in trace.values:
        for name in (*value.modules, *value.through):
            if trace.calls_of.get(name) == 1 and name in trace.gives_tensor:
                found.outputs[name] = value
    return found


def _maps(network: nn.Module, found: _Pass) -> dict[str, Value]:
    """{module: its output} for the last map of each resolution, the finest first, four at most."""
    end = _head_begins(network, found)
    best: dict[int, tuple[str, Value]] = {}
    for value in found.trace.values[:end]:
        names = [n for n in (*value.modules, *value.through) if found.outputs.get(n) is value and n]
        stride = found.stride(value)
        if not names or stride is None or stride > MAX_STRIDE:
            continue
        name = min(names, key=lambda n: (n.count("."), -len(value.modules)))
        if not _is_inside_step(name, stride, found):
            best[stride] = (name, value)
    if not best:
        return {}
    # The last map is not always the coarsest: attention may use a smaller map inside a block.
    stride = max(best, key=lambda s: best[s][1].index)
    last = best[stride][1]
    kept: list[tuple[str, Value]] = []
    while stride in best and best[stride][1].flows_into(last) and len(kept) < MOST:
        kept.append(best[stride])
        stride //= 2
    return dict(reversed(kept))


def _head_begins(network: nn.Module, found: _Pass) -> int | None:
    """The index of the classifier's output (a map in SqueezeNet); None if it is not found."""
    try:
        name, _ = classifier(network)
    except ValueError:
        return None
    value = found.outputs.get(name)
    return None if value is None else value.index


def _is_inside_step(name: str, stride: int, found: _Pass) -> bool:
    """Whether a module around `name` takes a map of this stride and gives one of twice that."""
    while name := name.rpartition(".")[0]:
        before, after = found.trace.input_of.get(name), found.outputs.get(name)
        if before is None or after is None:
            continue
        if found.stride(before) == stride and found.stride(after) == 2 * stride:
            return True
    return False


def _as_stages(network: nn.Module, found: _Pass, values: dict[str, Value]) -> Stages:
    """The stages with these maps, and which tensors belong to each.

    A tensor belongs to the first stage whose map is computed after the tensor's module first runs.
    What runs before the first stage is the stem.
    """
    head = _unused(network, found.size, list(values))
    first = _first_runs(network, found)
    first = {n: i for n, i in first.items() if not any(_is_in(n, module) for module in head)}
    names, ends = list(values), [value.index for value in values.values()]
    own = any(_is_in(tensor, names[0]) for tensor in first)
    stride = found.stride(values[names[0]])
    groups: list[list[str]] = [[] for _ in range(len(names) + 1)]
    for tensor, index in first.items():
        group = next((k for k, end in enumerate(ends, start=1) if index <= end), len(ends))
        if group == 1:  # of the first stage, or of the stem
            at = found.stride(found.trace.values[index])
            group = int(_is_in(tensor, names[0]) if own else at == stride)
        groups[group].append(tensor)
    stages = []
    for k, (name, value) in enumerate(values.items()):
        after = _chain(values[names[k - 1]], value, found) if k else None
        stride = found.stride(value)
        assert stride is not None
        stages.append(Stage(name, value.shape[1], stride, tuple(groups[k + 1]), after))
    return Stages(tuple(stages), tuple(groups[0]), head)


def _chain(before: Value, end: Value, found: _Pass) -> tuple[str, ...] | None:
    """Modules that lead from `before` to `end`: end = m_k(... m_2(m_1(before))).

    None if there are none, or if another module reads a value between them.
    """
    readers: dict[int, list[str]] = {}
    for name, value in found.trace.input_of.items():
        if name and name in found.outputs and found.outputs[name].index > value.index:
            readers.setdefault(value.index, []).append(name)
    chain = []
    value = before
    while value is not end:
        names = readers.get(value.index, [])
        names = [n for n in names if found.outputs[n].index <= end.index]
        if not names:
            return None
        name = min(names, key=lambda n: (n.count("."), -found.outputs[n].index))
        after = found.outputs[name]
        if any(not _is_in(call.module or "", name) for call in value.users if call.outputs):
            return None
        chain.append(name)
        value = after
    return tuple(chain)


def _is_in(name: str, module: str) -> bool:
    """Whether a module or a tensor is inside a module, or is that module."""
    return f"{name}.".startswith(f"{module}.")


class _Tensors(TorchFunctionMode):
    """Collects the ids of all tensors that are given to functions of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= {id(tensor) for tensor in tensors_of((args, kwargs or {}))}
        return func(*args, **(kwargs or {}))


def _first_runs(network: nn.Module, found: _Pass) -> dict[str, int]:
    """{parameter or buffer: the index of the first value that its module computes}."""
    runs: dict[str, int] = {}
    for value in found.trace.values:
        name = value.call.module if value.call is not None else None
        while name:
            runs.setdefault(name, value.index)
            name = name.rpartition(".")[0]
    first = {}
    for tensor, _ in (*network.named_parameters(), *network.named_buffers()):
        name = tensor.partition(f".{ATTRIBUTE}.")[0]  # of a gate: its site
        while name and name not in runs:
            name = name.rpartition(".")[0]
        first[tensor] = runs.get(name, 0)
    return first


def _unused(network: nn.Module, size: tuple[int, int], names: Sequence[str]) -> tuple[str, ...]:
    """The outermost modules with weights that the pass to the last map does not use."""
    used, ran = _Tensors(), set[int]()

    def note(module: nn.Module, args: Any) -> None:
        ran.add(id(module))

    handles = [module.register_forward_pre_hook(note) for module in network.modules()]
    try:
        with quiet_pass(network, torch.zeros(1, 3, *size)) as image, used:
            run_to(network, network, image, names)
    finally:
        for handle in handles:
            handle.remove()
    found: list[str] = []
    for name, module in network.named_modules():
        if not name or any(_is_in(name, other) for other in found):
            continue
        tensors = {id(t) for t in (*module.parameters(), *module.buffers())}
        if tensors and not tensors & used.seen and not any(id(m) in ran for m in module.modules()):
            found.append(name)
    return tuple(found)
