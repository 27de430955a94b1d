"""Whole training steps as CUDA graphs, for benchmarks/gpu.py."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

import accuracy_booster as ab

BATCH, REPLAYS = 128, 5


def captured(model: str, size: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """Times of training steps replayed as CUDA graphs, in turns, in the form of `ab.bench`."""
    # the step owns what the graph reads and writes, so it is kept too
    graphs = {
        (path, block): (_capture(step := _step(model, size, path, block)), step)
        for path in ("naive", "ours")
        for block in ("none", "ab")
    }
    times: dict[tuple[str, str], list[float]] = {key: [] for key in graphs}
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    orders = random.Random(0)
    for _ in range(rounds + 1):  # the first one warms up
        for key in orders.sample(list(graphs), len(graphs)):
            begin.record()
            for _ in range(REPLAYS):
                graphs[key][0].replay()
            end.record()
            torch.cuda.synchronize()
            times[key].append(begin.elapsed_time(end) / REPLAYS)
    rows = [
        {
            **{"mode": "train", "batch_size": BATCH, "compile": False, "precision": "bf16"},
            **{"block": block, "path": path, "milliseconds": median(values[1:])},
        }
        for (path, block), values in times.items()
    ]
    return {
        **{"model": model, "input_size": size, "device": torch.cuda.get_device_name()},
        **{"torch": torch.__version__, "rounds": rounds, "captured": True, "rows": rows},
    }


def _step(model: str, size: tuple[int, int, int], path: str, block: str) -> Callable[[], None]:
    """A training step under autocast in bfloat16."""
    torch.manual_seed(0)
    network = ab.create_model(model, block=block).cuda().train()
    network = network.to(memory_format=torch.channels_last)
    if path == "ours":
        ab.fuse(network)
    x = torch.randn(BATCH, *size, device="cuda").contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(BATCH, dtype=torch.long, device="cuda")
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        # a graph must not read casts that autocast kept from an earlier call
        with torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False):
            logits = network(x)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def _capture(step: Callable[[], None]) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph
