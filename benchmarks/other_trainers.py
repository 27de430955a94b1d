"""Boosted networks in other people's trainers: what each step leaves of the gates.

python benchmarks/other_trainers.py [NAME ...] [--output F]

Each NAME is a file of trainers/; without names all are run. A trainer runs in a process and a
temporary folder of its own, offline. A step that loses a gate, or ends in an error, is a row that
says why. Writes other_trainers.json; trainers that are not named keep what they have there.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OFFLINE = {"HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
CLOSE = 1e-3  # a relative difference above this is an error of the step


def names() -> list[str]:
    """The trainers: the files of trainers/ that have steps."""
    files = (HERE / "trainers").glob("*.py")
    return sorted(f.stem for f in files if f.stem not in ("__init__", "step"))


def why_not(row: dict[str, Any]) -> str:
    """Why a step counts as failed; "" if it does not."""
    if row["gates"] != row["expected"]:
        return row["note"] or f"{row['gates']} of {row['expected']} gates are left"
    if row["difference"] is not None and not row["difference"] <= CLOSE:
        return row["note"] or f"the outputs differ by {row['difference']:.1e}"
    return ""


def rows(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of one trainer; an error is the last one."""
    step = "import"
    try:
        module = importlib.import_module(f"trainers.{name}")
        for done in module.steps(folder):
            row = {**done._asdict(), "why not": ""}
            row["why not"] = why_not(row)
            step = f"after {done.step!r} of {done.trainer}"
            yield row
    except Exception as e:
        traceback.print_exc()
        reason = " ".join(f"{type(e).__name__}: {e}".split()).replace(str(folder), "FOLDER")
        yield {"trainer": name, "step": step, "why not": reason[:300]}


def run(name: str, folder: str, out: Connection) -> None:
    """Send the rows of one trainer from a process of its own."""
    warnings.simplefilter("ignore")
    os.environ.update(OFFLINE, YOLO_CONFIG_DIR=folder, MPLCONFIGDIR=folder)
    os.chdir(folder)
    for row in rows(name, Path(folder)):
        out.send(row)
    out.close()


def collected(name: str) -> list[dict[str, Any]]:
    """All rows of one trainer; a process that dies is a row too."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=run, args=(name, folder, sending))
        process.start()
        sending.close()
        while True:
            try:
                row = receiving.recv()
            except EOFError:
                break
            found.append(row)
            print(line(row), flush=True)
        process.join()
    if process.exitcode:
        step = found[-1]["step"] if found else "import"
        reason = f"the process ended with code {process.exitcode} after {step!r}"
        found.append({"trainer": name, "step": step, "why not": reason})
        print(line(found[-1]), flush=True)
    return found


def line(row: dict[str, Any]) -> str:
    counted = f"{row['gates']:3} of {row['expected']:3} gates" if "gates" in row else " " * 16
    off = row.get("difference")
    off = "" if off is None else f"off by {off:.1e}"
    return f"  {row['trainer']:24.24} {row['step']:22.22} {counted} {off:15} {row['why not']}"


def about(name: str) -> dict[str, Any]:
    """The version of a trainer's package and where it ran."""
    from accuracy_booster.analysis.measuring import processor

    versions = {"python": platform.python_version(), "torch": version("torch")}
    try:
        module = importlib.import_module(f"trainers.{name}")
        for package in (module.PACKAGE, *getattr(module, "ALSO", ())):
            versions[package] = version(package)
    except (ImportError, PackageNotFoundError) as e:
        print(f"  {name}: {e}")
    return {
        "command": f"python benchmarks/other_trainers.py {name}",
        "versions": versions,
        "processor": processor(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names()))
    parser.add_argument("--output", type=Path, default=HERE / "other_trainers.json")
    given = parser.parse_args()
    if unknown := set(given.names) - set(names()):
        parser.error(f"no trainer {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    os.environ.update(OFFLINE)
    done = json.loads(given.output.read_text()) if given.output.is_file() else {}
    wanted = given.names or names()
    failed = 0
    for number, name in enumerate(wanted, 1):
        print(f"{number} of {len(wanted)}: {name}", flush=True)
        start = time.perf_counter()
        found = collected(name)
        failed += sum(bool(row["why not"]) for row in found)
        seconds = round(time.perf_counter() - start)
        done[name] = {**about(name), "seconds": seconds, "rows": found}
        text = json.dumps({key: done[key] for key in sorted(done)}, indent=1)
        given.output.write_text(text + "\n")
    print(f"{failed} steps failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
