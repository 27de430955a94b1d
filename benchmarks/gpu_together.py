"""The cases of benchmarks/gpu.py with a process for each variant, which compile at the same time.

What is not compiled by the deadline is left out, as is the folded or fused network without a block.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from gpu_cases import keep, options

VARIANTS = (("naive", "none"), ("naive", "ab"), ("ours", "ab"))
Key = tuple[str, str, str]  # case, path, block


def together(given: argparse.Namespace) -> None:
    """Start all processes, wait until they are ready, then time them in turns."""
    begin = time.monotonic()
    words = [*(["--tiny"] if given.tiny else []), "--device", given.device]
    script = Path(__file__).with_name("gpu.py")
    children: dict[Key, subprocess.Popen[str]] = {}
    ready: dict[Key, dict[str, Any]] = {}

    def wait_for(key: Key) -> None:
        while line := children[key].stdout.readline():
            if line.startswith("{"):
                ready[key] = json.loads(line)
                print(*key, f"is ready after {time.monotonic() - begin:.0f} s", flush=True)
                return

    for name in given.only:
        for path, block in VARIANTS:
            command = [sys.executable, script, "--variant", f"{name} {path} {block}", *words]
            children[name, path, block] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
    waits = [threading.Thread(target=wait_for, args=(key,), daemon=True) for key in children]
    for thread in waits:
        thread.start()
    for thread in waits:
        thread.join(max(0.1, given.deadline - (time.monotonic() - begin)))
    for key in children:
        if key not in ready:
            print("not ready:", *key, flush=True)
            children[key].kill()
    for name in given.only:
        found = {key: ready[key] for key in ready if key[0] == name}
        if found:
            result = _in_turns(found, children, given.rounds)
            keep(given, name, result)
            print(name, {f"{r['path']} {r['block']}": r["milliseconds"] for r in result["rows"]})


def _in_turns(
    ready: dict[Key, dict[str, Any]], children: dict[Key, subprocess.Popen[str]], rounds: int
) -> dict[str, Any]:
    """The result of a case, in the form of `ab.bench`."""
    times: dict[Key, list[float]] = {key: [] for key in ready}
    orders = random.Random(0)
    for _ in range(rounds):
        for key in orders.sample(list(ready), len(ready)):
            children[key].stdin.write("go\n")
            children[key].stdin.flush()
            times[key].append(float(children[key].stdout.readline()))
    base = next((values for key, values in times.items() if key[1:] == ("naive", "none")), None)
    rows = []
    for key, values in times.items():
        ratio = median(a / b for a, b in zip(values, base, strict=True)) if base else None
        rows.append({**ready[key]["row"], "milliseconds": median(values), "ratio_naive": ratio})
        children[key].stdin.close()
    return {**next(iter(ready.values()))["where"], "rounds": rounds, "rows": rows}


def one_variant(given: argparse.Namespace) -> None:
    """A process of `together`: it says when it is ready, and runs its variant for each line."""
    import torch

    from accuracy_booster.analysis.benchmark_results import Case, Variant
    from accuracy_booster.analysis.benchmark_steps import make_network, make_step
    from accuracy_booster.analysis.measuring import calls_in_a_row, seconds_of

    torch.backends.cudnn.benchmark = True
    name, path, block = given.variant.split()
    how = options(name, given)
    size = how.get("input_size") or ((3, 32, 32) if "resnet56" in name else (3, 224, 224))
    case = Case(how["modes"][0], how["batch_sizes"][0], how["compile"][0], how["precision"])
    device = torch.device(given.device)
    torch.manual_seed(0)
    network = make_network(how["model"], block, size).to(device)
    network = network.to(memory_format=torch.channels_last)
    x = torch.randn(case.batch_size, *size, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    step = make_step(case, Variant(path, block), network, x)
    for _ in range(3):
        step.run()
    calls = calls_in_a_row(step.run, device)
    row = {**asdict(case), "block": block, "path": path, "fast": step.fast, "places": step.places}
    card = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    where = {"model": how["model"], "input_size": size, "device": card, "torch": torch.__version__}
    print(json.dumps({"row": row, "where": where}), flush=True)
    while sys.stdin.readline():
        print(round(1e3 * seconds_of(step.run, device, calls), 3), flush=True)
