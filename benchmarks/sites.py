"""Which form of a folded gate is faster at each stage of ResNet-50.

python benchmarks/sites.py [--batch 1 16] [--rounds 25]

It times the end of one residual branch: convolution, gate of AB, sum and ReLU, compiled with frozen
weights. The gate reads the convolution's input, or its output, or there is none; the three take
turns, and the one without a gate must have its sum and ReLU in the convolution. The constants in
`fastpath/folded_forms.py` are fitted to what this measures.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

import accuracy_booster as ab
from accuracy_booster.analysis.measuring import processor
from accuracy_booster.fastpath.epilogue import Epilogue
from accuracy_booster.fastpath.fold_algebra import fold_gate
from accuracy_booster.fastpath.folded_forms import FORMS, choose_form
from accuracy_booster.fastpath.folded_modules import GatedConv2d
from accuracy_booster.fastpath.opponent import stock
from accuracy_booster.ops import keep_freed_memory

STAGES = ((64, 256, 56), (128, 512, 28), (256, 1024, 14), (512, 2048, 7))


class End(nn.Module):
    """The end of a residual branch: relu(layer(h) + shortcut)."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, h: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        return F.relu(self.layer(h) + shortcut)


@torch.no_grad()
def stage(inputs: int, outputs: int, side: int, batch: int, rounds: int) -> dict:
    layout = torch.channels_last
    h = torch.randn(batch, inputs, side, side).to(memory_format=layout)
    shortcut = torch.randn(batch, outputs, side, side).to(memory_format=layout)
    conv = nn.Conv2d(inputs, outputs, 1).eval()
    gate = ab.Recalibrate(outputs, "ab").eval()
    forms = {
        form: GatedConv2d(conv, fold_gate(conv, gate, form), form, Epilogue("relu"))
        for form in FORMS
    }
    layers = {"no gate": conv, **forms}
    runs = {}
    for name, layer in layers.items():
        end = End(layer).eval().to(memory_format=layout)
        compiled = stock if name == "no gate" else ab.compile_for_inference
        runs[name] = compiled(end, h, shortcut)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name in random.sample(list(runs), len(runs)):
            run = runs[name]
            run(h, shortcut)
            start = time.perf_counter()
            run(h, shortcut)
            times[name].append(1e3 * (time.perf_counter() - start))
    frozen = {name: asdict(run.frozen) for name, run in runs.items() if run.frozen}
    chosen = choose_form(conv, gate, tuple(h.shape), tuple(shortcut.shape))
    return {
        **{"channels": [inputs, outputs], "side": side, "batch": batch, "chosen": chosen},
        **{"torch": torch.__version__, "threads": torch.get_num_threads()},
        **{"device": processor(), "frozen": frozen},
        "milliseconds": {name: round(median(values), 4) for name, values in times.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    keep_freed_memory()
    rows = []
    for batch in given.batch:
        for shape in STAGES:
            torch._dynamo.reset()
            rows.append(stage(*shape, batch, given.rounds))
            print(rows[-1], flush=True)
    given.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
