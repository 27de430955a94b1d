"""What a gate costs in OpenVINO in its own default precision, which is bfloat16 on some processors.

python benchmarks/exported_bf16.py [--only NAME ...] [--rounds N] [--work FOLDER]
python benchmarks/exported_bf16.py --write   # puts the table of the JSON into docs/deploy.md

`ab.predict` and `benchmarks/exported.py` ask OpenVINO for float32. A program that does not ask gets
what the processor computes fastest. Here folded networks run both ways, in turns. A ratio is the
time over that of the network without a block in the same precision and the same round; the error is
of the outputs, over the largest output in float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import warnings
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import exported
import numpy as np
import openvino
import publishing
import torch

from accuracy_booster.analysis.machine import this_machine

WAYS = {"default": {}, "float32": {"INFERENCE_PRECISION_HINT": "f32"}}
MARK = "exported-bf16"


def opened(path: Path, settings: dict[str, str]) -> tuple[Any, str]:
    """What runs a file, and the precision that it computes in."""
    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", **settings}
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    request = compiled.create_infer_request()
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()

    def run(images: np.ndarray) -> np.ndarray:
        return request.infer({0: images})[0].copy()

    return run, precision


@torch.no_grad()
def one(name: str, rounds: int) -> list[dict[str, Any]]:
    """The rows of a network."""
    side = exported.SIDES[name]
    images = torch.randn(max(exported.BATCHES), 3, side, side)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for variant, network in exported.networks(name, "openvino", images).items():
            if variant == "none" or variant.endswith(", folded"):
                path = exported.write(network, variant, images, Path(folder), "openvino")
                runs |= {(variant, way): opened(path, given) for way, given in WAYS.items()}
        for batch in exported.BATCHES:
            x = images[:batch].numpy()
            seconds: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
            for _ in range(rounds):
                for key, (run, _) in runs.items():
                    seconds[key].append(exported.turn(run, x))
            for (variant, way), own in seconds.items():
                run, precision = runs[variant, way]
                expected = runs[variant, "float32"][0](x)
                error = np.abs(run(x) - expected).max() / np.abs(expected).max()
                pairs = zip(own, seconds["none", way], strict=True)
                rows.append(
                    {
                        **{"network": name, "file": variant, "batch": batch, "asked": way},
                        "precision": precision,
                        "milliseconds": round(1e3 * statistics.median(own), 3),
                        **publishing.quartiles([a / b for a, b in pairs]),
                        "error_of_largest": float(f"{error:.2g}"),
                    }
                )
    return rows


def table(result: dict[str, Any]) -> str:
    """A Markdown table, and the machine."""
    header = ["network", "file", "OpenVINO computes in", "images", "ms", "of none", "error"]
    rows = [
        [
            *(row["network"], row["file"], row["precision"], str(row["batch"])),
            f"{row['milliseconds']:.2f}",
            "" if row["file"] == "none" else publishing.ratio(row),
            f"{row['error_of_largest']:.0e}" if row["asked"] == "default" else "",
        ]
        for row in result["rows"]
    ]
    about = f"openvino {result['openvino']}; {result['rounds']} rounds."
    machine = publishing.machine(result["machine"])
    return f"{publishing.markdown(header, rows)}\n\n{machine}; {about}"


def written(name: str, done: dict[str, Any]) -> str | None:
    """What stands behind a mark in docs/deploy.md; None for a mark of another benchmark."""
    return table(done) if name == MARK else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=exported.SIDES, default=["resnet50"])
    parser.add_argument("--rounds", type=int, default=15)
    publishing.arguments(parser, __file__)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.write:
        publishing.fill(exported.PAGE, written, given.output)
    else:
        with publishing.nothing_else_running(given.work):
            rows = [row for name in given.only for row in one(name, given.rounds)]
        result = {
            "machine": asdict(this_machine(torch.device("cpu"))),
            **{"openvino": version("openvino"), "rounds": given.rounds, "rows": rows},
        }
        given.output.write_text(json.dumps(result, indent=1) + "\n")
        print(table(result))


if __name__ == "__main__":
    main()
