"""Which convolutions of a folded network run in the kernel of `ops.packed_conv`.

Each convolution is timed on maps of the example's shape: in torch's form with packed weights (of
oneDNN, as a compiled and frozen network runs it), and in the kernel by each schedule. The fastest
stays. The times are in the network's report.
"""

# N batch, C channels in, H W space

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, Literal

import torch
from torch import nn

from accuracy_booster.errors import unknown
from accuracy_booster.fastpath.packed_modules import PackedConv2d
from accuracy_booster.fastpath.report import ConvolutionReport
from accuracy_booster.ops.packed_conv import BY_PANELS, BY_POSITIONS, Schedule, why_not
from accuracy_booster.surgery.gated import ungated_class
from accuracy_booster.surgery.hooks import is_hooked
from accuracy_booster.surgery.inputs import Example, as_inputs, moved

KERNELS = {
    "auto": "each convolution in the faster of torch's kernel and ours, by a short timing",
    "on": "our kernel wherever it can run, without a timing",
    "off": "torch's convolutions",
}
Kernel = Literal["auto", "on", "off"]
LEAST_ROUNDS, SECONDS = 3, 0.05  # of one convolution's timing
CACHE_BYTES = 2 << 20  # a map that is larger may be written past the caches


def pack_convolutions(
    network: nn.Module, example: Example, kernel: Kernel = "auto"
) -> list[ConvolutionReport]:
    """Replace convolutions of a folded network, in place; returns what became of each.

    Args:
        network: a folded network.
        example: what it will be called with.
        kernel: a key of `KERNELS`.

    Raises:
        ValueError: for an unknown `kernel`.
    """
    if kernel not in KERNELS:
        raise unknown("kernel", kernel, KERNELS)
    if kernel == "off":
        return []
    reasons = {
        name: "a hook reads it" if is_hooked(module) else why_not(module)
        for name, module in network.named_modules()
        if _is_convolution(module)
    }
    packable = None in reasons.values()
    shapes = _input_shapes(network, example) if packable else {}
    found: list[ConvolutionReport] = []
    timed: dict[Any, dict[str, float]] = {}
    for name, reason in reasons.items():
        if reason is None and name not in shapes:
            reason = "it does not run once on one map"
        if reason is not None:
            found.append(ConvolutionReport(name, False, reason, {}))
            continue
        conv = network.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        schedules = _schedules(conv, shapes[name])
        times: dict[str, float] = {}
        if kernel == "auto":
            key = (shapes[name], _key(conv))
            if key not in timed:
                timed[key] = _milliseconds(conv, shapes[name], schedules)
            times = timed[key]
        best = min(times, key=times.__getitem__) if times else next(iter(schedules))
        if best == TORCH:
            found.append(ConvolutionReport(name, False, "torch's kernel is faster", times))
            continue
        _replace(network, name, PackedConv2d(conv, schedules[best]))
        found.append(ConvolutionReport(name, True, best, times))
    return found


TORCH = "torch"


def _schedules(conv: nn.Conv2d, shape: tuple[int, ...]) -> dict[str, Schedule]:
    """What is tried: {how it is told: the schedule}."""
    found = {"by positions": BY_POSITIONS, "by panels": BY_PANELS}
    sides = [side // step for side, step in zip(shape[2:], conv.stride, strict=True)]
    if 4 * shape[0] * conv.out_channels * sides[0] * sides[1] > CACHE_BYTES:
        found["by positions, past the caches"] = Schedule(streams=True)
    return found


def _key(conv: nn.Conv2d) -> tuple[Any, ...]:
    channels = conv.in_channels, conv.out_channels, conv.groups
    return (*channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation)


@torch.no_grad()
def _milliseconds(
    conv: nn.Conv2d, shape: tuple[int, ...], schedules: Mapping[str, Schedule]
) -> dict[str, float]:
    """The time of one call in each form, in ms: the median of interleaved rounds."""
    x = torch.rand(shape).contiguous(memory_format=torch.channels_last)
    forms: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {TORCH: _torchs_form(conv, x)}
    for how, schedule in schedules.items():
        forms[how] = PackedConv2d(conv, schedule)
    times: dict[str, list[float]] = {how: [] for how in forms}
    for run in forms.values():
        run(x)
    end = time.perf_counter() + SECONDS
    while len(times[TORCH]) < LEAST_ROUNDS or time.perf_counter() < end:
        for how, run in forms.items():
            start = time.perf_counter()
            run(x)
            times[how].append(1000 * (time.perf_counter() - start))
    return {how: median(values) for how, values in times.items()}


def _torchs_form(conv: nn.Conv2d, x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The convolution as a compiled and frozen network runs it; else as the layer does."""
    if not torch.backends.mkldnn.is_available():
        return conv
    places = conv.padding, conv.stride, conv.dilation, conv.groups
    weight = torch.ops.mkldnn._reorder_convolution_weight(
        conv.weight.detach().contiguous(memory_format=torch.channels_last),
        *places,
        list(x.shape),
    )
    bias = None if conv.bias is None else conv.bias.detach()

    def run(x: torch.Tensor) -> torch.Tensor:
        op = torch.ops.mkldnn._convolution_pointwise.default
        return op(x, weight, bias, *places, "none", [], "")

    return run


def _input_shapes(network: nn.Module, example: Example) -> dict[str, tuple[int, ...]]:
    """{convolution: the shape of its input}, of those that run once on one map."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    names = {m: name for name, m in network.named_modules() if _is_convolution(m)}

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0] if len(inputs) == 1 else None
        shapes.setdefault(names[module], []).append(getattr(x, "shape", ()))

    handles = [module.register_forward_pre_hook(note) for module in names]
    try:
        args, kwargs = as_inputs(moved(example, next(network.parameters())))
        with torch.no_grad():
            network(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: tuple(s[0]) for name, s in shapes.items() if len(s) == 1 and len(s[0]) == 4}


def _is_convolution(module: nn.Module) -> bool:
    return ungated_class(module) is nn.Conv2d and "forward" not in module.__dict__


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
