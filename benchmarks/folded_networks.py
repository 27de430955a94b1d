"""Twenty networks of timm, ultralytics and transformers, folded with AB's gates and compiled.

python benchmarks/folded_networks.py [--only NAME ...] [--block ab] [--batch-size 1]
                                     [--rounds N] [--seconds S] [--minutes M] [--again]
                                     [--work FOLDER]
python benchmarks/folded_networks.py --table   # prints the table of the JSON
python benchmarks/folded_networks.py --write   # puts it into docs/speed.md

For each network: how many gates take the fast path, and the time over both opponents'. The weights
are random. Each network is one `ab.bench` in a process of its own, and folded_networks.json gets
its result as it ends; one that is in it already is not measured again on the same machine.
A network that cannot be measured is a row that says why. A `reproduce run` in FOLDER is paused.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import publishing
import torch
from torch import nn

import accuracy_booster as ab
from accuracy_booster.analysis.machine import this_machine

DOCUMENT = Path(__file__).parent.parent / "docs" / "speed.md"


def timm(name: str) -> Callable[[], nn.Module]:
    return lambda: ab.create_model(f"timm/{name}")


def ultralytics(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from ultralytics.nn.tasks import DetectionModel

        return DetectionModel(f"{name}.yaml", verbose=False)

    return build


def transformers(kind: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers as t

        config = getattr(t, f"{kind}Config")()
        return getattr(t, f"{kind}ForImageClassification")(config)

    return build


TIMM = ("resnet18", "resnet50", "resnext50_32x4d", "res2net50_26w_4s", "regnety_016")
TIMM += ("mobilenetv2_100", "mobilenetv3_large_100", "efficientnet_b0", "convnext_atto")
TIMM += ("legacy_xception", "seresnet50", "dla34", "dpn68", "ghostnet_100")
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{f"timm/{name}": timm(name) for name in TIMM},
    **{f"ultralytics/{name}": ultralytics(name) for name in ("yolov8n", "yolo11n")},
    **{f"transformers/{kind}": transformers(kind) for kind in ("ResNet", "RegNet", "MobileNetV2")},
    "timm/densenet121": timm("densenet121"),  # last, as it takes the longest to compile
}
SIDES = {"ultralytics/yolov8n": 640, "ultralytics/yolo11n": 640}  # pixels; others 224
WHERE = {"timm/densenet121": "conv"}  # it has no residual branches
ERROR = "error"


def one(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """The result of one network, in this process."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    found = ab.bench(
        NETWORKS[name](),
        blocks=[given.block],
        where=WHERE.get(name, "residual"),
        modes=["infer"],
        batch_sizes=[given.batch_size],
        compile=[True],
        paths=["ours"],
        rounds=given.rounds,
        seconds=given.seconds,
        input_size=(3, SIDES.get(name, 224), SIDES.get(name, 224)),
        device="cpu",
    )
    return found.to_dict()


def measure(given: argparse.Namespace) -> None:
    machine = asdict(this_machine(torch.device("cpu")))
    for name in given.only:
        done = json.loads(given.output.read_text()) if given.output.exists() else {}
        key = f"{name}, batch {given.batch_size}"
        old = done.get(key, [])
        if any(result["machine"] == machine for result in old) and not given.again:
            continue
        command = [sys.executable, __file__, "--one", name, "--block", given.block]
        for option in ("batch_size", "rounds", "seconds"):
            command += [f"--{option.replace('_', '-')}", str(getattr(given, option))]
        result = measured(command, 60 * given.minutes, machine)
        done[key] = publishing.with_machine(old, result)
        given.output.write_text(json.dumps(done, indent=1) + "\n")
        print(line(key, result), flush=True)


def measured(command: list[str], seconds: float, machine: dict[str, Any]) -> dict[str, Any]:
    """The result that a process prints; or why there is none."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"machine": machine, ERROR: f"it took more than {seconds / 60:g} minutes"}
    if ended.returncode:
        last = ended.stderr.strip().splitlines()[-1:] or [f"exit code {ended.returncode}"]
        return {"machine": machine, ERROR: last[0]}
    return json.loads(ended.stdout.splitlines()[-1])


def line(key: str, result: dict[str, Any]) -> list[str]:
    """The cells of a network."""
    if ERROR in result:
        return [key, "", "", "", "", f"not measured: {result[ERROR]}"]
    by_path = {(row["block"] == "none", row["path"]): row for row in result["rows"]}
    own, same, stock = by_path[False, "ours"], by_path[True, "ours"], by_path[True, "naive"]
    return [
        key,
        f"{own['fast']} of {own['places']}",
        f"{stock['milliseconds']:.1f}",
        publishing.ratio(own["of_stock"]),
        publishing.ratio(own["of_same"]),
        publishing.ratio(same["of_stock"]),
    ]


def table(done: dict[str, list[dict[str, Any]]]) -> str:
    """A Markdown table for each machine."""
    if not done:
        return "Not measured yet: `python benchmarks/folded_networks.py`."
    header = ["network", "gates on the fast path", "stock, ms", "of stock"]
    header += ["of the same treatment", "no block, same treatment: of stock"]
    machines: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for key, results in done.items():
        for result in results:
            machines.setdefault(publishing.machine(result["machine"]), []).append((key, result))
    tables = []
    for machine, rows in machines.items():
        good = [result for _, result in rows if ERROR not in result]
        own = [r for result in good for r in result["rows"] if r["block"] != "none"]
        words = f"{machine}."
        if own:
            fast, places = (sum(row[what] for row in own) for what in ("fast", "places"))
            words += f" {fast} of {places} gates take the fast path. {publishing.rounds(own)}."
        body = publishing.markdown(header, [line(key, result) for key, result in rows])
        tables.append(f"{body}\n\n{words}")
    return "\n\n".join(tables)


def written(name: str, done: dict[str, list[dict[str, Any]]]) -> str | None:
    """What stands between the marks of a name."""
    return table(done) if name == "folded-networks" else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--block", default="ab")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=60, help="for the rounds of one network")
    parser.add_argument("--minutes", type=float, default=15, help="give up a network after so long")
    parser.add_argument(
        "--work", default=publishing.WORK, help="a `reproduce run` in this folder is paused"
    )
    parser.add_argument("--again", action="store_true", help="measure what the JSON has, too")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--table", action="store_true", help="print the table, measure nothing")
    parser.add_argument("--write", action="store_true", help="put it into docs/speed.md")
    parser.add_argument("--one", choices=NETWORKS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one, given)))
        return
    if not (given.table or given.write):
        with publishing.nothing_else_running(given.work):
            measure(given)
        return
    done = json.loads(given.output.read_text()) if given.output.exists() else {}
    if given.table:
        print(table(done))
    if given.write:
        text = publishing.filled(DOCUMENT.read_text(), lambda name: written(name, done))
        DOCUMENT.write_text(text)


if __name__ == "__main__":
    main()
