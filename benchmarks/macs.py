"""Compare our multiply-adds with those of torch's flop counter and of fvcore, on five networks.

python benchmarks/macs.py [--output benchmarks/macs.json]
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

import accuracy_booster as ab
from accuracy_booster.surgery.examples import infer_examples

NETWORKS = (
    *("resnet50", "resnext101_32x4d", "shufflenet_g3"),
    *("timm/mobilenetv2_100", "timm/convnext_tiny"),
)
BLOCKS = ("none", "ab", "se")
# the operators of fvcore that are multiply-adds; it counts norms too
LAYERS = ("conv", "linear", "addmm", "matmul", "bmm", "einsum")


def torch_macs(model: torch.nn.Module, x: torch.Tensor) -> int:
    """By torch's flop counter, which counts 2 for a multiply-add."""
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() // 2


def fvcore_macs(model: torch.nn.Module, x: torch.Tensor) -> int:
    """By fvcore."""
    from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    counts = FlopCountAnalysis(model, x).unsupported_ops_warnings(False).by_operator()
    return int(sum(counts[name] for name in LAYERS))


@torch.no_grad()
def main() -> None:
    """Print a row for each network and block, and write all rows to a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    rows = []
    print(f"{'network':24} {'block':6} {'ours':>16} {'torch':>16} {'fvcore':>16}  ours - torch")
    for name in NETWORKS:
        for block in BLOCKS:
            model = ab.create_model(name, block=block).eval()
            x = infer_examples(model)[-1]
            cost = ab.complexity(model, tuple(x.shape[1:]))
            row = {
                **{"network": name, "block": block, "input": list(x.shape)},
                **{"ours": cost.macs, "torch": torch_macs(model, x)},
                **{"fvcore": fvcore_macs(model, x), "extra": cost.extra.macs},
            }
            rows.append(row)
            others = f"{row['torch']:16,} {row['fvcore']:16,}"
            print(f"{name:24} {block:6} {row['ours']:16,} {others}  {row['ours'] - row['torch']:,}")
    versions = {"torch": torch.__version__}
    arguments.output.write_text(json.dumps({"versions": versions, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
