"""The cases that benchmarks/gpu.py measures, and the file of their results."""

from __future__ import annotations

import argparse
import json
from typing import Any

SAME = ("device", "torch")  # results of another machine are not kept beside new ones
# of these the networks without and with a block take turns; the most important cases come first
CASES: dict[str, dict[str, Any]] = {
    f"{model}-{mode}-{how}-{precision}-{batch}": {
        **{"model": model, "modes": [mode], "compile": [how == "compiled"], "blocks": blocks},
        **{"precision": precision, "batch_sizes": [batch]},
    }
    for model, mode, how, precisions, batches, blocks in (
        ("resnet50", "infer", "eager", ("bf16",), (128, 16, 1), ["se", "ab"]),
        ("resnet50", "infer", "compiled", ("bf16",), (128, 1, 16), ["ab"]),
        ("resnet56", "train", "eager", ("bf16", "fp32"), (128,), ["se", "ab"]),
        ("resnet50", "train", "eager", ("bf16",), (128,), ["se", "ab"]),
        ("resnet50", "infer", "eager", ("fp16", "fp32"), (128,), ["se", "ab"]),
        ("resnet50", "train", "eager", ("fp16", "fp32"), (128,), ["ab"]),
        ("resnet56", "train", "compiled", ("bf16",), (128,), ["ab"]),
        ("resnet50", "train", "compiled", ("bf16",), (128,), ["ab"]),
        ("resnet50", "infer", "compiled", ("fp32",), (128,), ["ab"]),
        ("resnet164", "train", "eager", ("bf16",), (128,), ["ab"]),
    )
    for precision in precisions
    for batch in batches
}
# whole training steps as one CUDA graph: what the GPU takes, without launching kernels one by one
CAPTURED = {
    "resnet50-graph-eager-bf16-128": ("resnet50", (3, 224, 224)),
    "resnet56-graph-eager-bf16-128": ("resnet56", (3, 32, 32)),
}
TINY = {"model": "resnet8", "batch_sizes": [2], "precision": "fp32", "input_size": (3, 16, 16)}


def options(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `ab.bench` for a case."""
    return {**CASES[name], **(TINY if given.tiny else {}), "device": given.device}


def kept(given: argparse.Namespace) -> dict[str, Any]:
    """The results in the output file, by case."""
    return json.loads(given.output.read_text()) if given.output.exists() else {}


def keep(given: argparse.Namespace, name: str, result: dict[str, Any]) -> None:
    """Put a result into the output file; results of another machine go."""
    new = json.loads(json.dumps(result))
    done = kept(given)
    if any(old[key] != new[key] for old in done.values() for key in SAME):
        done = {}
    given.output.write_text(json.dumps({**done, name: new}, indent=1) + "\n")
