"""How often a compiled training step reads and writes feature maps, in one residual block.

python benchmarks/training_traffic.py [--models resnet56 "resnet164 stage 1"] [--blocks none se ab]
python benchmarks/training_traffic.py --table   # prints the table of the JSON

Counted, not timed: the bytes that inductor's loops load and store according to its own schedule,
divided by the bytes of the block's output. What convolutions and matrix products read and write is
counted apart. No C++ is compiled: its calls do nothing. The JSON keeps the rows of other networks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import ExternKernelSchedulerNode

import accuracy_booster as ab
from accuracy_booster.ops.batch_norm import BatchNormMode

# Blocks that follow one another, whose input and output have the same shape; and the network's
# input. A branch of ResNet-164 ends in a convolution, which a second block shows as it is within a
# network: what comes before the next norm. Its stages differ in channels per position.
BLOCKS = {"resnet56": (["layer1.2"], 32, 32), "resnet50": (["layer1.1"], 224, 4)}
for stage in (1, 2, 3):
    BLOCKS[f"resnet164 stage {stage}"] = ([f"layer{stage}.1", f"layer{stage}.2"], 32, 32)


def counted(model: str, block: str, fused: bool) -> dict[str, float]:
    """Maps that are read or written in the forward and the backward pass, on average of a block."""
    places, size, batch = BLOCKS[model]
    network = ab.create_model(model.split()[0], block=block)
    if fused:
        ab.fuse(network, example=torch.zeros(1, 3, size, size))
    blocks = [network.get_submodule(place) for place in places]
    shapes: list[torch.Size] = []
    hook = blocks[0].register_forward_pre_hook(lambda m, x: shapes.append(x[0].shape))
    with torch.no_grad():
        network.eval()(torch.zeros(batch, 3, size, size))
    hook.remove()
    module = torch.nn.Sequential(*blocks).train().to(memory_format=torch.channels_last)
    x = torch.randn(shapes[0]).contiguous(memory_format=torch.channels_last).requires_grad_()
    passes: list[dict[str, int]] = []
    codegen = GraphLowering.codegen

    def counting(graph: GraphLowering) -> Any:
        code = codegen(graph)
        found = {"loops": 0, "products": 0}
        for node in graph.scheduler.nodes:
            kind = "products" if isinstance(node, ExternKernelSchedulerNode) else "loops"
            found[kind] += node.get_read_write_buffers_sizes()
        passes.append(found)
        return code

    torch._dynamo.reset()
    kept = AsyncCompile.cpp_pybinding
    GraphLowering.codegen = counting
    AsyncCompile.cpp_pybinding = lambda *_, **__: lambda *_: None
    try:
        with torch._inductor.config.patch(force_disable_caches=True):
            compiled = torch.compile(module, dynamic=False)
            with BatchNormMode():
                y = compiled(x)
            y.backward(torch.ones_like(y))
    finally:
        GraphLowering.codegen, AsyncCompile.cpp_pybinding = codegen, kept
    forward, backward = passes
    unit = len(blocks) * y.numel() * y.element_size()
    return {
        f"{name}, {kind}": round(found[kind] / unit, 2)
        for kind in ("loops", "products")
        for name, found in (("forward", forward), ("backward", backward))
    }


def table(result: dict[str, Any]) -> str:
    """The table of docs/speed.md: a row for each network and block."""
    first = next(iter(result["rows"].values()))
    lines = [["network, block", *first], ["---"] * (1 + len(first))]
    for name, row in result["rows"].items():
        lines.append([name, *(f"{value:.2f}" for value in row.values())])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=BLOCKS, default=["resnet56"])
    parser.add_argument("--blocks", nargs="*", default=["none", "se", "ab", "ab_plus"])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--table", action="store_true", help="print the table, count nothing")
    given = parser.parse_args()
    if not given.table:
        result: dict[str, Any] = {"torch": torch.__version__, "rows": {}}
        if given.output.exists():
            before = json.loads(given.output.read_text())
            result = before if before["torch"] == result["torch"] else result
        for model in given.models:
            for block in given.blocks:
                for fused in (False, True):
                    name = f"{model}, {block}, {'fused' if fused else 'as it is'}"
                    result["rows"][name] = counted(model, block, fused)
                    given.output.write_text(json.dumps(result, indent=1) + "\n")
    print(table(json.loads(given.output.read_text())))


if __name__ == "__main__":
    main()
