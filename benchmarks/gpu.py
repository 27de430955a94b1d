"""What re-calibration costs on a GPU: the tables of docs/gpu.md.

python benchmarks/gpu.py [--only NAME ...] [--rounds N] [--seconds S] [--deadline S]
python benchmarks/gpu.py --together --deadline 600   # in less time: a process for each variant
python benchmarks/gpu.py --table        # print the tables of the JSON
python benchmarks/gpu.py --write        # put them into docs/gpu.md

Each case is one `ab.bench` of one batch size: the network without a block and with one, as it is
and folded or fused, in turns within each round. Compiled inference has frozen weights and replays
CUDA graphs. cuDNN chooses its algorithms by timing them (`cudnn.benchmark`). benchmarks/gpu.json
gets each result as it comes.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

from gpu_cases import CAPTURED, CASES, keep, options

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "gpu.md"
MARKS = re.compile(r"(<!-- measured (\S+) -->\n).*?(\n<!-- end -->)", re.DOTALL)


def measure(given: argparse.Namespace) -> None:
    """Measure the cases one after another, until the deadline."""
    import torch

    torch.backends.cudnn.benchmark = True  # for all variants alike: shapes do not change
    begin = time.monotonic()
    for name in given.only:
        if time.monotonic() - begin > given.deadline:
            print("no time left for", name, flush=True)
            continue
        start = time.monotonic()
        try:
            result = _measure_one(name, given)
        except Exception as e:  # one case that fails leaves the others
            print("failed:", name, type(e).__name__, " ".join(str(e).split())[:300], flush=True)
            continue
        keep(given, name, result)
        found = {f"{r['path']} {r['block']}": round(r["milliseconds"], 2) for r in result["rows"]}
        print(name, f"{time.monotonic() - start:.0f} s", found, flush=True)


def _measure_one(name: str, given: argparse.Namespace) -> dict[str, Any]:
    if name in CAPTURED:
        from gpu_captured import captured

        return captured(*CAPTURED[name], given.rounds)
    import accuracy_booster as ab

    bench = ab.bench(rounds=given.rounds, seconds=given.seconds, **options(name, given))
    return bench.to_dict()


def table(done: dict[str, Any], start: str) -> str:
    """A Markdown table of the cases whose names start so."""
    found = {name: result for name, result in done.items() if name.startswith(start)}
    header = ["batch", "precision", "how", "unboosted, ms", "block", "as it is", "fast path"]
    lines = [header, ["---"] * len(header)]
    how = ("eager", "compiled")
    for result in found.values():
        rows = result["rows"]
        unboosted = [r for r in rows if r["block"] == "none"]
        best = min(unboosted, key=lambda r: r["milliseconds"])
        for block in dict.fromkeys(r["block"] for r in rows if r["block"] != "none"):
            own = {r["path"]: r for r in rows if r["block"] == block}
            lines.append(
                [
                    str(best["batch_size"]),
                    best["precision"],
                    "CUDA graph" if result.get("captured") else how[best["compile"]],
                    f"{best['milliseconds']:.2f}",
                    block,
                    *(_ratio(own.get(path), best) for path in ("naive", "ours")),
                ]
            )
    any_result = next(iter(found.values()))
    size = "x".join(map(str, any_result["input_size"]))
    where = f"{any_result['model']}, {size}, {any_result['device']}, torch {any_result['torch']}."
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", where])


def _ratio(row: dict[str, Any] | None, unboosted: dict[str, Any]) -> str:
    return f"{row['milliseconds'] / unboosted['milliseconds']:.3f}" if row else ""


def filled(text: str, done: dict[str, Any]) -> str:
    """The document with the tables between its marks; what has no result stays."""

    def fill(match: re.Match[str]) -> str:
        known = any(name.startswith(match[2]) for name in done)
        return match[1] + table(done, match[2]) + match[3] if known else match[0]

    return MARKS.sub(fill, text)


def main() -> None:
    names = [*CASES, *CAPTURED]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=names, default=names, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=10, help="for the rounds of one case")
    parser.add_argument("--deadline", type=float, default=7200, help="no case starts later, in s")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try the script")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--together", action="store_true", help="a process for each variant")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--table", action="store_true", help="print the tables, measure nothing")
    parser.add_argument("--write", action="store_true", help="put them into docs/gpu.md")
    given = parser.parse_args()
    if given.variant or given.together:
        import gpu_together

        (gpu_together.one_variant if given.variant else gpu_together.together)(given)
    elif given.table:
        done = json.loads(given.output.read_text())
        starts = dict.fromkeys("-".join(name.split("-")[:2]) for name in done)
        print("\n\n".join(table(done, start) for start in starts))
    elif given.write:
        DOCUMENT.write_text(filled(DOCUMENT.read_text(), json.loads(given.output.read_text())))
    else:
        measure(given)


if __name__ == "__main__":
    main()
