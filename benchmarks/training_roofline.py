"""How fast a training step can be at most: the time of its convolutions alone, layer by layer.

python benchmarks/training_roofline.py [--model resnet56] [--block none] [--batch 128] [--rounds 5]
python benchmarks/training_roofline.py --table   # prints the tables of the JSON

Two bounds, both measured on this machine, in turns with the steps that they bound:

- convolutions: each convolution's forward and backward pass by itself, as the compiled step calls
  it: float32, channels-last, memory kept. A step without anything else would take their sum.
- with the norms: besides, each batch norm reads and writes its map as often as any exact training
  must (LEAST), at the speed of an addition of two such maps.

The plain loop and our compiled step are those of benchmarks/training.py. The highest possible ratio
is the plain loop's time over a bound.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import training
from torch import nn

import accuracy_booster as ab
from accuracy_booster.data.images import TensorImages
from accuracy_booster.ops import keep_freed_memory

# How often a norm's map is read or written at least. Forward: read for the moments, read, written.
# Backward: it and its gradient are read for the sums, both are read again, and one is written.
LEAST = {"forward": 3, "backward": 5}
CONV, BACKWARD = torch.ops.aten.convolution, torch.ops.aten.convolution_backward


def layers(given: argparse.Namespace, size: int) -> list[tuple[str, nn.Module, torch.Size]]:
    """(name, module, shape of its input) of each convolution and norm, in order of execution."""
    network = ab.create_model(given.model, block=given.block, num_classes=training.CLASSES)
    found: list[tuple[str, nn.Module, torch.Size]] = []
    hooks = [
        module.register_forward_pre_hook(
            lambda m, x, name=name: found.append((name, m, x[0].shape[1:]))
        )
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
    ]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return [(name, m, torch.Size([given.batch, *shape])) for name, m, shape in found]


def random_map(shape: torch.Size) -> torch.Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def conv_passes(conv: nn.Conv2d, shape: torch.Size, first: bool) -> dict[str, Callable]:
    """Its forward and backward pass; the first one of a network has no gradient of its input."""
    x = random_map(shape)
    weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
    how = (conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups)
    grad = random_map(CONV(x, weight, None, *how).shape)
    wanted = [not first, True, False]
    return {
        "forward": lambda: CONV(x, weight, None, *how),
        "backward": lambda: BACKWARD(grad, x, weight, [0], *how, wanted),
    }


def norm_passes(shape: torch.Size) -> dict[str, Callable]:
    """An addition of two maps of a shape, which reads two and writes one."""
    a, b, out = (random_map(shape) for _ in range(3))
    return {"addition": lambda: torch.add(a, b, out=out)}


def kind_of(module: nn.Module, shape: torch.Size) -> str:
    """Layers of the same kind take the same time."""
    size = "x".join(map(str, shape[2:]))
    if not isinstance(module, nn.Conv2d):
        return f"norm, {shape[1]} channels, {size}"
    kernel, step = "x".join(map(str, module.kernel_size)), module.stride[0]
    groups = f", {module.groups} groups" if module.groups > 1 else ""
    ends = f"{module.in_channels} to {module.out_channels}"
    return f"conv {kernel}, {ends}, {size}, stride {step}{groups}"


def child(connection: Any, kind: str, given: argparse.Namespace) -> None:
    """A process with one kind of measurement; it measures once at each word that it gets."""
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (training.COUNT, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, training.CLASSES, (training.COUNT,))
    if kind == "layers":
        keep_freed_memory()
        passes = [
            conv_passes(m, shape, not i) if isinstance(m, nn.Conv2d) else norm_passes(shape)
            for i, (_, m, shape) in enumerate(layers(given, 32))
        ]

        def measure() -> Any:
            return [{name: timed(run) for name, run in one.items()} for one in passes]

    else:
        images = training.Pictures(pixels, labels) if kind == "plain" else None
        step = (
            training.plain(given, images, 0)
            if images is not None
            else training.ours(given, TensorImages(pixels, labels), True)
        )

        def measure() -> Any:
            return [timed(step) for _ in range(given.steps)]

    measure()
    connection.send("ready")
    while connection.recv():
        connection.send(measure())


def timed(run: Callable) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measured(given: argparse.Namespace) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    asked, found = {}, {}
    for kind in ("plain", "ours", "layers"):
        here, there = context.Pipe()
        context.Process(target=child, args=(there, kind, given), daemon=False).start()
        here.recv()
        asked[kind], found[kind] = here, []
    for _ in range(given.rounds):
        for kind, connection in asked.items():
            connection.send(kind)
            found[kind].append(connection.recv())
    for connection in asked.values():
        connection.send("")
    kinds: dict[str, dict[str, Any]] = {}
    for i, (_, module, shape) in enumerate(layers(given, 32)):
        times = {key: median(r[i][key] for r in found["layers"]) for key in found["layers"][0][i]}
        row = kinds.setdefault(kind_of(module, shape), {"layers": 0, "seconds": 0.0})
        row["layers"] += 1
        if isinstance(module, nn.Conv2d):
            sides = [-(-s // step) for s, step in zip(shape[2:], module.stride, strict=True)]
            macs = given.batch * module.weight.numel() * sides[0] * sides[1]
            row["macs"] = row.get("macs", 0) + macs * (2 if i == 0 else 3)
            row["seconds"] += times["forward"] + times["backward"]
        else:
            row["seconds"] += times["addition"] * sum(LEAST.values()) / 3
    plain, ours = (median(s for steps in found[kind] for s in steps) for kind in ("plain", "ours"))
    convs, norms = (
        sum(row["seconds"] for name, row in kinds.items() if name.startswith(start))
        for start in ("conv", "norm")
    )
    bounds = {"convolutions": convs, "convolutions and norms": convs + norms}
    return {
        **{"model": given.model, "block": given.block, "batch": given.batch},
        **{"threads": given.threads, "machine": processor(), "torch": torch.__version__},
        "rounds": given.rounds,
        "seconds": {"plain": plain, "ours, compiled": ours, **bounds},
        "times the plain loop": {
            "ours, compiled": plain / ours,
            **{f"at most, by {name}": plain / bound for name, bound in bounds.items()},
        },
        "layers": kinds,
    }


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def tables(result: dict[str, Any]) -> str:
    """The two tables of docs/training.md."""
    lines = ["| | ms a step | times the plain loop |", "| --- | --- | --- |"]
    seconds = result["seconds"]
    for name, value in seconds.items():
        lines.append(f"| {name} | {1000 * value:.0f} | {seconds['plain'] / value:.2f} |")
    lines += ["", "| layers | how many | ms a step | share of our step | GMAC/s |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for name, row in result["layers"].items():
        share = row["seconds"] / seconds["ours, compiled"]
        speed = f"{row['macs'] / row['seconds'] / 1e9:.0f}" if "macs" in row else ""
        cells = [name, row["layers"], f"{1000 * row['seconds']:.1f}", f"{share:.1%}", speed]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    how = [result[key] for key in ("model", "machine", "torch")]
    lines += ["", f"{how[0]}, batch {result['batch']}, {how[1]}, {result['threads']} threads, "]
    lines[-1] += f"torch {how[2]}, {result['rounds']} rounds."
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet56")
    parser.add_argument("--block", default="none")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="of each loop in a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--table", action="store_true", help="print the tables, measure nothing")
    given = parser.parse_args()
    given.device, given.precision = "cpu", "fp32"
    if not given.table:
        given.output.write_text(json.dumps(measured(given), indent=1) + "\n")
    print(tables(json.loads(given.output.read_text())))


if __name__ == "__main__":
    main()
