"""How long `accuracy-booster --help` and every `COMMAND --help` take, each in a process of its own.

    python benchmarks/startup.py --rounds 5 --output benchmarks/startup.json

The commands take turns, so that another load on the machine slows all of them alike. The table
shows the median of each; `python -c pass` tells what an empty Python takes.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from accuracy_booster.cli import COMMANDS


def seconds(words: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    program = ["-m", "accuracy_booster"]
    cases = {"python -c pass": ["-c", "pass"], "--help": [*program, "--help"]}
    cases |= {f"{name} --help": [*program, *name.split(), "--help"] for name in COMMANDS}
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(given.rounds):
        for name, words in cases.items():
            taken[name].append(seconds(words))
    medians = {name: round(statistics.median(all), 3) for name, all in taken.items()}
    for name, median in medians.items():
        print(f"{median:6.2f} s  {name}")
    if given.output:
        about = {"python": platform.python_version(), "rounds": given.rounds}
        given.output.write_text(json.dumps({**about, "median_seconds": medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()
