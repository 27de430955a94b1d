"""Kill, corrupt and starve trainings; count how many come back bit for bit.

python benchmarks/faults.py [--kills 100] [--corruptions 100] [--replacements 30] [--output F]

Kills are SIGKILL at seeded random instants: inside a checkpoint's write, in evaluation, in the
loader (a process that decodes), and at any time. Each killed run is resumed, and may be killed
again; at the end every tensor (weights, optimizer, moving average) and every metric must equal the
uninterrupted run's. Faults of files (file_faults.py) and of processes (process_faults.py) follow.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import file_faults
import numpy as np
import process_faults
import torch
from children import class_folders, in_child, plant, wait
from PIL import Image

import accuracy_booster as ab
from accuracy_booster.errors import TrainingStopped
from accuracy_booster.training import checkpoint
from accuracy_booster.training.classification import Classification

PLACES = ("checkpoint", "evaluation", "loader", "anywhere")
TIMES = ("seconds", "images_per_second")  # what may differ


def make_data(root: Path) -> Path:
    """Real PNG files, larger than what is kept in memory, so that they are decoded at each use."""
    generator = np.random.default_rng(0)
    for folder, label, i in class_folders(root, {"train": 24, "test": 10}, classes=3):
        noise = generator.integers(0, 120, (72, 80, 3)) + 60 * label
        Image.fromarray(noise.astype(np.uint8)).save(folder / f"{i}.png")
    return root


def options(data: Path, output: Path) -> dict[str, Any]:
    return {
        **{"model": "resnet8", "block": "ab", "data": str(data), "output": str(output)},
        **{"preset": "cifar_resnet", "epochs": 3, "batch_size": 12, "image_size": 16, "lr": 0.05},
        **{"ema": 0.9, "mixup": 0.2, "cutmix": 1.0, "checkpoint_minutes": 0, "seed": 3},
        **{"eval_batch_size": 7, "compile": "off", "accumulate": 2, "device": "cpu"},
    }


def train(data: Path, run: Path) -> None:
    torch.set_num_threads(1)
    if (run / "config.yaml").exists():
        ab.train(resume=run)
    else:
        ab.train(**options(data, run))


def end_state(run: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, float]], dict[str, Any]]:
    saved, problems = checkpoint.load(run)
    assert saved is not None, problems
    assert not problems, problems
    from safetensors.torch import load_file

    tensors = {**saved.tensors, **load_file(run / "model.safetensors")}
    history = [{k: v for k, v in r.items() if k not in TIMES} for r in saved.values["history"]]
    return tensors, history, json.loads((run / "run.json").read_text())["test"]


def equal(first: Path, second: Path) -> bool:
    a, b = end_state(first), end_state(second)
    same = a[0].keys() == b[0].keys() and all(torch.equal(a[0][k], b[0][k]) for k in a[0])
    return same and a[1:] == b[1:]


def kills(folder: Path, data: Path, reference: Path, number: int, took: float) -> dict[str, Any]:
    rows: dict[str, Any] = {p: {"killed": 0, "equal": 0, "resumes": 0} for p in PLACES}
    for i in range(number):
        place, generator = PLACES[i % len(PLACES)], random.Random(i)
        run, log = folder / f"kill{i}", folder / f"kill{i}.log"

        def doomed(place: str = place, generator: random.Random = generator, run: Path = run):
            plant(place, generator)
            train(data, run)

        for _ in range(9):  # until it is hit, which a late instant may miss
            pid = in_child(doomed, log)
            if place == "anywhere":
                time.sleep(generator.uniform(0, took))
                os.kill(pid, signal.SIGKILL)
            if wait(pid) == signal.SIGKILL:
                break
            shutil.rmtree(run, ignore_errors=True)
            generator.random()
        else:
            raise SystemExit(f"kill {i} in {place} never came; see {log}")
        rows[place]["killed"] += 1
        pid = in_child(lambda run=run: train(data, run), log)
        rows[place]["resumes"] += 1
        if wait(pid) != 0:
            print(log.read_text()[-2000:])
        elif equal(reference, run):
            rows[place]["equal"] += 1
        else:
            print(f"kill {i} in {place}: the end differs")
        shutil.rmtree(run)
        if i % 10 == 9:
            print(
                f"{i + 1} kills: "
                + ", ".join(f"{k} {v['equal']}/{v['killed']}" for k, v in rows.items())
            )
    total = {k: sum(row[k] for row in rows.values()) for k in ("killed", "equal")}
    return {**rows, "all": total}


def corruptions(folder: Path, reference: Path, number: int) -> dict[str, int]:
    """Damage the newest checkpoint or the manifest; it must be named, and the one before used."""
    kinds: dict[str, int] = {}
    found = 0
    newest = checkpoint.load(reference)[0]
    assert newest is not None
    for i in range(number):
        generator = random.Random(1000 + i)
        run = folder / f"corrupt{i}"
        shutil.copytree(reference / "checkpoints", run / "checkpoints")
        target = run / "checkpoints" / (newest.path.name if i % 5 else "manifest.json")
        content = bytearray(target.read_bytes())
        kind = ("bit", "byte", "cut", "zeros", "longer", "swapped")[i % 6]
        place = generator.randrange(len(content))
        if kind == "bit":
            content[place] ^= 1 << generator.randrange(8)
        elif kind == "byte":
            content[place] = (content[place] + generator.randrange(1, 256)) % 256
        elif kind == "cut":
            del content[place:]
        elif kind == "zeros":
            content[place : place + 64] = bytes(len(content[place : place + 64]))
        elif kind == "longer":
            content += bytes(generator.randrange(1, 100))
        else:
            half = len(content) // 2
            content = content[half:] + content[:half]
        changed = bytes(content) != target.read_bytes()
        target.write_bytes(content)
        saved, problems = checkpoint.load(run)
        if target.name == "manifest.json":
            # the files' names carry their hashes, so the newest is still known to be good
            good = saved is not None and saved.path.name == newest.path.name
            harmless = _same_manifest(content, reference)
            detected = good and (bool(problems) or harmless)
        else:
            good = saved is not None and saved.path.name != newest.path.name
            detected = good and any(newest.path.name in p for p in problems)
        if not changed:  # zeros over zeros
            detected = saved is not None and not problems
        found += detected
        kinds[kind] = kinds.get(kind, 0) + 1
        if not detected:
            print(f"corruption {i} ({kind} of {target.name} at {place}) was not detected")
        shutil.rmtree(run)
    return {"corruptions": number, "detected": found, **kinds}


def _same_manifest(content: bytes, reference: Path) -> bool:
    """Whether a change left the manifest's meaning as it was (a space more)."""
    try:
        return json.loads(content) == json.loads(
            (reference / "checkpoints" / "manifest.json").read_bytes()
        )
    except ValueError:
        return False


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "accuracy_booster", *words]


def words(given: dict[str, Any]) -> list[str]:
    return [f"--{k}={v}" for k, v in given.items()]


def stop_by_signal(folder: Path, data: Path, reference: Path, number: int) -> dict[str, Any]:
    run = folder / f"signal{number}"
    process = subprocess.Popen(
        command("train", *words(options(data, run))),
        stderr=subprocess.PIPE,
        text=True,
        # in the background of a script, or under nohup, the signal would be ignored
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    while not (run / "checkpoints" / "manifest.json").exists():
        time.sleep(0.05)
    start = time.monotonic()
    process.send_signal(number)
    _, text = process.communicate(timeout=60)
    seconds = time.monotonic() - start
    pid = in_child(lambda: train(data, run), folder / "log")
    ended = wait(pid) == 0 and equal(reference, run)
    return {
        **{"fault": signal.Signals(number).name, "exit code": process.returncode},
        **{"seconds": round(seconds, 2), "says": text.strip().splitlines()[-1]},
        "resumed equal": ended,
    }


def not_finite(folder: Path, data: Path) -> dict[str, Any]:
    run = folder / "nan"
    given = {**options(data, run), "mixup": 0.0, "cutmix": 0.0, "accumulate": 1}
    real, calls = Classification.loss, [0]

    def poisoned(self: Any, forward: Any, batch: Any) -> Any:
        calls[0] += 1
        loss, sums = real(self, forward, batch)
        return (loss * float("nan"), sums) if calls[0] == 8 else (loss, sums)

    Classification.loss = poisoned  # type: ignore
    try:
        ab.train(**given)
        raise SystemExit("a NaN went through")
    except TrainingStopped as e:
        says = str(e)
    finally:
        Classification.loss = real  # type: ignore
    saved, problems = checkpoint.load(run)
    assert saved is not None, problems
    assert not problems, problems
    finite = all(bool(t.isfinite().all()) for t in saved.tensors.values())
    steps = saved.values["step"] + 6 * saved.values["epoch"]
    return {
        "fault": "loss is NaN at step 8",
        "says": says,
        "kept": f"step {steps}, finite: {finite}",
    }


def unreadable(folder: Path, data: Path) -> list[dict[str, Any]]:
    broken = folder / "broken"
    shutil.copytree(data, broken)
    for i in (3, 7):
        file = broken / "train" / "class1" / f"{i}.png"
        file.write_bytes(file.read_bytes()[:400])
    out = []
    states = []
    for name in ("a", "b"):
        result = ab.train(**options(broken, folder / f"bad{name}"))
        states.append(folder / f"bad{name}")
    skipped = json.loads((states[0] / "run.json").read_text())["unreadable"]
    out.append(
        {
            "fault": "2 truncated images",
            "says": f"{len(skipped)} skipped: {skipped[0]}",
            "repeats": equal(*states),
            "top-1": result.test.top1,
        }
    )
    try:
        ab.train(**{**options(broken, folder / "badc"), "bad_images": 1})
        raise SystemExit("more bad images than allowed went through")
    except TrainingStopped as e:
        out.append({"fault": "2 truncated images, bad_images=1", "says": str(e)})
    return out


def full_disk(folder: Path, data: Path, reference: Path) -> dict[str, Any]:
    """A real small file system where that can be mounted, else a write that says it is full."""
    run = folder / "disk" / "run"
    run.parent.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(run.parent)], capture_output=True
    )
    real = os.fsync
    if mounted.returncode:
        calls = [0]

        def full(descriptor: int) -> None:
            calls[0] += 1
            if calls[0] > 30:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor)

        os.fsync = full
    else:
        (run.parent / "ballast").write_bytes(bytes(1_000_000))
    try:
        ab.train(**options(data, run))
        raise SystemExit("a full disk went through")
    except TrainingStopped as e:
        says = str(e)
    finally:
        os.fsync = real
    saved, problems = checkpoint.load(run)
    with contextlib.suppress(OSError):
        (run.parent / "ballast").unlink()
    resumed = None
    if mounted.returncode == 0:
        subprocess.run(["mount", "-o", "remount,size=30m", str(run.parent)], check=True)
    ab.train(resume=run)
    resumed = equal(reference, run)
    if mounted.returncode == 0:
        subprocess.run(["umount", str(run.parent)], check=True)
    return {
        **{"fault": "full disk", "how": "tmpfs" if not mounted.returncode else "simulated"},
        **{"says": says, "last checkpoint good": saved is not None and not problems},
        "resumed equal": resumed,
    }


def second_process(folder: Path, data: Path) -> dict[str, Any]:
    run = folder / "locked"
    first = subprocess.Popen(
        command("train", *words({**options(data, run), "epochs": 200})), stderr=subprocess.DEVNULL
    )
    while not (run / "checkpoints" / "manifest.json").exists():
        time.sleep(0.05)
    second = subprocess.run(command("train", "--resume", str(run)), capture_output=True, text=True)
    first.kill()
    first.wait()
    from accuracy_booster.training.lock import is_locked

    return {
        **{"fault": "a second process", "exit code": second.returncode},
        **{"says": second.stderr.strip(), "lock after kill -9": is_locked(run)},
    }


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--corruptions", type=int, default=100)
    parser.add_argument("--replacements", type=int, default=30, help="of each kind, with a kill")
    parser.add_argument("--processes", type=int, default=4, help="faults of each kind")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_data(folder / "data")
        reference, log = folder / "reference", folder / "reference.log"
        start = time.monotonic()
        code = wait(in_child(lambda: train(data, reference), log))
        assert code == 0, log.read_text()
        took = time.monotonic() - start
        print(f"the uninterrupted run takes {took:.1f} s")
        result: dict[str, Any] = {
            "kills": kills(folder, data, reference, given.kills, took),
            "corruptions": corruptions(folder, reference, given.corruptions),
            "faults": [
                stop_by_signal(folder, data, reference, signal.SIGTERM),
                stop_by_signal(folder, data, reference, signal.SIGINT),
                stop_by_signal(folder, data, reference, signal.SIGHUP),
                not_finite(folder, data),
                *unreadable(folder, data),
                full_disk(folder, data, reference),
                second_process(folder, data),
            ],
            "files": file_faults.measure(made(folder / "files"), given.replacements),
            "processes": process_faults.measure(made(folder / "processes"), given.processes),
            "minutes": round((time.monotonic() - started) / 60, 1),
            "versions": {"torch": torch.__version__},
        }
    text = json.dumps(result, indent=1).replace(name, "")
    given.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
