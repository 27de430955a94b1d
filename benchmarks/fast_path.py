"""What re-calibration costs, against two opponents and timm's rivals: the tables of docs/speed.md.

python benchmarks/fast_path.py [--only NAME ...] [--blocks se,ab] [--paths ours] [--batch-sizes 1]
                               [--rounds N] [--seconds S] [--device cuda] [--work FOLDER]
python benchmarks/fast_path.py --table   # prints the tables of the JSON
python benchmarks/fast_path.py --write   # puts them into docs/speed.md and README.md

Each batch size of each row of RUNS is one `bench` in a process of its own, in which all variants,
both opponents and the rivals take turns. benchmarks/fast_path.json gets its result as it ends: a
run that is interrupted keeps what it has. Results of other processors stay beside it; those of
another torch on the same processor are replaced. A `reproduce run` in FOLDER is paused meanwhile.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import publishing

HERE = Path(__file__).parent
DOCUMENTS = (HERE.parent / "docs" / "speed.md", HERE.parent / "README.md")
BLOCKS = "se,eca,cbam,ab,ab_plus"
FEW = "se,ab,ab_plus"
RIVALS = "timm/seresnet50,timm/ecaresnet50d"  # timm has no ecaresnet50 with ResNet-50's stem
INFER, TRAIN = {"modes": "infer", "batch_sizes": "1,16"}, {"modes": "train"}
COMPILED, EAGER = {"compile": "on"}, {"compile": "off"}
RUNS: dict[str, dict[str, Any]] = {
    "resnet50-infer-compiled": {
        **{"model": "resnet50", "blocks": BLOCKS, "against": RIVALS, **INFER, **COMPILED},
    },
    "resnet50-infer-eager": {
        **{"model": "resnet50", "blocks": BLOCKS, "against": RIVALS, **INFER, **EAGER},
    },
    "resnet56-infer-compiled": {"model": "resnet56", "blocks": FEW, **INFER, **COMPILED},
    "resnet56-infer-eager": {"model": "resnet56", "blocks": FEW, **INFER, **EAGER},
    "regnety-infer-compiled": {"model": "timm/regnety_016", "blocks": FEW, **INFER, **COMPILED},
    "mobilenetv2-infer-compiled": {
        **{"model": "timm/mobilenetv2_100", "blocks": FEW, **INFER, **COMPILED},
    },
    "resnet56-train-compiled": {
        **{"model": "resnet56", "blocks": FEW, "batch_sizes": "128", **TRAIN, **COMPILED},
    },
    "resnet56-train-eager": {
        **{"model": "resnet56", "blocks": "se,ab", "batch_sizes": "128", **TRAIN, **EAGER},
    },
    "resnet50-train-compiled": {
        **{"model": "resnet50", "blocks": "se,ab", "batch_sizes": "16", **TRAIN, **COMPILED},
    },
    "resnet50-train-eager": {
        **{"model": "resnet50", "blocks": "se,ab", "batch_sizes": "16", **TRAIN, **EAGER},
    },
    "resnet164-train-compiled": {
        **{"model": "resnet164", "blocks": "ab", "batch_sizes": "32", **TRAIN, **COMPILED},
    },
}
KEY = ("mode", "batch_size", "compile", "block", "path")
SAME = ("model", "input_size", "machine")
HOW = {"naive": "as it is", "rival": "as it is"}


def merged(old: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of each machine; the new rows take the place of the same machine's old ones."""
    for result in old:
        if all(result[key] == new[key] for key in SAME):
            rows = {tuple(row[key] for key in KEY): row for row in [*result["rows"], *new["rows"]]}
            new = {**new, "rows": list(rows.values())}
    return publishing.with_machine(old, new)


def measure(given: argparse.Namespace) -> None:
    done = json.loads(given.output.read_text()) if given.output.exists() else {}
    failed = []
    for name in given.only:
        options = {"rounds": given.rounds, "device": given.device, **RUNS[name]}
        if given.device == "cuda":
            options["batch_sizes"] += ",256"
        for key in ("blocks", "paths", "batch_sizes", "seconds"):
            if getattr(given, key) is not None:
                options[key] = getattr(given, key)
        for batch in options["batch_sizes"].split(","):
            words = {**options, "batch_sizes": batch}
            command = [sys.executable, "-m", "accuracy_booster", "bench", "--json"]
            command += [word for key, value in words.items() for word in (f"--{key}", str(value))]
            result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if result.returncode:
                failed.append(f"{name} at batch {batch}")
                continue
            done[name] = merged(done.get(name, []), json.loads(result.stdout))
            given.output.write_text(json.dumps(done, indent=1) + "\n")
            print(name, "at batch", batch, "done", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; what it says is above, the rest is kept")


def table(result: dict[str, Any]) -> str:
    """A Markdown table of one run on one machine, and how it was made.

    Both ratios of a folded or fused network stand side by side. A network as it is has not had the
    treatment, so it has no ratio to the network with the same treatment.
    """
    rows = sorted(result["rows"], key=lambda row: row["batch_size"])
    found = {tuple(row[key] for key in ("batch_size", "block", "path")): row for row in rows}
    batches = list(dict.fromkeys(row["batch_size"] for row in rows))
    variants = dict.fromkeys((row["block"], row["path"]) for row in rows)
    training = rows[0]["mode"] == "train"
    papers = {row["block"]: row["paper"] for row in rows if row["paper"] is not None}
    header = ["block", "how"]
    for batch in batches:
        header += [f"batch {batch}: of stock", "of the same treatment"]
        header += ["memory"] if training else []
    header += ["fast path"]
    header += ["the paper's Table 3 (256, Titan X)"] if papers else []
    lines = []
    for block, path in variants:
        if (block, path) == ("none", "naive"):
            continue
        own = [found.get((batch, block, path)) for batch in batches]
        cells = [block, HOW.get(path, "fused" if training else "folded")]
        for row in own:
            cells += [publishing.ratio(row and row["of_stock"])]
            cells += [publishing.ratio(row["of_same"] if row and path == "ours" else None)]
            cells += [f"{row['memory_ratio']:.3f}" if row else ""] if training else []
        last = next(row for row in own if row)
        cells += [f"{last['fast']} of {last['places']}" if last["places"] else ""]
        cells += [f"{papers[block]:.3f}" if block in papers and path != "rival" else ""] * bool(
            papers
        )
        lines.append(cells)
    return f"{publishing.markdown(header, lines)}\n\n{_how(result, found)}"


def _how(result: dict[str, Any], found: dict[tuple[Any, ...], dict[str, Any]]) -> str:
    size = "x".join(map(str, result["input_size"]))
    words = (
        f"{result['model']}, {size}. {publishing.machine(result['machine'])}, "
        f"{publishing.rounds(result['rows'])}."
    )
    profiles = {
        "Stock": ("none", "naive"),
        "The same treatment": ("none", "ours"),
        "With AB, folded": ("ab", "ours"),
    }
    for name, variant in profiles.items():
        shown = [row["frozen"] for key, row in found.items() if key[1:] == variant]
        if shown and shown[0]:
            words += f" {name}: {publishing.joined(shown[0])}."
    times = [
        f"{row['milliseconds']:.1f} ms at batch {key[0]}"
        for key, row in found.items()
        if key[1:] == ("none", "naive")
    ]
    return f"{words} Stock takes {', '.join(times)}."


def summary(result: dict[str, Any]) -> str:
    """README's table: the ranges of both ratios of the folded gates, and of the rivals."""
    rows = [r for r in result["rows"] if r["path"] == "ours" and r["block"] != "none" and r["fast"]]
    rivals = [r for r in result["rows"] if r["path"] == "rival"]
    names = ", ".join(dict.fromkeys(row["block"] for row in rows))
    batches = sorted({row["batch_size"] for row in rows})
    lines = [
        [f"with a block ({names}), folded: of stock", *_ranges(rows, batches, "of_stock")],
        ["the same: of the same treatment", *_ranges(rows, batches, "of_same")],
    ]
    for name in dict.fromkeys(row["block"] for row in rivals):
        own = [row for row in rivals if row["block"] == name]
        lines.append([f"{name}: of stock", *_ranges(own, batches, "of_stock")])
    header = [f"{result['model']}, compiled: time", *(f"batch {batch}" for batch in batches)]
    return (
        f"{publishing.markdown(header, lines)}\n\n"
        "*Of stock* is over the time of the network without a block as people run it today "
        "(`torch.compile` with frozen weights). *Of the same treatment* is over that network "
        f"folded by `ab.fold` too. {publishing.machine(result['machine'])} "
        "([measured](docs/speed.md#measured))."
    )


def _ranges(rows: list[dict[str, Any]], batches: list[int], opponent: str) -> list[str]:
    """From the least to the largest ratio, for each batch size."""
    cells = []
    for batch in batches:
        ratios = [row[opponent]["ratio"] for row in rows if row["batch_size"] == batch]
        low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
        cells.append(low if low == high else f"{low} to {high}")
    return cells


def written(name: str, done: dict[str, list[dict[str, Any]]]) -> str | None:
    """What stands between the marks of a name: a table, or a summary, for each machine."""
    run, _, kind = name.partition(":")
    if run not in RUNS:
        return None
    if run not in done:
        return f"Not measured yet: `python benchmarks/fast_path.py --only {run}`."
    return "\n\n".join((summary if kind else table)(result) for result in done[run])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=RUNS, default=list(RUNS))
    parser.add_argument("--blocks", help="such as se,ab; by default those of each run")
    parser.add_argument("--paths", help="ours leaves out the networks with a block as they are")
    parser.add_argument("--batch-sizes", help="such as 1,16; by default those of each run")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--seconds", type=float, default=90, help="for the rounds of one batch size"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--work", default=publishing.WORK, help="a `reproduce run` in this folder is paused"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--table", action="store_true", help="print the tables, measure nothing")
    parser.add_argument("--write", action="store_true", help="put them into the documents")
    given = parser.parse_args()
    if not (given.table or given.write):
        with publishing.nothing_else_running(given.work):
            measure(given)
        return
    done = json.loads(given.output.read_text())
    if given.table:
        for name in given.only:
            print(f"{name}\n\n{written(name, done)}\n")
    for path in DOCUMENTS if given.write else ():
        text = publishing.filled(path.read_text(), lambda name: written(name, done))
        path.write_text(text)


if __name__ == "__main__":
    main()
