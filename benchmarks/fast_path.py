"""What re-calibration costs, as it is and on the fast path: the tables of docs/speed.md.

python benchmarks/fast_path.py [--only NAME ...] [--rounds N] [--device cuda]

Each row of RUNS is one `ab.bench` in a process of its own; benchmarks/fast_path.json gets each
result as it ends, so that a run that is interrupted keeps what it has. On a GPU the batches of 256
are added.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BLOCKS = "none,se,eca,cbam,ab,ab_plus"
RUNS: dict[str, dict[str, Any]] = {
    "resnet50-infer-compiled": {
        **{"model": "resnet50", "modes": "infer", "compile": "on", "batch_sizes": "1,16"},
    },
    "resnet50-infer-eager": {
        **{"model": "resnet50", "modes": "infer", "compile": "off", "batch_sizes": "1,16"},
    },
    "resnet56-train-compiled": {
        **{"model": "resnet56", "modes": "train", "compile": "on", "batch_sizes": "128"},
        "blocks": "none,se,ab,ab_plus",
    },
    "resnet50-train-compiled": {
        **{"model": "resnet50", "modes": "train", "compile": "on", "batch_sizes": "16"},
        "blocks": "none,se,ab",
    },
    "resnet164-train-compiled": {
        **{"model": "resnet164", "modes": "train", "compile": "on", "batch_sizes": "32"},
        "blocks": "none,ab",
    },
    "resnet50-train-eager": {
        **{"model": "resnet50", "modes": "train", "compile": "off", "batch_sizes": "16"},
        "blocks": "none,se,ab",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=RUNS, default=list(RUNS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    done = json.loads(given.output.read_text()) if given.output.exists() else {}
    for name in given.only:
        options = {"blocks": BLOCKS, "rounds": given.rounds, "device": given.device, **RUNS[name]}
        if given.device == "cuda":
            options["batch_sizes"] += ",256"
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        command = [sys.executable, "-m", "accuracy_booster", "bench", *words, "--json"]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        done[name] = json.loads(result.stdout)
        given.output.write_text(json.dumps(done, indent=1) + "\n")
        print(name, "done", flush=True)


if __name__ == "__main__":
    main()
