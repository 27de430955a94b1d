"""Which convolutions of a folded network run in the kernel of `ops.packed_conv`.

Each convolution is timed on maps of the example's shape: in torch's form with packed weights (of
oneDNN, as a compiled and frozen network runs it), and in the kernel by each schedule, for a 3x3
convolution also in Winograd's form. The fastest stays. The times are in the network's report.
"""

# N batch, C channels in, H W space

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Container, Mapping
from statistics import median
from typing import Any, Literal

import torch
from torch import nn

from accuracy_booster.errors import unknown
from accuracy_booster.fastpath.packed_modules import GateWeights, PackedConv2d
from accuracy_booster.fastpath.report import ConvolutionReport
from accuracy_booster.ops import winograd
from accuracy_booster.ops.affine import affine
from accuracy_booster.ops.packed_conv import (
    BY_PANELS,
    BY_POSITIONS,
    Schedule,
    output_shape,
    why_not,
)
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
MOST_EVICTED = 1 << 25  # numbers that are read between two calls, for each form
MARGIN = 0.05  # by how much our kernel must be faster where there is no gate
TORCH, BY_NAME = "torch", "by rows of tiles"
SCHEDULES = {
    BY_NAME: Schedule(14),
    "by blocks": BY_POSITIONS,
    "by large blocks": Schedule(196),
    "by panels": BY_PANELS,
}
WINOGRAD = {
    f"Winograd {outputs}x{outputs}{how}": Schedule(tiles, panels, outputs)
    for outputs in (2, 4)
    for how, tiles, panels in (
        ("", 28, 1 << 30),
        (", by blocks", 112, 4),
        (", by panels", 1 << 30, 4),
    )
}


def pack_convolutions(
    network: nn.Module,
    example: Example,
    kernel: Kernel = "auto",
    *,
    gated: Container[str] = (),
    sums: Container[str] = (),
) -> list[ConvolutionReport]:
    """Replace convolutions of a folded network, in place; returns what became of each.

    Args:
        network: a folded network.
        example: what it will be called with.
        kernel: a key of `KERNELS`.
        gated: the convolutions whose output a gate multiplies before it is written.
        sums: those that end in a residual sum.

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
    if kernel == "on" and reasons and not packable:
        told = ", ".join(dict.fromkeys(map(str, reasons.values())))
        warnings.warn(f"kernel='on', but torch computes every convolution: {told}", stacklevel=3)
    shapes = _input_shapes(network, example) if packable else {}
    found: list[ConvolutionReport] = []
    timed: dict[Any, dict[str, float]] = {}
    weights = sum(parameter.numel() for parameter in network.parameters())
    others = torch.ones(min(weights, MOST_EVICTED) if packable and kernel == "auto" else 0)
    for name, reason in reasons.items():
        if reason is None and name not in shapes:
            reason = "it does not run once on one map"
        if reason is not None:
            found.append(ConvolutionReport(name, False, reason, {}))
            continue
        conv = network.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        times: dict[str, float] = {}
        if kernel == "auto":
            follows = {"gated": name in gated, "sums": name in sums}
            key = (shapes[name], _key(conv), *follows.values())
            if key not in timed:
                schedules = SCHEDULES | (WINOGRAD if winograd.takes(conv) else {})
                timed[key] = _milliseconds(
                    Forms(conv, shapes[name], **follows, others=others), schedules
                )
            times = timed[key]
        best = _best(times, gated=name in gated) if times else BY_NAME
        if best == TORCH:
            why = "faster" if name in gated else f"faster, or less than {MARGIN:.0%} slower"
            found.append(ConvolutionReport(name, False, f"torch's kernel is {why}", times))
            continue
        network.set_submodule(name, PackedConv2d(conv, (SCHEDULES | WINOGRAD)[best]))
        found.append(ConvolutionReport(name, True, best, times))
    return found


def _best(times: Mapping[str, float], *, gated: bool) -> str:
    """The fastest form. Without a gate ours must be faster by `MARGIN`, since timings vary."""
    ours = min((how for how in times if how != TORCH), key=times.__getitem__)
    most = times.get(TORCH, float("inf")) * (1.0 if gated else 1 - MARGIN)
    return ours if times[ours] < most else TORCH


def _key(conv: nn.Conv2d) -> tuple[Any, ...]:
    channels = conv.in_channels, conv.out_channels, conv.groups
    return (*channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation)


class Forms:
    """What is timed: a convolution with the gate and the sum that follow it, in each form.

    Args:
        conv: the convolution.
        shape: [N, C, H, W] of its input.
        gated: whether each channel of each sample is multiplied by a weight.
        sums: whether a shortcut is added.
        others: numbers that are read between two calls. They take as much memory as the weights of
            the network, and their place in the caches.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        shape: tuple[int, ...],
        *,
        gated: bool,
        sums: bool,
        others: torch.Tensor,
    ):
        self.conv, self.shape, self.others = conv, shape, others
        self.packed: dict[int, PackedConv2d] = {}  # by the outputs of the schedule
        geometry = conv.kernel_size, conv.stride, conv.padding, conv.dilation
        output = output_shape(shape, conv.out_channels, *geometry)  # type: ignore[arg-type]
        self.x = _ones(shape)
        self.shortcut = _ones(output) if sums else None
        self.scale = torch.ones(output[:2]) if gated else None

    def torchs(self) -> Callable[[], Any]:
        """As a network with packed weights runs it, in which a gate is a pass of its own."""
        places = self.conv.padding, self.conv.stride, self.conv.dilation, self.conv.groups
        channels_last = self.conv.weight.detach().contiguous(memory_format=torch.channels_last)
        mkldnn = torch.ops.mkldnn
        weight = mkldnn._reorder_convolution_weight(channels_last, *places, list(self.shape))
        bias = None if self.conv.bias is None else self.conv.bias.detach()
        alone: tuple[Any, ...] = (weight, bias, *places, "none", [], "")
        scale, shortcut = self.scale, self.shortcut
        if scale is not None:

            def gated() -> Any:
                z = mkldnn._convolution_pointwise.default(self.x, *alone)
                (z if z.numel() < self.x.numel() else self.x).mean((2, 3))
                return affine(z, None, scale, None, residual=shortcut, relu=True)

            return gated
        if shortcut is not None:
            added: tuple[Any, ...] = (weight, bias, *places, "add", 1.0, "relu", [], "")
            return lambda: mkldnn._convolution_pointwise_.binary(shortcut, self.x, *added)
        return lambda: mkldnn._convolution_pointwise.default(self.x, *alone)

    def ours(self, schedule: Schedule) -> Callable[[], Any]:
        """In our kernel. A sum is written onto the shortcut, as in a compiled network."""
        shortcut, outputs = self.shortcut, schedule.outputs
        if outputs not in self.packed:
            self.packed[outputs] = PackedConv2d(self.conv, schedule)
        conv = self.packed[outputs]
        weights = self._weights(conv)

        def run() -> Any:
            conv.schedule = schedule
            if shortcut is None:
                return conv(self.x, weights, None, 0.0)
            return conv.onto(shortcut, self.x, weights, 0.0)

        return run

    def _weights(self, conv: PackedConv2d) -> GateWeights:
        """What a gate gives to this form of the convolution."""
        if self.scale is None or not conv.weighs_gates:
            return GateWeights(scale=self.scale)
        rows, taps = torch.ones(3, conv.out_channels), conv.weight[0].numel()
        pointwise = conv.kernel_size == (1, 1)
        means = None if pointwise else torch.ones(self.shape[0], taps)
        return GateWeights(gate=rows, means=means)


def _ones(shape: tuple[int, ...]) -> torch.Tensor:
    """A map in channels-last memory; random numbers would change what the caller draws next."""
    return torch.ones(shape).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _milliseconds(forms: Forms, schedules: Mapping[str, Schedule]) -> dict[str, float]:
    """The time of one call in each form, in ms: the median of interleaved rounds."""
    calls = {how: forms.ours(schedule) for how, schedule in schedules.items()}
    if torch.backends.mkldnn.is_available():
        calls = {TORCH: forms.torchs(), **calls}
    times: dict[str, list[float]] = {how: [] for how in calls}
    for call in calls.values():
        call()
    end = time.perf_counter() + SECONDS
    while len(times[BY_NAME]) < LEAST_ROUNDS or time.perf_counter() < end:
        for how, call in calls.items():
            forms.others.sum()
            if forms.shortcut is not None:
                forms.shortcut.zero_()  # it must not grow from call to call
            forms.x.fill_(1.0)
            start = time.perf_counter()
            call()
            times[how].append(1000 * (time.perf_counter() - start))
    return {how: round(median(values), 4) for how, values in times.items()}


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
