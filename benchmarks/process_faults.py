"""Processes that die, stop, disagree or lose their directory: counted by faults.py."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from children import class_folders, in_child, wait
from PIL import Image

import accuracy_booster as ab
from accuracy_booster.cli import main as command
from accuracy_booster.data import workers
from accuracy_booster.training import opening_data, trainer

LIMIT = 90.0  # seconds after which a child hangs
SHORT = {
    **{"model": "resnet8", "block": "ab", "device": "cpu", "epochs": 1, "batch_size": 8},
    **{"compile": "off", "image_size": 32},
}


def make_data(root: Path) -> Path:
    """Images that are decoded at each use: larger than what is kept in memory."""
    for place, label, i in class_folders(root, {"train": 24, "test": 8}, classes=2):
        Image.new("RGB", (80, 72), (10 * i, 90 * label, 7)).save(place / f"{i}.png")
    return root


def words(output: Path, **more: Any) -> list[str]:
    return ["train", *(f"--{k}={v}" for k, v in {**SHORT, "output": output, **more}.items())]


def ends(pid: int) -> int | None:
    """A child's exit code (or minus its signal), or None if it hangs; then it is killed."""
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    for child in psutil.Process(pid).children(recursive=True):
        child.kill()
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    return None


def told(log: Path) -> dict[str, Any]:
    """Whether a child's output is without a traceback, and its last line."""
    text = log.read_text()
    lines = text.strip().splitlines() or [""]
    return {"traceback": "Traceback" in text, "says": lines[-1][-300:]}


def worker_faults(folder: Path, number: int) -> list[dict[str, Any]]:
    """A loader's process is killed, or stopped, at the n-th batch of a training."""
    data = make_data(folder / "images")
    rows = []
    for name in ("SIGKILL", "SIGSTOP", "SIGTERM"):
        row: dict[str, Any] = {"fault": f"{name} to a loader's process", "tried": number}
        row |= {"one line": 0, "hangs": 0, "says": ""}
        for i in range(number):
            log = folder / f"{name}{i}.log"

            def work(i: int = i, name: str = name) -> None:
                torch.set_num_threads(1)
                warnings.simplefilter("ignore")
                workers.POLL, workers.STOPPED_PATIENCE = 0.5, 2.0
                real, count = trainer.Trainer.train_step, [0]

                def train_step(*given: Any) -> Any:
                    agreed = real(*given)
                    count[0] += 1
                    if count[0] == 1 + i % 4:
                        children = psutil.Process().children()
                        os.kill(children[i % len(children)].pid, getattr(signal, name))
                        time.sleep(0.2)
                    return agreed

                trainer.Trainer.train_step = train_step  # type: ignore
                sys.exit(command(words(folder / f"{name}{i}", data=data, workers=2)))

            code, said = ends(_child(work, log)), told(log)
            row["hangs"] += code is None
            row["one line"] += code == 1 and not said["traceback"]
            row["says"] = said["says"]
        rows.append(row)
    return rows


def _child(work: Callable[[], None], log: Path) -> int:
    """Fork; the exit code is that of `sys.exit`."""

    def child() -> None:
        try:
            work()
        except SystemExit as e:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(e.code or 0))

    return in_child(child, log)


def full_shared_memory(folder: Path) -> dict[str, Any]:
    """A /dev/shm of 1 MB in a mount namespace of its own, where that is allowed."""
    data = folder / "images"
    given = words(folder / "shm", data=data, workers=2, batch_size=32, image_size=224)
    inner = ["mount -t tmpfs -o size=1m none /dev/shm", 'exec "$@"']
    line = ["unshare", "-m", "sh", "-c", " && ".join(inner), "sh"]
    if subprocess.run([*line, "true"], capture_output=True).returncode:
        return {"fault": "/dev/shm full", "skipped": "no mount namespace is allowed here"}
    done = subprocess.run(
        [*line, sys.executable, "-m", "accuracy_booster", *given],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    return {
        **{"fault": "/dev/shm full", "exit code": done.returncode},
        **{"traceback": "Traceback" in done.stderr},
        "says": done.stderr.strip().splitlines()[-1][-400:],
    }


def ranks(work: Callable[[int], int], folder: Path) -> list[int | None]:
    """Two processes that find each other as torchrun's do; their exit codes, None for a hang."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])

    def one(rank: int) -> None:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        os.environ.update({k: str(v) for k, v in names.items()})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        sys.exit(work(rank))

    pids = [_child(lambda r=rank: one(r), folder / f"rank{rank}.log") for rank in range(2)]
    return [ends(pid) for pid in pids]


def disagreeing_ranks(folder: Path) -> list[dict[str, Any]]:
    """Processes whose data or settings differ are told before the first step."""
    first = make_data(folder / "data0")
    rows = []
    for way in ("an image less", "another image", "a class less", "another rate"):
        second = folder / "data1"
        shutil.rmtree(second, ignore_errors=True)
        shutil.copytree(first, second)
        if way == "an image less":
            (second / "train/class1/3.png").unlink()
        elif way == "another image":
            Image.new("RGB", (80, 72), "white").save(second / "train/class1/3.png")
        elif way == "a class less":
            shutil.rmtree(second / "train/class1")
            shutil.rmtree(second / "test/class1")

        def work(rank: int, way: str = way) -> int:
            real = opening_data.load_data
            # as on two machines: the same path, other contents
            opening_data.load_data = lambda _, **more: real(f"{folder}/data{rank}", **more)  # type: ignore
            lr = 0.02 if rank and way == "another rate" else 0.01
            return command(words(folder / "run", data=first, lr=lr))

        codes, said = ranks(work, folder), told(folder / "rank0.log")
        row = {"fault": f"processes differ: {way}", "exit codes": codes, **said}
        row["run begun"] = (folder / "run" / "config.yaml").exists()
        rows.append(row)
        shutil.rmtree(folder / "run", ignore_errors=True)
    return rows


def reported_metrics(folder: Path) -> list[dict[str, Any]]:
    """What several processes report is what the saved file gives."""
    rows = []
    for ema in (0.0, 0.9):
        run = folder / f"ema{ema}"
        given = {**{"data": "digits", "ema": ema, "batch_size": 64, "lr": 0.01}}
        given["image_size"] = 8
        codes = ranks(lambda rank, run=run, given=given: command(words(run, **given)), folder)
        if codes != [0, 0]:
            rows.append({"fault": f"two processes, ema {ema}", "exit codes": codes})
            continue
        result, again = ab.train(resume=run).test, ab.evaluate(run, device="cpu")
        rows.append(
            {
                **{"fault": f"two processes, no synchronised norms, ema {ema}"},
                **{"reported": [result.top1, result.loss], "measured": [again.top1, again.loss]},
                "equal": result.top1 == again.top1 and abs(result.loss - again.loss) < 1e-5,
            }
        )
    return rows


def removed_directory(folder: Path, number: int) -> dict[str, Any]:
    """`rm -rf RUN` during a training, and a new training in the same place."""
    row: dict[str, Any] = {"fault": "rm -rf of the run, then a new run there", "tried": number}
    row |= {"first stops in one line": 0, "second is its own": 0, "says": ""}
    given = {"data": "digits", "batch_size": 64, "image_size": 8, "epochs": 2}
    reference = folder / "reference"
    assert ends(_child(lambda: sys.exit(command(words(reference, **given))), folder / "log")) == 0
    for i in range(number):
        run, log = folder / f"removed{i}", folder / f"removed{i}.log"

        def first(i: int = i, run: Path = run) -> None:
            torch.set_num_threads(1)
            real, count = trainer.Trainer.train_step, [0]

            def train_step(*given: Any) -> Any:
                agreed = real(*given)
                count[0] += 1
                if count[0] == 2 + 3 * i:
                    shutil.rmtree(run)
                    child = subprocess.Popen(
                        [sys.executable, "-m", "accuracy_booster", *words(run, **given)],
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        env={**os.environ, "OMP_NUM_THREADS": "1"},
                    )
                    while not (run / "checkpoints").exists() and child.poll() is None:
                        time.sleep(0.05)
                    (folder / f"code{i}").write_text(str(child.pid))
                return agreed

            trainer.Trainer.train_step = train_step  # type: ignore
            sys.exit(command(words(run, **{**given, "seed": 9})))

        code, said = ends(_child(first, log)), told(log)
        until = time.monotonic() + LIMIT
        while not (run / "model.safetensors").exists() and time.monotonic() < until:
            time.sleep(0.1)
        row["first stops in one line"] += code == 1 and not said["traceback"]
        row["says"] = said["says"]
        weights = [p / "model.safetensors" for p in (run, reference)]
        row["second is its own"] += weights[0].read_bytes() == weights[1].read_bytes()
    return row


def measure(folder: Path, number: int) -> list[dict[str, Any]]:
    """Every kind."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for work in (
        lambda: worker_faults(folder, number),
        lambda: [full_shared_memory(folder)],
        lambda: disagreeing_ranks(folder),
        lambda: reported_metrics(folder),
        lambda: [removed_directory(folder, min(number, 3))],
    ):
        rows += work()
        print(rows[-1], flush=True)
    return rows
