"""What re-calibration costs, as it is and on the fast path: the tables of docs/speed.md.

python benchmarks/fast_path.py [--only NAME ...] [--blocks none,se,ab] [--batch-sizes 1,16]
                               [--rounds N] [--seconds S] [--device cuda]
python benchmarks/fast_path.py --table   # prints the tables of the JSON
python benchmarks/fast_path.py --write   # puts them into docs/speed.md and README.md

Each batch size of each row of RUNS is one `bench` in a process of its own, and
benchmarks/fast_path.json gets its result as it ends: a run that is interrupted keeps what it has.
Rows of another machine or torch are replaced, not mixed. On a GPU the batches of 256 are added.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DOCUMENTS = (HERE.parent / "docs" / "speed.md", HERE.parent / "README.md")
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
KEY = ("mode", "batch_size", "compile", "block", "path")
SAME = ("model", "input_size", "device", "threads", "torch")
MARKS = re.compile(r"(<!-- measured (\S+) -->\n).*?(\n<!-- end -->)", re.DOTALL)


def merged(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """The rows of both, the new one's where both have one; the new alone from another machine."""
    if old is None or any(old[key] != new[key] for key in SAME):
        return new
    rows = {tuple(row[key] for key in KEY): row for row in [*old["rows"], *new["rows"]]}
    return {**new, "rows": list(rows.values())}


def measure(given: argparse.Namespace) -> None:
    done = json.loads(given.output.read_text()) if given.output.exists() else {}
    failed = []
    for name in given.only:
        options = {"blocks": BLOCKS, "rounds": given.rounds, "device": given.device, **RUNS[name]}
        if given.device == "cuda":
            options["batch_sizes"] += ",256"
        for key in ("blocks", "batch_sizes", "seconds"):
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
            done[name] = merged(done.get(name), json.loads(result.stdout))
            given.output.write_text(json.dumps(done, indent=1) + "\n")
            print(name, "at batch", batch, "done", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; what it says is above, the rest is kept")


def table(result: dict[str, Any]) -> str:
    """A Markdown table of one run: the ratios, their quartiles, memory in training, and how."""
    rows = sorted(result["rows"], key=lambda row: row["batch_size"])
    found = {tuple(row[key] for key in ("batch_size", "block", "path")): row for row in rows}
    batches = list(dict.fromkeys(row["batch_size"] for row in rows))
    blocks = [b for b in dict.fromkeys(row["block"] for row in rows) if b != "none"]
    training = rows[0]["mode"] == "train"
    header = ["block"]
    for batch in batches:
        header += [f"batch {batch}: naive", "ours", "fast"]
        header += ["memory: naive", "ours"] if training else []
    papers = {row["block"]: row["paper"] for row in rows if row["paper"] is not None}
    header += ["the paper's Table 3 (256, Titan X)"] if papers else []
    lines = [header, ["---"] * len(header)]
    for block in blocks:
        cells = [block]
        for batch in batches:
            naive, ours = (found.get((batch, block, path)) for path in ("naive", "ours"))
            cells += [_ratio(naive), _ratio(ours)]
            cells.append(f"{ours['fast']} of {ours['places']}" if ours else "")
            if training:
                cells += [f"{row['memory_ratio']:.3f}" if row else "" for row in (naive, ours)]
        cells += [f"{papers[block]:.3f}" if block in papers else ""] if papers else []
        lines.append(cells)
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", _how(result)])


def _ratio(row: dict[str, Any] | None) -> str:
    return f"{row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})" if row else ""


def _how(result: dict[str, Any]) -> str:
    rows = result["rows"]
    size = "x".join(map(str, result["input_size"]))
    rounds = sorted({row.get("rounds", result["rounds"]) for row in rows})
    number = f"{rounds[0]} to {rounds[-1]}" if len(rounds) > 1 else str(rounds[0])
    words = (
        f"{result['model']}, {size}, {result['device']}, {result['threads']} threads, torch "
        f"{result['torch']}, {number} rounds."
    )
    plain = [row["frozen"] for row in rows if row["block"] == "none" and row.get("frozen")]
    if plain:
        packed = " and ".join(dict.fromkeys(f"{f['packed']}" for f in plain))
        sums = " and ".join(dict.fromkeys(f"{f['sums']}" for f in plain))
        words += (
            f" Without a block {packed} convolutions are frozen; {sums} of them add a shortcut."
        )
    return words


def sentence(result: dict[str, Any]) -> str:
    """README's line: the range of the folded gates' ratios at each batch size."""
    rows = [r for r in result["rows"] if r["path"] == "ours" and r["block"] != "none" and r["fast"]]
    parts = []
    for batch in sorted({row["batch_size"] for row in rows}):
        ratios = [row["ratio"] for row in rows if row["batch_size"] == batch]
        low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
        parts.append(f"{low if low == high else f'{low} to {high}'} times at batch {batch}")
    names = ", ".join(dict.fromkeys(row["block"] for row in rows))
    return (
        f"Folded and compiled with frozen weights, ResNet-50 with a block ({names}) takes "
        f"{' and '.join(parts)}\nof the unboosted network's time, on {result['device']} with "
        f"{result['threads']} threads ([measured](docs/speed.md#measured))."
    )


def filled(text: str, done: dict[str, Any]) -> str:
    """The document with what was measured between its marks; what has no result stays."""

    def fill(match: re.Match[str]) -> str:
        name, _, kind = match[2].partition(":")
        if name not in done:
            return match[0]
        return match[1] + (sentence if kind else table)(done[name]) + match[3]

    return MARKS.sub(fill, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=RUNS, default=list(RUNS))
    parser.add_argument("--blocks", help="such as none,se,ab; by default those of each run")
    parser.add_argument("--batch-sizes", help="such as 1,16; by default those of each run")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--seconds", type=float, default=90, help="for the rounds of one batch size"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--table", action="store_true", help="print the tables, measure nothing")
    parser.add_argument("--write", action="store_true", help="put them into the documents")
    given = parser.parse_args()
    if not (given.table or given.write):
        measure(given)
        return
    done = json.loads(given.output.read_text())
    if given.table:
        print("\n\n".join(f"{name}\n\n{table(done[name])}" for name in given.only if name in done))
    for path in DOCUMENTS if given.write else ():
        path.write_text(filled(path.read_text(), done))


if __name__ == "__main__":
    main()
