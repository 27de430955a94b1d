"""The networks that `ab.bench` times, made ready, and what each of them runs for one batch."""

# N batch, C channels, H W space

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from accuracy_booster.analysis.benchmark_results import SAME, STOCK, Case, Variant
from accuracy_booster.fastpath import compile_for_inference, fast_path, fold, fuse
from accuracy_booster.fastpath.frozen import Frozen
from accuracy_booster.fastpath.opponent import check_joined, joinable, stock
from accuracy_booster.models import create_model
from accuracy_booster.ops import bf16_works
from accuracy_booster.ops.batch_norm import BatchNormMode
from accuracy_booster.surgery import boost
from accuracy_booster.surgery.skipping import Skip
from accuracy_booster.surgery.where import Where

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Step:
    """A function that runs one batch; the other attributes are those of `Measured`."""

    run: Callable[[], None]
    fast: int
    places: int
    frozen: Frozen | None = None


def check_precision(precision: str, device_type: str) -> None:
    """Raise ValueError for a precision that the device cannot compute in."""
    if precision == "fp16" and device_type == "cpu":
        raise ValueError("precision='fp16' needs a GPU; on the CPU use fp32 or bf16")
    if precision == "bf16" and not bf16_works(device_type):
        raise ValueError(f"precision='bf16' does not run on this {device_type}; use fp32")


def make_network(
    model: str | nn.Module,
    block: str,
    size: tuple[int, ...],
    *,
    where: Where = "residual",
    skip: Skip = None,
) -> nn.Module:
    """The network of a benchmark for images of `size` (C, H, W), boosted as by `ab.boost`.

    Args:
        model: a network's name, or a network of one's own, which is copied.
        block: a block, or "none".
    """
    if isinstance(model, str):
        channels, height, width = size
        how: dict[str, Any] = {"where": where, "skip": skip, "in_chans": channels}
        return create_model(model, block=block, input_size=(channels, height, width), **how)
    network = copy.deepcopy(model)
    if block == "none":
        return network
    return boost(network, block, example=torch.zeros(1, *size), where=where, skip=skip)


def make_step(case: Case, variant: Variant, network: nn.Module, x: torch.Tensor) -> Step:
    """Fold, fuse or compile a network in place, as the case and the variant say.

    Args:
        network: in float32, on the device of x.
        x: the batch [N, C, H, W] that the step runs, in float32. For inference in 16 bits the
            network and the batch are converted; training in 16 bits is autocast.

    Raises:
        ValueError: if a network without a block is slower than torch can make it
            (`fastpath.opponent`).
    """
    if case.mode == "infer":
        dtype = PRECISIONS[case.precision]
        return _inference(case, variant, network.eval().to(dtype), x.to(dtype))
    fast, places = 0, 0
    if variant.path == "ours":
        fuse(network, example=x[:1])
        fast, places = _fast_places(network)
    return Step(_training_step(network.train(), x, case), fast, places)


def _inference(case: Case, variant: Variant, network: nn.Module, x: torch.Tensor) -> Step:
    run: Callable[..., Any] = network
    fast, places, frozen = 0, 0, None
    unboosted = network
    if variant.path == "ours":
        run = network = fold(network, example=x)
        fast, places = _fast_places(network)
    if case.compile:
        # what has no gate of ours and is not folded by us is an opponent: it is checked
        is_stock = variant.path == "rival" or variant == STOCK
        compiled = (stock if is_stock else compile_for_inference)(network, x, graphs=x.is_cuda)
        run, frozen = compiled, compiled.frozen
        if variant == SAME and frozen is not None:
            check_joined(frozen, joinable(unboosted, x))

    def infer() -> None:
        with torch.no_grad():
            run(x)

    return Step(infer, fast, places, frozen)


def _fast_places(network: nn.Module) -> tuple[int, int]:
    """How many places of a folded or fused network take the fast path, and of how many."""
    report = fast_path(network)
    return report.taken, len(report.places)


def _training_step(network: nn.Module, x: torch.Tensor, case: Case) -> Callable[[], None]:
    """A training step as `ab.train` makes it: forward, loss, backward, SGD."""
    device = x.device.type
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, fused=True)
    forward = torch.compile(network, dynamic=False) if case.compile else network
    parallel_norms = case.compile and device == "cpu"
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)

    scaler = torch.amp.GradScaler(device, enabled=case.precision == "fp16")

    def mixed_precision() -> AbstractContextManager[None]:
        if case.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(device, dtype=PRECISIONS[case.precision])

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with mixed_precision(), BatchNormMode() if parallel_norms else contextlib.nullcontext():
            logits = forward(x)
        loss = F.cross_entropy(logits.float(), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step
